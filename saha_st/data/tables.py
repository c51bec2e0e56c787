"""Read rows from local files, to the letter: what is written as text stays text.

All formats end in the datasets cache, so that rows are memory-mapped and converted once. The defaults of its readers
would turn the caption "None" of a CSV file into a missing value and "007" into 7; here every column of it is text.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from saha_st.data.json_lines import read_json_lines, require_utf8

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
"""The files that can be read."""

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_table(files: Sequence[str | Path], *, cache_dir: str | None = None) -> Dataset:
    """Read files of one format into one dataset.

    Args:
        files: Parquet, JSON lines, CSV or TSV files, by their suffix.
        cache_dir: Folder of the datasets cache.

    Raises:
        ValueError: The files are empty, of an unknown format or several formats, or cannot be read as what they claim,
            as text that is not UTF-8.
    """
    suffixes = {Path(file).suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= set(SUFFIXES):
        formats = f"files of one format, {', '.join(SUFFIXES)}"
        raise ValueError(f"Cannot read {', '.join(map(str, files))} together: expected {formats}. Name one of them.")
    suffix = suffixes.pop()
    if suffix in (".jsonl", ".json"):
        return read_json_lines(files, cache_dir=cache_dir)
    if not _count_rows(files, suffix):
        raise ValueError(
            f"{files[0]} has no rows."
        )  # datasets fails on such files with errors that name another cause
    options = {} if suffix == ".parquet" else _csv_options(files[0], suffix)
    paths = [os.fspath(file) for file in files]
    reader = "parquet" if suffix == ".parquet" else "csv"
    try:
        return load_dataset(reader, data_files={"train": paths}, split="train", cache_dir=cache_dir, **options)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise ValueError(f"{', '.join(paths)}: not all of it is UTF-8 text; save it as UTF-8.") from error
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{', '.join(paths)} cannot be read as {reader}: {reason}") from error


def require_max_rows(max_rows: int | None) -> None:
    """Refuse a number of rows that is none; called before anything is read."""
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, or None for all rows; received {max_rows}.")


def draw_rows(rows: Dataset, max_rows: int | None, seed: int) -> tuple[Dataset, np.ndarray | None]:
    """Draw at most `max_rows` rows without replacement, in their order.

    Returns:
        The rows, and the number that each had, or `None` if all are there.
    """
    if max_rows is None or len(rows) <= max_rows:
        return rows, None
    numbers = np.sort(np.random.default_rng(seed).choice(len(rows), max_rows, replace=False))
    return rows.select(numbers), numbers


def _count_rows(files: Sequence[str | Path], suffix: str) -> int:
    """Return the number of rows; of text files, only whether there is a line after the header."""
    if suffix == ".parquet":
        return sum(pq.read_metadata(file).num_rows for file in files)
    return sum(len(_first_records(file, suffix, 2)) > 1 for file in files)


def _first_records(file: str | Path, suffix: str, count: int) -> list[list[str]]:
    with open(file, encoding="utf-8-sig", newline="") as opened, require_utf8(file):
        return list(itertools.islice(csv.reader(opened, delimiter=_SEPARATORS[suffix]), count))


def _csv_options(file: str | Path, suffix: str) -> dict[str, Any]:
    header = _first_records(file, suffix, 1)[0]
    features = Features({name: Value("string") for name in header})
    return {"sep": _SEPARATORS[suffix], "features": features, "keep_default_na": False}
