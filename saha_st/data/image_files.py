"""Where the files behind image paths are, and whether they are there.

A wrong image root is the most common mistake with multimodal data and, unchecked, the most expensive one: it shows
hours later, or not at all when a path is embedded as if it were text. So paths are resolved once, at load, and every
distinct file is looked for before anything is decoded or encoded.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset


def is_remote(path: str) -> bool:
    """Tell whether opening a path would go out to the network: a URL, or an archive member behind one.

    `zip://cat.png::/data/cats.zip` is local: what follows the last `::` decides.
    """
    last = path.rsplit("::", 1)[-1]
    return "://" in last and not last.startswith("file://")


def join_root(root: str | Path | None, path: str) -> str:
    """Return a path below the root; absolute paths and addresses stay as they are."""
    if root is None or "://" in path:
        return path
    return os.path.join(root, path)


def choose_root(roots: Sequence[Path], paths: Sequence[str]) -> Path:
    """Return the root under which most of these paths exist; of equals, the first."""
    return max(roots, key=lambda root: sum(os.path.isfile(join_root(root, path)) for path in paths))


def sample_paths(dataset: Dataset, columns: Iterable[str], count: int = 50) -> list[str]:
    """Return some distinct image paths, as many of each column; few enough to look for under several roots."""
    return [path for column in columns for path, _ in itertools.islice(_distinct(dataset, column), count)]


def require_image_files(
    dataset: Dataset,
    columns: Iterable[str],
    root: str | Path | None,
    *,
    remedy: str,
    rows: Sequence[int] | None = None,
    allow_urls: bool = False,
) -> None:
    """Look for the file behind every distinct image path of these columns.

    Args:
        dataset: The dataset, of which nothing is decoded.
        columns: Columns of paths, lists of paths, stored images (with bytes they need no file), or structs with a part
            "image" of that kind. `None` and "" are no image.
        root: What relative paths are relative to.
        remedy: The way out, the last sentence of the error.
        rows: The number of each row in the source, if the dataset is a sample of it.
        allow_urls: Whether images may be behind URLs, which would be fetched whenever a row is read.

    Raises:
        FileNotFoundError: A file is missing: its row, column and path, and how many more there are.
        ValueError: An image is behind a URL and that is not allowed, or given by a `file://` address.
    """
    missing: list[tuple[str, str, Callable[[], int]]] = []
    for column in columns:
        for path, find_row in _distinct(dataset, column):
            full = join_root(root, path)
            if full.startswith("file://"):
                raise ValueError(
                    f"{_place(column, find_row(), rows)}: the image is given as {full!r}, and would not be looked for "
                    f"before it is read. Give the plain path: {full.removeprefix('file://')!r}."
                )
            if is_remote(full) and not allow_urls:
                raise ValueError(
                    f"{_place(column, find_row(), rows)}: the image is behind a URL ({full}), and nothing is fetched "
                    "unasked. Download the images, or pass allow_urls=True to have each fetched whenever it is read."
                )
            if "://" not in full and not os.path.isfile(full):
                missing.append((full, column, find_row))
    if missing:
        path, column, find_row = missing[0]
        more = f" (and {len(missing) - 1} more distinct files)" if len(missing) > 1 else ""
        place = _place(column, find_row(), rows)
        raise FileNotFoundError(f"{place}: the image file {path!r} does not exist{more}. {remedy}")


def _place(column: str, row: int, rows: Sequence[int] | None) -> str:
    return f"Row {row if rows is None else rows[row]}, column {column!r}"


def _distinct(dataset: Dataset, column: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the distinct paths of a column in order of appearance, each with what finds its first row."""
    seen: set[str] = set()
    start = 0
    for batch in dataset.select_columns(column).with_format("arrow").iter(batch_size=256):
        cells = batch.column(column)
        for path in pc.unique(_paths(cells)).to_pylist():
            if path and path not in seen:
                seen.add(path)
                yield path, partial(_row_of, cells, path, start)
        start += len(cells)


def _row_of(cells: pa.ChunkedArray, path: str, start: int) -> int:
    return start + next(row for row in range(len(cells)) if path in _paths(cells.slice(row, 1)).to_pylist())


def _paths(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the image paths in cells of any form, those of several images after one another."""
    kind = cells.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _paths(pc.list_flatten(cells))
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if "image" in names:
            return _paths(pc.struct_field(cells, "image"))
        path = pc.struct_field(cells, "path")
        return pc.if_else(pc.is_null(pc.struct_field(cells, "bytes")), path, None) if "bytes" in names else path
    return cells if pa.types.is_string(kind) or pa.types.is_large_string(kind) else pa.chunked_array([], pa.string())
