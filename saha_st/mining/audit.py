"""What mined negatives are worth, in numbers: how many are in truth positives, and how hard the true ones are.

Truth is one value a row: rows of equal value are in truth each other's positives. A negative is a row's anchor beside
a document, and it is contaminated if a row of the anchor's truth owns that document; an anchor that occurs in several
rows has the truths of all of them. Models never see the truth. Pure NumPy, arrays in and numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Number
from typing import Any

import numpy as np

from saha_st.mining.ragged import Ragged
from saha_st.mining.rank_windows import Rivals

_BLOCK = 4096  # pairs whose vectors are in memory at a time
_MOST_RANDOM = 1_000_000  # random negatives: their share is right to 0.1 %


@dataclass(frozen=True)
class Truth:
    """Which documents are in truth positives of a row's anchor.

    Args:
        codes: One number for each truth, -1 where it is not known, shape (rows,).
        document_of_row: The document that is each row's positive, shape (rows,).
        anchor_of_row: Rows of one number, from 0 on, have one anchor, and all their truths are its own, shape (rows,).
            None: every row has an anchor of its own.
    """

    codes: np.ndarray
    document_of_row: np.ndarray
    anchor_of_row: np.ndarray | None = None

    def __post_init__(self) -> None:
        for each in (self.document_of_row, self.anchor_of_row):
            if each is not None and len(self.codes) != len(each):
                raise ValueError(f"truth has {len(self.codes)} values for {len(each)} rows; give one a row.")

    @classmethod
    def of(cls, values: Sequence[Any], document_of_row: np.ndarray, anchor_of_row: np.ndarray | None = None) -> Truth:
        """Read one value a row; see `truth_codes`."""
        return cls(truth_codes(values), np.asarray(document_of_row), anchor_of_row)

    @property
    def rows_without(self) -> int:
        """How many rows have no truth."""
        return int(np.count_nonzero(self.codes < 0))

    @property
    def values(self) -> int:
        """How many different truths there are."""
        return len(np.unique(self.codes[self.codes >= 0]))

    def judge(self, rows: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tell for pairs of a row's anchor and a document whether they can be judged, and are in truth positives.

        Args:
            rows: Shape (pairs,).
            documents: Shape (pairs,).

        Returns:
            Two masks of shape (pairs,). A pair without truth on either side is not judged, and no positive.
        """
        has_truth, right = self._positives
        places = np.minimum(documents, len(has_truth) - 1)
        codes, pair = self._truths_of_anchor.joined(self._anchors[rows])  # an anchor may have several
        judged = np.zeros(len(rows), dtype=bool)
        judged[pair] = has_truth[places[pair]]
        keys = codes * len(has_truth) + places[pair]
        found = np.minimum(np.searchsorted(right, keys), len(right) - 1)
        positive = np.zeros(len(rows), dtype=bool)
        positive[pair[right[found] == keys]] = True
        return judged, positive

    @cached_property
    def _anchors(self) -> np.ndarray:
        """The anchor of each row, shape (rows,)."""
        return np.arange(len(self.codes)) if self.anchor_of_row is None else self.anchor_of_row

    @cached_property
    def _truths_of_anchor(self) -> Ragged:
        """The truths of each anchor, each once, those that are known."""
        known = self.codes >= 0
        pairs = np.unique(np.stack((self._anchors[known], self.codes[known]), axis=1), axis=0)
        return Ragged.group(pairs[:, 1], by=pairs[:, 0], lists=int(self._anchors.max()) + 1)

    @cached_property
    def _positives(self) -> tuple[np.ndarray, np.ndarray]:
        """Which documents have a truth, shape (documents + 1,), and sorted keys of the pairs of a truth and its own.

        The last place stands for all documents that no row owns.
        """
        known = self.codes >= 0
        has_truth = np.zeros(int(self.document_of_row.max()) + 2, dtype=bool)
        has_truth[self.document_of_row[known]] = True
        return has_truth, np.unique(self.codes[known] * len(has_truth) + self.document_of_row[known])

    def chance(self, *, seed: int = 0) -> float | None:
        """The contamination of random negatives: of anchors beside the documents of rows that are not theirs.

        Args:
            seed: Draws a million of such pairs of rows, where there are more.

        Returns:
            A share; None if nothing can be judged.
        """
        rows = len(self.codes)
        if rows**2 <= _MOST_RANDOM:
            one, other = np.divmod(np.arange(rows**2), rows)
        else:
            one, other = np.random.default_rng(seed).integers(rows, size=(2, _MOST_RANDOM))
        documents = self.document_of_row[other]
        negative = ~Rivals(self.document_of_row, self._anchors).is_positive(one, documents)
        judged, positive = self.judge(one[negative], documents[negative])
        return _share(int(positive.sum()), int(judged.sum()))


@dataclass(frozen=True)
class NegativeAudit:
    """What the truth says of some negatives.

    Args:
        negatives: How many there are.
        judged: Those whose truth is known on both sides.
        contaminated: Judged ones that are in truth positives.
        contamination: Their share of the judged ones; None if none was judged.
        hardness: Mean cosine of the anchor and the document of true negatives; None if there are none.
    """

    negatives: int
    judged: int
    contaminated: int
    contamination: float | None
    hardness: float | None


