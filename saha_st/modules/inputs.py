"""One canonical form for what a user may pass as an input, so that the same content gives the same vector.

The order of a dict's keys, a ``None`` that `datasets` filled in, the colour mode of a picture or a text that happens
to look like a path must not change an embedding. A cell becomes ``{"image": ..., "video": ..., "text": ...}`` with
only the parts that are there, media first; chat messages pass through.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from sentence_transformers.base.modality import is_image_url_or_path, is_message_dict

logger = logging.getLogger(__name__)

MAX_SIDE_RATIO = 200
"""Longest by shortest side from which image processors of the Qwen-VL family refuse a picture."""

_PART_ORDER = ("image", "video", "audio", "text")


def canonical_inputs(inputs: Sequence[Any], *, supported: Sequence[Any]) -> list[Any]:
    """Bring a batch into the canonical form.

    Args:
        inputs: What `SentenceTransformer.encode` accepts: strings, pictures, dicts of parts, chat messages. A plain
            string is text, always; only ``{"image": path}`` opens a file.
        supported: Modalities of the model, as in `Transformer.modalities`.

    Raises:
        ValueError: An input that is None or empty, a part the model cannot take, a picture that is missing,
            unreadable or too oblong. The message gives the position within the batch.
    """
    rows = []
    for row, cell in enumerate(inputs):
        try:
            rows.append(_canonical(cell, supported))
        except ValueError as error:
            raise ValueError(f"Input {row} of the batch: {error}") from error.__cause__
    return rows


def has_media(cell: Any) -> bool:
    """Whether a canonical input holds an image, a video or audio."""
    if isinstance(cell, Mapping) and not is_message_dict(cell):
        return any(part != "text" for part in cell)
    messages = cell if isinstance(cell, list) else [cell]
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    return any("text" not in part for content in contents if isinstance(content, list) for part in content)


def _canonical(cell: Any, supported: Sequence[Any]) -> Any:
    if isinstance(cell, str):
        _warn_if_it_looks_like_an_image(cell)
        return {"text": cell}
    if isinstance(cell, Image.Image):
        cell = {"image": cell}
    if is_message_dict(cell):
        return [_canonical_message(cell)]
    if isinstance(cell, list) and cell and is_message_dict(cell[0]):
        return [_canonical_message(message) for message in cell]
    if cell is None:
        raise ValueError("it is None. Drop the row, or pass an empty string for an empty text.")
    if isinstance(cell, Mapping) and set(cell) <= set(_PART_ORDER):
        return _canonical_parts(cell, supported)
    return cell


def _canonical_parts(cell: Mapping[str, Any], supported: Sequence[Any]) -> dict[str, Any]:
    parts = {name: cell[name] for name in _PART_ORDER if cell.get(name) is not None}
    if not parts:
        raise ValueError(f"it has no content: {dict(cell)!r}. Give a text, an image, or both.")
    for name in parts:
        if not any(name == modality or name in modality for modality in supported if modality != "message"):
            raise ValueError(f"it has a part {name!r}, but this model takes only {_names(supported)}.")
    if "image" in parts:
        images = parts["image"]
        parts["image"] = [open_image(image) for image in images] if isinstance(images, list) else open_image(images)
    return parts


def _canonical_message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = [
            {**part, "image": open_image(part["image"])} if isinstance(part, Mapping) and part.get("image") else part
            for part in content
        ]
    return {**message, "content": content}


def open_image(image: Any) -> Any:
    """Return a picture in RGB, from a picture, a path, or the ``{"path", "bytes"}`` of `datasets`.

    URLs, arrays and tensors pass through; the processor takes those.

    Raises:
        ValueError: The file is missing or no picture, or one side is `MAX_SIDE_RATIO` times the other.
    """
    if isinstance(image, Mapping):
        image = io.BytesIO(image["bytes"]) if image.get("bytes") else image.get("path")
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
        return image
    if isinstance(image, str | os.PathLike | io.BytesIO):
        image = _read(image)
    if not isinstance(image, Image.Image):
        return image
    short, long = sorted(image.size)
    if short == 0 or long / short >= MAX_SIDE_RATIO:
        raise ValueError(
            f"the image is {image.width}x{image.height} pixels; one side may be at most {MAX_SIDE_RATIO} times the "
            "other. Crop or pad it."
        )
    return image if image.mode == "RGB" else image.convert("RGB")


def _read(source: str | os.PathLike[str] | io.BytesIO) -> Image.Image:
    name = "its bytes" if isinstance(source, io.BytesIO) else repr(os.fspath(source))
    try:
        image = Image.open(source)
        image.load()
        return image
    except FileNotFoundError as error:
        raise ValueError(f"the image file {name} does not exist.") from error
    except OSError as error:
        raise ValueError(f"the image {name} cannot be read ({error}). Replace the file or drop the row.") from error


_warned: set[str] = set()


def _warn_if_it_looks_like_an_image(text: str) -> None:
    if "image-like text" in _warned or not is_image_url_or_path(text):
        return
    _warned.add("image-like text")
    logger.warning(
        'The text %r looks like an image file or URL. It is embedded as text; pass {"image": ...} to embed '
        "the picture. (Said once.)",
        text[:200],
    )


def _names(supported: Sequence[Any]) -> str:
    return ", ".join(sorted({name for modality in supported for name in _as_tuple(modality)} - {"message"}))


def _as_tuple(modality: Any) -> tuple[str, ...]:
    return modality if isinstance(modality, tuple) else (modality,)
