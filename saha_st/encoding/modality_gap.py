"""The modality gap: pictures and texts of one model often lie in two clouds of their own."""

from __future__ import annotations

import numpy as np


def modality_gap(pictures: np.ndarray, texts: np.ndarray) -> float:
    """Return the distance of the centroids of two sets of vectors, which are brought to length one.

    Args:
        pictures: Shape (pictures, dim).
        texts: Shape (texts, dim).

    Returns:
        Between 0 and 2. It is small also where all vectors of a model are alike.

    References:
        Liang et al., Mind the Gap, arXiv 2203.02053.
    """
    return float(np.linalg.norm(_unit(pictures).mean(axis=0) - _unit(texts).mean(axis=0)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
