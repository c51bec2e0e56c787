"""The metrics of the MMEB leaderboard at k, for queries with any number of relevant documents of any grade.

Each is stated as the leaderboard's evaluator defines it, and computed for all queries at once. Lists that are shorter
than k are not a special case: what is not there is not relevant, and precision still divides by k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KS = (1, 5, 10)
"""The k of the leaderboard."""


@dataclass(frozen=True)
class Judged:
    """What is known of the best documents of every query.

    Args:
        gains: Grade of the document in each place, 0 for one that is not relevant; shape (queries, places), with as
            many places as the largest k at least.
        ideal: Grades of the relevant documents, the highest first, as far as there are so many places; as `gains`.
        num_relevant: Number of relevant documents, found or not; shape (queries,).
        total_grade: Sum of the grades of the relevant documents, of which `ideal` may hold a part; as `num_relevant`.
    """

    gains: np.ndarray
    ideal: np.ndarray
    num_relevant: np.ndarray
    total_grade: np.ndarray

    def __len__(self) -> int:
        return len(self.gains)


def hit(judged: Judged, k: int) -> np.ndarray:
    """1 if a relevant document is among the first k, else 0.

    Args:
        judged: The queries.
        k: How many documents count.

    Returns:
        The value of each query, shape (queries,); so do all functions here.
    """
    return (judged.gains[:, :k] > 0).any(axis=1).astype(np.float64)


def precision(judged: Judged, k: int) -> np.ndarray:
    """Relevant documents among the first k, divided by k. Arguments as `hit`."""
    return (judged.gains[:, :k] > 0).sum(axis=1) / k


def recall(judged: Judged, k: int) -> np.ndarray:
    """Relevant documents among the first k, divided by the number of relevant ones. Arguments as `hit`."""
    return (judged.gains[:, :k] > 0).sum(axis=1) / judged.num_relevant


def f1(judged: Judged, k: int) -> np.ndarray:
    """Harmonic mean of precision and recall, 0 if both are. Arguments as `hit`."""
    p, r = precision(judged, k), recall(judged, k)
    return 2 * p * r / np.where(p + r > 0, p + r, 1)


def mrr(judged: Judged, k: int) -> np.ndarray:
    """1 divided by the place of the first relevant document among the first k, else 0. Arguments as `hit`."""
    return hit(judged, k) / ((judged.gains[:, :k] > 0).argmax(axis=1) + 1)


def average_precision(judged: Judged, k: int) -> np.ndarray:
    """Sum of the precisions at the places of the relevant documents among the first k, by the most that fit into k.

    The divisor is the smaller of k and the number of relevant documents. Arguments as `hit`.
    """
    found = judged.gains[:, :k] > 0
    precisions = found.cumsum(axis=1) / np.arange(1, k + 1)
    return (precisions * found).sum(axis=1) / np.minimum(judged.num_relevant, k)


def ndcg_linear(judged: Judged, k: int) -> np.ndarray:
    """Discounted gain of the first k, divided by that of the best order; the gain is the grade.

    A document in place p is discounted by log2(p + 1). Arguments as `hit`.
    """
    return _discounted(judged.gains, k) / _discounted(judged.ideal, k)


def ndcg_exponential(judged: Judged, k: int) -> np.ndarray:
    """As `ndcg_linear` with the gain 2^grade - 1. Arguments as `hit`."""
    return _discounted(2**judged.gains - 1, k) / _discounted(2**judged.ideal - 1, k)


def _discounted(gains: np.ndarray, k: int) -> np.ndarray:
    return (gains[:, :k] / np.log2(np.arange(2, k + 2))).sum(axis=1)


METRICS: dict[str, Callable[[Judged, int], np.ndarray]] = {
    "hit": hit,
    "ndcg_linear": ndcg_linear,
    "ndcg_exponential": ndcg_exponential,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "map": average_precision,
    "mrr": mrr,
}
"""The metrics by the names of the leaderboard, in its order."""


def mean_metrics(judged: Judged) -> dict[str, float]:
    """Return the means over queries of all metrics at all k, under names such as `hit@1`.

    Args:
        judged: The queries, one at least.
    """
    return {f"{name}@{k}": float(metric(judged, k).mean()) for name, metric in METRICS.items() for k in KS}
