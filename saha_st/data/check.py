"""What is wrong with pairs, row by row, before anything is encoded.

A run that meets a broken image dies hours after it began, and one that embeds a path as text never dies at all. So
every cell is looked at once: texts as they are, images by decoding each distinct one in threads, videos by opening
each, pairs by their keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from saha_st.data.cells import cell_kind, cell_parts, cell_video, stored_cells
from saha_st.data.check_images import ImageChecker
from saha_st.data.check_texts import TextChecker
from saha_st.data.check_videos import VideoChecker
from saha_st.data.keys import KEY_DTYPE, cell_key
from saha_st.data.problems import Finding, PairSummary, Problem, ProblemList, format_problems, format_summary

__all__ = ["PairCheck", "PairSummary", "Problem", "check_pairs", "format_problems", "format_summary"]

_CELLS_AT_ONCE = 256

_Parts = tuple[list[Any], Any, str | None]  # the images, the video and the text of a cell


class _Checkers(NamedTuple):
    """What looks at each kind of part."""

    texts: TextChecker
    images: ImageChecker
    videos: VideoChecker


class PairCheck(NamedTuple):
    """The result of `check_pairs`: the problems, errors first, and the counts over all rows."""

    problems: list[Problem]
    summary: PairSummary


def check_pairs(
    dataset: Dataset,
    *,
    columns: Sequence[str] = ("anchor", "positive"),
    tokenizer: Callable[..., Any] | None = None,
    max_length: int | None = None,
    decode_images: bool = True,
    max_side_ratio: float = 200.0,
    min_side: int = 8,
    max_listed: int = 1000,
    num_workers: int | None = None,
    show_progress_bar: bool = True,
) -> PairCheck:
    """List what is wrong with pairs. Nothing is changed, fetched or raised: bad data is the result.

    Args:
        dataset: Pairs, as `load_pairs(..., check_files=False)` or `load_mmeb` return them.
        columns: The columns to look at; the first two are the pair.
        tokenizer: A tokenizer of transformers, to measure texts in its tokens.
        max_length: Report longer texts, in tokens or, without a tokenizer, in characters. Images are not counted in.
        decode_images: Decode every distinct image to the end, and the ends of videos; otherwise only read the headers.
        max_side_ratio: Ratio of an image's sides from which on it is an error; Qwen's processors refuse 200.
        min_side: Shorter side of an image, in pixels, below which it is worth a warning.
        max_listed: How many problems of each kind to list; the summary counts all.
        num_workers: Threads that decode images.
        show_progress_bar: Show a progress bar over all cells.

    Returns:
        The problems, errors first, and the summary.

    Raises:
        ValueError: A tokenizer without `max_length`, or fewer than two columns.
    """
    if tokenizer is not None and max_length is None:
        raise ValueError("tokenizer is given without max_length, so there is nothing to compare its lengths with.")
    if len(columns) < 2:
        raise ValueError(f"columns must name the two sides of the pair first; received {list(columns)}.")
    problems = ProblemList(max_listed)
    usable = _check_shape(dataset, columns, problems)
    texts = TextChecker(tokenizer, max_length)
    images = ImageChecker(
        decode=decode_images, max_side_ratio=max_side_ratio, min_side=min_side, num_workers=num_workers
    )
    checkers = _Checkers(texts, images, VideoChecker(images, decode=decode_images))
    keys, modalities = {}, {}
    total = len(dataset) * len(usable)
    with images, tqdm(total=total, desc="Checking pairs", unit="cell", disable=not show_progress_bar) as bar:
        for column in usable:
            keys[column], modalities[column] = _check_column(dataset, column, checkers, problems, bar)
    pair_counts = {}
    if set(columns[:2]) <= set(usable):
        pair_counts = _check_pairs(keys[columns[0]], keys[columns[1]], problems)
    distinct = {column: len(np.unique(found[found != b""])) for column, found in keys.items()}
    summary = PairSummary(len(dataset), dict(problems.counts), modalities, distinct, **pair_counts)
    return PairCheck(problems.sorted(), summary)


def _check_shape(dataset: Dataset, columns: Sequence[str], problems: ProblemList) -> list[str]:
    """Look at the dataset as a whole, and return the columns that can be looked at further."""
    if len(dataset) == 0:
        problems.add("no rows")
    if len(dataset) == 1:
        problems.add("only one row", row=0)
    usable = []
    for column in columns:
        if column not in dataset.column_names:
            problems.add("missing column", column=column, value=f"the columns are {', '.join(dataset.column_names)}")
        elif cell_kind(dataset.features[column]) is None:
            problems.add("column of another kind", column=column, value=str(dataset.features[column]))
        else:
            usable.append(column)
    return usable


def _check_column(
    dataset: Dataset, column: str, checkers: _Checkers, problems: ProblemList, bar: tqdm
) -> tuple[np.ndarray, dict[str, int]]:
    """Check all cells of a column; return their keys, empty where there is none, and the number of each modality."""
    keys = np.zeros(len(dataset), dtype=KEY_DTYPE)
    modalities = {"text": 0, "image": 0, "image + text": 0, "empty": 0}
    for start, cells in _batches(stored_cells(dataset, column)):
        parts = [_parts(cell) for cell in cells]
        for row, (found, video, text) in enumerate(parts, start):
            modality = _modality(found, video, text)
            modalities[modality] = modalities.get(modality, 0) + 1
            if not found and video is None and not (text or "").strip():
                problems.add("empty cell" if text is None else "empty text", row, column, repr(text))
        for row, finding in _findings(parts, start, checkers):
            problems.add(finding.problem, row, column, finding.value)
        keys[start : start + len(cells)] = [_key_or_nothing(cell) for cell in cells]
        bar.update(len(cells))
    return keys, modalities


def _parts(cell: Any) -> _Parts:
    images, text = cell_parts(cell)
    return images, cell_video(cell), text


def _findings(parts: Sequence[_Parts], start: int, checkers: _Checkers) -> Iterator[tuple[int, Finding]]:
    """Yield what is wrong with the images, videos and texts of some cells, each with its row."""
    rows = [row for row, (found, _, _) in enumerate(parts, start) for _ in found]
    checked = checkers.images.check([image for found, _, _ in parts for image in found])
    yield from ((row, finding) for row, finding in zip(rows, checked, strict=True) if finding is not None)
    videos = {row: video for row, (_, video, _) in enumerate(parts, start) if video is not None}
    checked = checkers.videos.check(list(videos.values()))
    yield from ((row, finding) for row, finding in zip(videos, checked, strict=True) if finding is not None)
    texts = checkers.texts.check([text for _, _, text in parts])
    yield from ((start + index, finding) for index, finding in texts)


def _modality(images: list[Any], video: Any, text: str | None) -> str:
    there = {"image": bool(images), "video": video is not None, "text": text is not None}
    return " + ".join(name for name, is_there in there.items() if is_there) or "empty"


def _batches(cells: Iterator[Any]) -> Iterator[tuple[int, list[Any]]]:
    for start in itertools.count(step=_CELLS_AT_ONCE):
        batch = list(itertools.islice(cells, _CELLS_AT_ONCE))
        if not batch:
            return
        yield start, batch


def _key_or_nothing(cell: Any) -> bytes:
    try:
        return cell_key(cell)
    except (ValueError, FileNotFoundError):  # an empty cell or a missing file, which is reported as such
        return b""


def _check_pairs(anchors: np.ndarray, positives: np.ndarray, problems: ProblemList) -> dict[str, int]:
    """Look for pairs that teach nothing or twice, and count one-to-many relations, by keys of shape (rows,)."""
    rows = np.flatnonzero((anchors != b"") & (positives != b""))
    _, anchor_ids = np.unique(anchors[rows], return_inverse=True)
    _, positive_ids = np.unique(positives[rows], return_inverse=True)
    width = positive_ids.max(initial=0) + 1
    distinct, first, pair_ids = np.unique(anchor_ids * width + positive_ids, return_index=True, return_inverse=True)
    first_of_row = first[pair_ids]
    copies = np.flatnonzero(first_of_row != np.arange(len(rows)))
    for copy in copies.tolist():
        problems.add("duplicate pair", int(rows[copy]), value=f"the same as row {rows[first_of_row[copy]]}")
    for row in rows[anchors[rows] == positives[rows]].tolist():
        problems.add("anchor equals positive", row)
    return {
        "duplicate_pairs": len(copies),
        "anchors_with_several_positives": int((np.bincount(distinct // width) > 1).sum()),
        "positives_with_several_anchors": int((np.bincount(distinct % width) > 1).sum()),
    }
