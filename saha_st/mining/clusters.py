"""The cluster rule of SaHa: top-k lists and anchor embeddings in, mutually hard clusters of rows out.

A document is a unique positive; the rows that hold it as their positive own it. A row's hard negatives are documents
near its anchor that come with an owner, and the owner joins the cluster as a full training pair. An owner that asks
nearly the same as the anchor marks a false negative, and the owner filter drops it. Rows left over find their mates
among all rows in a second phase. Pure NumPy: every step is a method of `Rule`, vectorised over one row's pool; what
happened to one row is told by `saha_st.mining.tracing`, which calls the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from saha_st.mining.checks import (
    check_neighbours,
    check_options,
    check_rows,
    inverse_norms,
    score_limits,
)
from saha_st.mining.ragged import Ragged, first_maxima, is_in, starts_of_runs

if TYPE_CHECKING:
    from saha_st.mining.communities import CommunityCounts


@dataclass(frozen=True)
class ClusterCounts:
    """What happened while clusters were formed. What was dropped counts once for each time a row was visited.

    Args:
        rows: (anchor, positive) pairs that came in.
        clusters: clusters of both phases.
        phase_two_clusters: those of phase 2.
        members: rows in clusters, each as often as it occurs (mates of phase 2 may have been in a cluster before).
        rows_left_out: rows in no cluster: none of the documents in their pool had an owner that could join them.
        documents_in_margin: pooled documents that `relative_margin` dropped.
        owners_too_similar: owners that `max_owner_similarity` dropped.
        owners_filtered: owners that the owner filter dropped, since others asked something more different.
        owners_clashing: owners passed over because their pair and a mate's would have been each other's positives.
        cluster_sizes: how many clusters have how many rows, by size.
    """

    rows: int
    clusters: int
    phase_two_clusters: int
    members: int
    rows_left_out: int
    documents_in_margin: int
    owners_too_similar: int
    owners_filtered: int
    owners_clashing: int
    cluster_sizes: dict[int, int]


@dataclass(frozen=True)
class ClusterAssignment:
    """The clusters, phase 1 before phase 2, each an array of rows that begins with the anchor's; and the counts."""

    clusters: list[np.ndarray]
    counts: ClusterCounts | CommunityCounts


def pool_size(num_negatives: int, pool_multiplier: int) -> int:
    """Returns how many of an anchor's nearest documents the rule looks at."""
    return 2 * num_negatives * pool_multiplier


@dataclass(frozen=True)
class LookUp:
    """Finds lists of neighbours when the rule comes to them: most rows join a cluster before their turn.

    Args:
        documents: how many documents there are.
        at_once: how many rows it should be asked for at a time.
        fill: writes the lists of some rows into the arrays that the rule reads.
    """

    documents: int
    at_once: int
    fill: Callable[[np.ndarray], None]


def assign_clusters(
    neighbours: np.ndarray,
    anchor_embeddings: np.ndarray,
    document_of_row: np.ndarray | Sequence[int],
    *,
    show_progress_bar: bool = False,
    **options: Any,
) -> ClusterAssignment:
    """Forms mutually hard clusters: in each, everybody's positive is everybody else's hard negative.

    Deterministic: rows are visited in order, and equal similarities keep the order of ranks, or of the rows where
    several own one document. A positive of a member's anchor is never the positive of another member.

    Args:
        neighbours: as `make_rule`.
        anchor_embeddings: as `make_rule`.
        document_of_row: as `make_rule`.
        show_progress_bar: show a bar for each phase.
        **options: as `make_rule`.

    Returns:
        The clusters and the counts.

    Raises:
        ValueError: see `make_rule`.
    """
    return make_rule(neighbours, anchor_embeddings, document_of_row, **options).run(show_progress_bar)


