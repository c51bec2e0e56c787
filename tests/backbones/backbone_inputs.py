"""Inputs of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

LONG = "two yellow stars in the picture, left of a red circle and a blue square, and a green triangle"


def picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def texts() -> list[Any]:
    return ["a red circle", LONG, "What is shown here?"]


def mixed() -> list[Any]:
    """Texts, pictures of several shapes, both, and several pictures; rows with and without pictures take turns."""
    return [
        "a red circle",
        picture(0, 64, 48),
        {"image": picture(1, 96, 32), "text": LONG},
        LONG,
        {"image": [picture(2, 32, 32), picture(3, 48, 80)], "text": "two pictures"},
        {"image": picture(4, 64, 48), "text": "What is shown here?"},
    ]