@dataclass(frozen=True)
class FilterAudit:
    """What the truth says of a filter that throws suspected positives out.

    Args:
        before: The candidates that came to it.
        after: Those that it kept.
        discarded: Those that it threw out.
        precision: Share of what it threw out that is in truth positive; None if nothing judged was thrown out.
        recall: Share of the positives in truth that it threw out; None if there were none.
    """

    before: NegativeAudit
    after: NegativeAudit
    discarded: NegativeAudit
    precision: float | None
    recall: float | None


def truth_codes(values: Sequence[Any]) -> np.ndarray:
    """Number the truths in the order in which they first occur.

    Args:
        values: A text, number or label for each row. None, NaN, pandas' NA and "" (which is how CSV says None) are no
            truth.

    Returns:
        Shape (rows,), int64; -1 for no truth.

    Raises:
        ValueError: A value of another type; or no row has one.
    """
    codes, number_of = np.full(len(values), -1, dtype=np.int64), {}
    for row, value in enumerate(values):
        if _is_missing(value):
            continue
        if not isinstance(value, str | Number | np.generic):
            raise ValueError(
                f"truth, row {row}: a truth is a text, a number or a class label, got {type(value).__name__}. Name a "
                "column that says of each row what it is about."
            )
        codes[row] = number_of.setdefault(value, len(number_of))
    if not number_of:
        raise ValueError(f"truth: none of {len(codes)} rows has one, so nothing can be judged. Name another column.")
    return codes


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value == "" or value != value)
    except (TypeError, ValueError):  # of pandas' NA, no comparison is true or false; an array has many
        return type(value).__name__ == "NAType"


def audit_negatives(
    anchor_embeddings: np.ndarray,
    document_embeddings: np.ndarray,
    anchor_index: np.ndarray,
    document_index: np.ndarray,
    truth: Truth,
) -> NegativeAudit:
    """Judge negatives by the truth.

    Args:
        anchor_embeddings: The vector of each row's anchor, of any length, shape (rows, dim).
        document_embeddings: Shape (documents, dim).
        anchor_index: The row of each negative's anchor, shape (negatives,).
        document_index: The document of each negative, shape (negatives,).
        truth: The truth of the rows.
    """
    cosines = paired_cosines(anchor_embeddings, document_embeddings, anchor_index, document_index)
    return audit_cosines(cosines, anchor_index, document_index, truth)


def audit_cosines(
    cosines: np.ndarray, anchor_index: np.ndarray, document_index: np.ndarray, truth: Truth
) -> NegativeAudit:
    """`audit_negatives` where the cosine of each negative is known, shape (negatives,)."""
    judged, positive = truth.judge(anchor_index, document_index)
    of_true = cosines[judged & ~positive]
    return NegativeAudit(
        negatives=len(anchor_index),
        judged=int(judged.sum()),
        contaminated=int(positive.sum()),
        contamination=_share(int(positive.sum()), int(judged.sum())),
        hardness=float(of_true.mean(dtype=np.float64)) if len(of_true) else None,
    )


def audit_filter(
    anchor_embeddings: np.ndarray,
    document_embeddings: np.ndarray,
    anchor_index: np.ndarray,
    document_index: np.ndarray,
    kept: np.ndarray,
    truth: Truth,
) -> FilterAudit:
    """Judge a filter by the truth: what came to it, what it kept, and what it threw out.

    Args:
        anchor_embeddings: As `audit_negatives`.
        document_embeddings: As `audit_negatives`.
        anchor_index: The row of each candidate's anchor, shape (candidates,).
        document_index: The document of each candidate, shape (candidates,).
        kept: Which candidates it kept, shape (candidates,).
        truth: The truth of the rows.
    """
    cosines = paired_cosines(anchor_embeddings, document_embeddings, anchor_index, document_index)
    before, after, discarded = (
        audit_cosines(cosines[mask], anchor_index[mask], document_index[mask], truth)
        for mask in (np.ones(len(kept), dtype=bool), kept, ~kept)
    )
    recall = _share(discarded.contaminated, before.contaminated)
    return FilterAudit(before, after, discarded, discarded.contamination, recall)


def paired_cosines(
    anchor_embeddings: np.ndarray,
    document_embeddings: np.ndarray,
    anchor_index: np.ndarray,
    document_index: np.ndarray,
) -> np.ndarray:
    """The cosine of each pair, shape (pairs,), float32; the vectors may be memory maps, and are read in blocks."""
    cosines = np.empty(len(anchor_index), dtype=np.float32)
    for start in range(0, len(cosines), _BLOCK):
        block = slice(start, start + _BLOCK)
        anchors, documents = (
            unit(anchor_embeddings[anchor_index[block]]),
            unit(document_embeddings[document_index[block]]),
        )
        cosines[block] = np.einsum("nd,nd->n", anchors, documents)
    return cosines


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, dim) brought to length one, float32."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
