"""Look at images the way a training run will: open each distinct one, decode it to the end, and measure it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image as PIL

from saha_st.data.image_files import is_remote
from saha_st.data.keys import cell_key
from saha_st.data.problems import Finding


class ImageChecker:
    """Checks images in threads, each distinct one once; a context manager, as it owns the threads.

    Args:
        decode: Decode the pixels, which finds images that are cut short; otherwise read the headers only.
        max_side_ratio: The ratio of the longer to the shorter side from which on an image is refused.
        min_side: The shorter side, in pixels, below which an image is reported as tiny.
        num_workers: Threads. Default: four more than cores, at most 32; decoding releases Python's lock.
    """

    def __init__(self, *, decode: bool, max_side_ratio: float, min_side: int, num_workers: int | None = None) -> None:
        self.decode = decode
        self.max_side_ratio = max_side_ratio
        self.min_side = min_side
        self._pool = ThreadPoolExecutor(num_workers or min(32, (os.cpu_count() or 1) + 4))
        self._seen: dict[bytes, Finding | None] = {}

    def __enter__(self) -> ImageChecker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def check(self, images: Sequence[Mapping[str, Any]]) -> list[Finding | None]:
        """Return what is wrong with each of some stored images, `None` if nothing is."""
        keys = [self._key(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if isinstance(key, bytes)}
        new = {key: image for key, image in new.items() if key not in self._seen}
        self._seen.update(zip(new, self._pool.map(self._look, new.values()), strict=True))
        return [self._seen[key] if isinstance(key, bytes) else key for key in keys]

    def _key(self, image: Mapping[str, Any]) -> bytes | Finding:
        """Return the content key of an image, or what keeps it from having one."""
        path = _path(image)
        if path is not None and is_remote(path):
            return Finding("image behind a URL", path)
        try:
            return cell_key({"image": image})
        except FileNotFoundError:
            return Finding("missing image file", str(path))

    def _look(self, image: Mapping[str, Any]) -> Finding | None:
        name = image.get("path") or "bytes in the dataset"
        try:
            width, height = self._measure(image)
        except (
            Exception
        ) as error:  # decoders raise whatever they like on broken data, and that it broke is the finding
            return Finding("unreadable image", f"{name} ({error})")
        if max(width, height) >= self.max_side_ratio * min(width, height):
            return Finding("extreme side ratio", f"{name} ({width} × {height})")
        if min(width, height) < self.min_side:
            return Finding("tiny image", f"{name} ({width} × {height})")
        return None

    def _measure(self, image: Mapping[str, Any]) -> tuple[int, int]:
        """Return width and height, after decoding if that is wanted."""
        path = _path(image)
        if path is not None and "://" in path:  # inside an archive, which datasets knows how to open
            from datasets import Image

            return Image().decode_example({"path": path, "bytes": None}).size
        with PIL.open(io.BytesIO(image["bytes"]) if path is None else path) as opened:
            if self.decode:
                opened.load()
            return opened.size


def _path(image: Mapping[str, Any]) -> str | None:
    """Return the path an image is read from; beside bytes, a path is only a name."""
    return image.get("path") if image.get("bytes") is None else None
