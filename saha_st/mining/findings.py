"""What there is to say of mined clusters, as numbers: similarities, what was thrown out, what looks wrong, the truth.

Large minings are sampled, by clusters and by visits of the rule; how much was looked at is part of what is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from saha_st.mining.audit import FilterAudit, NegativeAudit, Truth, audit_cosines, audit_filter
from saha_st.mining.cluster_pairs import (
    ClusterPairs,
    Distribution,
    cluster_pairs,
    sample_clusters,
    similarities_of,
    worst_pairs,
)
from saha_st.mining.clusters import ClusterAssignment, ClusterCounts
from saha_st.mining.tracing import Candidate, Fate, Trace
from saha_st.mining.visits import replay_visits, sample_visits

GALLERY, WORST = 8, 9
"""Clusters that are shown, and pairs of each kind of suspects."""

MOST_VISITS = 1000
_AT_FILTER = (Fate.MATE, Fate.SUSPECTED)


@dataclass(frozen=True)
class Suspects:
    """Kept negatives that may be positives, for one reason.

    Args:
        count: How many of the pairs that were looked at.
        share: Their share.
        worst: Places in the pairs, worst first.
    """

    count: int
    share: float
    worst: list[int]


@dataclass(frozen=True)
class TruthFindings:
    """What the truth says.

    Args:
        rows_without: Rows that have no truth, and are in none of the other numbers.
        values: Different truths.
        chance: The contamination that random negatives would have.
        in_clusters: All negatives of the clusters that were looked at.
        owner_filter: The owner filter, over the visits that were looked at; None where it was off or cannot be told.
    """

    rows_without: int
    values: int
    chance: float | None
    in_clusters: NegativeAudit
    owner_filter: FilterAudit | None


@dataclass(frozen=True)
class ShownCluster:
    """A cluster of the gallery: its number, phase, rows, and what the rule did (None where that cannot be told)."""

    number: int
    phase: int
    rows: np.ndarray
    trace: Trace | None


@dataclass(frozen=True)
class Findings:
    """All that is said of a mining.

    Args:
        statistics: Those of the mining.
        clusters: How many were looked at.
        pairs: All that stand side by side in them.
        bounds: The least and the greatest cosine of the bins.
        similarities: ``anchor_positive``, ``anchor_mate`` (the mate's document), ``anchor_owner`` (its anchor).
        visits: How many visits of the rule were told again; 0 where it has none.
        of_visits: How many there were.
        differing: Visits that came out otherwise than in mining; none, unless the search is approximate.
        fates: What became of the candidates of these visits.
        near_duplicate: The cosine from which two documents, or two anchors, are suspected to be one.
        suspects: ``nearest_owners``, ``above_own_positive``, ``near_duplicates``.
        truth: What the truth says, where one is known.
        gallery: Clusters to show.
        seed: What the samples were drawn with.
    """

    statistics: Mapping[str, Any]
    clusters: int
    pairs: ClusterPairs
    bounds: tuple[float, float]
    similarities: dict[str, Distribution]
    visits: int
    of_visits: int
    differing: int
    fates: Counter[Fate]
    near_duplicate: float
    suspects: dict[str, Suspects]
    truth: TruthFindings | None
    gallery: list[ShownCluster]
    seed: int

    @property
    def filtered(self) -> float | None:
        """Share of what the owner filter threw out, of all that came to it in the whole mining; None if it was off.

        Of an anchor's owners; of communities, of the pairs of rows that list each other's documents.
        """
        counts = self.statistics
        if not counts["settings"]["owner_filter"]:
            return None
        if not has_visits(counts):
            return counts["pairs_kept_apart"] / max(counts["mutual_pairs"], 1)
        mates = counts["members"] - counts["clusters"]
        return counts["owners_filtered"] / (counts["owners_filtered"] + mates)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "seed": self.seed,
            "clusters": {
                "examined": self.clusters,
                "of": self.statistics["clusters"],
                "pairs": len(self.pairs.member),
            },
            "visits": {"examined": self.visits, "of": self.of_visits, "differing": self.differing},
            "similarities": {
                "bounds": list(self.bounds),
                **{name: asdict(each) for name, each in self.similarities.items()},
            },
            "owner_filter_share": self.filtered,
            "fates": {fate.value: self.fates[fate] for fate in Fate if self.fates[fate]},
            "near_duplicate": self.near_duplicate,
            "suspects": {name: {"count": each.count, "share": each.share} for name, each in self.suspects.items()},
            "truth": self.truth and asdict(self.truth),
        }


def assignment_of(rows: np.ndarray, labels: np.ndarray, statistics: Mapping[str, Any]) -> ClusterAssignment:
    """The clusters and counts of what was mined; as the fields of `MinedClusters`. Counts that it lacks are 0."""
    clusters = np.split(rows, np.flatnonzero(np.diff(labels[:, 0])) + 1)
    counts = {field.name: statistics.get(field.name, 0) for field in fields(ClusterCounts)}
    return ClusterAssignment(clusters, ClusterCounts(**counts))


def examine_clusters(
    anchor_embeddings: np.ndarray,
    document_embeddings: np.ndarray,
    document_of_row: np.ndarray,
    assignment: ClusterAssignment,
    statistics: Mapping[str, Any],
    *,
    anchor_key: np.ndarray | None = None,
    truth: Truth | None = None,
    near_duplicate: float = 0.95,
    most_visits: int = MOST_VISITS,
    seed: int = 0,
    **search: Any,
) -> Findings:
    """Look at mined clusters.

    Args:
        anchor_embeddings: The vector of each row's anchor, shape (rows, dim); may be a memory map.
        document_embeddings: Shape (documents, dim), likewise.
        document_of_row: The document that is each row's positive, shape (rows,).
        assignment: The clusters.
        statistics: Those of the mining.
        anchor_key: One key a row; rows with the same key have the same anchor.
        truth: The truth of the rows, where it is known.
        near_duplicate: As in `Findings`.
        most_visits: How many visits of the rule to tell again, those of the gallery not counted.
        seed: Decides what is drawn.
        **search: ``backend`` and ``faiss_index`` of the mining.
    """
    clusters = sample_clusters(assignment.clusters, seed=seed)
    pairs = cluster_pairs(anchor_embeddings, document_embeddings, document_of_row, clusters)
    shown = _choose_gallery(assignment, seed)
    traces: dict[int, Trace] = {}
    of_visits, sampled = 0, np.empty(0, dtype=np.int64)
    if has_visits(statistics):
        of_visits = len(assignment.clusters) + assignment.counts.rows_left_out
        sampled = sample_visits(assignment, most=most_visits, seed=seed)
        wanted = np.union1d(sampled, [assignment.clusters[number][0] for number in shown]).astype(np.int64)
        options = {"settings": statistics["settings"], "anchor_key": anchor_key, **search}
        arrays = (anchor_embeddings, document_embeddings, document_of_row, assignment, wanted)
        traces = {trace.row: trace for trace in replay_visits(*arrays, **options)}
    mined = {int(cluster[0]): cluster for cluster in assignment.clusters}
    same = {row for row, trace in traces.items() if trace.cluster.tolist() == mined.get(row, np.array([row])).tolist()}
    bounds, similarities = similarities_of(pairs)
    visits = [traces[row] for row in sampled.tolist()]
    return Findings(
        statistics=statistics,
        clusters=len(clusters),
        pairs=pairs,
        bounds=bounds,
        similarities=similarities,
        visits=len(visits),
        of_visits=of_visits,
        differing=sum(trace.row not in same for trace in visits),
        fates=Counter(candidate.fate for trace in visits for candidate in trace.candidates),
        near_duplicate=near_duplicate,
        suspects=_suspects(pairs, near_duplicate),
        truth=truth and _judge(anchor_embeddings, document_embeddings, pairs, visits, statistics, truth),
        gallery=[_shown(assignment, number, traces, same) for number in shown],
        seed=seed,
    )


def has_visits(statistics: Mapping[str, Any]) -> bool:
    """Whether clusters were formed by visiting rows one by one, which can be told again."""
    return statistics["settings"]["builder"] == "owners"


def _suspects(pairs: ClusterPairs, near_duplicate: float) -> dict[str, Suspects]:
    nearer = 1e-6  # the same vector, in another product, is no nearer
    reasons = {  # scores, from which on they count, from which on they may be shown, and whether the order matters not
        "nearest_owners": (pairs.anchor_anchor, near_duplicate, -1.0, True),
        "above_own_positive": (pairs.margin, nearer, nearer, False),
        "near_duplicates": (pairs.document_document, near_duplicate, near_duplicate, True),
    }
    found = {}
    for name, (score, counted, above, both_ways) in reasons.items():
        count = int(np.count_nonzero(score >= counted))
        worst = worst_pairs(pairs, score, above=above, limit=WORST, both_ways=both_ways)
        found[name] = Suspects(count, count / len(score), worst)
    return found


def _judge(
    anchors: np.ndarray,
    documents: np.ndarray,
    pairs: ClusterPairs,
    visits: Sequence[Trace],
    statistics: Mapping[str, Any],
    truth: Truth,
) -> TruthFindings:
    members, mates = pairs.rows[pairs.member], pairs.rows[pairs.mate]
    in_clusters = audit_cosines(pairs.anchor_document, members, truth.document_of_row[mates], truth)
    owner_filter = None
    if visits and statistics["settings"]["owner_filter"]:
        at_filter = [(trace.row, c.document, c.fate) for trace in visits for c in trace.candidates if _at_filter(c)]
        rows, found = (np.array([each[place] for each in at_filter], dtype=np.int64) for place in (0, 1))
        kept = np.array([fate is Fate.MATE for *_, fate in at_filter], dtype=bool)
        owner_filter = audit_filter(anchors, documents, rows, found, kept, truth)
    return TruthFindings(truth.rows_without, truth.values, truth.chance(), in_clusters, owner_filter)


def _at_filter(candidate: Candidate) -> bool:
    return candidate.fate in _AT_FILTER


def _choose_gallery(assignment: ClusterAssignment, seed: int) -> list[int]:
    """Numbers of clusters, one of each phase and size in turn: the largest of phase 1 to the smallest of phase 2."""
    first_of_phase_two = len(assignment.clusters) - assignment.counts.phase_two_clusters
    order = np.random.default_rng(seed).permutation(len(assignment.clusters)).tolist()
    kinds: dict[tuple[bool, int], list[int]] = {}
    for number in order:
        kinds.setdefault((number >= first_of_phase_two, -len(assignment.clusters[number])), []).append(number)
    names = sorted(kinds)
    spread = np.unique(np.linspace(0, len(names) - 1, min(GALLERY, len(names))).round().astype(int))
    queues = [kinds[names[place]] for place in spread]
    in_turn = [queue[turn] for turn in range(GALLERY) for queue in queues if turn < len(queue)]
    return sorted(in_turn[:GALLERY])


def _shown(assignment: ClusterAssignment, number: int, traces: Mapping[int, Trace], same: set[int]) -> ShownCluster:
    rows = assignment.clusters[number]
    phase = 1 + (number >= len(assignment.clusters) - assignment.counts.phase_two_clusters)
    row = int(rows[0])
    return ShownCluster(number, phase, rows, traces[row] if row in same else None)
