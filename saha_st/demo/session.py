"""What one visitor brings along: pictures of their own, for as long as their session lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from saha_st.demo.engine import Engine
from saha_st.demo.views import thumbnail


@dataclass(frozen=True)
class OwnPictures:
    """A visitor's own gallery, in memory: thumbnails as data URIs, and vectors of shape (pictures, dim)."""

    sources: Sequence[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, pictures: list[Image.Image], engine: Engine, *, before: OwnPictures | None = None) -> OwnPictures:
        """Encode pictures, and put them behind those from before; the pictures themselves are not kept."""
        sources, vectors = [thumbnail(picture) for picture in pictures], engine.embed_pictures(pictures)
        if before is None:
            return cls(sources, vectors)
        return cls([*before.sources, *sources], np.concatenate([before.vectors, vectors]))
