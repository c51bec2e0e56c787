"""What a visitor may send: how long, how large, how many, and of which kind, checked before anything is decoded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from saha_st.demo.errors import UserError
from saha_st.demo.gallery import MAX_SIDE
from saha_st.modules.inputs import MAX_SIDE_RATIO

MAX_TEXT = 500
"""Characters of a query."""
MAX_FILE_BYTES = 8 * 2**20
"""Bytes of an uploaded file."""
MAX_PIXELS = 40_000_000
"""Pixels of a picture, as its header states them."""
MAX_PICTURES = 30
"""Pictures of a visitor's own gallery."""
MAX_RESULTS = 24
"""Results of a search."""
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}
"""Formats that are decoded, with the usual ending of each; of moving pictures the first frame."""

_MOST_BYTES_OF_A_PICTURE = 256 * 2**20  # more than 4 * MAX_PIXELS, and a multiple of a page
_KINDS = "PNG, JPEG, WebP or GIF"
_TOO_MANY_PIXELS = f"The picture has too many pixels; at most {MAX_PIXELS // 1_000_000} million are read. Shrink it."


def clean_text(text: Any) -> str:
    """A query's text, without space around it.

    Raises:
        UserError: It is no text, or too long.
    """
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError("The query must be a text.")
    if len(text) > MAX_TEXT:
        raise UserError(f"The text has {len(text)} characters; at most {MAX_TEXT} are searched for. Shorten it.")
    return "".join(character for character in text if character.isprintable() or character.isspace()).strip()


def clean_count(count: Any, *, largest: int = MAX_RESULTS, smallest: int = 1, what: str = "number of results") -> int:
    """A whole number within its bounds.

    Raises:
        UserError: It is none, or out of bounds.
    """
    is_whole = isinstance(count, float) and count.is_integer() or type(count) is int
    if not is_whole:
        raise UserError(f"The {what} must be a whole number.")
    if not smallest <= count <= largest:
        raise UserError(f"The {what} must lie between {smallest} and {largest}.")
    return int(count)


def read_picture(upload: str | os.PathLike[str] | None, folder: str | os.PathLike[str]) -> Image.Image | None:
    """Read an uploaded picture: upright, in RGB, no larger than the gallery's; None if nothing was uploaded.

    Args:
        upload: Path of the file.
        folder: Where uploads are; a path elsewhere is refused unopened.

    Raises:
        UserError: No upload, too large, of another format, or broken.
    """
    if upload is None:
        return None
    path = _inside(upload, folder)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"The file is larger than {MAX_FILE_BYTES // 2**20} MB. Upload a smaller picture.")
    try:
        return _DECODER.submit(_decode, path).result()
    except UserError:
        raise
    except Image.DecompressionBombError:  # Pillow itself looks at the header, too
        raise UserError(_TOO_MANY_PIXELS) from None
    except UnidentifiedImageError:
        raise UserError(f"The file is not a picture that can be read here. Upload a {_KINDS}.") from None
    except Exception as error:  # decoders of broken files raise nearly anything: SyntaxError, struct.error, …
        raise UserError("The picture is broken or incomplete. Save it again, or upload another one.") from error


def read_pictures(
    uploads: Sequence[str | os.PathLike[str]] | None, folder: str | os.PathLike[str], *, room: int = MAX_PICTURES
) -> list[Image.Image]:
    """Read the pictures of a visitor's own gallery; see `read_picture`.

    Args:
        uploads: Paths of the files.
        folder: Where uploads are.
        room: How many there may be.

    Raises:
        UserError: There are too many, or one cannot be read; it says which.
    """
    uploads = uploads or []
    if len(uploads) > room:
        left = "" if room == MAX_PICTURES else f", of which {room} are left"
        raise UserError(f"These are {len(uploads)} pictures; there is room for {MAX_PICTURES}{left}. Choose fewer.")
    pictures = []
    for number, upload in enumerate(uploads, start=1):
        try:
            pictures.append(read_picture(upload, folder))
        except UserError as error:
            raise UserError(f"Picture {number}: {error}") from error
    return pictures


def uploaded_path(upload: Any) -> str | None:
    """The path in what a client of the API sends for a file (gradio's ``FileData``); None for none.

    Raises:
        UserError: It is something else.
    """
    if upload is None:
        return None
    path = upload.get("path") if isinstance(upload, Mapping) else None
    if not isinstance(path, str) or not path:
        raise UserError("Send the picture as a file: handle_file('picture.png') of gradio_client uploads it.")
    return path


def _inside(upload: Any, folder: str | os.PathLike[str]) -> Path:
    root = Path(folder).resolve()
    try:
        path = Path(upload).resolve()
        inside = path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError, TypeError):  # a name too long, a zero byte, no name at all
        inside = False
    if not inside:
        raise UserError("The picture was not uploaded here. Upload a file; addresses and paths are not opened.")
    return path


def _keep_no_memory() -> None:
    """Let a picture be one block of memory, which the system gets back whole.

    Pillow's blocks of 16 MB, once freed, would be kept by malloc for the thread that asked for them.
    """
    Image.core.set_block_size(_MOST_BYTES_OF_A_PICTURE)


_DECODER = ThreadPoolExecutor(1, "decoder", initializer=_keep_no_memory)
"""The one thread that decodes: the largest pictures take 320 MB while they are made small, so one at a time, and what
malloc keeps of smaller ones it keeps for each thread."""


def _decode(path: Path) -> Image.Image:
    with Image.open(path, formats=list(FORMATS)) as image:  # reads the header, and decodes nothing yet
        _check_size(*image.size)
        image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))  # JPEG: decode a large picture small
        image.load()
        if image.mode in ("1", "P"):  # of which a small copy is made by leaving pixels out
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)  # first: what follows copies it
        return _on_white(ImageOps.exif_transpose(image))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(_TOO_MANY_PIXELS)
    short, long = sorted((width, height))
    if short == 0 or long / short >= MAX_SIDE_RATIO:
        raise UserError(f"The picture is {width}x{height} pixels, too long for its width. Crop it.")


def _on_white(image: Image.Image) -> Image.Image:
    """In RGB; what is transparent shows white, as on a page."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
