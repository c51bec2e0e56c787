"""How many tokens an input's own text and pictures take, without rendering it and without opening a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

_UNKNOWN_PICTURE = 256  # tokens of a picture whose size or processor does not tell


def count_tokens(module: Any, inputs: Sequence[Any]) -> np.ndarray:
    """Count the tokens of inputs: their text, and the placeholders of their pictures; not the prompt around them.

    Args:
        module: The input module, with tokenizer and processor.
        inputs: Canonical inputs, see `canonical_inputs`.

    Returns:
        Shape (inputs,), int64. Exact for text and for pictures where the processor tells (Qwen-VL, LLaVA, Idefics);
        an estimate for chat messages.
    """
    texts = [_text_of(cell) for cell in inputs]
    counts = np.array([len(ids) for ids in module.tokenizer(texts, add_special_tokens=False)["input_ids"]])
    pictures = [_pictures_of(cell) for cell in inputs]
    sizes = [
        (picture.height, picture.width) for row in pictures for picture in row if isinstance(picture, Image.Image)
    ]
    tokens_of = dict(zip(sizes, _tokens_of_sizes(module.processor, sizes), strict=True))
    for row, found in enumerate(pictures):
        counts[row] += sum(
            tokens_of.get((getattr(p, "height", 0), getattr(p, "width", 0)), _UNKNOWN_PICTURE) for p in found
        )
    return counts.astype(np.int64)


def _text_of(cell: Any) -> str:
    if isinstance(cell, Mapping):
        return cell.get("text") or ""
    return str(cell) if isinstance(cell, list) else ""


def _pictures_of(cell: Any) -> list[Any]:
    image = cell.get("image") if isinstance(cell, Mapping) else None
    return [] if image is None else image if isinstance(image, list) else [image]


def _tokens_of_sizes(processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Tokens of pictures by (height, width), as the processor itself counts them for engines that plan ahead."""
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    if not sizes or count is None:
        return [_UNKNOWN_PICTURE] * len(sizes)
    try:
        return list(count(image_sizes=[list(size) for size in sizes])["num_image_tokens"])
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return [_UNKNOWN_PICTURE] * len(sizes)
