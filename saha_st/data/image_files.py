"""Where the files behind image paths are, and whether they are there.

A wrong image root is the most common mistake with multimodal data and, unchecked, the most expensive one: it shows
hours later, or not at all when a path is embedded as if it were text. So paths are resolved once, at load, and every
distinct file is looked for before anything is decoded or encoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset


def is_remote(path: str) -> bool:
    """Tell whether opening a path would go out to the network: a URL, or an archive member behind one.

    `zip://cat.png::/data/cats.zip` is local: what follows the last `::` decides.
    """
    return "://" in path.rsplit("::", 1)[-1] and not path.startswith("file://")


def join_root(root: str | Path | None, path: str) -> str:
    """Return a path below the root; absolute paths and addresses stay as they are."""
    if root is None or "://" in path:
        return path
    return os.path.join(root, path)


def choose_root(roots: Sequence[Path], path: str) -> Path:
    """Return the first of several possible roots under which this path exists, or else the first of all."""
    return next((root for root in roots if os.path.isfile(join_root(root, path))), roots[0])


def first_path(dataset: Dataset, columns: Iterable[str]) -> str | None:
    """Return some image path of these columns (strings or lists of strings), or `None` if there is none."""
    return next((path for column in columns for path in _distinct(dataset, column)), None)


def require_image_files(
    dataset: Dataset, columns: Iterable[str], root: Path | None, *, remedy: str, rows: Sequence[int] | None = None
) -> None:
    """Look for the file behind every distinct path of these columns.

    Args:
        dataset: A dataset whose columns hold paths as strings or lists of strings; `None` and "" are no image.
        columns: The columns to check.
        root: What the paths are relative to.
        remedy: The way out, the last sentence of the error.
        rows: The number of each row in the source, if the dataset is a sample of it.

    Raises:
        FileNotFoundError: A file is missing: its row, column and path, and how many more there are.
    """
    missing = {c: [p for p in _distinct(dataset, c) if not _exists(join_root(root, p))] for c in columns}
    total = sum(map(len, missing.values()))
    if not total:
        return
    column, path = next((column, paths[0]) for column, paths in missing.items() if paths)
    row = _row_of(dataset, column, path)
    more = f" (and {total - 1} more distinct files)" if total > 1 else ""
    raise FileNotFoundError(
        f"Row {row if rows is None else rows[row]}, column {column!r}: the image file {join_root(root, path)!r} "
        f"does not exist{more}. {remedy}"
    )


def _exists(path: str) -> bool:
    return "://" in path or os.path.isfile(path)  # addresses are not for us to look up


def _values(dataset: Dataset, column: str) -> pa.ChunkedArray:
    values = dataset.select_columns(column).with_format("arrow")[:].column(column)
    return pc.list_flatten(values) if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) else values


def _distinct(dataset: Dataset, column: str) -> list[str]:
    """Return the distinct paths of a column in order of appearance."""
    return [path for path in pc.unique(_values(dataset, column)).to_pylist() if path]


def _row_of(dataset: Dataset, column: str, path: str) -> int:
    cells = dataset.select_columns(column).with_format("arrow")[:].column(column).to_pylist()
    return next(row for row, cell in enumerate(cells) if cell == path or (isinstance(cell, list) and path in cell))
