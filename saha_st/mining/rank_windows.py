"""The graph of communities: which rows are hard for one another, and which must be kept apart.

A row lies in another's window when the document it owns has a rank from `range_min` up to `range_max` in the other's
list. Rows that lie in each other's window share an edge. Everything is vectorised over many lists at once. The pairs
are no more than the entries of the lists, or than `most` a row, whatever the number of owners of a document; so memory
is some 15 times that of the lists at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from saha_st.mining.ragged import starts_of_runs

APART = -1000.0
"""Weight of rows that must not share a cluster: more than all edges that a row can have within one."""

_BLOCK = 65_536


@dataclass(frozen=True)
class Graph:
    """Rows and their weighted pairs; each pair is listed with both of its rows.

    Attributes:
        starts: where each row's list begins. Shape (rows + 1,).
        others: the rows at the other ends, ascending within a list. Shape (2 * pairs,).
        weights: 1 for an edge, `APART` for rows to be kept apart. Shape (2 * pairs,), float32.
    """

    starts: np.ndarray
    others: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, pairs: np.ndarray, weights: np.ndarray, *, rows: int) -> Graph:
        """Lists the pairs, shape (pairs, 2), with both of their rows."""
        ends = np.concatenate((pairs[:, 0], pairs[:, 1]))
        others = np.concatenate((pairs[:, 1], pairs[:, 0]))
        order = np.argsort(ends.astype(np.int64) * rows + others, kind="stable")
        starts = np.zeros(rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(ends, minlength=rows), out=starts[1:])
        return cls(starts, others[order], np.concatenate((weights, weights))[order].astype(np.float32, copy=False))

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.starts) - 1

    def ends(self) -> np.ndarray:
        """The row that each entry of the lists belongs to. Shape (2 * pairs,)."""
        return np.repeat(np.arange(self.rows), np.diff(self.starts))

    def edges(self) -> Graph:
        """The graph without the pairs that are to be kept apart."""
        kept = self.weights > 0
        starts = np.concatenate(([0], np.cumsum(kept)))[self.starts]
        return Graph(starts, self.others[kept], self.weights[kept])


class Rivals:
    """Tells which rows may never share a cluster: one's positive is a positive of the other's anchor.

    Args:
        document_of_row: shape (rows,).
        anchor_of_row: shape (rows,).
    """

    def __init__(self, document_of_row: np.ndarray, anchor_of_row: np.ndarray) -> None:
        self._documents, self._anchors = document_of_row, anchor_of_row
        self._count = int(document_of_row.max()) + 1
        self._anchors_repeat = int(anchor_of_row.max()) + 1 < len(anchor_of_row)
        self._positives = np.unique(anchor_of_row * self._count + document_of_row) if self._anchors_repeat else None

    def __call__(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Marks the pairs that may not be; the arguments are broadcast. A row is its own rival."""
        documents = self._documents
        if not self._anchors_repeat:
            return documents[rows] == documents[others]
        return self.is_positive(rows, documents[others]) | self.is_positive(others, documents[rows])

    def is_positive(self, rows: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Marks the documents that are positives of the rows' anchors; the arguments are broadcast."""
        if not self._anchors_repeat:
            return documents == self._documents[rows]
        keys = self._anchors[rows] * self._count + documents
        place = np.minimum(np.searchsorted(self._positives, keys), len(self._positives) - 1)
        return (self._positives[place] == keys) & (documents >= 0) & (documents < self._count)


@dataclass(frozen=True)
class Listed:
    """Documents in the lists of rows, down to `range_max`; a row's own positives have no rank.

    Attributes:
        rows: whose list it is. Shape (entries,).
        documents: shape (entries,).
        in_window: whether the rank is at least `range_min` and the score allows it. Shape (entries,).
        in_margin: documents that `relative_margin` took out of windows.
    """

    rows: np.ndarray
    documents: np.ndarray
    in_window: np.ndarray
    in_margin: int


def listed_documents(
    neighbours: np.ndarray,
    document_of_row: np.ndarray,
    rivals: Rivals,
    *,
    range_min: int,
    range_max: int,
    score_limits: tuple[np.ndarray, np.ndarray] | None = None,
) -> Listed:
    """Reads the lists: documents that somebody owns, down to rank `range_max`, and which are in the window.

    Args:
        neighbours: documents in rank order, padded with -1. Shape (rows, k).
        document_of_row: shape (rows,).
        rivals: knows the positives of each anchor.
        range_min: first rank of the window.
        range_max: the rank behind its last.
        score_limits: as of `saha_st.mining.checks.score_limits`.
    """
    owned = np.zeros(max(int(neighbours.max()), int(document_of_row.max())) + 1, dtype=bool)
    owned[document_of_row] = True
    parts, in_margin = [], 0
    for rows in _blocks(len(neighbours)):
        documents = neighbours[rows]
        ranked = (documents >= 0) & ~rivals.is_positive(np.arange(rows.start, rows.stop)[:, None], documents)
        rank = np.cumsum(ranked, axis=1) - 1
        listed = ranked & (rank < range_max)
        in_window = listed & (rank >= range_min)
        if score_limits is not None:
            outside = score_limits[0][rows] <= score_limits[1][rows, None]
            in_margin += int(np.count_nonzero(in_window & ~outside))
            in_window &= outside
        listed &= owned[documents]
        row, place = np.nonzero(listed)
        parts.append(((row + rows.start).astype(np.int32), documents[row, place], in_window[row, place]))
    return Listed(*(np.concatenate(each) for each in zip(*parts, strict=True)), in_margin)


def mutual_pairs(listed: Listed, document_of_row: np.ndarray, *, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows that list each other's documents.

    Rows i and j are a pair if i lists the document of j, and j that of i. Where documents have several owners, all
    such pairs would be too many. So a row that shares n documents with others in this way takes `most` / n owners of
    each, at least one: it keeps its whole window, and all owners where they fit. Of the rows of two documents, those
    of the more numerous side take others in turn, in the order of rows, so that nobody is left without.

    Args:
        listed: what `listed_documents` returns.
        document_of_row: shape (rows,).
        most: the pairs that a row takes, unless it shares more documents; a row of a rare document may be taken by
            more.

    Returns:
        Pairs of rows, shape (pairs, 2), int32, and whether both lie in each other's window, shape (pairs,).
    """
    order, starts, lengths, both = _shared_runs(listed, document_of_row)
    is_shared = np.zeros(len(lengths), dtype=bool)
    is_shared[both] = is_shared[both + 1] = True
    entries = order[np.repeat(is_shared, lengths)]
    shared = np.bincount(listed.rows[entries], minlength=len(document_of_row))
    owners = np.maximum(most // np.maximum(shared, 1), 1).astype(np.int32)  # that a row takes of each document
    del is_shared, entries
    turned = lengths[both] < lengths[both + 1]
    many, few = np.where(turned, both + 1, both), np.where(turned, both, both + 1)
    parts = []
    for runs in _groups(lengths[many]):
        size, fewer = lengths[many[runs]], lengths[few[runs]]
        run = np.repeat(np.arange(len(size)), size)
        turn = np.arange(len(run)) - np.repeat(np.cumsum(size) - size, size)
        one = order[starts[many[runs]][run] + turn]
        taken = np.minimum(fewer[run], owners[listed.rows[one]])
        step = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        one, run, turn = (np.repeat(each, taken) for each in (one, run, turn))
        other = order[starts[few[runs]][run] + (turn + step) % fewer[run]]
        pairs = np.sort(np.stack((listed.rows[one], listed.rows[other]), axis=1), axis=1)
        parts.append((pairs, listed.in_window[one] & listed.in_window[other]))
    if not parts:
        return np.empty((0, 2), dtype=np.int32), np.empty(0, dtype=bool)
    pairs, in_window = zip(*parts, strict=True)
    return np.concatenate(pairs), np.concatenate(in_window)


def _shared_runs(listed: Listed, document_of_row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Puts entries of the same two documents, whose owner lists the other, side by side.

    Returns:
        The entries in that order; where each run begins, and its length; and the runs after which the run of the same
        two documents the other way round follows.
    """
    own = document_of_row[listed.rows]
    low, high = np.minimum(own, listed.documents), np.maximum(own, listed.documents)
    key = 2 * (low.astype(np.int64) * (int(high.max(initial=0)) + 1) + high)
    key += own > listed.documents
    del own, low, high
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = starts_of_runs(key)
    first = key[starts]
    both = np.flatnonzero(first[1:] ^ first[:-1] == 1)
    return order, starts, np.diff(starts, append=len(key)), both


def pair_similarities(pairs: np.ndarray, anchors: np.ndarray, inverse_norms: np.ndarray) -> np.ndarray:
    """The cosine of the anchors of each pair. Shape (pairs,), float32."""
    similarities = np.empty(len(pairs), dtype=np.float32)
    for block in _blocks(len(pairs)):
        one, other = pairs[block].T
        products = np.einsum(
            "nd,nd->n", anchors[one].astype(np.float32, copy=False), anchors[other].astype(np.float32, copy=False)
        )
        similarities[block] = products * inverse_norms[one] * inverse_norms[other]
    return similarities


def suspected(pairs: np.ndarray, similarities: np.ndarray, *, rows: int, suspects: int) -> np.ndarray:
    """Marks pairs of which each is among the `suspects` others that ask most nearly what it asks.

    The owner filter as a rule for pairs that must not share a cluster: see `saha_st.mining.communities`.
    """
    ends = np.concatenate((pairs[:, 0], pairs[:, 1]))
    order = np.lexsort((-np.concatenate((similarities, similarities)), ends))
    starts = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(ends, minlength=rows), out=starts[1:])
    suspects_it = np.empty(len(ends), dtype=bool)
    suspects_it[order] = np.arange(len(ends)) - starts[ends[order]] < suspects
    return suspects_it[: len(pairs)] & suspects_it[len(pairs) :]


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


def _groups(lengths: np.ndarray) -> Iterator[slice]:
    """Slices of runs that together have about a block of entries each."""
    group = np.cumsum(lengths) // (4 * _BLOCK)
    starts = starts_of_runs(group)
    ends = np.append(starts, len(lengths))[1:]
    return (slice(*span) for span in zip(starts, ends, strict=True))
