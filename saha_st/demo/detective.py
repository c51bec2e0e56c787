"""The detective: what SaHa mining makes of one anchor of the gallery, told by the rule itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from saha_st.demo.engine import Engine
from saha_st.demo.errors import UserError
from saha_st.demo.gallery import Gallery
from saha_st.mining.clusters import pool_size
from saha_st.mining.neighbours import top_k
from saha_st.mining.tracing import Candidate, Fate, Tracer

NUM_NEGATIVES, POOL_MULTIPLIER = 4, 2
"""K and m to begin with: a gallery is small, the paper's 15 and 3 are for thousands of pairs."""
MAX_NEGATIVES, MAX_MULTIPLIER = 8, 4


@dataclass(frozen=True)
class Suspect:
    """A candidate, and whether it shows what the anchor's own picture shows (None where that is not known)."""

    candidate: Candidate
    same: bool | None


@dataclass(frozen=True)
class Case:
    """What happened to one pair.

    Args:
        row: The pair that was asked for.
        anchor: The pair whose visit is told: the same one, or the anchor of the cluster that it had joined before.
        visit: How many clusters there were before.
        phase: 1 or 2.
        suspects: The candidates in rank order.
        cluster: The pairs of the cluster, the anchor first.
        similarities: Scores of the members' texts (rows) and pictures (columns), shape (members, members).
    """

    row: int
    anchor: int
    visit: int
    phase: int
    suspects: list[Suspect]
    cluster: list[int]
    similarities: np.ndarray

    @property
    def counts(self) -> Counter[Fate]:
        """How many candidates met which fate."""
        return Counter(suspect.candidate.fate for suspect in self.suspects)

    @property
    def caught(self) -> int | None:
        """How many of the false negatives that were thrown out show the same thing; None where that is not known."""
        out = [suspect.same for suspect in self.suspects if suspect.candidate.fate is Fate.SUSPECTED]
        return None if None in out else sum(out)


class Detective:
    """Mines the pairs of a gallery, and explains.

    Args:
        engine: Model and gallery; each text of a pair is an anchor, its picture the positive.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tracer = lru_cache(MAX_NEGATIVES * MAX_MULTIPLIER)(self._mine)

    @property
    def gallery(self) -> Gallery:
        """The gallery that is mined."""
        return self._engine.gallery

    @property
    def obstacle(self) -> str:
        """Why nothing can be mined, for people; empty if it can be."""
        pictures = self._pictures_with_texts()
        if not pictures:
            return "This gallery has no captions, so there is nothing to investigate."
        if pictures <= NUM_NEGATIVES:
            return f"Too few pictures of this gallery have captions: {pictures}. Mining needs {NUM_NEGATIVES + 1}."
        return ""

    def investigate(
        self, row: int, *, num_negatives: int = NUM_NEGATIVES, pool_multiplier: int = POOL_MULTIPLIER
    ) -> Case:
        """Tell what the rule did at the visit of a pair.

        Args:
            row: The pair, from 0.
            num_negatives: Mates of a full cluster, K.
            pool_multiplier: m; the 2 K m nearest pictures are looked at.

        Raises:
            UserError: There is no such pair, or there are too few for such clusters.
        """
        if self.obstacle:
            raise UserError(self.obstacle)
        pairs = self.gallery.pairs
        if not 0 <= row < len(pairs):
            raise UserError(f"There is no anchor {row}; this gallery has {len(pairs)}, numbered from 0.")
        if num_negatives > (pictures := self._pictures_with_texts()) - 1:
            raise UserError(f"{num_negatives} mates are too many for {pictures} pictures. Choose fewer.")
        tracer = self._tracer(num_negatives, pool_multiplier)
        number = int(tracer.cluster_of[row])
        anchor = row if number < 0 else int(tracer.assignment.clusters[number][0])
        trace = tracer.trace(anchor)
        cluster = [int(member) for member in trace.cluster]
        own = pairs[anchor][1]
        suspects = [Suspect(c, self.gallery.same_concept(own, c.document)) for c in trace.candidates]
        visit = number if number >= 0 else len(tracer.assignment.clusters)
        return Case(row, anchor, visit, trace.phase, suspects, cluster, self._similarities(cluster))

    def most_telling(self) -> int:
        """The anchor of phase 1 that lost the most true false negatives to the owner filter."""
        tracer = self._tracer(NUM_NEGATIVES, POOL_MULTIPLIER)
        anchors = [int(cluster[0]) for cluster in tracer.assignment.clusters]
        return max(anchors, key=lambda row: (self.investigate(row).caught or 0, -row), default=0)

    def _mine(self, num_negatives: int, pool_multiplier: int) -> Tracer:
        text, picture = np.array(self.gallery.pairs).T
        anchors, documents = self._engine.texts(task="query")[text], self._engine.pictures()
        depth = 2 * pool_size(num_negatives, pool_multiplier)  # as `build_clusters`
        return Tracer(
            *top_k(anchors, documents, depth, device="cpu"),
            anchors,
            picture,
            num_negatives=num_negatives,
            pool_multiplier=pool_multiplier,
            anchor_key=text,
        )

    def _pictures_with_texts(self) -> int:
        return len({picture for _, picture in self.gallery.pairs})

    def _similarities(self, cluster: list[int]) -> np.ndarray:
        text, picture = np.array([self.gallery.pairs[row] for row in cluster]).T
        return self._engine.texts(task="query")[text] @ self._engine.pictures()[picture].T
