"""Read the rows of a video task as queries and documents; the only file with the column names' meaning.

VLM2Vec puts the mark of the video in front of the text; here the video is a part of the cell, in front of the text.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import PurePosixPath
from typing import Any

from saha_st.data.mmeb_v2.frames import FrameFolders
from saha_st.data.mmeb_v2.split import Cell, Query, RankingSplit, instructed, ranking_split
from saha_st.data.mmeb_v2.subsets import (
    QUESTION_PROMPT,
    VIDEO_TARGET,
    Captions,
    Choices,
    Labels,
    Moments,
    MomentSeeker,
    VideoRows,
    VideoSubset,
    class_labels,
)

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass
class _Task:
    """A task while it is read: its frames, and the queries and documents so far."""

    subset: VideoSubset
    frames: FrameFolders
    queries: list[Query] = field(default_factory=list)
    documents: dict[str, Cell] = field(default_factory=dict)

    def ask(self, text: str, relevant: str | Iterable[str], candidates: Sequence[str] | None, **parts: Any) -> None:
        names = [relevant] if isinstance(relevant, str) else relevant
        self.queries.append(Query(Cell(text, **parts), dict.fromkeys(names, 1), candidates))

    def offer(self, name: str, text: str, video: Sequence[str] | None = None) -> None:
        """Add a document, unless there is one of this name."""
        self.documents.setdefault(name, Cell(text, video=video))


def video_split(subset: VideoSubset, rows: Sequence[Row], frames: FrameFolders) -> RankingSplit:
    """Read the rows of a video task.

    Args:
        subset: The task.
        rows: Its rows, as they are stored.
        frames: The frames of its videos.

    Raises:
        ValueError: There are no rows, or they lack a column.
        FileNotFoundError: A video has no frames.
    """
    if not rows:
        raise ValueError(f"{subset.name} has no rows.")
    rows = rows[: subset.max_rows]
    if subset.skips_missing:
        rows = _with_frames(subset, rows, frames)
    task = _Task(subset, frames)
    try:
        _read(subset.rows, task, rows)
    except KeyError as error:
        raise ValueError(f"{subset.name}: a row lacks the column {error}; it has {sorted(rows[0])}.") from error
    known = task.documents.keys()
    if lost := sum(not known & query.relevant.keys() for query in task.queries):
        logger.warning(
            "%s: the right answers of %d queries are among no candidates: they are misses", subset.name, lost
        )
    return ranking_split(task.queries, task.documents)


def _with_frames(subset: VideoSubset, rows: Sequence[Row], frames: FrameFolders) -> list[Row]:
    """Return the rows whose video is there: of these tasks, some can be had no more."""
    folders = [_fill(subset.rows.folder, row) for row in rows]
    found = [row for row, folder in zip(rows, folders, strict=True) if frames.sample(folder)]
    if not found:
        frames.require(folders, subset.name)
    if missing := len(rows) - len(found):
        logger.warning("%s: %d of %d rows have no frames and are left out", subset.name, missing, len(rows))
    return found


@singledispatch
def _read(kind: VideoRows, task: _Task, rows: Sequence[Row]) -> None:
    raise TypeError(f"there is no reader for rows of the kind {type(kind).__name__}.")


@_read.register
def _(kind: Labels, task: _Task, rows: Sequence[Row]) -> None:
    for row, video in _videos(kind.folder, task, rows):
        candidates = None if kind.candidates is None else row[kind.candidates]
        task.ask(kind.instruction, row[kind.label], candidates, video=video)
        for label in [row[kind.label]] if candidates is None else candidates:
            task.offer(label, label)
    for label in class_labels(task.subset.name):
        task.offer(label, label)


@_read.register
def _(kind: Choices, task: _Task, rows: Sequence[Row]) -> None:
    for row, video in _videos(kind.folder, task, rows):
        options = _options(kind, row)
        lettered = [f"({letter}) {option}" for letter, option in zip(_LETTERS, options, strict=False)]
        answers = {"lines": "\n".join(options), "inline": " ".join(options), "lettered": "\n".join(lettered)}
        # Filled in one go: a question may hold braces.
        question = kind.text.format(question=f"{QUESTION_PROMPT} {row[kind.question]}", **answers)
        names = lettered if kind.candidates == "lettered" else options
        index = _index_of(row[kind.answer], options, kind.answer_is)
        task.ask(
            question.rstrip() if "{lettered}" in kind.text else question,
            names[index] if index is not None else str(row[kind.answer]),
            names,
            video=video,
        )
        for name in names:
            task.offer(name, _unlettered(name) if kind.candidates == "unlettered" else name)


@_read.register
def _(kind: Captions, task: _Task, rows: Sequence[Row]) -> None:
    for row, video in _videos(kind.folder, task, rows):
        text, name = row[kind.text], _fill(kind.folder, row)
        text = next(iter(text), None) if isinstance(text, list) else text
        task.ask(instructed(kind.instruction, text), name, None)
        task.offer(name, VIDEO_TARGET, video)


@_read.register
def _(kind: Moments, task: _Task, rows: Sequence[Row]) -> None:
    task.frames.require([f"{_fill(kind.folder, row)}/query" for row in rows], task.subset.name)
    for row in rows:
        folder = _fill(kind.folder, row)
        clips = [f"{folder}/{clip}" for clip in task.frames.clips(folder) if clip != "query"]
        right = [clip for clip in clips if clip.removeprefix(f"{folder}/").startswith("positive")]
        if not right:
            raise FileNotFoundError(
                f"{task.subset.name}: {str(task.frames.root / folder)!r} has no folder 'positive…' with the frames of "
                f"the right clip; it has {clips}. Unpack the frames of TIGER-Lab/MMEB-V2 again."
            )
        task.frames.require(clips, task.subset.name)
        question = instructed(kind.instruction, row[kind.text])
        task.ask(question, right, clips, video=task.frames.sample(f"{folder}/query"))
        for clip in clips:
            task.offer(clip, VIDEO_TARGET, task.frames.sample(clip))


@_read.register
def _(kind: MomentSeeker, task: _Task, rows: Sequence[Row]) -> None:
    def clips_of(row: Row, column: str) -> list[str]:
        return [_clip_folder(clip["output_path"]) for clip in row[column]]

    def picture(row: Row) -> str:
        return str(task.frames.root / f"query_{row['input_frames']}")

    sides = ("positive_frames", "negative_frames")
    clips = [clip for row in rows for side in sides for clip in clips_of(row, side)]
    videos = [_clip_folder(row["input_frames"]) for row in rows if row["input_frames"].endswith(".mp4")]
    task.frames.require([*clips, *videos], task.subset.name)
    pictures = [picture(row) for row in rows if row["input_frames"].endswith(".jpg")]
    if missing := [path for path in pictures if not os.path.isfile(path)]:
        raise FileNotFoundError(
            f"{task.subset.name}: {len(missing)} of {len(pictures)} pictures of queries are not there, the first is "
            f"{missing[0]!r}. Unpack the frames of TIGER-Lab/MMEB-V2 again."
        )
    for row in rows:
        right, wrong = clips_of(row, "positive_frames"), clips_of(row, "negative_frames")
        beside, parts, instruction = row["input_frames"], {}, kind.text_instruction
        if beside.endswith(".mp4"):
            instruction, parts = kind.video_instruction, {"video": task.frames.sample(_clip_folder(beside))}
        elif beside.endswith(".jpg"):
            instruction, parts = kind.image_instruction, {"image": picture(row)}
        task.ask(instructed(instruction, row["query"]), right, [*right, *wrong], **parts)
        for clip in [*right, *wrong]:
            task.offer(clip, kind.target, task.frames.sample(clip))


def _videos(folder: str, task: _Task, rows: Sequence[Row]) -> Iterable[tuple[Row, list[str]]]:
    """Return the rows, each with the frames of its video; all are looked for before the first is returned."""
    folders = [_fill(folder, row) for row in rows]
    task.frames.require(folders, task.subset.name)
    return zip(rows, map(task.frames.sample, folders), strict=True)


def _fill(folder: str, row: Row) -> str:
    """Name the folder of a row's video; of a column, `.stem` is the name of the file that it is a path of."""
    return folder.format_map(_Paths(row))


class _Paths(dict):
    """A row's columns as paths, for a format string; those that it does not name are not looked at."""

    def __getitem__(self, name: str) -> PurePosixPath:
        return PurePosixPath(str(super().__getitem__(name)))


def _clip_folder(path: str) -> str:
    return "video_frames/" + path.split(".mp4")[0].replace("/", "_")


def _options(kind: Choices, row: Row) -> list[str]:
    if kind.fixed:
        return list(kind.fixed)
    return list(row[kind.options]) if isinstance(kind.options, str) else [row[name] for name in kind.options]


def _index_of(answer: Any, options: Sequence[str], kind: str) -> int | None:
    """Return which option the answer is, of several equal ones the last, as VLM2Vec does; `None` if it is none."""
    if kind == "text":
        return next((index for index in reversed(range(len(options))) if options[index] == answer), None)
    index = _LETTERS.index(answer) if kind == "letter" else int(answer)
    return index if index < len(options) else None


def _unlettered(option: str) -> str:
    """Return an answer without the "A. " before it and the full stop behind it."""
    _, mark, rest = option.partition(". ")
    return (rest if mark else option).strip(". ")