def make_rule(
    neighbours: np.ndarray,
    anchor_embeddings: np.ndarray,
    document_of_row: np.ndarray | Sequence[int],
    *,
    num_negatives: int = 15,
    pool_multiplier: int = 3,
    owner_filter: bool = True,
    anchor_key: np.ndarray | Sequence | None = None,
    max_owner_similarity: float | None = None,
    relative_margin: float | None = None,
    neighbour_scores: np.ndarray | None = None,
    positive_scores: np.ndarray | None = None,
    look_up: LookUp | None = None,
) -> Rule:
    """Checks the arguments of the rule, and returns it ready to run.

    Args:
        neighbours: for each row the ids of the documents nearest to its anchor, best first, padded with -1.
            Shape (rows, k), integers; k at least `pool_size(num_negatives, pool_multiplier)`, or all documents. Longer
            lists are used to fill up the pools of anchors that have several positives.
        anchor_embeddings: shape (rows, dim), any float type, any length; only compared with one another, by cosine.
        document_of_row: the document that is each row's positive. Shape (rows,), integers. Documents that no row owns
            may occur in `neighbours`, and are passed over.
        num_negatives: the mates K of a full cluster, which thus has K + 1 rows.
        pool_multiplier: m. The pool holds 2·K·m documents, of which up to K·m owners are compared (2·K·m in phase 2).
        owner_filter: keep the K owners least similar to the anchor; False (for classification): the K best ranked.
        anchor_key: one key a row; rows with the same key have the same anchor. None: every row has its own.
        max_owner_similarity: also drop a document whose owner's anchor has a greater cosine than this.
        relative_margin: also drop a document that scores above s − relative_margin·|s|, where s is the score of the
            row's positive. Needs both scores.
        neighbour_scores: the cosines that belong to `neighbours`. Shape (rows, k).
        positive_scores: the cosine of each row's anchor and positive. Shape (rows,).
        look_up: what fills in lists that the rule comes to; `neighbours` and `neighbour_scores` hold nothing before.

    Raises:
        ValueError: if the arrays do not fit one another, embeddings are not finite or zero, or `num_negatives` is
            larger than the data.
    """
    check_options(num_negatives, pool_multiplier, max_owner_similarity, relative_margin)
    neighbours, anchor_embeddings, document_of_row, anchor_of_row = check_rows(
        neighbours, anchor_embeddings, document_of_row, anchor_key, num_negatives=num_negatives
    )
    rows = len(document_of_row)
    pool = pool_size(num_negatives, pool_multiplier)
    documents = int(document_of_row.max()) + 1
    if look_up is None:
        documents = check_neighbours(neighbours, rows, documents=documents, pool_size=pool)
    else:
        documents = max(documents, look_up.documents)
    return Rule(
        neighbours=neighbours,
        anchors=anchor_embeddings,
        inverse_norms=inverse_norms(anchor_embeddings, "anchor_embeddings").astype(np.float32),
        document_of_row=document_of_row,
        anchor_of_row=anchor_of_row,
        documents=documents,
        num_negatives=num_negatives,
        pool_size=pool,
        owner_filter=owner_filter,
        max_owner_similarity=max_owner_similarity,
        score_limits=score_limits(relative_margin, neighbours, neighbour_scores, positive_scores),
        look_up=look_up,
    )


_DROPPED = ("documents_in_margin", "owners_too_similar", "owners_filtered", "owners_clashing")


class Taken:
    """The rows that can no longer become mates, and how many owners each document has left."""

    def __init__(self, owners: Ragged) -> None:
        self.rows = np.zeros(len(owners.values), dtype=bool)
        self.owners_left = np.diff(owners.starts)

    def add(self, rows: np.ndarray, documents: np.ndarray) -> None:
        """Takes rows that are free. No two may own the same document (it would be counted once)."""
        self.rows[rows] = True
        self.owners_left[documents] -= 1


