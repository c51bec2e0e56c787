"""The module for mteb's repository: written from the template, and taken through the checks that mteb's tests make.

The file has to work where `saha_st` is not installed, so it carries an encoder of its own with the meaning of
`saha_st.evaluation.Embedder`; a test holds the two against each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import mteb
from jinja2 import Environment, StrictUndefined
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ModelMeta

from saha_st.evaluation.submission.mteb_meta import MetaFields, require_task

FOLDER = Path("mteb") / "models" / "model_implementations"
"""Where mteb keeps such modules."""


def render(template: str, **values: Any) -> str:
    """Fill one of the templates beside this file."""
    environment = Environment(  # nothing of it is HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["python"] = as_python
    text = (resources.files("saha_st.evaluation.submission") / template).read_text("utf8")
    return environment.from_string(text).render(values)


def write_module(root: Path, found: MetaFields) -> Path:
    """Write the module below a folder that stands for mteb's repository; returns the file."""
    path = root / FOLDER / f"{found.slug}_models.py"
    path.parent.mkdir(parents=True)
    values = {each.name: getattr(found, each.name) for each in fields(found)}
    path.write_text(render("mteb_module.py.jinja", slug=found.slug, **values), encoding="utf8")
    return path


def import_module(path: Path) -> ModuleType:
    """Run the file of a module, leaving nothing behind: neither in `sys.modules` nor as bytecode beside it."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(path.read_text("utf8"), str(path), "exec"), module.__dict__)
    return module


def check_meta(meta: ModelMeta) -> None:
    """Do what the tests of mteb and of its results repository do with metadata, as far as they are filled.

    Raises:
        ValueError: A check that fails: mteb would not take the module.
    """
    meta._validate_extras_groups(meta._resolve_extras_groups())
    if meta.name == meta.adapted_from:
        raise ValueError(f"adapted_from: {meta.name!r} cannot be adapted from itself.")
    if meta.n_embedding_parameters is None:
        raise ValueError("n_embedding_parameters: mteb wants it of all models with open weights.")
    for task in meta.training_datasets or ():
        require_task(task)
    if meta.training_datasets and meta.is_zero_shot_on(sorted(meta.training_datasets)):
        raise ValueError("training_datasets: mteb takes the model for zero-shot on the tasks that it was trained on.")
    with _registered(meta):
        if mteb.get_model_meta(meta.name, meta.revision).loader is not meta.loader:
            raise ValueError(f"{meta.name}: mteb does not find the loader again.")
        again = ModelMeta.model_validate_json_resolved(json.dumps(meta.to_dict()))
    changed = [name for name in type(meta).model_fields if name != "loader" and _differ(meta, again, name)]
    if changed or again.loader is None:
        raise ValueError(f"{meta.name}: model_meta.json does not give back {changed or ['loader']}.")


def as_python(value: Any) -> str:
    """Write a value as ruff would: double quotes unless that means escapes, groups of three digits."""
    if isinstance(value, str):
        return repr(value) if '"' in value else json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_python(key)}: {as_python(each)}" for key, each in value.items()) + "}"
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def _differ(meta: ModelMeta, again: ModelMeta, name: str) -> bool:
    before, after = getattr(meta, name), getattr(again, name)
    return set(before) != set(after) if isinstance(before, set) else before != after


@contextmanager
def _registered(meta: ModelMeta) -> Iterator[None]:
    """Let mteb know a model, as if the module were in its package already.

    It comes first: mteb looks up loaders by name, and takes the first.
    """
    others = dict(MODEL_REGISTRY)
    MODEL_REGISTRY.clear()
    MODEL_REGISTRY.update({meta.name: meta} | {name: each for name, each in others.items() if name != meta.name})
    try:
        yield
    finally:
        MODEL_REGISTRY.clear()
        MODEL_REGISTRY.update(others)
