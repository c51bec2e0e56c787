"""Read back from a card what only people know of a model; all else is rendered anew."""

from __future__ import annotations

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

_ABOUT = re.compile(r"<!-- about -->\n(.*?)\n<!-- /about -->", re.DOTALL)
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
    return stated | ({"about": about[1]} if about else {})
