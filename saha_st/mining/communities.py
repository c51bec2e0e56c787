"""Clusters as communities of a graph: rows that are hard for one another, in parts of one size.

The manner of B3 (Thirukovalluru et al., arXiv 2505.11293): an edge between rows that lie in each other's window of
ranks, and a balanced partition that keeps many edges inside. Two rows are in each other's window when each one's
positive has a rank from `range_min` up to `range_max` for the other's anchor; positives of the anchor itself have no
rank. A document with several owners brings as many of them as a row has edges to spare, of `range_max` in all: see
`rank_windows.mutual_pairs`.

With the owner filter, which is SaHa's (Ju & Lee, arXiv 2508.00955), as a rule for pairs: of the rows that list one
another, each suspects the (K + 1) / 2 whose anchors are most similar to its own, and two that suspect each other never
share a cluster. SaHa fills one anchor's cluster, so it keeps the K least similar; here every pair of a cluster counts,
and two rows meet through third ones even without an edge, so a doubtful pair must be kept apart and not just lose its
edge. (K + 1) / 2: fewer suspects let more false negatives in, more of them make the others less hard; and nobody is
kept apart from more rows than half a cluster has.

A cluster has one row of a document at most. So where a document has more owners than all others together, the rest of
them stay out, and where one has very many, clusters are small: each of its rows needs a mate.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from saha_st.mining.checks import (
    check_builder,
    check_neighbours,
    check_options,
    check_rows,
    inverse_norms,
    score_limits,
)
from saha_st.mining.clusters import ClusterAssignment, pool_size
from saha_st.mining.metis import metis_parts
from saha_st.mining.partition import partition
from saha_st.mining.rank_windows import (
    APART,
    Graph,
    Rivals,
    listed_documents,
    mutual_pairs,
    pair_similarities,
    suspected,
)

logger = logging.getLogger(__name__)

Partitioner = Literal["greedy", "metis"]


_MANY_LEFT_OUT = 0.05  # share of rows above which it is said


@dataclass(frozen=True)
class CommunityCounts:
    """What happened while rows were divided; every row is in one cluster at most.

    Args:
        rows: (anchor, positive) pairs that came in.
        clusters: clusters.
        members: rows in clusters.
        rows_left_out: rows in no cluster: nobody was left that they may stand beside.
        documents_in_margin: documents that `relative_margin` took out of windows.
        mutual_pairs: pairs of rows that list each other's documents, above the window or in it; see
            `saha_st.mining.rank_windows.mutual_pairs`.
        pairs_kept_apart: those that the owner filter keeps apart.
        pairs_too_similar: those that `max_owner_similarity` keeps apart.
        edges: those that lie in each other's window and are not kept apart.
        edges_in_clusters: those whose rows share a cluster.
        cluster_sizes: how many clusters have how many rows, by size.
    """

    rows: int
    clusters: int
    members: int
    rows_left_out: int
    documents_in_margin: int
    mutual_pairs: int
    pairs_kept_apart: int
    pairs_too_similar: int
    edges: int
    edges_in_clusters: int
    cluster_sizes: dict[int, int]


def window(num_negatives: int, pool_multiplier: int, range_min: int, range_max: int | None) -> tuple[int, int]:
    """Returns the first rank of the window and the one behind its last, which by default is as wide as SaHa's pool."""
    return range_min, range_min + pool_size(num_negatives, pool_multiplier) if range_max is None else range_max


