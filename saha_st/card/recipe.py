"""A run's config as one may publish it: it still reads as a config, and names nothing of the machine it ran on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_OF_THIS_MACHINE = {"cache_folder", "cache_dir", "logging_dir", "resume_from_checkpoint", "local_files_only"}
_SECRET = re.compile(r"(^|_)(token|password|secret|api_key)$")
_PATHS = {"model", "path", "image_root", "output_dir"}  # keys whose values may be paths that look like Hub ids


def publishable_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without what belongs to one machine.

    Local paths become their last name, folders of caches and secrets are left out.

    Args:
        values: What `RunConfig.to_dict` returns.

    Returns:
        Plain values that `RunConfig.from_dict` reads.
    """
    plain = json.loads(json.dumps(values, default=str))
    # The prompt is the one part whose texts must stay as they are.
    return {key: value if key == "prompt" else _cleaned(key, value) for key, value in plain.items()}


def public_name(model_name_or_path: str) -> str:
    """Return a model's name without the folders that it lies in on this machine."""
    return _cleaned("model", model_name_or_path)


def is_hub_id(name: str | None) -> bool:
    """Whether a name has the form ``organisation/name``."""
    return bool(name and _HUB_ID.fullmatch(name))


def hub_datasets(recipe: Mapping[str, Any] | None) -> list[str]:
    """Return the Hub ids of the datasets in a publishable recipe; a folder has lost its parents there."""
    return list(dict.fromkeys(path for path in _paths(recipe) if is_hub_id(path)))


def _paths(recipe: Mapping[str, Any] | None) -> Iterable[str]:
    for source in (recipe or {}).get("data") or ():
        yield str(source.get("path", ""))


def _cleaned(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {
            name: item for name, item in value.items() if name not in _OF_THIS_MACHINE and not _SECRET.search(name)
        }
        return {name: _cleaned(name, item) for name, item in kept.items()}
    if isinstance(value, list):
        return [_cleaned(key, item) for item in value]
    return _last_name(value) if isinstance(value, str) and _is_local(key, value) else value


def _is_local(key: str, value: str) -> bool:
    if value.startswith(("/", "./", "../", "~")) or PureWindowsPath(value).is_absolute() or key == "output_dir":
        return True
    return key in _PATHS and (Path(value).exists() or value.count("/") > 1)


def _last_name(path: str) -> str:
    return PureWindowsPath(path.rstrip("/\\")).name or "data"  # which splits at both kinds of slashes
