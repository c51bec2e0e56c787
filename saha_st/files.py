"""Files that are there entirely or not at all, and folders that are new."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4


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


def require_new_folder(output_dir: str | Path) -> Path:
    """Return a folder that does not exist or is empty.

    Raises:
        FileExistsError: It is a file, or not empty.
    """
    folder = Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"output_dir {str(folder)!r} is not empty. Choose another folder or remove it.")
    return folder
