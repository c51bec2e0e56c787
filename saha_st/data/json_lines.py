"""Read JSON lines to the letter, whatever mixture of cells a column holds.

Typed readers guess what a column holds: a caption "2024-01-01" becomes a date, and a column in which some cells are
strings and some are objects becomes opaque. Here a string is text, an object with "image" and "text" is a cell, and a
column that has both kinds holds cells. The file is read twice, once for the types and once for the rows.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset, Features, Value

logger = logging.getLogger(__name__)

_PARTS = {"image": Value("string"), "text": Value("string")}
_RULES = 1  # part of the key under which datasets caches the rows: raise it whenever a rule here changes


@contextmanager
def require_utf8(path: str | Path) -> Iterator[None]:
    """Name the file in the error where the text that is read from it is not UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8.") from None


def read_json_lines(files: Sequence[str | Path], *, cache_dir: str | None = None) -> Dataset:
    """Read files with one JSON object a line, or one array of objects.

    Args:
        files: The files, of the same columns; a column that an object lacks is null there.
        cache_dir: Folder of the datasets cache.

    Returns:
        Columns of strings, numbers, and structs of the strings "image" and "text". Other columns are left out.

    Raises:
        ValueError: A line or an element is no JSON object (with the file and its number), the text is not UTF-8, or
            there are no rows.
    """
    paths = [str(file) for file in files]
    kinds: dict[str, set[str]] = {}
    for row in _rows(paths):
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
    features = {
        name: feature for name, found in kinds.items() if (feature := _feature(found - {"nothing"})) is not None
    }
    if not kinds:
        raise ValueError(f"{paths[0]} has no rows.")
    for name in kinds.keys() - features.keys():
        logger.warning("%s: column %r holds %s and is left out", paths[0], name, " and ".join(sorted(kinds[name])))
    cells = tuple(name for name, feature in features.items() if feature == _PARTS)
    states = tuple((path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in paths)
    arguments = {"states": states, "names": tuple(features), "cells": cells, "rules": _RULES}
    return Dataset.from_generator(_read, Features(features), cache_dir=cache_dir, gen_kwargs=arguments)


def _read(
    states: tuple[tuple[str, int, int], ...], names: tuple[str, ...], cells: tuple[str, ...], rules: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows; size and time of each file are arguments because they make the key of the datasets cache."""
    for row in _rows([path for path, _, _ in states]):
        for name in cells:
            if isinstance(row.get(name), str):
                row[name] = {"text": row[name]}
        yield {name: row.get(name) for name in names}


def _rows(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for place, text in _objects(path):
            try:
                row = json.loads(text) if isinstance(text, str) else text
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, {place}: not JSON ({error.msg}, column {error.colno}).") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, {place}: expected an object, found {_kind(row)}.")
            yield row


def _objects(path: str) -> Iterator[tuple[str, Any]]:
    """Yield the place and the text of each line, or the place and the value of each element of an array."""
    with open(path, encoding="utf-8-sig") as opened, require_utf8(path):
        start = opened.read(1)
        opened.seek(0)
        if start == "[":
            yield from ((f"element {number}", value) for number, value in enumerate(_array(path, opened), start=1))
        else:
            yield from ((f"line {number}", text) for number, text in enumerate(opened, start=1) if text.strip())


def _array(path: str, opened: TextIO) -> list[Any]:
    try:
        return json.load(opened)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno}).") from None


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        parts = set(value) <= set(_PARTS) and all(each is None or isinstance(each, str) for each in value.values())
        return "cells" if parts else f"objects with the keys {sorted(value)}"
    names = {type(None): "nothing", str: "strings", bool: "truth values", int: "integers", float: "numbers"}
    return names.get(type(value), "lists")


def _feature(kinds: set[str]) -> Any:
    """Return the feature of a column that holds these kinds, or `None` if there is none for such a mixture."""
    if kinds <= {"strings"}:
        return Value("string")
    if kinds <= {"strings", "cells"}:
        return dict(_PARTS)
    if kinds <= {"integers", "numbers"}:
        return Value("float64" if "numbers" in kinds else "int64")
    return None
