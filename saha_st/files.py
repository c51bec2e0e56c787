"""Files that are there entirely or not at all, folders that are new, and what killed processes leave behind."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    import numpy as np


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it is there entirely or not at all, whatever happens in between.

    Raises:
        OSError: The disk is full, say; nothing is left behind, and an older file of that name is untouched.
    """
    # Not by tempfile, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """As `write_whole`, of a text, in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()))


def map_new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Make an ``.npy`` file and map it to be written.

    Its place on the disk is taken now: a disk that is full later, when a page is written, ends the process with a
    signal instead of an error.

    Raises:
        OSError: There is no room for it; nothing is left behind.
    """
    import numpy as np

    try:
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return array


def name_of_own(name: str) -> str:
    """Return a name for a temporary file or folder of this process, by which others see whether it still runs."""
    return f"{name}-{os.getpid()}@{gethostname()}~{uuid4().hex[:8]}"


def is_left_behind(name: str) -> bool:
    """Tell whether a name is one by `name_of_own`, of a process of this machine that is no more."""
    import psutil

    owner = re.search(rf"-(\d+)@{re.escape(gethostname())}~", name)
    return owner is not None and not psutil.pid_exists(int(owner[1]))


def require_new_folder(output_dir: str | Path) -> Path:
    """Return a folder that does not exist or is empty.

    Raises:
        FileExistsError: It is a file, or not empty.
    """
    folder = Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"output_dir {str(folder)!r} is not empty. Choose another folder or remove it.")
    return folder


def require_new_file(path: str | Path, *, name: str, suffix: str, made: Path | None = None) -> Path:
    """Return the path of a file that can be written.

    Args:
        path: The file.
        name: The argument that names it, for the error.
        suffix: What it must end in.
        made: A folder that will have been made by then.

    Raises:
        ValueError: It does not end in the suffix.
        FileExistsError: It exists.
        FileNotFoundError: Its folder does not.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != suffix:
        raise ValueError(f"{name}: the file must end in {suffix}, got {str(path)!r}.")
    if path.exists():
        raise FileExistsError(f"{name}: {str(path)!r} exists already. Remove it or choose another name.")
    if not path.parent.is_dir() and (made is None or path.parent.absolute() != made.absolute()):
        raise FileNotFoundError(f"{name}: there is no folder {str(path.parent)!r}. Make it, or choose another one.")
    return path
