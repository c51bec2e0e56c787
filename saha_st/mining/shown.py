"""What a reader is shown of a cell: its text, cut short, and a small copy of its picture or of one frame of its video.

A copy is a data URI of a few kilobytes, so a page that holds them needs no other file, and no picture leaves it. What
cannot be opened is said in words: a report is not worth less for one file that is gone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from PIL import Image

from saha_st.data.cells import cell_parts, cell_video
from saha_st.modules.images import open_image
from saha_st.modules.videos import open_video

THUMBNAIL_SIDE = 88  # pixels
MOST_CHARACTERS = 180
MOST_BYTES = 3000  # of a picture: one of noise is made coarser until it fits
_QUALITIES = (75, 50, 25, 10)


@dataclass(frozen=True)
class ShownCell:
    """A cell for a page: data URIs of pictures, its text (escaped by whoever writes the page), and what is missing."""

    pictures: tuple[str, ...]
    text: str
    notes: tuple[str, ...]


class CellReader:
    """Reads cells of one column by row; each is prepared once.

    Args:
        dataset: The dataset.
        column: A column of strings, images, or structs of texts, images and videos.
    """

    def __init__(self, dataset: Dataset, column: str) -> None:
        self._stored = dataset.select_columns(column).with_format("arrow")  # no picture is decoded twice
        self._shown: dict[int, ShownCell] = {}

    def __getitem__(self, row: int) -> ShownCell:
        if row not in self._shown:
            self._shown[row] = show_cell(self._stored[row].column(0).to_pylist()[0])
        return self._shown[row]


def show_cell(cell: Any) -> ShownCell:
    """Prepare a cell, as `datasets` stores it or open, for a page."""
    images, text = cell_parts(cell)
    found = [*map(_picture, images), *_frame(cell_video(cell))]
    pictures = tuple(each for each in found if each.startswith("data:"))
    return ShownCell(pictures, shorten(text or ""), tuple(each for each in found if not each.startswith("data:")))


def shorten(text: str, length: int = MOST_CHARACTERS) -> str:
    """A text on one line, cut if it is longer."""
    text = " ".join(text[: 20 * length].split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def thumbnail(picture: Image.Image) -> str:
    """A small JPEG of a picture as a data URI."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    for quality in _QUALITIES:
        file = io.BytesIO()
        small.save(file, format="JPEG", quality=quality)
        if file.tell() <= MOST_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _picture(image: Any) -> str:
    """A data URI, or why there is none."""
    try:
        opened = open_image(image)
    except (ValueError, OSError):
        return "a picture that cannot be opened"
    if not isinstance(opened, Image.Image):
        return "a picture that is not in the dataset itself"
    return thumbnail(opened)


def _frame(video: Any) -> Iterator[str]:
    """The frame in the middle of a video, if there is one."""
    if video is None or video == []:
        return
    try:
        opened = open_video(video)
        yield thumbnail(Image.fromarray(opened.read([opened.total_frames // 2])[0]))
        yield "one frame of a video"
    except (ValueError, OSError, ImportError):
        yield "a video that cannot be opened"
