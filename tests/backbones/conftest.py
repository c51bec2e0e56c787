"""One tiny model a family, made when first asked for; what a test changes is a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from architectures import build
from sentence_transformers import SentenceTransformer

from saha_st.modules import load_embedder


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random generative model, by its name in `ARCHITECTURES`; never written to by a test."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = build(name, tmp_path_factory.mktemp("backbones") / name)
        return folders[name]

    return folder


@pytest.fixture(scope="session")
def _embedders(folder_of) -> Callable[[str], SentenceTransformer]:
    loaded: dict[str, SentenceTransformer] = {}

    def embedder(name: str) -> SentenceTransformer:
        if name not in loaded:
            loaded[name] = load_embedder(str(folder_of(name)), device="cpu")
        return loaded[name]

    return embedder


@pytest.fixture
def backbone(_embedders, name: str) -> SentenceTransformer:
    """The model called ``name`` as an embedder with the paper's prompt; a copy that the test may change."""
    return copy.deepcopy(_embedders(name))