@dataclass
class Rule:
    """Design 1.2 over arrays, one method a step. The fields are the checked arguments of `make_rule`."""

    neighbours: np.ndarray  # (rows, k)
    anchors: np.ndarray  # (rows, dim)
    inverse_norms: np.ndarray  # (rows,) float32
    document_of_row: np.ndarray  # (rows,)
    anchor_of_row: np.ndarray  # (rows,)
    documents: int
    num_negatives: int
    pool_size: int
    owner_filter: bool
    max_owner_similarity: float | None
    score_limits: tuple[np.ndarray, np.ndarray] | None  # scores of the neighbours (rows, k), greatest allowed (rows,)
    look_up: LookUp | None = None

    def __post_init__(self) -> None:
        rows, anchors = len(self.document_of_row), int(self.anchor_of_row.max()) + 1
        self.owners_of = Ragged.group(np.arange(rows), self.document_of_row, self.documents)
        self.positives_of = Ragged.group(self.document_of_row, self.anchor_of_row, anchors)
        self.anchors_repeat = anchors < rows
        # scratch, wiped after each use, so that looking something up costs its own size and not the data's
        self.marked_documents = np.zeros(self.documents, dtype=bool)
        self.marked_anchors = np.zeros(anchors, dtype=bool)
        self.place_of_document = np.full(self.documents, -1)
        self.dropped = dict.fromkeys(_DROPPED, 0)
        self.listed = np.full(rows, self.look_up is None)

    def run(self, show_progress_bar: bool) -> ClusterAssignment:
        """Both phases over all rows."""
        rows = range(len(self.document_of_row))
        used, clusters = Taken(self.owners_of), []
        for row in tqdm(rows, desc="Clusters, phase 1", disable=not show_progress_bar):
            if not used.rows[row]:
                if not self.listed[row]:
                    self._list(row, used)
                cluster = self.cluster(row, used, owner_limit=self.pool_size // 2)
                if len(cluster) > 1:
                    used.add(cluster, self.document_of_row[cluster])
                    clusters.append(cluster)
        phase_one_clusters = len(clusters)
        reused = Taken(self.owners_of)  # mates of phase 1 are free again, as many rows are left without any
        for row in tqdm(rows, desc="Clusters, phase 2", disable=not show_progress_bar):
            if not used.rows[row]:
                cluster = self.cluster(row, reused, owner_limit=self.pool_size)
                if len(cluster) > 1:
                    reused.add(cluster[1:], self.document_of_row[cluster[1:]])
                    used.rows[cluster] = True
                    clusters.append(cluster)
        return ClusterAssignment(clusters, self._counts(clusters, phase_one_clusters, used))

    def _list(self, row: int, used: Taken) -> None:
        """Looks up a row's list, and those of the next rows that may need one. Phase 2 meets rows of phase 1 only."""
        waiting = np.flatnonzero(~(self.listed[row:] | used.rows[row:]))[: self.look_up.at_once] + row
        self.look_up.fill(waiting)
        self.listed[waiting] = True

    def cluster(self, row: int, taken: Taken, *, owner_limit: int) -> np.ndarray:
        """Steps 1 to 5 for one row; the row alone when no owner is left for it."""
        owners, similarities = self.owners(row, self.pool(row), taken, owner_limit)
        return np.concatenate(([row], self.mates(owners, similarities)))

    def pool(self, row: int) -> np.ndarray:
        """Step 1: the documents nearest to the anchor, without the anchor's positives."""
        documents, own = self.neighbours[row], self.document_of_row[row]
        if self.anchors_repeat:  # other positives of the anchor make room for the next documents in rank
            positive = is_in(documents, self.positives_of[self.anchor_of_row[row]], self.marked_documents)
            kept = ~positive | (documents == own)
        else:
            kept = slice(None)
        documents = documents[kept][: self.pool_size]
        allowed = (documents >= 0) & (documents != own)
        if self.score_limits is not None:
            scores, limits = self.score_limits
            outside = scores[row][kept][: self.pool_size] <= limits[row]
            self.dropped["documents_in_margin"] += np.count_nonzero(allowed & ~outside)
            allowed &= outside
        return documents[allowed]

    def owners(self, row: int, documents: np.ndarray, taken: Taken, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Step 2: in rank order, for each document the free owner that is most similar to the row; `limit` at most."""
        rows, document = self.owners_of.joined(documents[taken.owners_left[documents] > 0])
        free = ~taken.rows[rows]
        if self.anchors_repeat:  # nobody may join whose anchor has the row's positive among its own
            rivals = self.anchor_of_row[self.owners_of[self.document_of_row[row]]]
            free &= ~is_in(self.anchor_of_row[rows], rivals, self.marked_anchors)
        rows, document = rows[free], document[free]
        starts = starts_of_runs(document)
        if self.max_owner_similarity is None and len(starts) > limit:
            rows, starts = rows[: starts[limit]], starts[:limit]  # similarities beyond the limit are not computed
        similarities = self.similarities(row, rows)
        best = first_maxima(similarities, starts)
        rows, similarities = rows[best], similarities[best]
        if self.max_owner_similarity is not None:
            different = similarities <= self.max_owner_similarity
            self.dropped["owners_too_similar"] += np.count_nonzero(~different)
            rows, similarities = rows[different][:limit], similarities[different][:limit]
        return rows, similarities

    def mates(self, owners: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        """Step 4: the owner filter, then the first owners that do not clash with one another."""
        owners = mates = self.in_order(owners, similarities)
        if self.anchors_repeat:
            mates = owners[~self.clashing(owners)]
            self.dropped["owners_clashing"] += len(owners) - len(mates)
        if self.owner_filter:
            self.dropped["owners_filtered"] += max(len(mates) - self.num_negatives, 0)
        return mates[: self.num_negatives]

    def in_order(self, owners: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        """The owners in the order in which they are chosen: least similar first, or as they are ranked."""
        return owners[np.argsort(similarities, kind="stable")] if self.owner_filter else owners

    def clashing(self, owners: np.ndarray) -> np.ndarray:
        """Marks the owners that cannot stand beside an earlier one that stays: either has the other's positive."""
        documents = self.document_of_row[owners]
        self.place_of_document[documents] = np.arange(len(owners))
        positives, place = self.positives_of.joined(self.anchor_of_row[owners])
        other = self.place_of_document[positives]
        self.place_of_document[documents] = -1
        pairs = (other >= 0) & (other != place)
        earlier, later = np.minimum(place, other)[pairs], np.maximum(place, other)[pairs]
        clashing = np.zeros(len(owners), dtype=bool)
        order = np.argsort(earlier, kind="stable")  # who comes first is decided first
        for first, second in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
            clashing[second] |= not clashing[first]
        return clashing

    def similarities(self, row: int, rows: np.ndarray) -> np.ndarray:
        """Cosines of the row's anchor and other rows' anchors, float32."""
        anchors = self.anchors[rows].astype(np.float32, copy=False)
        anchor = self.anchors[row].astype(np.float32, copy=False)
        # not a matrix product: BLAS may round equal rows differently, by their position, and so break ties at random
        return np.einsum("nd,d->n", anchors, anchor) * (self.inverse_norms[rows] * self.inverse_norms[row])

    def _counts(self, clusters: list[np.ndarray], phase_one_clusters: int, used: Taken) -> ClusterCounts:
        sizes, frequency = np.unique([len(cluster) for cluster in clusters], return_counts=True)
        return ClusterCounts(
            rows=len(used.rows),
            clusters=len(clusters),
            phase_two_clusters=len(clusters) - phase_one_clusters,
            members=int(sizes @ frequency),
            rows_left_out=int(np.count_nonzero(~used.rows)),
            cluster_sizes=dict(zip(sizes.tolist(), frequency.tolist(), strict=True)),
            **{reason: int(count) for reason, count in self.dropped.items()},
        )
