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
    sides = (unit_vectors(np.asarray(side, dtype=np.float64)).mean(axis=0) for side in (pictures, texts))
    return float(np.linalg.norm(next(sides) - next(sides)))


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length one and of the same dtype, shape (rows, dim); zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
