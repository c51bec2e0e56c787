"""Write ``parity/``: a few inputs with their token ids and vectors, so that anybody can check any engine.

The pictures are drawn here; nothing of a training set goes into a repository.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save
from sentence_transformers import SentenceTransformer

from saha_st.card import facts
from saha_st.data.scenes import draw, sample_scene
from saha_st.hub.engines import ENGINES, FIXTURES_FILE, PARITY, VECTORS_FILE

TOLERANCE = {torch.float32: 1e-5}
"""How far from 1 a cosine may be, by the model's dtype; other kernels add up in another order."""

_TOLERANCE_OF_HALF_PRECISION = 5e-3

_TEXTS = (
    "a red circle left of two yellow stars",
    "Wie hoch ist der Fernsehturm? 東京タワー, and 3.14 of it — naïve, isn't it?",
    "The package arrived late. " * 12,
)
_QUESTION = "Which colour is the largest shape?"


def write_parity(model: SentenceTransformer, folder: str | Path) -> None:
    """Embed a few inputs, and write them to ``<folder>/parity``.

    Args:
        model: The embedder that is published.
        folder: The repository's folder.
    """
    place = Path(folder) / PARITY
    place.mkdir(parents=True, exist_ok=True)
    pictures = [draw(sample_scene(Random(seed)), seed=seed) for seed in (1, 2)]
    entries, vectors = [], []
    for task, row in _inputs(pictures, can_see=facts.sees(model)):
        prompt = (model.prompts or {}).get(task)
        ids = _ids(model, row, task, prompt)
        if ids is None:
            continue
        tokens = model.tokenizer.convert_ids_to_tokens(ids)
        entries.append({"task": task, "content": _content(row, pictures), "input_ids": ids, "tokens": tokens})
        encode = model.encode_query if task == "query" else model.encode_document
        vectors.append(encode([row], show_progress_bar=False)[0])
    if not entries:
        raise ValueError(f"max_seq_length={model.max_seq_length} leaves no room for a short text beside the prompt.")
    for index, picture in enumerate(pictures):
        if any({"type": "image", "image": _name(index)} in entry["content"] for entry in entries):
            picture.save(place / _name(index))
    tolerance = TOLERANCE.get(model.dtype, _TOLERANCE_OF_HALF_PRECISION)
    stored = {
        "dtype": facts.dtype_of(model),
        "tolerance": tolerance,
        "engines": engines_for(model),
        "entries": entries,
    }
    (place / FIXTURES_FILE).write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", encoding="utf8")
    (place / VECTORS_FILE).write_bytes(save({"vectors": np.stack(vectors).astype(np.float32)}))


def engines_for(model: SentenceTransformer) -> list[str]:
    """Name the engines that can compute a model's vectors.

    Plain transformers and vLLM take the last token's hidden state, whole, and of prompts know the chat template only.
    """
    by_all = facts.is_last_token(model) and model.truncate_dim is None and facts.is_in_template(model)
    return list(ENGINES) if by_all else ["sentence-transformers"]


def _ids(model: SentenceTransformer, row: dict[str, Any], task: str, prompt: str | None) -> list[int] | None:
    """Token ids of an input; None if it is too long for the model, as engines shorten differently."""
    try:
        ids = model.preprocess([row], prompt=prompt, task=task)["input_ids"][0].tolist()
    except ValueError:
        return None
    return ids if model.max_seq_length is None or len(ids) < model.max_seq_length else None


def _inputs(pictures: list[Image.Image], *, can_see: bool) -> list[tuple[str, dict[str, Any]]]:
    texts = [("query", {"text": text}) for text in _TEXTS] + [("document", {"text": _TEXTS[0]})]
    if not can_see:
        return texts
    first, second = pictures
    return [
        *texts,
        ("document", {"image": first}),
        ("query", {"image": second}),
        ("query", {"image": first, "text": _QUESTION}),
        ("document", {"image": second, "text": _QUESTION}),
        ("query", {"image": [first, second], "text": "What differs?"}),
    ]


def _content(row: dict[str, Any], pictures: list[Image.Image]) -> list[dict[str, str]]:
    """The input as the content of a chat message, with file names for pictures."""
    images = row.get("image", [])
    images = images if isinstance(images, list) else [images]
    numbers = [next(number for number, picture in enumerate(pictures) if picture is image) for image in images]
    content = [{"type": "image", "image": _name(number)} for number in numbers]
    return content + ([{"type": "text", "text": row["text"]}] if "text" in row else [])


def _name(index: int) -> str:
    return f"image-{index}.png"
