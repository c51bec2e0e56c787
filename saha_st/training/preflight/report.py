"""What a preflight found: as an object, as plain values, and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from saha_st.training.out_of_memory import describe_media
from saha_st.training.preflight.lengths import ColumnLengths
from saha_st.training.preflight.memory import MemoryEstimate
from saha_st.training.preflight.worst_batch import MeasuredSteps, WorstBatch

PERCENTILES = (50, 90, 99, 100)
_BINS, _BAR = 12, 40
_ROUND_WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class LongRow:
    """A row among the longest.

    Attributes:
        dataset: Name of the dataset.
        column: Its column.
        row: Its number in the dataset.
        tokens: Its tokens, nothing cut.
        images: Width and height of its pictures, and of its video with the number of frames.
        fate: ``whole``, ``cut`` or ``refused``.
        reason: Why it is refused.
    """

    dataset: str
    column: str
    row: int
    tokens: int
    images: tuple[tuple[int, ...], ...]
    fate: str
    reason: str | None = None


@dataclass(frozen=True)
class PreflightReport:
    """What a preflight found.

    Attributes:
        columns: The lengths, two columns a dataset.
        batch: The batch with the most tokens; None if there is no pair that the model takes.
        mini_batches: Rows, and tokens with padding, of that batch's mini-batches.
        budget: Tokens of a mini-batch; None where rows are counted.
        estimate: Memory, by what it is for.
        warnings: What is likely to go wrong.
        measured: What two steps on the batch took; None if they were not run.
    """

    columns: list[ColumnLengths]
    batch: WorstBatch | None
    mini_batches: list[tuple[int, int]]
    budget: int | None
    estimate: MemoryEstimate
    warnings: list[str]
    measured: MeasuredSteps | None

    @property
    def problems(self) -> list[str]:
        """What would stop the run, or make it die."""
        found = [_describe_refusals(column) for column in self.columns if column.refused]
        if self.batch is None:
            found.append("No dataset has two pairs that the model takes.")
        if self.measured is not None and self.measured.failure is not None:
            found.append(self.measured.failure)
        elif self.measured is None and self.estimate.total > self.estimate.available:
            found.append(
                f"By estimate a step needs {_size(self.estimate.total)}, and {self.estimate.device} has "
                f"{_size(self.estimate.available)}."
            )
        return found

    def longest(self, count: int) -> list[LongRow]:
        """The rows that are refused and then the longest others, ``count`` together at most."""
        rows = [_long_row(column, place) for column in self.columns for place in _candidates(column, count)]
        return sorted(rows, key=lambda row: (row.fate != "refused", -row.tokens, row.dataset, row.row))[:count]

    def to_dict(self, *, longest: int = 100) -> dict[str, Any]:
        """Plain values, for JSON."""
        batch = self.batch and {"dataset": self.batch.dataset, "rows": self.batch.rows.tolist()}
        return {
            "problems": self.problems,
            "warnings": self.warnings,
            "columns": [_column_values(column) for column in self.columns],
            "longest": [asdict(row) for row in self.longest(longest)],
            "worst_batch": batch and batch | {"mini_batches": self.mini_batches, "budget": self.budget},
            "memory": asdict(self.estimate) | {"total": self.estimate.total},
            "measured": self.measured and asdict(self.measured),
        }

    def to_text(self, *, longest: int = 10) -> str:
        """Histograms, the longest rows, memory and time, warnings and problems."""
        parts = ["\n".join(_histogram_lines(column)) for column in self.columns]
        parts.append("\n".join(["The longest rows", *_longest_lines(self.longest(longest))]))
        if self.batch is not None:
            parts.append("\n".join(_batch_lines(self)))
        parts += [f"Warning: {warning}" for warning in self.warnings]
        parts += [f"Problem: {problem}" for problem in self.problems] or ["No problems found."]
        return "\n\n".join(parts)


def histogram(tokens: np.ndarray) -> list[tuple[int, int, int]]:
    """Count lengths in bins of one round width.

    Args:
        tokens: Lengths, shape (rows,).

    Returns:
        First and last length and the number of rows of each bin, from the shortest row's to the longest row's.
    """
    if len(tokens) == 0:
        return []
    low, high = int(tokens.min()), int(tokens.max())
    width = next((width for width in _ROUND_WIDTHS if high // width - low // width < _BINS), high)
    first = low // width
    counts = np.bincount(tokens // width - first)
    return [((first + i) * width, (first + i + 1) * width - 1, int(count)) for i, count in enumerate(counts)]


def _histogram_lines(column: ColumnLengths) -> Iterator[str]:
    tokens = column.tokens[column.tokens > 0]
    over = 0 if column.limit is None else int((tokens > column.limit).sum())
    yield f"{column.dataset}, {column.column} (read as {column.task}): {len(column.rows):,} rows"
    bins = histogram(tokens)
    if not bins:
        return
    most = max(count for _, _, count in bins)
    edge, number = len(f"{bins[-1][1]:,}"), len(f"{most:,}")
    for first, last, count in bins:
        bar = "#" * -(-count * _BAR // most)
        to = f" - {last:>{edge},}" if bins[0][0] < bins[0][1] else ""
        yield f"  {first:>{edge},}{to} tokens  {count:>{number},}  {bar}".rstrip()
    shares = ", ".join(f"{share} % up to {_percentile(tokens, share):,}" for share in PERCENTILES[:-1])
    limit = "" if column.limit is None else f"; {over:,} over the limit of {column.limit:,}"
    yield f"  {shares}, the longest {int(tokens.max()):,}{limit}"


def _longest_lines(rows: list[LongRow]) -> list[str]:
    width = max((len(f"{row.tokens:,}") for row in rows), default=1)
    return [f"  {row.tokens:>{width},} tokens  {_describe(row)}" for row in rows]


def _describe(row: LongRow) -> str:
    images = f", {describe_media(row.images)}" if row.images else ""
    fate = {"whole": "", "cut": "  text is cut", "refused": f"  REFUSED: {row.reason}"}[row.fate]
    return f"{row.dataset} row {row.row}, {row.column}{images}{fate}"


def _batch_lines(report: PreflightReport) -> Iterator[str]:
    estimate, measured = report.estimate, report.measured
    rows, tokens = max(report.mini_batches, key=lambda size: size[1])
    kind = "rows" if report.budget is None else f"at most {report.budget:,} tokens"
    yield (
        f"The worst batch: {len(report.batch.rows)} pairs of {report.batch.dataset}, {len(report.mini_batches)} "
        f"mini-batches of {kind}, the largest of {rows} rows, {tokens:,} tokens with padding"
    )
    yield f"  weights       {_size(estimate.weights):>10}"
    yield f"  gradients     {_size(estimate.gradients):>10}"
    yield f"  optimizer     {_size(estimate.optimizer):>10}  (AdamW)"
    yield f"  activations   {_size(estimate.activations):>10}  (a rule of thumb, for the largest mini-batch)"
    has = f"{estimate.device} has {_size(estimate.available)}{' free' * (estimate.device == 'cpu')}"
    yield f"  together      {_size(estimate.total):>10}  ({has})"
    if measured is not None:
        peak = estimate.weights + measured.growth
        yield f"  measured peak {_size(peak):>10}  (weights, and what memory grew by in two steps)"
    if measured is not None and measured.seconds is not None:
        yield f"  time          {measured.seconds:>8.2f} s  (the second step)"


def _describe_refusals(column: ColumnLengths) -> str:
    rows = list(column.refused)
    shown = ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
    return (
        f"{column.dataset}, {column.column}: the model refuses row{'s' * (len(rows) != 1)} {shown}. "
        f"{column.refused[rows[0]]}"
    )


def _candidates(column: ColumnLengths, count: int) -> list[int]:
    """Places of the longest rows and of those refused."""
    longest = np.argsort(-column.tokens, kind="stable")[:count]
    return list(dict.fromkeys([*np.flatnonzero(~column.usable)[:count].tolist(), *longest.tolist()]))


def _long_row(column: ColumnLengths, place: int) -> LongRow:
    row = int(column.rows[place])
    return LongRow(
        column.dataset,
        column.column,
        row,
        int(column.tokens[place]),
        column.images[place],
        column.fate(place),
        column.refused.get(row),
    )


def _column_values(column: ColumnLengths) -> dict[str, Any]:
    tokens = column.tokens[column.tokens > 0]
    return {
        "dataset": column.dataset,
        "column": column.column,
        "rows": len(column.rows),
        "limit": column.limit,
        "percentiles": {str(share): _percentile(tokens, share) for share in PERCENTILES} if len(tokens) else {},
        "histogram": [{"from": first, "to": last, "rows": count} for first, last, count in histogram(tokens)],
        "over_limit": 0 if column.limit is None else int((tokens > column.limit).sum()),
        "refused": {str(row): reason for row, reason in column.refused.items()},
    }


def _percentile(tokens: np.ndarray, share: int) -> int:
    """The length that so many percent of the rows do not exceed; that of a row, not between two."""
    return int(np.percentile(tokens, share, method="inverted_cdf"))


def _size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"
