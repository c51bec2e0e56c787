"""One canonical form for what a user may pass as an input, so that the same content gives the same vector.

The order of a dict's keys, a ``None`` that `datasets` filled in, the colour mode of a picture or a text that happens
to look like a path must not change an embedding. A cell becomes ``{"image": ..., "video": ..., "text": ...}`` with
only the parts that are there, media first; chat messages pass through. Pictures are decoded, videos only opened.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from sentence_transformers.base.modality import is_image_url_or_path, is_message_dict, is_video_url_or_path

from saha_st.modules.images import MAX_SIDE_RATIO, open_image
from saha_st.modules.video_frames import Clip
from saha_st.modules.videos import open_video

__all__ = ["MAX_SIDE_RATIO", "canonical_inputs", "has_media", "open_image"]

logger = logging.getLogger(__name__)

_PART_ORDER = ("image", "video", "audio", "text")


def canonical_inputs(inputs: Sequence[Any], *, supported: Sequence[Any]) -> list[Any]:
    """Bring a batch into the canonical form.

    Args:
        inputs: What `SentenceTransformer.encode` accepts: strings, pictures, dicts of parts, chat messages. A plain
            string is text, always; only ``{"image": path}`` opens a file.
        supported: Modalities of the model, as in `Transformer.modalities`.

    Raises:
        ImportError: A video file, and PyAV is not installed.
        ValueError: An input that is None or empty, a part the model cannot take, a picture or video that is missing,
            unreadable or too oblong. The message gives the position within the batch.
    """
    rows = []
    for row, cell in enumerate(inputs):
        try:
            rows.append(_canonical(cell, supported))
        except ValueError as error:
            raise ValueError(f"Input {row} of the batch: {error}") from error.__cause__
    return rows


def is_bare_video(cell: Any) -> bool:
    """Whether an input is a video in memory without a mapping around it: an array, or one with its metadata."""
    if isinstance(cell, Mapping):
        return "array" in cell and "video_metadata" in cell
    return len(getattr(cell, "shape", ())) == 4


def has_media(cell: Any) -> bool:
    """Whether a canonical input holds an image, a video or audio."""
    if isinstance(cell, Mapping) and not is_message_dict(cell):
        return any(part != "text" for part in cell)
    messages = cell if isinstance(cell, list) else [cell]
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    return any("text" not in part for content in contents if isinstance(content, list) for part in content)


def has_video(cell: Any) -> bool:
    """Whether an input, canonical or not, holds a video."""
    if isinstance(cell, list):
        return any(map(has_video, cell))
    if not isinstance(cell, Mapping) or is_bare_video(cell):
        return is_bare_video(cell)
    return cell.get("video") is not None or cell.get("type") == "video" or has_video(cell.get("content"))


def _canonical(cell: Any, supported: Sequence[Any]) -> Any:
    if isinstance(cell, str):
        _warn_if_it_looks_like_media(cell)
        return {"text": cell}
    if isinstance(cell, Image.Image):
        cell = {"image": cell}
    elif is_bare_video(cell):
        cell = {"video": cell}
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
        raise ValueError(f"it has no content: {dict(cell)!r}. Give a text, an image, a video, or several of them.")
    for name in parts:
        if not any(name == modality or name in modality for modality in supported if modality != "message"):
            raise ValueError(f"it has a part {name!r}, but this model takes only {_names(supported)}.")
    if "image" in parts:
        images = parts["image"]
        parts["image"] = [open_image(image) for image in images] if isinstance(images, list) else open_image(images)
    if "video" in parts:
        parts["video"] = _opened(parts["video"])
    return parts


def _opened(video: Any) -> Any:
    return video if isinstance(video, Clip) else open_video(video)


def _canonical_message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = [_canonical_part(part) if isinstance(part, Mapping) else part for part in content]
    return {**message, "content": content}


def _canonical_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a message; transformers takes the place of a video under three names."""
    if part.get("image") is not None:
        return {**part, "image": open_image(part["image"])}
    names = [name for name in ("video", "url", "path") if part.get(name) is not None]
    if names and (names[0] == "video" or part.get("type") == "video"):
        return {"type": "video", "video": _opened(part[names[0]])}
    return dict(part)


_warned: set[str] = set()


def _warn_if_it_looks_like_media(text: str) -> None:
    if "media-like text" in _warned:
        return
    kind = "image" if is_image_url_or_path(text) else "video" if is_video_url_or_path(text) else None
    if kind is None:
        return
    _warned.add("media-like text")
    logger.warning(
        'The text %r looks like the file or URL of %s. It is embedded as text; pass {"%s": ...} to embed what is '
        "there. (Said once.)",
        text[:200],
        "an image" if kind == "image" else "a video",
        kind,
    )


def _names(supported: Sequence[Any]) -> str:
    return ", ".join(sorted({name for modality in supported for name in _as_tuple(modality)} - {"message"}))


def _as_tuple(modality: Any) -> tuple[str, ...]:
    return modality if isinstance(modality, tuple) else (modality,)