def assign_communities(
    neighbours: np.ndarray,
    anchor_embeddings: np.ndarray,
    document_of_row: np.ndarray | Sequence[int],
    *,
    num_negatives: int = 15,
    pool_multiplier: int = 3,
    range_min: int = 0,
    range_max: int | None = None,
    owner_filter: bool = True,
    anchor_key: np.ndarray | Sequence | None = None,
    max_owner_similarity: float | None = None,
    relative_margin: float | None = None,
    neighbour_scores: np.ndarray | None = None,
    positive_scores: np.ndarray | None = None,
    partitioner: Partitioner = "greedy",
    seed: int = 0,
) -> ClusterAssignment:
    """Divides rows into communities, each a cluster in which everybody's positive is the others' hard negative.

    Deterministic given the seed. A positive of a member's anchor is never the positive of another member, and each
    row is in one cluster at most.

    Args:
        neighbours: as of `saha_st.mining.clusters.make_rule`; k at least `range_max`, or all documents. A row's own
            positives have no rank: where k leaves no room for them, its window ends so much earlier.
        anchor_embeddings: likewise.
        document_of_row: likewise.
        num_negatives: K; a full cluster has K + 1 rows.
        pool_multiplier: m. By default the window is as wide as SaHa's pool, 2·K·m ranks.
        range_min: first rank of the window, as in `mine_hard_negatives`: nearer documents make no edge.
        range_max: the rank behind the last one of the window. None: `range_min` + 2·K·m.
        owner_filter: keep rows apart that ask nearly the same, by the rule above; False: B3 as it is.
        anchor_key: as of `make_rule`.
        max_owner_similarity: also keep rows apart whose anchors have a greater cosine than this.
        relative_margin: as of `make_rule`; such documents are in no window.
        neighbour_scores: as of `make_rule`.
        positive_scores: as of `make_rule`.
        partitioner: what draws the first version of the clusters: "greedy" grows them, "metis" is METIS (extra
            ``metis``). The steps that follow are the same.
        seed: seed of the partitioner.

    Returns:
        The clusters, largest first, and `CommunityCounts`.

    Raises:
        ValueError: as of `make_rule`, or the window is empty.
        ImportError: METIS is asked for and not installed.
    """
    check_options(num_negatives, pool_multiplier, max_owner_similarity, relative_margin)
    check_builder("communities", partitioner, range_min, range_max)
    neighbours, anchor_embeddings, document_of_row, anchor_of_row = check_rows(
        neighbours, anchor_embeddings, document_of_row, anchor_key, num_negatives=num_negatives
    )
    rows = len(document_of_row)
    range_min, range_max = window(num_negatives, pool_multiplier, range_min, range_max)
    check_neighbours(neighbours, rows, documents=int(document_of_row.max()) + 1, pool_size=range_max)
    norms = inverse_norms(anchor_embeddings, "anchor_embeddings").astype(np.float32)
    rivals = Rivals(document_of_row, anchor_of_row)
    limits = score_limits(relative_margin, neighbours, neighbour_scores, positive_scores)
    ranks = {"range_min": range_min, "range_max": range_max}
    listed = listed_documents(neighbours, document_of_row, rivals, score_limits=limits, **ranks)
    pairs, is_edge = mutual_pairs(listed, document_of_row, most=range_max)
    in_margin = listed.in_margin
    del listed  # as large as the lists
    doubtful, too_similar = np.zeros((2, len(pairs)), dtype=bool)
    if owner_filter or max_owner_similarity is not None:
        similarities = pair_similarities(pairs, anchor_embeddings, norms)
        if max_owner_similarity is not None:
            too_similar = similarities > max_owner_similarity
        if owner_filter:
            doubtful = suspected(pairs, similarities, rows=rows, suspects=(num_negatives + 1) // 2)
    apart = doubtful | too_similar
    if not is_edge.any():
        margin = " or relax relative_margin, which took documents out of windows" if in_margin else ""
        logger.warning(
            "No two of %d rows lie in each other's window of ranks, %d to %d: communities are arbitrary. Lower "
            "range_min, or raise range_max%s.",
            rows, range_min, range_max - 1, margin,
        )  # fmt: skip
    elif not (is_edge & ~apart).any():
        logger.warning(
            "All %d pairs of rows in each other's window are kept apart (%d by owner_filter, %d by "
            "max_owner_similarity): communities are arbitrary. Set owner_filter=False (--no_owner_filter), raise "
            "max_owner_similarity, or raise range_max.",
            is_edge.sum(), (is_edge & doubtful).sum(), (is_edge & too_similar).sum(),
        )  # fmt: skip
    kept = is_edge | apart
    graph = Graph.of(pairs[kept], np.where(apart[kept], APART, 1), rows=rows)
    initial = partial(metis_parts, seed=seed) if partitioner == "metis" else None
    clusters = partition(graph, rivals, size=num_negatives + 1, initial=initial, seed=seed)
    counts = _counts(
        clusters,
        pairs[is_edge & ~apart],
        rows=rows,
        documents_in_margin=in_margin,
        mutual_pairs=len(pairs),
        pairs_kept_apart=int(doubtful.sum()),
        pairs_too_similar=int(too_similar.sum()),
    )
    if counts.rows_left_out > _MANY_LEFT_OUT * rows:
        logger.warning(
            "%d of %d rows are in no cluster: nobody was left that they may stand beside. The positive with the most "
            "owners has %d of them, and a cluster takes one; %d pairs of rows are kept apart.",
            counts.rows_left_out, rows, np.bincount(document_of_row).max(), apart.sum(),
        )  # fmt: skip
    return ClusterAssignment(clusters, counts)


def _counts(clusters: list[np.ndarray], edges: np.ndarray, *, rows: int, **dropped: int) -> CommunityCounts:
    cluster_of_row = np.full(rows, -1)
    for number, members in enumerate(clusters):
        cluster_of_row[members] = number
    one, other = cluster_of_row[edges].T
    sizes, frequency = np.unique([len(members) for members in clusters], return_counts=True)
    return CommunityCounts(
        rows=rows,
        clusters=len(clusters),
        members=int(sizes @ frequency),
        rows_left_out=int(np.count_nonzero(cluster_of_row < 0)),
        cluster_sizes=dict(zip(sizes.tolist(), frequency.tolist(), strict=True)),
        edges=len(edges),
        edges_in_clusters=int(np.count_nonzero((one == other) & (one >= 0))),
        **dropped,
    )
