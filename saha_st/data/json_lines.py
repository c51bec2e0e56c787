"""Read JSON lines to the letter, whatever mixture of cells a column holds.

Typed readers guess what a column holds: a caption "2024-01-01" becomes a date, and a column in which some cells are
strings and some are objects becomes opaque. Here a string is text, an object with "image", "video" and "text" is a
cell, and a column that has both kinds holds cells. A video is a path or a list of the paths of its frames. The file is
read twice, once for the types and once for the rows.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset, Features, List, Value

logger = logging.getLogger(__name__)

_PARTS = {"image": Value("string"), "text": Value("string")}
_VIDEO = {"strings": Value("string"), "lists of strings": List(Value("string"))}
_RULES = 2  # part of the key under which datasets caches the rows: raise it whenever a rule here changes


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
        Columns of strings, numbers, and structs of the strings "image" and "text", and of "video" if a cell has one:
        a string or a list of strings. A column named "video" or "..._video" may hold lists of strings. Other columns
        are left out.

    Raises:
        ValueError: A line or an element is no JSON object (with the file and its number), the text is not UTF-8, or
            there are no rows.
    """
    paths = [str(file) for file in files]
    kinds: dict[str, set[str]] = {}
    videos: dict[str, set[str]] = {}  # kinds of the parts "video" of each column
    for row in _rows(paths):
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
            if isinstance(value, dict) and value.get("video") is not None:
                videos.setdefault(name, set()).add(_kind(value["video"]))
    found = {name: _feature(name, found - {"nothing"}, videos.get(name, set())) for name, found in kinds.items()}
    features = {name: feature for name, feature in found.items() if feature is not None}
    if not kinds:
        raise ValueError(f"{paths[0]} has no rows.")
    for name in kinds.keys() - features.keys():
        if len(videos.get(name, ())) > 1:
            raise ValueError(
                f"{paths[0]}: column {name!r} gives some videos as paths and others as lists of frames. Give all of "
                "them in one way; the path of a folder stands for the frames in it."
            )
        logger.warning("%s: column %r holds %s and is left out", paths[0], name, " and ".join(sorted(kinds[name])))
    cells = tuple(name for name, feature in features.items() if isinstance(feature, dict))
    states = tuple((path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in paths)
    arguments = {"states": states, "names": tuple(features), "cells": cells, "rules": _RULES}
    return Dataset.from_generator(_read, Features(features), cache_dir=cache_dir, gen_kwargs=arguments)


def read_json_rows(file: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file as they stand: one a line, or one array of objects.

    Raises:
        ValueError: As `read_json_lines`.
    """
    return _rows([str(file)])


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
        return "cells" if _is_cell(value) else f"objects with the keys {sorted(value)}"
    if isinstance(value, list) and any(value) and all(item is None or isinstance(item, str) for item in value):
        return "lists of strings"
    names = {type(None): "nothing", str: "strings", bool: "truth values", int: "integers", float: "numbers"}
    return names.get(type(value), "lists")


def _is_cell(value: dict[str, Any]) -> bool:
    texts = [part for name, part in value.items() if name != "video"]
    has_texts = set(value) <= {*_PARTS, "video"} and all(each is None or isinstance(each, str) for each in texts)
    return has_texts and _kind(value.get("video")) in {"nothing", *_VIDEO}


def _feature(name: str, kinds: set[str], videos: set[str]) -> Any:
    """Return the feature of a column that holds these kinds, or `None` if there is none for such a mixture.

    Args:
        name: Name of the column.
        kinds: Kinds of its cells.
        videos: Kinds of their parts "video".
    """
    if kinds <= {"strings"}:
        return Value("string")
    if kinds <= {"strings", "cells"}:
        if len(videos) > 1:
            return None
        return dict(_PARTS) if not videos else _PARTS | {"video": _VIDEO[next(iter(videos))]}
    if kinds <= {"lists of strings"} and name.split("_")[-1] == "video":
        return List(Value("string"))
    if kinds <= {"integers", "numbers"}:
        return Value("float64" if "numbers" in kinds else "int64")
    return None
