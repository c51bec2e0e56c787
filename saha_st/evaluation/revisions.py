"""Names for the version of the data of a task, so that scores of other rows or other pictures are told apart.

mteb takes a result up again if model, task and this name are the same. On the Hub the name is that of the revision;
of local rows it is a digest of their bytes, and of local images one of their sizes and times of change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path


def revision_of_files(files: Iterable[Path], images: Iterable[str] = (), *, image_root: str | Path | None) -> str:
    """Name the version of local rows.

    Args:
        files: The files with the rows.
        images: Paths of the images they refer to; those that are not there count as missing.
        image_root: The folder that the user named for the images, if any.
    """
    digest = _digest_of(image_root)
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    for image in images:
        digest.update(_state_of(image).encode())
    return digest.hexdigest()


def revision_on_hub(revision: str | None, states: Iterable[str] = (), *, image_root: str | Path | None) -> str:
    """Name the version of rows on the Hub, whose images may be local.

    Args:
        revision: The revision that the user named, if any.
        states: What is known of the local images, as from `states_in`.
        image_root: The folder that the user named for the images, if any.
    """
    name = revision or "main"
    if image_root is None:
        return name
    digest = _digest_of(image_root)
    for state in states:
        digest.update(state.encode())
    return f"{name}-{digest.hexdigest()}"


def states_of(path: Path) -> list[str]:
    """Return what changes when a file does, or any file of a folder."""
    return states_in(path) if path.is_dir() else [f"{path.name}:{_state_of(str(path))}"]


def digest_of_states(states: Iterable[str]) -> str:
    """Name the version of local files by what is known of them from the outside."""
    digest = blake2b(digest_size=8)
    for state in states:
        digest.update(state.encode())
    return digest.hexdigest()


def states_in(folder: str | Path) -> list[str]:
    """Return what changes when any file of a folder or its sub-folders does, without looking into files."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        paths = [os.path.join(parent, name) for name in sorted(names)]
        found += [f"{os.path.relpath(path, folder)}:{_state_of(path)}" for path in paths]
    return found


def _digest_of(image_root: str | Path | None) -> blake2b:
    return blake2b(b"" if image_root is None else os.path.abspath(image_root).encode(), digest_size=8)


def _state_of(file: str) -> str:
    """Return what changes when a file is written anew; a file that is not there is reported when the task runs."""
    try:
        state = os.stat(file)
    except OSError:
        return "missing;"
    return f"{state.st_size},{state.st_mtime_ns};"
