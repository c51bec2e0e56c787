"""MMEB's rows as pairs to train on, and as queries with candidates to score. The only file with its column names.

Training rows become `anchor` and `positive`; evaluation rows become `query` and `candidates`, of which the first is
the truth. Images are referred to by path, and their files looked for before anything else happens, but never opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from saha_st.data.cells import CELL_FEATURE, cells_from_parts, images_from_paths
from saha_st.data.image_files import choose_root, join_root, require_image_files, sample_paths
from saha_st.data.mmeb.placeholders import remove_placeholder

logger = logging.getLogger(__name__)

# our column: MMEB's columns of texts and of image paths
_PAIR = {"anchor": ("qry", "qry_image_path"), "positive": ("pos_text", "pos_image_path")}
_NEGATIVE = {"negative": ("neg_text", "neg_image_path")}
_QUERY = {"query": ("qry_text", "qry_img_path")}
_CANDIDATES = {"candidates": ("tgt_text", "tgt_img_path")}
_RULES = 1  # part of the key under which datasets caches converted rows: raise it whenever a rule here changes

CANDIDATES_FEATURE = List({"image": Value("string"), "text": Value("string")})
"""Candidates keep their images as paths: a row may have a thousand, and reading the row must not open them."""

Roots = Sequence[Path] | Callable[[], Sequence[Path]]


def is_mmeb_pairs(column_names: Sequence[str]) -> bool:
    """Tell whether these are the columns of MMEB's (and VLM2Vec's) training data."""
    return {name for names in _PAIR.values() for name in names} <= set(column_names)


def mmeb_pairs(
    rows: Dataset,
    image_roots: Roots,
    *,
    source: str = "The dataset",
    row_numbers: Sequence[int] | None = None,
    negatives: bool = False,
    check_files: bool = True,
    allow_urls: bool = False,
) -> Dataset:
    """Turn rows with MMEB's training columns into pairs.

    Args:
        rows: The rows as they are stored.
        image_roots: The folders that the image paths may be relative to; the one in which most of the first
            paths exist is taken for all. Or a function that returns them, called only if there is an image.
        source: What to call the rows in an error.
        row_numbers: The number of each row in the source, if the rows are a sample.
        negatives: As `load_mmeb`.
        check_files: Look for the file of every image.
        allow_urls: Accept images behind URLs.

    Returns:
        Columns `anchor`, `positive` and, if wanted and there in every row, `negative`.

    Raises:
        ValueError: Columns are missing, or there are no rows.
        FileNotFoundError: An image file is missing.
    """
    _require_columns(rows, _PAIR, source)
    roles = _PAIR | (_NEGATIVE if negatives and _has_negatives(rows, source) else {})
    root = _find_root(rows, roles, image_roots, row_numbers, check_files, allow_urls)
    features = Features({role: CELL_FEATURE for role in roles})
    return _convert(rows, _pair_table, features, root=root, roles=roles)


def mmeb_queries(
    rows: Dataset, image_roots: Roots, *, source: str = "The dataset", row_numbers: Sequence[int] | None = None
) -> Dataset:
    """Turn rows with MMEB's evaluation columns into queries with their candidates.

    Args:
        rows: As `mmeb_pairs`.
        image_roots: As `mmeb_pairs`.
        source: As `mmeb_pairs`.
        row_numbers: As `mmeb_pairs`.

    Returns:
        Columns `query` and `candidates`, as `load_mmeb_eval` describes them.

    Raises:
        ValueError: Columns are missing, there are no rows, or a row's candidates are none or ill-matched.
        FileNotFoundError: An image file is missing.
    """
    _require_columns(rows, _QUERY | _CANDIDATES, source)
    if "qry_inst" in rows.column_names:
        raise ValueError(
            f"{source} keeps its instructions in a column of their own ('qry_inst'), as MMEB_Test_Instruct does, and "
            "would be encoded without them. Load TIGER-Lab/MMEB-eval."
        )
    _require_candidates(rows, source, row_numbers)
    root = _find_root(rows, _QUERY | _CANDIDATES, image_roots, row_numbers, check_files=True)
    features = Features({"query": CELL_FEATURE, "candidates": CANDIDATES_FEATURE})
    return _convert(rows, _query_table, features, root=root, batch_size=64)


def split_candidates(dataset: Dataset) -> tuple[Dataset, list[np.ndarray]]:
    """Separate the candidates of all rows into distinct documents and, for each row, which of them are its candidates.

    Args:
        dataset: What `load_mmeb_eval` returns for a subset.

    Returns:
        The distinct documents in order of appearance, as a dataset with the column `document` (struct of "image" and
        "text"), and for each row an array of shape (candidates,) of document indices, the truth first.
    """
    index: dict[tuple[str | None, str | None], int] = {}
    rows = []
    for batch in dataset.select_columns("candidates").with_format("arrow").iter(batch_size=64):
        for candidates in batch.column("candidates").to_pylist():
            found = [index.setdefault((each["image"], each["text"]), len(index)) for each in candidates]
            rows.append(np.array(found, dtype=np.int64))
    images, texts = (
        images_from_paths([image for image, _ in index]),
        pa.array([text for _, text in index], pa.string()),
    )
    documents = Dataset(pa.table({"document": cells_from_parts(images, texts)}))
    return documents.cast(Features({"document": CELL_FEATURE})), rows


def _require_columns(rows: Dataset, roles: Mapping[str, tuple[str, str]], source: str) -> None:
    wanted = [name for names in roles.values() for name in names]
    if missing := [name for name in wanted if name not in rows.column_names]:
        other = "load_mmeb_eval" if roles is _PAIR else "load_mmeb"
        hint = f" It may be the other half of MMEB: try {other}." if len(missing) > 1 else ""
        raise ValueError(f"{source} lacks the columns {missing}; it has {rows.column_names}.{hint}")
    if len(rows) == 0:
        raise ValueError(f"{source} has no rows.")


def _has_negatives(rows: Dataset, source: str) -> bool:
    """Tell whether every row has a negative: trainers need a column to be there for all rows or for none."""
    columns = _NEGATIVE["negative"]
    if not set(columns) <= set(rows.column_names):
        return False
    table = rows.select_columns(list(columns)).with_format("arrow")[:]
    there = [pc.fill_null(pc.not_equal(table.column(name), ""), False) for name in columns]
    without = len(rows) - (pc.sum(pc.or_(*there)).as_py() or 0)
    if without:
        logger.info("%s: %d of %d rows have no negative; the column is left out", source, without, len(rows))
    return not without


def _require_candidates(rows: Dataset, source: str, row_numbers: Sequence[int] | None) -> None:
    table = rows.select_columns(list(_CANDIDATES["candidates"])).with_format("arrow")[:]
    texts, paths = (np.asarray(pc.fill_null(pc.list_value_length(column), 0)) for column in table.itercolumns())
    if bad := np.flatnonzero((texts != paths) | (texts == 0)).tolist():
        row = bad[0] if row_numbers is None else row_numbers[bad[0]]
        counts = f"{texts[bad[0]]} texts and {paths[bad[0]]} image paths"
        raise ValueError(
            f"{source}, row {row}: {counts} of candidates; needed are equally many, at least one (the truth)."
        )


def _find_root(
    rows: Dataset,
    roles: Mapping[str, tuple[str, str]],
    image_roots: Roots,
    row_numbers: Sequence[int] | None,
    check_files: bool,
    allow_urls: bool = False,
) -> Path | None:
    """Return the folder that the image paths are relative to, or `None` without images; see that all are there."""
    columns = [paths for _, paths in roles.values()]
    paths = sample_paths(rows, columns)
    if not paths:
        return None
    roots = image_roots() if callable(image_roots) else image_roots
    root = choose_root(roots, paths)
    if check_files:
        looked = " or ".join(str(each) for each in roots)
        remedy = f"Looked in {looked}; pass image_root=<the folder that the image paths are relative to>."
        require_image_files(rows, columns, root, remedy=remedy, rows=row_numbers, allow_urls=allow_urls)
    return root


def _convert(
    rows: Dataset, function: Callable[..., pa.Table], features: Features, *, batch_size: int = 1000, **options: Any
) -> Dataset:
    options["root"] = None if options["root"] is None else str(options["root"])
    converted = rows.with_format("arrow").map(
        function,
        batched=True,
        batch_size=batch_size,
        fn_kwargs=options | {"rules": _RULES},
        remove_columns=rows.column_names,
        features=features,
        desc="Reading MMEB",
    )
    return converted.with_format(None)


def _pair_table(
    batch: pa.Table, *, root: str | None, roles: Mapping[str, tuple[str, str]], rules: int = _RULES
) -> pa.Table:
    columns = {}
    for role, (text_column, path_column) in roles.items():
        paths, texts = _parts(batch.column(text_column), batch.column(path_column), root)
        columns[role] = cells_from_parts(images_from_paths(paths), pa.array(texts, pa.string()))
    return pa.table(columns)


def _query_table(batch: pa.Table, *, root: str | None, rules: int = _RULES) -> pa.Table:
    texts, paths = (batch.column(name).combine_chunks() for name in _CANDIDATES["candidates"])
    images, words = _parts(texts.flatten(), paths.flatten(), root)
    arrays = [pa.array(images, pa.string()), pa.array(words, pa.string())]
    offsets = pa.array(np.r_[0, np.cumsum(pc.list_value_length(texts))], pa.int32())
    candidates = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, names=["image", "text"]))
    queries = _pair_table(batch, root=root, roles=_QUERY)
    return queries.append_column("candidates", candidates)


def _parts(texts: Any, paths: Any, root: str | None) -> tuple[list[str | None], list[str | None]]:
    """Return full image paths and cleaned texts; MMEB writes "" for what is not there."""
    images = [join_root(root, path) if path else None for path in paths.to_pylist()]
    return images, [_text(text, image is not None) for text, image in zip(texts.to_pylist(), images, strict=True)]


@lru_cache(maxsize=1 << 16)  # the candidates of a subset are the same few labels, a thousand times each
def _text(text: str | None, has_image: bool) -> str | None:
    text = remove_placeholder(text or "", has_image=has_image)
    return None if has_image and not text.strip() else text
