r"""Paths of the machine that a model was made on, in what a file says rather than in how it is written.

``"Q:\nfind"`` in JSON is a question and a new line, and ``"C:\\Users"`` is a path. So texts are decoded first: JSON
and YAML into values and keys, a template's escapes into what they stand for. What does not parse is read as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import yaml

_ROOTS = (
    "home|root|Users|mnt|media|tmp|var|opt|srv|data|workspace|scratch|work|private|Volumes"
    "|content|kaggle|lustre|gpfs|nfs"  # Colab, Kaggle, clusters
)
_PATH = re.compile(
    # The third line: a template has "Q:\nfind" within its strings, which is no path.
    rf"""(?<![\w./-])(?:/(?:{_ROOTS})|~)/[^\s"'`<>|)\]:,;]+
    | (?<![\w./-])[A-Za-z]:\\
        (?:[^\snrt"'`<>|]|[nrt][\w .-]*\\[^\snrt])[^\s"'`<>|)]*
    | (?<![^\s"'`(=])\\\\[\w.-]{{2,}}\\[\w$][^\s"'`<>|)]*
    | (?<!\w)file://[\w/][^\s"'`<>|)]*""",
    re.VERBOSE,
)
_VALUE = re.compile(rf"(?!/v\d)(?:/[\w.@+ -]+){{2,}}/?|/(?:{_ROOTS})/?|[A-Za-z]:\\[^\n]+")
"""What is a path if there is nothing else in a value; not ``/v1/embeddings``, which is a server's."""

_GENERIC = re.compile(r"(?:~|/root)/\.cache(?:/\w+(?:/hub)?)?/?")
"""Where everybody's cache is, as instructions say."""

_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


class _Text(NamedTuple):
    value: str
    line: int
    is_value: bool = False


def paths_in(text: str, suffix: str) -> dict[str, int]:
    """Absolute paths in a text, with the line that each is first on.

    Args:
        text: The file's contents.
        suffix: What it is: ``".json"``, ``".yaml"``, …; else prose.
    """
    found: dict[str, int] = {}
    for part in _parts(text, suffix):
        for path in _paths_of(part):
            found.setdefault(path, part.line)
    return found


def _paths_of(part: _Text) -> Iterator[str]:
    if part.is_value and _VALUE.fullmatch(part.value):
        paths = [part.value]
    else:
        paths = [match.group().rstrip(".,;:") for match in _PATH.finditer(part.value)]
    yield from (path for path in paths if not _GENERIC.fullmatch(path))


def _parts(text: str, suffix: str) -> list[_Text]:
    try:
        return sorted(_READERS.get(suffix, _lines)(text), key=lambda part: part.line)
    except (ValueError, RecursionError, yaml.YAMLError):
        return list(_lines(text))


def _lines(text: str) -> Iterator[_Text]:
    return (_Text(line, number) for number, line in enumerate(text.split("\n"), start=1))


def _json(text: str) -> Iterator[_Text]:
    """Keys and values; in what parses as JSON, quotes begin and end strings and nothing else."""
    json.loads(text)
    line, at = 1, 0
    for match in _JSON_STRING.finditer(text):
        line, at = line + text.count("\n", at, match.start()), match.start()
        yield _Text(json.loads(match.group(), strict=False), line, is_value=True)


def _json_lines(text: str) -> Iterator[_Text]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield from (part._replace(line=number) for part in _json(line))


def _yaml(text: str) -> Iterator[_Text]:
    """Keys, values, and comments, which a parser passes over."""
    nodes, seen = list(yaml.compose_all(text, Loader=yaml.SafeLoader)), set()
    for node in nodes:  # which grows
        if node is None or id(node) in seen:  # an empty document, an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield _Text(node.value, node.start_mark.line + 1, is_value=True)
        elif isinstance(node, yaml.MappingNode):
            nodes += [each for pair in node.value for each in pair]
        else:
            nodes += node.value
    for number, line in enumerate(text.split("\n"), start=1):
        if comment := re.search(r"(?:^|\s)#.*", line):
            yield _Text(comment.group(), number)


def _template(text: str) -> Iterator[_Text]:
    """Lines, with a blank for an escaped one: the numbers of lines stay."""
    return (part._replace(value=_ESCAPE.sub(_unescaped, part.value)) for part in _lines(text))


_ESCAPE = re.compile(r"\\([nrt\\'\"])")


def _unescaped(escape: re.Match[str]) -> str:
    return " " if escape[1] in "nrt" else escape[1]


_READERS: dict[str, Callable[[str], Iterator[_Text]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".jinja": _template,
}
