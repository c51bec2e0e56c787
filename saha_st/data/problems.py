"""What can be wrong with a pair, how bad it is, what to do about it, and how that reads in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]

_RULES: dict[str, tuple[Severity, str]] = {
    "no rows": ("error", "Contrastive learning needs at least two pairs to tell apart."),
    "only one row": ("error", "Contrastive learning needs at least two pairs to tell apart."),
    "missing column": ("error", "Name the columns: load_pairs(..., anchor=..., positive=...)."),
    "column of another kind": ("error", "Load the data with load_pairs, which declares images and refuses the rest."),
    "empty cell": ("error", "Remove the row, or give the cell a text, an image or a video."),
    "empty text": ("error", "Remove the row, or give the cell a text, an image or a video."),
    "missing image file": ("error", "Correct the path, or pass image_root=<what the image paths are relative to>."),
    "unreadable image": ("error", "Replace the file or remove the row; it is damaged, cut short or no image."),
    "extreme side ratio": ("error", "Crop or pad the image; processors of the Qwen family refuse it."),
    "tiny image": ("warning", "See whether it is more than a blank or a tracking pixel; it will be enlarged."),
    "image behind a URL": ("warning", "Download it: it is fetched whenever the row is read, and was not checked."),
    "missing video": ("error", "Correct the path, or pass image_root=<what the paths of videos are relative to>."),
    "video without frames": ("error", "Remove the row, or give the video frames."),
    "unreadable video": ("error", "Replace the file or the frame, or remove the row; a model cannot be shown it."),
    "video behind a URL": ("error", "Download it: videos are not fetched."),
    "text that reads like a URL": ("warning", "It is embedded as text. An image goes into <column>_image or 'image'."),
    "text that reads like an image path": (
        "warning",
        "It is embedded as text. An image goes into <column>_image or the part 'image' of a struct.",
    ),
    "image placeholder in a text": ("warning", "Remove it: the chat template marks the place of an image itself."),
    "text too long": ("warning", "Its end is cut off. Shorten it, or raise max_length and the model's limit."),
    "anchor equals positive": ("warning", "Remove the row: the pair is solved before anything is learned."),
    "duplicate pair": ("warning", "Remove the copy, or accept that the pair weighs twice."),
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        row: The row, counted from 0; `None` for the dataset as a whole.
        column: The column; `None` for the pair as a whole.
        problem: What is wrong, in the same few words wherever it occurs.
        value: The cell, shortened, or what was found in it.
        remedy: What to do about it.
        severity: An "error" breaks a run or trains on nonsense; a "warning" may be meant.
    """

    row: int | None
    column: str | None
    problem: str
    value: str
    remedy: str
    severity: Severity


class Finding(NamedTuple):
    """A kind of problem, and what was seen in the cell."""

    problem: str
    value: str


@dataclass(frozen=True)
class PairSummary:
    """Counts over all rows.

    Args:
        rows: The number of rows.
        counts: How often each problem occurs, listed or not.
        modalities: For each column the number of cells that are "text", "image", "image + text" and "empty", and of
            the kinds with videos that there are, such as "video + text".
        distinct: For each column the number of distinct cells, which is what mining encodes.
        duplicate_pairs: Rows whose pair occurs before.
        anchors_with_several_positives: Distinct anchors with more than one distinct positive.
        positives_with_several_anchors: Distinct positives with more than one distinct anchor (its owners).
    """

    rows: int
    counts: dict[str, int] = field(default_factory=dict)
    modalities: dict[str, dict[str, int]] = field(default_factory=dict)
    distinct: dict[str, int] = field(default_factory=dict)
    duplicate_pairs: int = 0
    anchors_with_several_positives: int = 0
    positives_with_several_anchors: int = 0

    @property
    def errors(self) -> int:
        """The number of errors."""
        return sum(count for problem, count in self.counts.items() if _RULES[problem][0] == "error")

    @property
    def warnings(self) -> int:
        """The number of warnings."""
        return sum(self.counts.values()) - self.errors


class ProblemList:
    """Problems in the making: counts all, keeps the first of each kind, since a million lines help nobody.

    Args:
        max_listed: How many of each kind to keep.
    """

    def __init__(self, max_listed: int) -> None:
        self.max_listed = max_listed
        self.counts: dict[str, int] = {}
        self._kept: list[Problem] = []

    def add(self, problem: str, row: int | None = None, column: str | None = None, value: str = "") -> None:
        """Count a problem, and keep it if there is room."""
        self.counts[problem] = self.counts.get(problem, 0) + 1
        if self.counts[problem] <= self.max_listed:
            severity, remedy = _RULES[problem]
            self._kept.append(Problem(row, column, problem, shorten(value), remedy, severity))

    def sorted(self) -> list[Problem]:
        """Return the problems kept: errors first, then by kind, then by row."""
        kinds = list(_RULES)
        severities = ("error", "warning")
        return sorted(
            self._kept,
            key=lambda p: (severities.index(p.severity), kinds.index(p.problem), -1 if p.row is None else p.row),
        )


def shorten(value: str, width: int = 100) -> str:
    """Return a value on one line, its middle left out if it is long: of a path, the end tells most."""
    line = " ".join(value.split())
    if len(line) <= width:
        return line
    begin = width // 4
    return f"{line[:begin]}…{line[begin + 1 - width :]}"


def format_problems(problems: Sequence[Problem], *, limit: int = 10) -> str:
    """Return problems as a table to print, grouped by kind, each kind with its remedy.

    Args:
        problems: The problems, as `check_pairs` returns them.
        limit: How many rows to show of each kind.
    """
    if not problems:
        return "No problems found."
    blocks = []
    for name, group in groupby(problems, key=lambda p: (p.severity, p.problem)):
        found = list(group)
        lines = [f"{name[0]}: {name[1]} ({len(found)})", f"  {found[0].remedy}"]
        shown = [("" if p.row is None else f"row {p.row}", p.column or "", p.value) for p in found[:limit]]
        widths = [max(len(cells[i]) for cells in shown) for i in range(2)]
        lines += [f"  {row:>{widths[0]}}  {column:<{widths[1]}}  {value}".rstrip() for row, column, value in shown]
        if len(found) > limit:
            lines.append(f"  … and {len(found) - limit} more")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def format_summary(summary: PairSummary) -> str:
    """Return the counts as lines to print."""
    lines = [f"{summary.rows} rows, {summary.errors} errors, {summary.warnings} warnings"]
    for column, kinds in summary.modalities.items():
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        lines.append(f"{column}: {found}; {summary.distinct.get(column, 0)} distinct")
    lines.append(
        f"{summary.duplicate_pairs} duplicate pairs, "
        f"{summary.anchors_with_several_positives} anchors with several positives, "
        f"{summary.positives_with_several_anchors} positives with several anchors"
    )
    return "\n".join(lines)
