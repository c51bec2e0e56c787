"""Shared fixtures. Everything runs offline, on the CPU; the expensive objects are made once a session."""

from __future__ import annotations

import copy
import logging
import os

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # pytest -n: each has its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(workers))))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do: torch's threads else spin on shared cores

from pathlib import Path

import pytest
from tiny import build_tiny_mllm


@pytest.fixture(autouse=True)
def _log_levels():
    """Commands that run in this process set how much is said."""
    logger = logging.getLogger("saha_st")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def tiny_mllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random generative Qwen2-VL with its processor; never written to by a test."""
    return build_tiny_mllm(tmp_path_factory.mktemp("tiny-mllm"))


@pytest.fixture(scope="session")
def _embedder(tiny_mllm: Path):
    from saha_st.modules import load_embedder

    return load_embedder(str(tiny_mllm), device="cpu")


@pytest.fixture
def embedder(_embedder):
    """The tiny MLLM as an embedder with the paper's prompt; a copy that the test may change."""
    return copy.deepcopy(_embedder)
