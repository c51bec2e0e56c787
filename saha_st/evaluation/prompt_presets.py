"""Prompts to compare: the parts of the hierarchical prompt by themselves, and a user's own from a file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from saha_st.prompts import SYSTEM, HierarchicalPrompt

PRESETS: Mapping[str, HierarchicalPrompt] = {
    "none": HierarchicalPrompt(system=None, query_suffix=None),
    "system": HierarchicalPrompt(query_suffix=None),
    "user": HierarchicalPrompt(system=None),
    "both": HierarchicalPrompt(),
    "user-turn": HierarchicalPrompt(system=None, query_suffix=f"\n{SYSTEM}", document_suffix=f"\n{SYSTEM}"),
}
"""No prompt (the chat template as it comes), each of the paper's two levels alone, both as in the paper, and the words
of the system level at the end of every user turn instead."""

AS_LOADED = "as loaded"
"""The name of no prompt of a user's: the model with its own, untouched."""

_FIELDS = [field.name for field in fields(HierarchicalPrompt)]
_KEYS = ["name", *_FIELDS]


def read_prompts(path: str | Path) -> dict[str, HierarchicalPrompt]:
    """Read named prompts from a YAML or JSON file.

    The file holds a list of mappings, each with a ``name`` and the fields of `HierarchicalPrompt`: ``system``,
    ``query_suffix``, ``document_suffix``. What a prompt does not name, it does not have: unlike in Python, nothing is
    filled in from the paper.

    Args:
        path: The file; JSON if it ends in ``.json`` or is JSON, else YAML.

    Returns:
        The prompts by name, without blanks around it, in the order of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Neither YAML nor JSON, no list of mappings, or a prompt with a field that is unknown or stands
            twice, without a name, with a name that is taken or breaks a table, or with a text that
            `HierarchicalPrompt` refuses; the message names the prompt and the field.
    """
    entries = _parse(Path(path))
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{str(path)!r} must hold a list of prompts, each with a name and any of {', '.join(_FIELDS)}; got "
            f"{'an empty list' if entries == [] else type(entries).__name__}."
        )
    found: dict[str, HierarchicalPrompt] = {}
    for number, entry in enumerate(entries, start=1):
        name = _name_of(entry, f"{str(path)!r}, prompt {number}")
        if name in found:
            raise ValueError(f"{str(path)!r}, prompt {number}: the name {name!r} is taken; give each its own.")
        found[name] = _prompt_of(entry, f"{str(path)!r}, prompt {name!r}")
    return found


def choose_prompts(names: Sequence[str], own: Mapping[str, HierarchicalPrompt]) -> dict[str, HierarchicalPrompt]:
    """Return presets and a user's own prompts together, presets first.

    Args:
        names: Names of `PRESETS`.
        own: What `read_prompts` returned.

    Raises:
        ValueError: One name for two different prompts.
    """
    chosen = {name: PRESETS[name] for name in names}
    for name, prompt in own.items():
        if chosen.get(name, prompt) != prompt:
            raise ValueError(
                f"The prompt {name!r} of the file is another one than the preset {name!r}. Rename it, or leave the "
                "preset out (--presets)."
            )
    return chosen | dict(own)


def as_entry(name: str, prompt: HierarchicalPrompt | None) -> dict[str, Any]:
    """Return a prompt as `read_prompts` reads it, shortest form; ``as_loaded`` for None, what a model comes with."""
    if prompt is None:
        return {"name": name, "as_loaded": True}
    return {"name": name} | {field: value for field, value in prompt.to_dict().items() if value is not None}


def as_python(prompt: HierarchicalPrompt) -> str:
    """Return the Python expression that makes a prompt."""
    parts = [f"{name}={_python(value)}" for name, value in prompt.to_dict().items()]
    return f"HierarchicalPrompt({', '.join(parts)})"


def as_yaml(prompt: HierarchicalPrompt | None, **options: Any) -> str:
    """Return YAML of a run's config: the prompt, None for what the model comes with, after other keys."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes what has breaks and other marks that are not seen in quotes, with escapes."""

    def written(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')

    Dumper.add_representer(str, written)
    values = options | {"prompt": None if prompt is None else prompt.to_dict()}
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))


def _python(value: Any) -> str:
    """A text or a suffix as Python; one text for both modalities is written once."""
    if isinstance(value, dict) and len(set(value.values())) == 1:
        value = value["text"]
    return "None" if value is None else json.dumps(value, ensure_ascii=False)


def _parse(path: Path) -> Any:
    """The values of a file of JSON or, if it is none, of YAML: PyYAML refuses JSON's tabs, and breaks its emoji."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"--sweep: there is no file {str(path)!r}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not valid YAML or JSON: {error}") from error
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        if path.suffix.lower() == ".json":
            raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r}: {error}.") from error
    return _parse_yaml(text, path)


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice in a mapping, of which stock YAML keeps the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            pairs = [(key.value, value.value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
            try:
                _without_twins(pairs)
            except ValueError as error:
                raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:  # whose own words take several lines
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{str(path)!r} is not valid YAML or JSON: {error.problem}{place}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise ValueError(f"{str(path)!r} is not valid YAML or JSON: {' '.join(str(error).split())}.") from error


def _without_twins(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of these pairs; refuses a key that stands there twice."""
    keys, values = [key for key, _ in pairs], dict(pairs)
    if twins := [key for key in values if keys.count(key) > 1]:
        of = f" of the prompt {values['name']!r}" if "name" in values else ""
        raise ValueError(f"the field {twins[0]!r}{of} stands there twice")
    return values


def _name_of(entry: Any, where: str) -> str:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: must be a mapping with a name and any of {', '.join(_FIELDS)}; got {entry!r}.")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{where}: name must be a non-empty string, got {name!r}; YAML may want it in quotes.")
    name = name.strip()
    if not name.isprintable() or set("|`") & set(name):
        raise ValueError(f"{where}: the name {name!r} has a line break, a |, a ` or a mark that cannot be printed.")
    if name == AS_LOADED:
        raise ValueError(f"{where}: the name {name!r} is kept for the model with its own prompt; choose another.")
    return name


def _prompt_of(entry: Mapping[str, Any], where: str) -> HierarchicalPrompt:
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(_KEYS)}."
            raise ValueError(f"{where}: unknown field {key!r}; {hint}")
    texts = {name: entry.get(name) for name in _FIELDS}
    for name, value in texts.items():
        if not isinstance(value, str | Mapping | None):
            raise ValueError(f"{where}: {name} must be a text, or null for none; got {value!r}.")
        for text in value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(text, str) and any("\ud800" <= mark <= "\udfff" for mark in text):
                raise ValueError(f"{where}: {name} has half a character, an escape \\uD800 to \\uDFFF: {text!r}.")
    try:
        return HierarchicalPrompt(**texts)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
