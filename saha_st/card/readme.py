"""Read back from a card what its folder does not tell otherwise; all else is rendered anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

TAGS = (
    "sentence-transformers",
    "sentence-similarity",
    "feature-extraction",
    "dense",
    "image-text-to-text",
    "multimodal-embedding",
    "saha",
)
"""Tags of every embedder of ours."""

TRAINED = "generated_from_trainer"
"""The tag that Sentence Transformers' trainer sets."""

STATED = ("license", "license_name", "license_link", "language", "base_model", "base_model_relation")
"""Fields of the front matter that are taken over."""

_NOTED = ("model_name", "base_model", "base_model_revision", "adapter")
"""Fields that the front matter has no place for: a base model only if it is not on the Hub."""

_ABOUT = re.compile(r"<!-- about -->\n(.*?)\n<!-- /about -->", re.DOTALL)
_NOTE = re.compile(r"^<!-- noted: (\{.*\}) -->$", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---\s*?(\n|$)", re.DOTALL)


def stated_in(readme: Path) -> dict[str, Any]:
    """Return fields of `SaHaModelCardData`; a card whose front matter is missing, or no YAML, states nothing."""
    text = readme.read_text(encoding="utf8") if readme.is_file() else ""
    found, about = _FRONT_MATTER.match(text), _ABOUT.search(text)
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        values = {}
    values = values if isinstance(values, dict) else {}
    # Elsewhere lists occur, of several base models or licences: this card has a place for one.
    stated = {name: values[name] for name in STATED if isinstance(values.get(name), str)}
    if isinstance(values.get("language"), list):
        stated["language"] = [str(each) for each in values["language"]]
    if TRAINED in (values.get("tags") or ()):
        stated["tags"] = [*TAGS, TRAINED]
    noted = _noted_in(text)
    if stated.get("base_model", noted.get("base_model")) != noted.get("base_model"):  # somebody stated another one
        noted.pop("base_model_revision", None)
    return noted | stated | ({"about": about[1]} if about else {})


def hidden_note(data: Any) -> str:
    """Return a comment that holds the fields of a `SaHaModelCardData` that would be lost, '' if there are none."""
    fields = {name: value for name in _NOTED if (value := getattr(data, name))}
    text = json.dumps(fields, ensure_ascii=False).replace(">", "\\u003e")  # which would end the comment
    return f"<!-- noted: {text} -->" if fields else ""


def _noted_in(text: str) -> dict[str, str]:
    """Return what the last note says: those before may be within texts of a prompt."""
    try:
        values = json.loads(_NOTE.findall(text)[-1])
    except (IndexError, ValueError):
        return {}
    return {name: values[name] for name in _NOTED if isinstance(values.get(name), str)}
