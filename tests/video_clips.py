"""Small videos, and the forms that one may have; the same pixels in each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FPS = 24


def clip(seed: int = 0, frames: int = 20, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Frames that all differ; shape (frames, height, width, 3)."""
    width, height = size
    blocks = np.random.default_rng(seed).integers(0, 255, (frames, height // 8, width // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


def pictures(frames: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]


def write_folder(folder: Path, frames: np.ndarray) -> Path:
    """Frames as files whose natural order is not that of their letters."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures(frames)):
        picture.save(folder / f"frame_{number}.png")
    return folder


def write_video(path: Path, frames: np.ndarray, codec: str = "libx264rgb", **options: int | str) -> Path:
    """A video file; lossless by default, a key frame every five frames."""
    av = pytest.importorskip("av")
    pixels = {"libx264rgb": "rgb24", "ffv1": "bgr0"}.get(codec, "yuv420p")
    options = {"g": 5} | ({"crf": 0} if codec == "libx264rgb" else {}) | options
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={name: str(value) for name, value in options.items()})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
