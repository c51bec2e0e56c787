"""Open whatever holds a user's rows: a dataset in memory or on disk, files, a folder of them, or a name on the Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image, load_dataset, load_from_disk

from saha_st.data.cells import images_from_paths
from saha_st.data.image_files import join_root
from saha_st.data.tables import SUFFIXES, read_table

Source = str | os.PathLike[str] | Dataset | DatasetDict

_SPLIT_NAMES = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval"}
_FILE_NAME = "file_name"  # how a folder of images names them in its metadata, alone or as the end of a column's name


@dataclass(frozen=True)
class Rows:
    """Rows, and where they come from.

    Args:
        table: The rows as they are stored.
        name: What to call them in an error.
        folder: What relative image paths are relative to, if that is known.
        on_hub: Whether they were downloaded.
    """

    table: Dataset
    name: str
    folder: Path | None = None
    on_hub: bool = False


def open_rows(
    source: Source, *, split: str, subset: str | None = None, revision: str | None = None, cache_dir: str | None = None
) -> Rows:
    """Open a source.

    Args:
        source: A `Dataset` or `DatasetDict`; a folder that `save_to_disk` wrote; a Parquet, JSON-lines, CSV or TSV
            file; a folder of such files; a folder of images with `metadata.csv`, `.jsonl` or `.parquet` (in it, or in
            a sub-folder named after the split); or a dataset of the Hub.
        split: The split, where the source has several.
        subset: The configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        cache_dir: Folder of the datasets cache.

    Raises:
        TypeError: The source is something else, as an iterable dataset.
        FileNotFoundError: There is no such file or folder.
        ValueError: There is no such split, or the files cannot be read.
    """
    if isinstance(source, (Dataset, DatasetDict)):
        return Rows(_pick_split(source, split, "The dataset"), "The dataset")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"source must be a Dataset, a DatasetDict, a path or a name; received {type(source).__name__}. "
            "A streamed dataset has no rows to go back to: load it without streaming=True."
        )
    path, name = Path(source).expanduser(), os.fspath(source)
    if path.is_file():
        return Rows(read_table([path], cache_dir=cache_dir), name, path.parent)
    if path.is_dir():
        return _open_folder(path, split, cache_dir)
    if (
        isinstance(source, os.PathLike)
        or name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or path.suffix.lower() in SUFFIXES
    ):
        raise FileNotFoundError(f"source: there is no file or folder {name!r}.")
    try:
        table = load_dataset(name, subset, split=split, revision=revision, cache_dir=cache_dir)
    except ConnectionError as error:
        raise ConnectionError(f"source: there is no file or folder {name!r} here, and {error}.") from error
    return Rows(table, name, on_hub=True)


def _open_folder(folder: Path, split: str, cache_dir: str | None) -> Rows:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return Rows(_pick_split(load_from_disk(folder), split, str(folder)), str(folder), folder)
    for place in (folder, folder / split):
        if metadata := [place / f"metadata{suffix}" for suffix in SUFFIXES if (place / f"metadata{suffix}").is_file()]:
            table = read_table(metadata[:1], cache_dir=cache_dir)
            return Rows(_name_images(table, place), str(metadata[0]), place)
    return Rows(read_table(_files_of_split(folder, split), cache_dir=cache_dir), str(folder), folder)


def _name_images(table: Dataset, folder: Path) -> Dataset:
    """Turn columns of file names into images, named as datasets does: "file_name" → "image", "a_file_name" → "a"."""
    for column in [name for name in table.column_names if name.endswith(_FILE_NAME)]:
        name = column[: -len(_FILE_NAME)].rstrip("_") or "image"
        paths = [join_root(folder.absolute(), path) if path else None for path in table[column]]
        table = table.remove_columns(column).add_column(name, images_from_paths(paths), feature=Image())
    return table


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """Return the files named after the split (`train.csv`, `train-00000-of-00002.parquet`), or all if none is."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    starts = {path: path.name.split(".")[0].split("-")[0].lower() for path in files}
    of_split = [path for path in files if starts[path] == split.lower()]
    others = [path for path in files if starts[path] not in _SPLIT_NAMES]
    if not (of_split or others):
        found = f"; it has {[path.name for path in files]}" if files else ""
        raise ValueError(f"source: {folder} has no files of the split {split!r} (one of {SUFFIXES}){found}.")
    return of_split or others


def _pick_split(loaded: Any, split: str, name: str) -> Dataset:
    if isinstance(loaded, Dataset):
        return loaded
    if split not in loaded:
        raise ValueError(f"split: {name} has no split {split!r}; it has {list(loaded)}.")
    return loaded[split]
