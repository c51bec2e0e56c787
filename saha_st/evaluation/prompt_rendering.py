"""What a model reads, to the letter, of a query and of a document: both levels of the prompt at work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

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

    Raises:
        ValueError: The prompt leaves no room within the model's ``max_seq_length``.
    """
    found = [_render(model, "query", "query", text)]
    if "image" in model[0].modalities:
        cell = {"image": Image.new("RGB", (64, 64)), "text": text}
        found.append(_render(model, "query with a picture of 64x64", "query", cell))
    return [*found, _render(model, "document", "document", text)]


def features_of(model: SentenceTransformer, cell: Any, task: Literal["query", "document"]) -> dict[str, Any]:
    """Return the features of one input, with the text in front that `encode_query` or `encode_document` takes.

    Raises:
        ValueError: The input cannot be embedded, or leaves no room within the model's ``max_seq_length``.
    """
    names = ("query",) if task == "query" else ("document", "passage", "corpus")
    prompts = model.prompts or {}
    prompt = next((prompts[name] for name in (*names, model.default_prompt_name) if name in prompts), None)
    return model.preprocess([cell], prompt=prompt, task=task)


def _render(model: SentenceTransformer, title: str, task: Literal["query", "document"], cell: Any) -> Rendering:
    ids = features_of(model, cell, task)["input_ids"][0]
    shown = _RUN.sub(lambda run: f"{run[1]}×{len(run[0]) // len(run[1])}", model.tokenizer.decode(ids))
    return Rendering(title, shown, len(ids))
