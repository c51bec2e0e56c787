from __future__ import annotations

from pathlib import Path

import pytest
from mmeb_folder import write_mmeb


@pytest.fixture(scope="session")
def mmeb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the schema of MMEB-eval; never written to by a test."""
    return write_mmeb(tmp_path_factory.mktemp("mmeb") / "MMEB-eval")


@pytest.fixture
def rendered(embedder) -> list[str]:
    """The strings that reach the model, image tokens as one mark; filled while it encodes."""
    found: list[str] = []
    preprocess = embedder[0].preprocess

    def spy(*args, **kwargs):
        features = preprocess(*args, **kwargs)
        for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
            text = embedder.tokenizer.decode(ids[mask.bool()])
            found.append("<image>".join(part for part in text.split("<|image_pad|>") if part))
        return features

    embedder[0].preprocess = spy
    return found
