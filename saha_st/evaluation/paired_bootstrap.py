"""Shares and their differences, with intervals that say what other queries might have given.

All rows are scored on the same queries, so that what is hard for all of them is no noise: the bootstrap draws the same
queries for every row.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

SAMPLES = 2000
"""Draws of the bootstrap."""

FEW = 30
"""With fewer queries an interval of a difference is not to be relied on."""

_DRAWS = 50  # of the bootstrap at a time
_NORMAL = 1.959964  # 97.5 % of the normal distribution lie below


def wilson_interval(share: float, queries: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, by Wilson's score, which has a width also at 0 and 1.

    References:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
    """
    square = _NORMAL**2 / queries
    middle = (share + square / 2) / (1 + square)
    half = _NORMAL * sqrt(share * (1 - share) / queries + square / (4 * queries)) / (1 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def difference_margins(values: np.ndarray, *, seed: int = 0, samples: int = SAMPLES) -> np.ndarray:
    """Return half the 95 % intervals of the differences of all pairs of rows, which hold for all of them at once.

    The critical value is the 95 % quantile, over resamples, of the largest deviation among all pairs in their
    standard errors (Tukey's studentised range by a paired bootstrap): so of equal rows, however many, one is found
    worse than the best in about 5 % of all cases. Each interval is widened by one query that is decided otherwise, so
    that none has no width, and for few queries as Student's distribution is.

    Args:
        values: 0 or 1 for each query, shape (rows, queries).
        seed: Decides what is drawn.
        samples: How often.

    Returns:
        Shape (rows, rows), 0 on the diagonal.
    """
    rows, queries = values.shape
    means, drawn = values.mean(axis=1), resampled_means(values, seed=seed, samples=samples)
    difference = means[:, None] - means  # (rows, rows)
    variance = means[:, None] + means - 2 * (values @ values.T) / queries - difference**2
    errors = np.sqrt(np.where(variance > 1e-12, variance, 0) / queries)
    largest = np.zeros(samples)
    for row in range(rows - 1):
        others = row + 1 + np.flatnonzero(errors[row, row + 1 :])  # those that differ on some query, not on all
        moved = np.abs(drawn[:, [row]] - drawn[:, others] - difference[row, others])  # (samples, others)
        largest = np.maximum(largest, (moved / errors[row, others]).max(axis=1, initial=0))
    critical = max(float(np.quantile(largest, 0.95)), _NORMAL)
    critical *= 1 + (critical**2 + 1) / (4 * max(queries - 1, 1))
    margins = critical * np.sqrt(errors**2 + 1 / queries**2)
    np.fill_diagonal(margins, 0)
    return margins


def resampled_means(values: np.ndarray, *, seed: int = 0, samples: int = SAMPLES) -> np.ndarray:
    """Return means over queries that are drawn with replacement, the same ones for every row.

    Args:
        values: Shape (rows, queries).
        seed: Decides what is drawn.
        samples: How often.

    Returns:
        Shape (samples, rows).
    """
    queries, random = values.shape[1], np.random.default_rng(seed)
    means = np.empty((samples, len(values)))
    for start in range(0, samples, _DRAWS):
        count = min(_DRAWS, samples - start)
        drawn = random.integers(queries, size=(count, queries)) + queries * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * queries).reshape(count, queries)
        means[start : start + count] = times.astype(np.float64) @ values.T / queries
    return means
