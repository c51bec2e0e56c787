"""The metrics of the MMEB leaderboard at k, for queries that have one relevant document each.

Each is stated as the leaderboard's evaluator defines it for any number of relevant documents, and computed for one,
which makes it a function of a single number per query: the place of the truth in the ranking. Lists that are shorter
than k are not a special case: what is not there is not relevant, and precision still divides by k.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

KS = (1, 5, 10)
"""The k of the leaderboard."""


def hit(places: np.ndarray, k: int) -> np.ndarray:
    """1 if a relevant document is among the first k, else 0.

    Args:
        places: The place of each query's truth, from 1, and 0 if it is in none; shape (queries,).
        k: How many documents count.

    Returns:
        The value of each query, shape (queries,); so do all functions here.
    """
    return ((places > 0) & (places <= k)).astype(np.float64)


def precision(places: np.ndarray, k: int) -> np.ndarray:
    """Relevant documents among the first k, divided by k. Arguments as `hit`."""
    return hit(places, k) / k


def recall(places: np.ndarray, k: int) -> np.ndarray:
    """Relevant documents among the first k, divided by the number of relevant ones, which is 1. Arguments as `hit`."""
    return hit(places, k)


def f1(places: np.ndarray, k: int) -> np.ndarray:
    """Harmonic mean of precision and recall, 0 if both are: 2 / (k + 1) for a hit. Arguments as `hit`."""
    return hit(places, k) * 2 / (k + 1)


def mrr(places: np.ndarray, k: int) -> np.ndarray:
    """1 divided by the place of the first relevant document among the first k, else 0. Arguments as `hit`."""
    return hit(places, k) / np.maximum(places, 1)


def average_precision(places: np.ndarray, k: int) -> np.ndarray:
    """Sum of the precisions at the places of the relevant documents among the first k, by the most that fit into k.

    The divisor is the smaller of k and the number of relevant documents, here 1, so that the value is that of `mrr`.
    Arguments as `hit`.
    """
    return mrr(places, k)


def ndcg_linear(places: np.ndarray, k: int) -> np.ndarray:
    """Discounted gain of the first k, divided by that of the best order; the gain is the relevance.

    A document in place p is discounted by log2(p + 1). One relevant document has relevance 1 and the best order has it
    in place 1, where the discount is 1. Arguments as `hit`.
    """
    return hit(places, k) / np.log2(np.maximum(places, 1) + 1)


def ndcg_exponential(places: np.ndarray, k: int) -> np.ndarray:
    """As `ndcg_linear` with the gain 2^relevance - 1, which is 1 as well if the relevance is. Arguments as `hit`."""
    return ndcg_linear(places, k)


METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
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


def mean_metrics(places: np.ndarray) -> dict[str, float]:
    """Return the means over queries of all metrics at all k, under names such as `hit@1`.

    Args:
        places: As `hit`; one query at least.
    """
    return {f"{name}@{k}": float(metric(places, k).mean()) for name, metric in METRICS.items() for k in KS}
