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

_FIELDS = [field.name for field in fields(HierarchicalPrompt)]
_KEYS = ["name", *_FIELDS]


def read_prompts(path: str | Path) -> dict[str, HierarchicalPrompt]:
    """Read named prompts from a YAML or JSON file.

    The file holds a list of mappings, each with a ``name`` and the fields of `HierarchicalPrompt`: ``system``,
    ``query_suffix``, ``document_suffix``. What a prompt does not name, it does not have: unlike in Python, nothing is
    filled in from the paper.

    Args:
        path: The file.

    Returns:
        The prompts by name, in the order of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No YAML, no list of mappings, or a prompt with an unknown field, without a name, with a name that
            is taken, or with a text that `HierarchicalPrompt` refuses; the message names the prompt and the field.
    """
    import yaml

    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf8"))  # JSON is YAML
    except FileNotFoundError:
        raise FileNotFoundError(f"--sweep: there is no file {str(path)!r}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not valid YAML or JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{str(path)!r} must hold a list of prompts, each with a name and any of {', '.join(_FIELDS)}; got "
            f"{type(entries).__name__}."
        )
    found: dict[str, HierarchicalPrompt] = {}
    for number, entry in enumerate(entries, start=1):
        name = _name_of(entry, number, path)
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


def as_entry(name: str, prompt: HierarchicalPrompt) -> dict[str, Any]:
    """Return a prompt as `read_prompts` reads it, shortest form."""
    return {"name": name} | {field: value for field, value in prompt.to_dict().items() if value is not None}


def as_python(prompt: HierarchicalPrompt) -> str:
    """Return the Python expression that makes a prompt."""
    parts = [f"{name}={_python(value)}" for name, value in prompt.to_dict().items()]
    return f"HierarchicalPrompt({', '.join(parts)})"


def _python(value: Any) -> str:
    """A text or a suffix as Python; one text for both modalities is written once."""
    if isinstance(value, dict) and len(set(value.values())) == 1:
        value = value["text"]
    return "None" if value is None else json.dumps(value, ensure_ascii=False)


def _name_of(entry: Any, number: int, path: str | Path) -> str:
    where = f"{str(path)!r}, prompt {number}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: must be a mapping with a name and any of {', '.join(_FIELDS)}; got {entry!r}.")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{where}: name must be a non-empty string, got {name!r}.")
    return name


def _prompt_of(entry: Mapping[str, Any], where: str) -> HierarchicalPrompt:
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(_KEYS)}."
            raise ValueError(f"{where}: unknown field {key!r}; {hint}")
    texts = {name: entry.get(name) for name in _FIELDS}
    for name in _FIELDS:
        if not isinstance(texts[name], str | Mapping | None):
            raise ValueError(f"{where}: {name} must be a text, or null for none; got {texts[name]!r}.")
    try:
        return HierarchicalPrompt(**texts)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
