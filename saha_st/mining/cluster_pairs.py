"""All that stands side by side in clusters: every member's anchor with every mate's document, and how near they are.

A cluster of n rows trains n (n - 1) negatives, so a sample of clusters is looked at where there are many. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saha_st.mining.audit import unit

MOST_PAIRS = 1_000_000
"""Pairs that are looked at, 28 bytes each."""

STEP = 0.2
"""Of the axis of cosines: bins begin and end at a multiple of it."""

_BINS = 40
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ClusterPairs:
    """Members of clusters, and the ordered pairs of two members of one cluster.

    Args:
        rows: The members' rows, cluster after cluster, shape (members,).
        positive: The cosine of each member's anchor and its own document, shape (members,).
        member: Places in `rows`, shape (pairs,).
        mate: Likewise.
        anchor_document: The cosine of the member's anchor and the mate's document, shape (pairs,).
        anchor_anchor: That of both anchors.
        document_document: That of both documents.
    """

    rows: np.ndarray
    positive: np.ndarray
    member: np.ndarray
    mate: np.ndarray
    anchor_document: np.ndarray
    anchor_anchor: np.ndarray
    document_document: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """By how much the mate's document is nearer to the member's anchor than its own, shape (pairs,)."""
        return self.anchor_document - self.positive[self.member]


@dataclass(frozen=True)
class Distribution:
    """Cosines of one kind.

    Args:
        count: How many.
        mean: Their mean.
        quantiles: By share, from 0.05 to 0.95.
        bins: How many are in each of the bins, which are the same for all kinds.
    """

    count: int
    mean: float
    quantiles: dict[str, float]
    bins: list[int]


def sample_clusters(
    clusters: Sequence[np.ndarray], *, most_pairs: int = MOST_PAIRS, seed: int = 0
) -> list[np.ndarray]:
    """Draw clusters without replacement, in their order: as many as surely have at most `most_pairs`, at least one."""
    largest = max(map(len, clusters))
    count = max(most_pairs // (largest * (largest - 1)), 1)
    if count >= len(clusters):
        return list(clusters)
    chosen = np.random.default_rng(seed).choice(len(clusters), count, replace=False)
    return [clusters[number] for number in np.sort(chosen)]


def cluster_pairs(
    anchor_embeddings: np.ndarray,
    document_embeddings: np.ndarray,
    document_of_row: np.ndarray,
    clusters: Sequence[np.ndarray],
) -> ClusterPairs:
    """Compare the members of each cluster with one another.

    Args:
        anchor_embeddings: The vector of each row's anchor, of any length, shape (rows, dim); may be a memory map.
        document_embeddings: Shape (documents, dim), likewise.
        document_of_row: The document that is each row's positive, shape (rows,).
        clusters: Rows of each cluster; none is empty.
    """
    sizes = [len(rows) for rows in clusters]
    pairs = sum(size * (size - 1) for size in sizes)
    places, cosines = np.empty((2, pairs), dtype=np.int64), np.empty((3, pairs), dtype=np.float32)
    positive = np.empty(sum(sizes), dtype=np.float32)
    member = pair = 0
    for rows in clusters:
        size, others = len(rows), ~np.eye(len(rows), dtype=bool)
        found, here = slice(pair, pair + size * (size - 1)), slice(member, member + size)
        anchors, documents = unit(anchor_embeddings[rows]), unit(document_embeddings[document_of_row[rows]])
        to_documents = anchors @ documents.T  # (size, size)
        positive[here] = to_documents.diagonal()
        places[:, found] = np.array(np.nonzero(others)) + member
        cosines[:, found] = [each[others] for each in (to_documents, anchors @ anchors.T, documents @ documents.T)]
        member, pair = here.stop, found.stop
    return ClusterPairs(np.concatenate(clusters), positive, *places, *cosines)


def worst_pairs(pairs: ClusterPairs, score: np.ndarray, *, above: float, limit: int, both_ways: bool) -> list[int]:
    """The pairs of the highest scores, best first; of equal ones the first. Two rows that meet again are named once.

    Args:
        pairs: The pairs.
        score: Shape (pairs,).
        above: Lower scores are left out.
        limit: How many pairs at most.
        both_ways: The score of two rows is the same whichever comes first.
    """
    seen: set[tuple[int, int]] = set()
    worst: list[int] = []
    found = np.flatnonzero(score >= above)
    for index in found[np.argsort(-score[found], kind="stable")].tolist():
        rows = int(pairs.rows[pairs.member[index]]), int(pairs.rows[pairs.mate[index]])
        rows = (min(rows), max(rows)) if both_ways else rows
        if rows not in seen:
            seen.add(rows)
            worst.append(index)
        if len(worst) == limit:
            break
    return worst


def similarities_of(pairs: ClusterPairs) -> tuple[tuple[float, float], dict[str, Distribution]]:
    """The least and the greatest cosine of all bins, and how three kinds of cosines are distributed.

    These are ``anchor_positive``, ``anchor_mate`` (the mate's document) and ``anchor_owner`` (the mate's anchor).
    """
    cosines = {
        "anchor_positive": pairs.positive,
        "anchor_mate": pairs.anchor_document,
        "anchor_owner": pairs.anchor_anchor,
    }
    # whole steps of the axis; 1.0000001 is 1
    low = max(STEP * float(np.floor(min(float(each.min()) for each in cosines.values()) / STEP + 1e-6)), -1.0)
    high = min(STEP * float(np.ceil(max(float(each.max()) for each in cosines.values()) / STEP - 1e-6)), 1.0)
    low, high = round(min(low, 1 - STEP), 6), round(max(high, low + STEP), 6)
    return (low, high), {name: _distribution(each, low, high) for name, each in cosines.items()}


def _distribution(cosines: np.ndarray, low: float, high: float) -> Distribution:
    bins = np.histogram(np.clip(cosines, low, high), bins=_BINS, range=(low, high))[0]
    found = np.quantile(cosines.astype(np.float64), _QUANTILES)
    quantiles = {str(share): float(value) for share, value in zip(_QUANTILES, found, strict=True)}
    return Distribution(len(cosines), float(cosines.mean(dtype=np.float64)), quantiles, bins.tolist())
