"""Which model a name means: nothing is loaded here, so that a wrong name is refused at once."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

EMBEDDED_MODELS = ("saha-tiny-base", "saha-tiny")
"""Models whose weights come with the package."""

FINAL = "final"
"""Folder in that of a training run which holds the model that the run ended with."""


def resolve_model(model_name_or_path: str) -> str:
    """Return the folder of an embedded model or of what a run ended with, or check that one holds a checkpoint.

    Raises:
        ValueError: A path that does not exist, or a folder that is no checkpoint.
    """
    name = str(model_name_or_path)
    if name in EMBEDDED_MODELS and not Path(name).exists():
        return str(resources.files("saha_st") / "quickstart" / name)
    path = Path(name).expanduser()
    if path.is_dir():
        found = next(filter(_is_checkpoint, (path, path / FINAL)), None)
        if found is None:
            raise ValueError(
                f"The folder {name!r} is not a model checkpoint: it has no modules.json, config.json or "
                f"adapter_config.json, and no {FINAL!r} with one. It holds: "
                f"{', '.join(sorted(p.name for p in path.iterdir())[:8]) or 'nothing'}."
            )
        return str(found)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(
            f"There is no model folder {name!r}. A model is a local folder, a Hub id like 'org/name', or one of the "
            f"embedded {', '.join(EMBEDDED_MODELS)}."
        )
    return name


def resolve_folder_or_hub_id(model_name_or_path: str) -> str:
    """As `resolve_model`, where a name without organisation is no model on the Hub, which need not be asked.

    Raises:
        ValueError: A name or path that does not exist, or a folder that is no checkpoint.
    """
    source = resolve_model(model_name_or_path)
    if "/" not in source and not Path(source).is_dir():
        raise ValueError(not_loadable(source))
    return source


def folder_name(path: str | Path) -> str:
    """Return what to call the model in a folder: a run's by the name of the run, as all of them lie in ``final``."""
    folder = Path(path).resolve()
    return folder.parent.name if folder.name == FINAL and folder.parent.name else folder.name


def shown_name(source: str) -> str:
    """Return a model's or dataset's name on the Hub, or of a folder here its name without those that it lies in."""
    path = Path(source).expanduser()
    return folder_name(path) if path.exists() else source


def not_loadable(name: str) -> str:
    """Return how to say that a model cannot be loaded, with what may have been meant."""
    close = difflib.get_close_matches(str(name), EMBEDDED_MODELS, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}?" if close else f"Embedded models are {' and '.join(EMBEDDED_MODELS)}."
    return f"The model {str(name)!r} is no folder here, and could not be loaded from the Hub. {hint}"


def _is_checkpoint(folder: Path) -> bool:
    return any((folder / file).exists() for file in ("modules.json", "config.json", "adapter_config.json"))
