"""Read what rows are in truth about, apart from the pairs: it judges what was mined, and no model may see it.

A column of the rows themselves, whatever it is called; or, of the generated benchmarks, whose files must not have it,
the column ``concept``, which stands in ``concepts.json`` beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from datasets import ClassLabel, Dataset

from saha_st.data.mmeb.files import open_mmeb
from saha_st.data.mmeb.subsets import MMEB_TRAIN_SUBSETS, pick_subsets
from saha_st.data.scenes.mini_mmeb import concepts_of
from saha_st.data.sources import open_rows
from saha_st.data.tables import draw_rows

CONCEPT = "concept"


def load_truth(
    column: str,
    path: str | Path,
    *,
    format: Literal["pairs", "mmeb"] = "pairs",
    subset: str | None = None,
    split: str | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> list[Any]:
    """Read one value a row, for the rows that `load_pairs` or `load_mmeb` return with the same arguments.

    Args:
        column: The column; ``concept`` is known of generated benchmarks.
        path: As `load_pairs`, or `load_mmeb`.
        format: ``"mmeb"`` for the layout of TIGER-Lab/MMEB-train.
        subset: As `load_pairs`; the MMEB subset, which may be left out where there is one.
        split: As they do; None: ``train``, for MMEB ``diverse_instruction``.
        max_rows: As they do.
        seed: As they do.

    Returns:
        The values; None for a row without. As `truth_values`.

    Raises:
        ValueError: There is no such column.
    """
    if format == "mmeb":
        table, name, folder, subset = _mmeb_rows(path, subset, split or "diverse_instruction")
    else:
        rows = open_rows(path, split=split or "train", subset=subset)
        table, name, folder, subset = rows.table, rows.name, Path(path).parent, Path(path).stem
    if column == CONCEPT and column not in table.column_names:
        table = _concepts(table, name, folder, subset)
    if column not in table.column_names:
        raise ValueError(f"truth_column: {name} has no column {column!r}; it has {', '.join(table.column_names)}.")
    return truth_values(draw_rows(table.select_columns([column]), max_rows, seed)[0], column)


def truth_values(dataset: Dataset, column: str) -> list[Any]:
    """Read a column; -1 among class labels, which is how `datasets` says that a row has none, is None."""
    values = dataset.with_format(None)[column][:]
    if isinstance(dataset.features[column], ClassLabel):
        return [None if value == -1 else value for value in values]
    return list(values)


def _mmeb_rows(path: str | Path, subset: str | None, split: str) -> tuple[Dataset, str, Path, str]:
    """The rows as they are stored, what to call them, and where they come from."""
    archive = "images_zip/{subset}.zip"
    files = open_mmeb(path, known_subsets=MMEB_TRAIN_SUBSETS, archive=archive, revision=None, cache_dir=None)
    names = pick_subsets(subset, files.subsets(), source=str(files))
    if len(names) > 1:
        raise ValueError(f"{str(path)!r} has {len(names)} subsets; choose one: {names}.")
    return files.rows(names[0], split), f"{files}, subset {names[0]!r},", Path(path), names[0]


def _concepts(table: Dataset, name: str, folder: Path, subset: str) -> Dataset:
    """The concepts beside rows of a generated benchmark, as a column."""
    try:
        concepts = concepts_of(folder, subset)
    except (FileNotFoundError, ValueError) as error:
        found = ", ".join(table.column_names)
        raise ValueError(f"truth_column: {name} has no column {CONCEPT!r}; it has {found}. {error}") from error
    if len(concepts) != len(table):
        raise ValueError(f"truth_column: there are {len(concepts)} concepts for {len(table)} rows of {name}.")
    return Dataset.from_dict({CONCEPT: concepts})
