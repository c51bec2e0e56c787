"""What the demo shows and with which model: flags of `saha-st demo`, or environment variables of a Space."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from saha_st.modules.sources import EMBEDDED_MODELS

PREFIX = "SAHA_DEMO_"
"""A field `model` is the environment variable SAHA_DEMO_MODEL."""

SCENES = "scenes"
"""The name of the generated gallery."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo.

    Args:
        model: Hub id, folder, or an embedded model, as `load_embedder` takes it.
        gallery: ``scenes`` for the generated gallery, a folder of pictures, a table file, or a dataset of the Hub.
        revision: Branch, tag or commit of the model.
        device: Torch device; by default the best available.
        image_column: Column of the pictures in a table or dataset.
        text_column: Column of their captions.
        subset: Configuration of a Hub dataset.
        split: Split of the dataset.
        max_pictures: Show at most so many pictures, the first ones.
        cache: Folder for the gallery's vectors; by default in the user's cache folder.

    Raises:
        ValueError: A number that is none, or too small.
    """

    model: str = "saha-tiny"
    gallery: str = SCENES
    revision: str | None = None
    device: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    subset: str | None = None
    split: str = "train"
    max_pictures: int = 300
    cache: str | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "max_pictures", int(self.max_pictures))
        except ValueError:
            raise ValueError(f"max_pictures must be a whole number, got {self.max_pictures!r}.") from None
        if self.max_pictures < 2:
            raise ValueError(f"max_pictures must be at least 2, got {self.max_pictures}; there is nothing to rank.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> DemoSettings:
        """Read ``SAHA_DEMO_MODEL``, ``SAHA_DEMO_GALLERY`` and so on; what is unset or empty keeps its default.

        Raises:
            ValueError: A variable with the prefix that names no setting, or a value that is none.
        """
        names = {PREFIX + field.name.upper(): field.name for field in fields(cls)}
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value}
        if unknown := sorted(set(given) - set(names)):
            raise ValueError(f"There is no setting {unknown[0]}; the settings are {', '.join(names)}.")
        return cls(**{names[name]: value for name, value in given.items()})

    def require_sources(self) -> None:
        """See that model and gallery are built in, lie here, or can be on the Hub; nothing is loaded.

        Raises:
            ValueError: One is none of these.
        """
        for field, name, built_in in (("model", self.model, EMBEDDED_MODELS), ("gallery", self.gallery, (SCENES,))):
            if name not in built_in and "/" not in name and not Path(name).expanduser().exists():
                raise ValueError(
                    f"--{field} (or {PREFIX}{field.upper()}): there is no {name!r} here. Give a folder, a Hub id like "
                    f"'org/name', or what is built in: {' or '.join(built_in)}."
                )

    @property
    def cache_folder(self) -> Path:
        """Where the vectors are kept."""
        if self.cache:
            return Path(self.cache).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "saha_st" / "demo"
