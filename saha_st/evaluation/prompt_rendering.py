"""What a model reads, to the letter, of a query and of a document: both levels of the prompt at work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from PIL import Image
from sentence_transformers import SentenceTransformer

_RUN = re.compile(r"(<[^<>\s]+>)\1{3,}")  # the tokens of a picture


@dataclass(frozen=True)
class Rendering:
    """An input as the model reads it.

    Attributes:
        title: What the input is.
        text: The tokens as text; a run of one special token is shown once, with its length.
        tokens: How many tokens these are.
    """

    title: str
    text: str
    tokens: int


def renderings(model: SentenceTransformer, text: str) -> list[Rendering]:
    """Render a text as query and as document and, where the model sees, a query with a picture.

    Args:
        model: What `load_embedder` returned.
        text: The text.
    """
    found = [_render(model, "query", "query", text)]
    if "image" in model[0].modalities:
        cell = {"image": Image.new("RGB", (64, 64)), "text": text}
        found.append(_render(model, "query with a picture of 64x64", "query", cell))
    return [*found, _render(model, "document", "document", text)]


def _render(model: SentenceTransformer, title: str, task: str, cell: Any) -> Rendering:
    prompt = (model.prompts or {}).get(task)  # as encode_query and encode_document pass it
    ids = model.preprocess([cell], prompt=prompt, task=task)["input_ids"][0]
    shown = _RUN.sub(lambda run: f"{run[1]}×{len(run[0]) // len(run[1])}", model.tokenizer.decode(ids))
    return Rendering(title, shown, len(ids))
