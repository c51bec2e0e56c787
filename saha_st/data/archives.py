"""Unpack a ZIP archive once, and never take half of it for the whole.

The target folder comes into being by a rename, after the last byte was written and its checksum compared. So a folder
that exists is complete: a killed process leaves a `.partial` folder beside it, which the next one throws away.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

from datasets.utils import tqdm
from huggingface_hub.utils import WeakFileLock

logger = logging.getLogger(__name__)


def unpack_once(archive: str | Path, target: str | Path) -> Path:
    """Unpack an archive into a folder, unless that was done before; several processes may call this at once.

    Args:
        archive: The ZIP file.
        target: The folder to make. If it exists it is taken as complete and left alone.

    Returns:
        The target.

    Raises:
        ValueError: The archive is no intact ZIP file, or an entry would be written outside the target or is a link.
        OSError: The disk has less room than the unpacked files need (checked before anything is written).
    """
    archive = Path(archive)
    return make_once(Path(target), lambda partial: _unpack(archive, partial))


def make_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder, whole or not at all, unless it is there; several processes may call this at once.

    Args:
        target: The folder. If it exists it is taken as complete and left alone.
        make: Makes and fills the folder that it is given, which then becomes the target.

    Returns:
        The target.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(f"{target}.lock"):
        if not target.is_dir():  # else another process finished while this one waited
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: the lock says nobody writes it
            try:
                make(partial)
                os.replace(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _unpack(archive: Path, folder: Path) -> None:
    """Check all entries, then write all files; the ZIP reader compares each file's checksum as it reads."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            for entry in entries:
                _require_safe(archive, entry)
            _require_room(archive, folder.parent, sum(entry.file_size for entry in entries))
            logger.info("Unpacking %s (%d entries) to %s", archive, len(entries), folder)
            folder.mkdir()
            for entry in tqdm(entries, desc=f"Unpacking {archive.name}", unit="file"):
                opened.extract(entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{archive} is not an intact ZIP archive ({error}). Delete it and download it again."
        ) from error


def _require_safe(archive: Path, entry: zipfile.ZipInfo) -> None:
    """Refuse what would be written elsewhere: `zipfile` renames such entries silently, a bad archive should fail."""
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(entry.filename).drive
    if outside or stat.S_ISLNK(entry.external_attr >> 16):
        raise ValueError(
            f"{archive}: the entry {entry.filename!r} is a link or lies outside the archive; not unpacked."
        )


def _require_room(archive: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"{archive} unpacks to {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free"
        raise OSError(errno.ENOSPC, f"{sizes}; make room or pass another cache_dir")
