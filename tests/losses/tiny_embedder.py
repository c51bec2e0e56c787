"""The tiny MLLM as an embedder of stock modules, and inputs for it; importable by processes that a test starts."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer


def build_embedder(folder: Path) -> SentenceTransformer:
    transformer = Transformer(str(folder), unpad_inputs=False)
    pooling = Pooling(transformer.get_embedding_dimension(), "lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def picture(seed: int) -> Image.Image:
    size = (32 + 16 * (seed % 6), 48, 3)
    return Image.fromarray(torch.randint(0, 256, size, generator=torch.Generator().manual_seed(seed)).byte().numpy())


def mixed_features(model: SentenceTransformer) -> list[dict]:
    """Four pairs with text, pictures, and both, in different rows of the two columns."""
    anchors = ["a red circle", {"image": picture(1), "text": "what is it?"}, picture(2), "two yellow stars, a square"]
    positives = [picture(3), "the green triangle", {"image": picture(4), "text": "left of it"}, "stars"]
    return [model.preprocess(anchors), model.preprocess(positives)]


def copied(features: list[dict]) -> list[dict]:
    """The features once more, as a forward pass adds to them."""
    return [dict(column) for column in features]
