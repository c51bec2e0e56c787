"""Full weights whose names `AutoModel` misreads.

A file with the generative Qwen2-VL's own names keeps the vision tower under ``model.visual``. The generative class
reads it; `AutoModel` (seen in transformers 5.23) takes those tensors for parts of the language model, starts with a
random vision tower, and only logs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import load_file_path

_MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")
_MAPPING = {r"^model\.visual\.": "visual."}


def load_renamed(path: str, options: dict[str, Any], hub_kwargs: dict[str, Any]) -> SentenceTransformer:
    """Load a model with Sentence Transformers, whichever of the two ways its vision tower is named.

    Args:
        path: Folder or Hub id.
        options: Keyword arguments of `SentenceTransformer`.
        hub_kwargs: Those of them that say which files are meant: ``revision``, ``token``, …
    """
    if not any(name.startswith("model.visual.") for name in _names(path, hub_kwargs)):
        return SentenceTransformer(path, **options)
    model_kwargs = {**(options.get("model_kwargs") or {}), "key_mapping": _MAPPING}
    model = SentenceTransformer(path, **{**options, "model_kwargs": model_kwargs})
    # What transformers remembers of the names it would give back when it saves, and others would misread them.
    model[0].model.__dict__.pop("_weight_conversions", None)
    return model


def _names(path: str, hub_kwargs: dict[str, Any]) -> Iterable[str]:
    """The names of a Qwen2-VL's tensors; of another model, none."""
    config = load_file_path(path, "config.json", **hub_kwargs)
    if not config or json.loads(Path(config).read_text(encoding="utf8")).get("model_type") not in _MODEL_TYPES:
        return ()
    if index := load_file_path(path, "model.safetensors.index.json", **hub_kwargs):
        return json.loads(Path(index).read_text(encoding="utf8"))["weight_map"]
    if weights := load_file_path(path, "model.safetensors", **hub_kwargs):
        with safe_open(weights, framework="pt") as file:
            return file.keys()
    return ()
