from __future__ import annotations

import copy
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from tiny_embedder import build_embedder


@pytest.fixture(scope="session")
def _embedder(tiny_mllm: Path) -> SentenceTransformer:
    return build_embedder(tiny_mllm)


@pytest.fixture
def model(_embedder: SentenceTransformer) -> SentenceTransformer:
    """The tiny MLLM as an embedder in training mode, a copy for each test."""
    return copy.deepcopy(_embedder).train()
