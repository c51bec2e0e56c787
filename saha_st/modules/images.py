"""Open a picture: whatever a user may call one becomes a PIL image in RGB, or an error that says why not.

A camera held sideways writes its pixels sideways and says in EXIF how to turn them. What is read here is turned so, as
`datasets` and transformers do with what they read: a photo has one vector as a file, as bytes, and as a column. A
picture that is in memory already is taken as its pixels are, as Sentence Transformers takes it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

MAX_SIDE_RATIO = 200
"""Longest by shortest side from which image processors of the Qwen-VL family refuse a picture."""


_UPRIGHT, _LYING = 1, (5, 6, 7, 8)
"""Orientations of EXIF: as the pixels are, and those with width and height exchanged."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(image: Any) -> Any:
    """Return a picture in RGB, from a picture, a path, or the ``{"path", "bytes"}`` of `datasets`.

    What is read from a file or from bytes is turned upright. URLs, arrays and tensors pass through; the processor
    takes those.

    Raises:
        ValueError: The file is missing or no picture, or one side is `MAX_SIDE_RATIO` times the other.
    """
    source = _source(image)
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return source
    if isinstance(source, str | os.PathLike | io.BytesIO):
        source = _read(source)
    if not isinstance(source, Image.Image):
        return source
    check_sides(source.width, source.height, "image")
    return source if source.mode == "RGB" else source.convert("RGB")


def image_size(image: Any) -> tuple[int, int] | None:
    """Height and width of a picture in any form that `open_image` takes, from its header; None: that of an address.

    They are those of the upright picture.

    Raises:
        ValueError: The file is missing or no picture.
    """
    source = _source(image)
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return None
    if isinstance(source, str | os.PathLike | io.BytesIO):
        with _read(source, decode=False) as opened:
            lies = opened.format != "TIFF" and _orientation(opened) in _LYING  # of a TIFF, Pillow turns the size, too
            return (opened.width, opened.height) if lies else (opened.height, opened.width)
    if isinstance(source, Image.Image):
        return source.height, source.width
    shape = tuple(getattr(source, "shape", ()))
    return (shape[0], shape[1]) if len(shape) == 3 else None


def check_sides(width: int, height: int, name: str) -> None:
    """Refuse what is too oblong for a processor.

    Raises:
        ValueError: One side is `MAX_SIDE_RATIO` times the other, or there is none.
    """
    short, long = sorted((width, height))
    if short == 0 or long / short >= MAX_SIDE_RATIO:
        raise ValueError(
            f"the {name} is {width}x{height} pixels; one side may be at most {MAX_SIDE_RATIO} times the other. Crop "
            "or pad it."
        )


def _orientation(image: Image.Image) -> int:
    """How the pixels of a picture lie, by what is read of it so far: a PNG's own method would decode it for that."""
    try:
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, _UPRIGHT)
    except Exception:  # broken EXIF raises many things, and the pixels may be fine
        return _UPRIGHT


def _source(image: Any) -> Any:
    """A picture itself, or where it is."""
    if not isinstance(image, Mapping):
        return image
    return io.BytesIO(image["bytes"]) if image.get("bytes") else image.get("path")


def _read(source: str | os.PathLike[str] | io.BytesIO, *, decode: bool = True) -> Image.Image:
    name = "its bytes" if isinstance(source, io.BytesIO) else repr(os.fspath(source))
    try:
        if isinstance(source, str) and "::" in source and "://" not in source.rsplit("::", 1)[1]:
            # In an archive on this machine, which datasets knows how to open.
            from datasets import Image as ImageFeature

            return ImageFeature().decode_example({"path": source, "bytes": None})
        image = Image.open(source)
        if not decode:
            return image
        image.load()
        turn = _TURNS.get(_orientation(image))
        return image if turn is None else image.transpose(turn)  # ImageOps would write its EXIF anew, which may fail
    except FileNotFoundError as error:
        raise ValueError(f"the image file {name} does not exist.") from error
    except OSError as error:
        raise ValueError(f"the image {name} cannot be read ({error}). Replace the file or drop the row.") from error
