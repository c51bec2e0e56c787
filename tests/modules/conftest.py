from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def image() -> Image.Image:
    return picture()


@pytest.fixture(scope="session")
def other_image() -> Image.Image:
    return picture(seed=1)
