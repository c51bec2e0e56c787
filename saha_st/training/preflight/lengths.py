"""Tokens of every row as the model will read it: prompt, text, images and videos, before anything is cut.

The vision tower is not run, and pictures are not resized where the processor can tell from its size how many tokens a
picture takes: then the row is counted with a tiny picture in its place. Videos likewise, which are not even decoded.
Whether that gives what the processor itself gives is tried on the first row with a picture, and on the first with a
video; if not, every one of them goes through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from saha_st.data.cells import cell_parts, cell_video, with_closed_videos
from saha_st.encoding import DistinctInputs
from saha_st.modules.token_counts import shown_size, tokens_of_pictures, tokens_of_videos
from saha_st.modules.videos import open_video
from saha_st.training.out_of_memory import Sizes, media_sizes

TASKS = {"anchor": "query", "positive": "document"}
"""The side of the prompt that each column is read with."""

_ROWS_AT_ONCE = 32
_UNTRUNCATED = {"text": {"truncation": False, "max_length": None}}
_TINY = (32, 32)
_TINY_FRAMES = 2


@dataclass(frozen=True)
class ColumnLengths:
    """The rows of a column that were counted.

    Attributes:
        dataset: Name of the dataset.
        column: Name of the column.
        limit: Longest row that the model reads, in tokens; None: no limit.
        rows: Numbers of the rows in the dataset, ascending, shape (rows,).
        tokens: Tokens of each, nothing cut; 0 where it cannot be read, shape (rows,).
        images: Width and height of the pictures of each, and of its video with the number of frames.
        refused: By row, why the model does not take it.
    """

    dataset: str
    column: str
    limit: int | None
    rows: np.ndarray
    tokens: np.ndarray
    images: list[Sizes]
    refused: dict[int, str]

    @property
    def task(self) -> str:
        """The side of the prompt that the column is read with."""
        return TASKS[self.column]

    @property
    def usable(self) -> np.ndarray:
        """Which rows the model takes, shape (rows,)."""
        return ~np.isin(self.rows, list(self.refused))

    @property
    def read(self) -> np.ndarray:
        """Tokens of each row after cutting, shape (rows,)."""
        return self.tokens if self.limit is None else np.minimum(self.tokens, self.limit)

    def fate(self, index: int) -> str:
        """What becomes of the row at a place: ``whole``, ``cut`` or ``refused``."""
        if int(self.rows[index]) in self.refused:
            return "refused"
        return "whole" if self.read[index] == self.tokens[index] else "cut"


def count_column(
    dataset: Dataset, name: str, column: str, model: SentenceTransformer, rows: np.ndarray, bar: tqdm
) -> ColumnLengths:
    """Count the tokens of some rows of a column, equal inputs once.

    Args:
        dataset: The pairs.
        name: What the dataset is called.
        column: ``anchor`` or ``positive``.
        model: The embedder.
        rows: Numbers of the rows, ascending, shape (rows,).
        bar: Moved on by each row.
    """
    dataset = with_closed_videos(
        dataset.select_columns([column])
    )  # or the pictures of the other one would be decoded too
    distinct = DistinctInputs.of(dataset.select(rows), column)
    counter = TokenCounter(model, TASKS[column])
    counts, sizes, refusals = [], [], {}
    numbers = np.bincount(distinct.index_of_row, minlength=len(distinct))  # rows that hold each input
    for start in range(0, len(distinct), _ROWS_AT_ONCE):
        places = range(start, min(start + _ROWS_AT_ONCE, len(distinct)))
        cells = [_read(dataset, int(rows[distinct.first_row[place]]), column) for place in places]
        of_cells = [_sizes(cell) for cell in cells]
        for place, (count, refusal) in zip(places, counter(cells), strict=True):
            counts.append(count)
            if refusal is not None:
                refusals[place] = refusal
        sizes += of_cells
        bar.update(int(numbers[places.start : places.stop].sum()))
    of_row = distinct.index_of_row
    refused = {int(row): refusals[i] for row, i in zip(rows, of_row.tolist(), strict=True) if i in refusals}
    tokens = np.array(counts, dtype=np.int64)[of_row]
    return ColumnLengths(name, column, counter.limit, rows, tokens, [sizes[i] for i in of_row], refused)


class TokenCounter:
    """Counts the tokens of cells on one side of the prompt."""

    def __init__(self, model: SentenceTransformer, task: str) -> None:
        self.model, self.task = model, task
        self.limit: int | None = model[0].max_seq_length
        self._by_size: dict[str, bool] = {}  # by kind of media, once a row with it was tried
        # Long rows are what is looked for; the tokenizer would warn of the first one.
        model.tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True

    def __call__(self, cells: Sequence[Any]) -> list[tuple[int, str | None]]:
        """The tokens of each cell with nothing cut, and why the model refuses it, if it does.

        A cell that is an exception could not be read; its message is the reason.
        """
        try:
            if any(isinstance(cell, Exception) for cell in cells):
                raise ValueError("A cell could not be read.")
            counts = self._count(cells)
        except (ImportError, ValueError, OSError):  # find out which
            counts = [self._count_one(cell) for cell in cells]
        return [self._judge(cell, count) for cell, count in zip(cells, counts, strict=True)]

    def _count_one(self, cell: Any) -> int | str:
        if isinstance(cell, Exception):
            return str(cell)
        try:
            return self._count([cell])[0]
        except (ImportError, ValueError, OSError) as error:
            return _reason(error)

    def _judge(self, cell: Any, count: int | str) -> tuple[int, str | None]:
        """A row within the limit passes; of a longer one the model says itself whether it cuts or refuses it."""
        if isinstance(count, str):
            return 0, count
        if self.limit is None or count <= self.limit:
            return count, None
        try:
            self._render([cell])
        except ValueError as error:
            return count, _reason(error)
        return count, None

    def _count(self, cells: Sequence[Any]) -> list[int]:
        kinds = {kind: cell for cell in reversed(cells) for kind in _media(cell)}  # and the first cell of each
        for kind, cell in kinds.items():
            if kind not in self._by_size:
                self._by_size[kind] = self._count_by_size([cell]) == self._lengths([cell])
        by_size = bool(kinds) and all(self._by_size[kind] for kind in kinds)
        return (self._count_by_size(cells) if by_size else None) or self._lengths(cells)

    def _count_by_size(self, cells: Sequence[Any]) -> list[int] | None:
        """Tokens with tiny media, and what the real ones have more; None if the processor does not tell."""
        more = [0] * len(cells)
        for sizes, count, tiny in (
            ([_picture_sizes(cell) for cell in cells], tokens_of_pictures, _TINY),
            ([self._video_sizes(cell) for cell in cells], tokens_of_videos, (_TINY_FRAMES, *_TINY)),
        ):
            if not any(sizes):
                continue
            tokens = count(self.model[0].processor, [tiny, *(size for of_cell in sizes for size in of_cell)])
            if tokens is None:
                return None
            real = iter(tokens[1:])
            more = [
                sum((next(real) - tokens[0] for _ in of_cell), so_far)
                for of_cell, so_far in zip(sizes, more, strict=True)
            ]
        lengths = self._lengths([_with_tiny_media(cell) for cell in cells])
        return [length + extra for length, extra in zip(lengths, more, strict=True)]

    def _video_sizes(self, cell: Any) -> list[tuple[int, int, int]]:
        video = cell_video(cell)
        return [] if video is None else [shown_size(self.model[0], open_video(video))]

    def _lengths(self, cells: Sequence[Any]) -> list[int]:
        return self._render(cells, processing_kwargs=_UNTRUNCATED)["attention_mask"].sum(dim=1).tolist()

    def _render(self, cells: Sequence[Any], **options: Any) -> dict[str, Any]:
        return self.model.preprocess(list(cells), prompt=self.model.prompts.get(self.task), task=self.task, **options)


def _read(dataset: Dataset, row: int, column: str) -> Any:
    """A cell, or the exception that reading it raised."""
    try:
        return dataset[row][column]
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: what PIL raises for a broken PNG
        return error


def _sizes(cell: Any) -> Sizes:
    try:
        return () if isinstance(cell, Exception) else media_sizes(cell)
    except (ImportError, ValueError):  # the count says why
        return ()


def _media(cell: Any) -> Iterator[str]:
    """The kinds of media in a cell whose size is known."""
    if _picture_sizes(cell):
        yield "image"
    if cell_video(cell) is not None:
        yield "video"


def _picture_sizes(cell: Any) -> list[tuple[int, int]]:
    """Height and width of the pictures of a cell."""
    return [(image.height, image.width) for image in cell_parts(cell)[0] if hasattr(image, "size")]


def _with_tiny_media(cell: Any) -> Any:
    images, text = cell_parts(cell)
    picture = Image.new("RGB", _TINY)
    tiny = [picture if hasattr(image, "size") else image for image in images]
    parts = {"image": tiny[0] if len(tiny) == 1 else tiny} if tiny else {}
    parts |= {} if cell_video(cell) is None else {"video": [picture] * _TINY_FRAMES}
    return parts | ({} if text is None else {"text": text})


def _reason(error: BaseException) -> str:
    return str(error).removeprefix("Input 0 of the batch: ")
