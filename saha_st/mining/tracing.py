"""What the cluster rule did to one row, document by document: ranks, owners, and why each of them stayed or fell.

A trace runs the steps of `Rule` itself, in the state that the rule was in when it came to the row, and reads the fates
off what each step returned. So it cannot tell another story than the rule, and costs nothing where nobody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from saha_st.mining.clusters import ClusterAssignment, Rule, Taken, make_rule


class Fate(StrEnum):
    """What became of a document near an anchor, in the order of the rule's steps."""

    OWN_POSITIVE = "own positive"
    IN_MARGIN = "inside the margin"
    NO_FREE_OWNER = "no free owner"
    TOO_SIMILAR = "owner too similar"
    BEYOND_LIMIT = "beyond the owner limit"
    CLASH = "clash with a mate"
    SUSPECTED = "suspected false negative"
    SURPLUS = "cluster full"
    MATE = "mate"


@dataclass(frozen=True)
class Candidate:
    """A document in an anchor's pool.

    Args:
        document: its id.
        rank: its place among the anchor's nearest documents, from 1.
        score: its cosine with the anchor.
        owner: the row that stands for it: the free owner most similar to the anchor, or, where none is free, the most
            similar of all. None if nobody that may stand beside the anchor owns it.
        owner_similarity: the cosine of the anchor and the owner's anchor.
        fate: what became of it.
    """

    document: int
    rank: int
    score: float
    owner: int | None
    owner_similarity: float | None
    fate: Fate


@dataclass(frozen=True)
class Trace:
    """The visit of the rule to one row.

    Args:
        row: the row.
        phase: 1 or 2.
        candidates: the documents that were looked at, in rank order.
        cluster: the row, then its mates; the row alone if it found none.
    """

    row: int
    phase: int
    candidates: list[Candidate]
    cluster: np.ndarray


