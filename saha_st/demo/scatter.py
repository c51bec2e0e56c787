"""Two clouds in two dimensions: pictures and texts of a gallery, and the gap between them.

Of all planes this is the one that shows the gap in full: one axis leads from centre to centre, the other is the
direction in which everything else spreads most. (The first two principal components mostly show what the pictures are
about, and hide a gap of the same size.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saha_st.encoding.modality_gap import modality_gap

Point = tuple[float, float]

WIDTH, HEIGHT, MARGIN = 360, 240, 16
"""Of a drawing, in pixels."""


@dataclass(frozen=True)
class Plane:
    """Where pictures and texts lie.

    Args:
        mean: The middle of all vectors, shape (dim,).
        axes: Directions to the right and up, orthonormal, shape (2, dim).
        pictures: Shape (pictures, 2).
        texts: Shape (texts, 2).
        gap: The distance of the two clouds' centres, in all dimensions.
        spread: How far vectors lie from the centre of their cloud (root mean square), in all dimensions.
    """

    mean: np.ndarray
    axes: np.ndarray
    pictures: np.ndarray
    texts: np.ndarray
    gap: float
    spread: float

    def place(self, vectors: np.ndarray) -> np.ndarray:
        """Where vectors (count, dim) lie, shape (count, 2)."""
        return (vectors - self.mean) @ self.axes.T


@dataclass(frozen=True)
class Drawing:
    """A plane in pixels, y pointing down: both clouds, their centres, and the query."""

    pictures: list[Point]
    texts: list[Point]
    centres: tuple[Point, Point]
    query: Point
    width: int = WIDTH
    height: int = HEIGHT


def fit_plane(pictures: np.ndarray, texts: np.ndarray) -> Plane:
    """The plane of both clouds: pictures above texts.

    Args:
        pictures: Shape (pictures, dim).
        texts: Shape (texts, dim).
    """
    pictures, texts = _unit(pictures), _unit(texts)
    together = np.concatenate([pictures, texts])
    mean = together.mean(axis=0)
    up = pictures.mean(axis=0) - texts.mean(axis=0)
    up = up / max(float(np.linalg.norm(up)), 1e-12)
    centred = together - mean
    right = np.linalg.svd(centred - np.outer(centred @ up, up), full_matrices=False)[2][0]
    right = right * (1 if (pictures[0] - mean) @ right >= 0 else -1)  # PCA leaves the sign open
    axes = np.stack([right, up])
    own_centre = np.concatenate([pictures - pictures.mean(axis=0), texts - texts.mean(axis=0)])
    spread = float(np.sqrt((own_centre**2).sum(axis=1).mean()))
    places = (centred @ axes.T)[: len(pictures)], (centred @ axes.T)[len(pictures) :]
    return Plane(mean, axes, *places, modality_gap(pictures, texts), spread)


def draw_planes(planes: Sequence[Plane], queries: Sequence[np.ndarray]) -> list[Drawing]:
    """Draw planes to one scale, each with the vector of its query, shape (dim,)."""
    marks = [plane.place(query[None]) for plane, query in zip(planes, queries, strict=True)]
    points = [np.concatenate([plane.pictures, plane.texts, mark]) for plane, mark in zip(planes, marks, strict=True)]
    room = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    scale = min(float((room / np.maximum(np.ptp(each, axis=0), 1e-9)).min()) for each in points)
    drawings = []
    for plane, mark, each in zip(planes, marks, points, strict=True):
        middle = (each.min(axis=0) + each.max(axis=0)) / 2
        centres = np.stack([plane.pictures.mean(axis=0), plane.texts.mean(axis=0)])
        pictures, texts, (first, second), (query,) = (
            _pixels(part, middle, scale) for part in (plane.pictures, plane.texts, centres, mark)
        )
        drawings.append(Drawing(pictures, texts, (first, second), query))
    return drawings


def _pixels(points: np.ndarray, middle: np.ndarray, scale: float) -> list[Point]:
    pixels = (points - middle) * scale * [1, -1] + [WIDTH / 2, HEIGHT / 2]
    return [(round(float(x), 1), round(float(y), 1)) for x, y in pixels]


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
