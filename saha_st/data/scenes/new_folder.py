"""A folder that appears complete or not at all, whatever happens while it is filled."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_new(root: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        FileExistsError: If ``root`` exists and is not an empty folder.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"root={str(root)!r} exists and is not empty; name a new folder, or delete it first.")


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """Yield a folder to fill, beside ``root``, that is moved there if no error is raised.

    Args:
        root: The folder to make; see `require_new`.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        if root.exists():
            root.rmdir()
        shutil.move(made, root)
