"""The hat: what the two levels of the prompt do to one query, and to the space that it is searched in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from saha_st.demo.engine import Engine, Hit, Level, Query, rank
from saha_st.demo.gallery import Gallery
from saha_st.demo.scatter import Drawing, Plane, draw_planes, fit_plane


@dataclass(frozen=True)
class Panel:
    """One level of the prompt. What needs texts is None for a gallery without.

    Args:
        level: Which.
        prompt: What the model reads for the query, verbatim.
        hits: The pictures that it finds.
        drawing: The clouds of pictures and texts, and the query.
        gap: The distance of their centres.
        spread: How far the points of a cloud lie from its centre.
        first: The share of texts that rank a right picture first.
    """

    level: Level
    prompt: str
    hits: list[Hit]
    drawing: Drawing | None = None
    gap: float | None = None
    spread: float | None = None
    first: float | None = None


class Hat:
    """Compares the levels of the prompt on one gallery."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._space = lru_cache(len(Level))(self._measure)

    def compare(self, query: Query, count: int) -> list[Panel]:
        """A panel for no prompt, the system level, and both."""
        engine = self._engine
        vectors = {level: engine.embed(query, level) for level in Level}
        found = {level: rank(vectors[level], engine.pictures(level), count) for level in Level}
        prompts = {level: engine.rendered(query, level) for level in Level}
        if not engine.gallery.pairs:
            return [Panel(level, prompts[level], found[level]) for level in Level]
        planes, firsts = zip(*(self._space(level) for level in Level), strict=True)
        drawings = draw_planes(planes, list(vectors.values()))
        return [
            Panel(level, prompts[level], found[level], drawing, plane.gap, plane.spread, first)
            for level, drawing, plane, first in zip(Level, drawings, planes, firsts, strict=True)
        ]

    def _measure(self, level: Level) -> tuple[Plane, float]:
        """The plane of a level, and how many texts rank a right picture first."""
        pictures, texts = self._engine.pictures(level), self._engine.texts(level, task="query")
        return fit_plane(pictures, texts), right_first(texts @ pictures.T, self._engine.gallery)


def right_first(scores: np.ndarray, gallery: Gallery) -> float:
    """The share of texts whose best picture is their own, or shows the same where that is known.

    Args:
        scores: Shape (texts, pictures).
        gallery: What belongs together.
    """
    right = np.zeros(scores.shape, dtype=bool)
    for text, picture in gallery.pairs:
        right[text, [other for other in range(scores.shape[1]) if gallery.is_answer(picture, other)]] = True
    return float(right[np.arange(len(scores)), scores.argmax(axis=1)].mean())
