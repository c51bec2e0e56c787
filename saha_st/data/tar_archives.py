"""Unpack a compressed TAR archive, which may be cut into several files, once; see `archives`."""

from __future__ import annotations

import gzip
import io
import itertools
import logging
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.utils import tqdm

from saha_st.data.archives import make_once

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20  # bytes that are read at a time


def unpack_tar_once(parts: Sequence[Path], target: Path) -> Path:
    """Unpack a `.tar.gz` into a folder, unless that was done before; several processes may call this at once.

    Args:
        parts: The archive, or the files it is cut into, in their order. They are read one after the other, and never
            joined on disk.
        target: The folder to make. If it exists it is taken as complete and left alone.

    Returns:
        The target.

    Raises:
        ValueError: It is no intact archive, or an entry would be written outside the target or is a link.
    """
    return make_once(target, lambda folder: _unpack(parts, folder))


def _unpack(parts: Sequence[Path], folder: Path) -> None:
    logger.info("Unpacking %s to %s", " + ".join(part.name for part in parts), folder)
    folder.mkdir()
    size = sum(part.stat().st_size for part in parts)
    try:
        with (
            tqdm(total=size, desc=f"Unpacking {parts[0].name}", unit="B", unit_scale=True) as bar,
            io.BufferedReader(_Joined(parts, bar), buffer_size=_BLOCK) as stream,
            gzip.GzipFile(fileobj=stream, mode="rb") as plain,  # tarfile's own "r|gz" looks at no checksum
            tarfile.open(fileobj=plain, mode="r|") as opened,
        ):
            for entry in opened:
                if not (entry.isfile() or entry.isdir()):
                    raise ValueError(f"{parts[0]}: the entry {entry.name!r} is a link; not unpacked.")
                opened.extract(entry, folder, filter="data")
            while plain.read(_BLOCK):  # the checksum stands behind the last byte, which tarfile does not ask for
                pass
    except tarfile.FilterError as error:
        raise ValueError(f"{parts[0]}: {error}; not unpacked.") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{parts[0]} is not an intact TAR archive ({error}). Delete it and download it again."
        ) from error


class _Joined(io.RawIOBase):
    """The bytes of several files, one after the other."""

    def __init__(self, parts: Sequence[Path], bar: tqdm) -> None:
        super().__init__()
        self._blocks = itertools.chain.from_iterable(_blocks(part) for part in parts)
        self._left = b""
        self._bar = bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        self._left = self._left or next(self._blocks, b"")
        taken, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(taken)] = taken
        self._bar.update(len(taken))
        return len(taken)


def _blocks(part: Path, size: int = _BLOCK) -> Iterator[bytes]:
    with open(part, "rb") as file:
        while block := file.read(size):
            yield block