class Tracer:
    """Forms clusters like `assign_clusters`, and explains them.

    Args:
        neighbours: as `make_rule`.
        neighbour_scores: the cosines that belong to them. Shape (rows, k).
        anchor_embeddings: as `make_rule`.
        document_of_row: as `make_rule`.
        **options: as `make_rule`.

    Attributes:
        assignment: the clusters and counts, those of `assign_clusters`.
        cluster_of: for every row the first cluster that it is in, -1 for none. Shape (rows,).
    """

    def __init__(
        self,
        neighbours: np.ndarray,
        neighbour_scores: np.ndarray,
        anchor_embeddings: np.ndarray,
        document_of_row: np.ndarray | Sequence[int],
        **options: object,
    ) -> None:
        options = {**options, "neighbour_scores": neighbour_scores}
        rule = make_rule(neighbours, anchor_embeddings, document_of_row, **options)
        self._set(rule, np.asarray(neighbour_scores), rule.run(show_progress_bar=False))

    @classmethod
    def of_assignment(cls, rule: Rule, neighbour_scores: Any, assignment: ClusterAssignment) -> Tracer:
        """Explains clusters that the rule has formed before.

        Args:
            rule: the rule with the options of then. It needs lists of neighbours for rows that are traced alone.
            neighbour_scores: the cosines that belong to them, indexed by row; likewise.
            assignment: the clusters and counts of then.
        """
        tracer = cls.__new__(cls)
        tracer._set(rule, neighbour_scores, assignment)
        return tracer

    def _set(self, rule: Rule, scores: Any, assignment: ClusterAssignment) -> None:
        self._rule, self._scores, self.assignment = rule, scores, assignment
        self._without_threshold = replace(rule, max_owner_similarity=None)
        self._nobody = Taken(rule.owners_of)
        self.cluster_of = np.full(len(rule.document_of_row), -1)
        for number, cluster in reversed(list(enumerate(assignment.clusters))):
            self.cluster_of[cluster] = number

    def is_anchor(self, row: int) -> bool:
        """Whether the rule visited a row for a cluster of its own: no earlier cluster had taken it."""
        number = self.cluster_of[row]
        return number < 0 or int(self.assignment.clusters[number][0]) == row

    def trace(self, row: int) -> Trace:
        """Explains a row's own visit.

        Raises:
            ValueError: if the row had joined another one's cluster before its turn.
        """
        return next(self.visits([row]))

    def visits(self, rows: Iterable[int]) -> Iterator[Trace]:
        """Explains the visits to several rows, in the order of the rule: one pass over the clusters for all of them.

        Raises:
            ValueError: as `trace`; when the first visit is asked for.
        """
        rows, clusters = sorted(set(rows)), self.assignment.clusters
        for row in rows:
            if not self.is_anchor(row):
                anchor = clusters[self.cluster_of[row]][0]
                raise ValueError(f"Row {row} joined the cluster of row {anchor} before its turn; trace row {anchor}.")
        first_of_phase_two = len(clusters) - self.assignment.counts.phase_two_clusters
        in_phase_one = [0 <= self.cluster_of[row] < first_of_phase_two for row in rows]
        for phase, formed in ((1, clusters[:first_of_phase_two]), (2, clusters[first_of_phase_two:])):
            taken, earlier = Taken(self._rule.owners_of), 0
            for row in [row for row, is_one in zip(rows, in_phase_one, strict=True) if is_one == (phase == 1)]:
                while earlier < len(formed) and formed[earlier][0] < row:  # rows are visited in order
                    members = formed[earlier] if phase == 1 else formed[earlier][1:]
                    taken.add(members, self._rule.document_of_row[members])
                    earlier += 1
                yield self._trace(row, phase, taken)

    def _trace(self, row: int, phase: int, taken: Taken) -> Trace:
        rule = self._rule
        limit = rule.pool_size // 2 if phase == 1 else rule.pool_size
        pool = rule.pool(row)
        owners, similarities = rule.owners(row, pool, taken, limit)
        mates = rule.mates(owners, similarities)
        ordered = rule.in_order(owners, similarities)
        clashing = ordered[rule.clashing(ordered)] if rule.anchors_repeat else ordered[:0]
        # each later entry overwrites an earlier one: whoever gets further in the rule has the later fate
        passed = {
            Fate.NO_FREE_OWNER: pool,
            Fate.TOO_SIMILAR: self._documents(self._without_threshold.owners(row, pool, taken, len(pool))[0]),
            Fate.BEYOND_LIMIT: self._documents(rule.owners(row, pool, taken, len(pool))[0]),
            Fate.SUSPECTED if rule.owner_filter else Fate.SURPLUS: self._documents(owners),
            Fate.CLASH: self._documents(clashing),
            Fate.MATE: self._documents(mates),
        }
        fates = {int(document): fate for fate, documents in passed.items() for document in documents}
        candidates = self._candidates(row, pool, taken, fates)
        return Trace(row, phase, candidates, np.concatenate(([row], mates)))

    def _candidates(self, row: int, pool: np.ndarray, taken: Taken, fates: dict[int, Fate]) -> list[Candidate]:
        rule = self._without_threshold
        owner_of: dict[int, tuple[int, float]] = {}
        for state in (self._nobody, taken):  # a free owner goes before one that is taken
            owners, similarities = rule.owners(row, pool, state, len(pool))
            found = zip(owners.tolist(), similarities.tolist(), strict=True)
            owner_of |= dict(zip(self._documents(owners).tolist(), found, strict=True))
        positives = set(rule.positives_of[rule.anchor_of_row[row]].tolist())
        listed = rule.neighbours[row]
        depth = int(np.flatnonzero(np.isin(listed, pool)).max(initial=rule.pool_size - 1)) + 1
        return [
            Candidate(
                document,
                rank + 1,
                float(self._scores[row][rank]),
                *owner_of.get(document, (None, None)),
                Fate.OWN_POSITIVE if document in positives else fates.get(document, Fate.IN_MARGIN),
            )
            for rank, document in enumerate(listed[:depth].tolist())
            if document >= 0
        ]

    def _documents(self, rows: np.ndarray) -> np.ndarray:
        return self._rule.document_of_row[rows]
