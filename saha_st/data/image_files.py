"""Where the files behind paths of images and videos are, and whether they are there.

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

from saha_st.modules.videos import frame_files


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
    return [path for column in columns for path, *_ in itertools.islice(_distinct(dataset, column), count)]


def require_image_files(
    dataset: Dataset,
    columns: Iterable[str],
    root: str | Path | None,
    *,
    remedy: str,
    rows: Sequence[int] | None = None,
    allow_urls: bool = False,
    video_columns: Iterable[str] = (),
) -> None:
    """Look for the file behind every distinct path of an image, a frame or a video in these columns.

    Args:
        dataset: The dataset, of which nothing is decoded.
        columns: Columns of paths, lists of paths, stored images (with bytes they need no file), or structs with a part
            "image" of that kind, and a part "video": a path, or frames of that kind. `None` and "" are no image.
        root: What relative paths are relative to.
        remedy: The way out, the last sentence of the error.
        rows: The number of each row in the source, if the dataset is a sample of it.
        allow_urls: Whether images may be behind URLs, which would be fetched whenever a row is read. Videos never.
        video_columns: Columns of videos: paths of files or of folders of frames, or lists of frames.

    Raises:
        FileNotFoundError: A file is missing: its row, column and path, and how many more there are.
        ValueError: An image is behind a URL and that is not allowed, or given by a `file://` address.
    """
    missing: list[tuple[str, bool, str, Callable[[], int]]] = []
    kinds = {column: False for column in columns} | {column: True for column in video_columns}
    for column, holds_videos in kinds.items():
        for path, is_video, find_row in _distinct(dataset, column, holds_videos=holds_videos):
            full, name = join_root(root, path), "video" if is_video else "image"
            if full.startswith("file://"):
                raise ValueError(
                    f"{_place(column, find_row(), rows)}: the {name} is given as {full!r}, and would not be looked "
                    f"for before it is read. Give the plain path: {full.removeprefix('file://')!r}."
                )
            if is_remote(full) and (is_video or not allow_urls):
                way_out = "" if is_video else ", or pass allow_urls=True to have each fetched whenever it is read"
                raise ValueError(
                    f"{_place(column, find_row(), rows)}: the {name} is behind a URL ({full}), and nothing is fetched "
                    f"unasked. Download the {name}s{way_out}."
                )
            if "://" not in full and not is_there(full, is_video=is_video):
                missing.append((full, is_video, column, find_row))
    if missing:
        path, is_video, column, find_row = missing[0]
        more = f" (and {len(missing) - 1} more distinct files)" if len(missing) > 1 else ""
        place, name = _place(column, find_row(), rows), "video" if is_video else "image"
        wrong = "has no frames in it" if is_video and os.path.isdir(path) else "does not exist"
        raise FileNotFoundError(f"{place}: the {name} file {path!r} {wrong}{more}. {remedy}")


def is_there(path: str, *, is_video: bool) -> bool:
    """Tell whether there is a file, or, for a video, a folder with frames in it."""
    return os.path.isfile(path) or (is_video and os.path.isdir(path) and bool(frame_files(path)))


def _place(column: str, row: int, rows: Sequence[int] | None) -> str:
    return f"Row {row if rows is None else rows[row]}, column {column!r}"


def _distinct(
    dataset: Dataset, column: str, *, holds_videos: bool = False
) -> Iterator[tuple[str, bool, Callable[[], int]]]:
    """Yield the distinct paths of a column in order of appearance, whether each is a video, and what finds its row."""
    seen: set[str] = set()
    start = 0
    for batch in dataset.select_columns(column).with_format("arrow").iter(batch_size=256):
        cells = batch.column(column)
        for is_video in (False, True):
            for path in pc.unique(_paths(cells, holds_videos, is_video)).to_pylist():
                if path and path not in seen:
                    seen.add(path)
                    yield path, is_video, partial(_row_of, cells, path, start, holds_videos, is_video)
        start += len(cells)


def _row_of(cells: pa.ChunkedArray, path: str, start: int, *kind: bool) -> int:
    return start + next(row for row in range(len(cells)) if path in _paths(cells.slice(row, 1), *kind).to_pylist())


def _paths(cells: pa.ChunkedArray, holds_videos: bool, is_video: bool) -> pa.ChunkedArray:
    """Return the paths of videos, or those of images and frames; those of one cell after one another.

    Args:
        cells: Cells of any form.
        holds_videos: Whether a string is the path of a video; otherwise it is that of an image.
        is_video: Whether videos are asked for.
    """
    kind, nothing = cells.type, pa.chunked_array([], pa.string())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _paths(pc.list_flatten(cells), False, is_video)
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        parts = [(name, name == "video") for name in ("image", "video") if name in names]
        if parts:
            found = [_paths(pc.struct_field(cells, name), of_video, is_video) for name, of_video in parts]
            return pa.chunked_array([chunk.cast(pa.string()) for each in found for chunk in each.chunks], pa.string())
        if is_video:
            return nothing
        path = pc.struct_field(cells, "path")
        return pc.if_else(pc.is_null(pc.struct_field(cells, "bytes")), path, None) if "bytes" in names else path
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return cells if is_text and holds_videos == is_video else nothing
