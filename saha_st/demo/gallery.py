"""What is searched: pictures with names, texts, and which text belongs to which picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from PIL import Image

from saha_st.data.scenes import Scene, draw, language, sample_scene
from saha_st.data.scenes.changes import alter
from saha_st.demo.settings import SCENES, DemoSettings
from saha_st.modules.inputs import open_image
from saha_st.modules.sources import shown_name

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Row = tuple[str, Image.Image, str]
"""A name, a picture, and its caption."""

MAX_SIDE = 448
"""Longest side of a picture in memory, in pixels: what the paper trains on."""


@dataclass(frozen=True)
class Gallery:
    """Pictures and texts.

    Args:
        title: What to call it.
        pictures: The pictures, in RGB.
        names: A name for each picture.
        texts: Distinct texts.
        pairs: (text, picture) that belong together, by index, in the order in which mining visits them.
        concepts: What each picture shows, where that is known: pictures of equal concept answer the same texts.
    """

    title: str
    pictures: Sequence[Image.Image]
    names: Sequence[str]
    texts: Sequence[str] = ()
    pairs: Sequence[tuple[int, int]] = ()
    concepts: Sequence[str] | None = None

    def caption(self, picture: int) -> str:
        """The first text of a picture; empty if it has none."""
        return next((self.texts[text] for text, other in self.pairs if other == picture), "")

    def is_answer(self, one: int, other: int) -> bool:
        """Whether two pictures are one, or are known to show the same."""
        return one == other or bool(self.same_concept(one, other))

    def same_concept(self, one: int, other: int) -> bool | None:
        """Whether two pictures show the same; None where that is not known."""
        return None if self.concepts is None else self.concepts[one] == self.concepts[other]


def open_gallery(settings: DemoSettings) -> Gallery:
    """Open the gallery that the settings name.

    A picture that cannot be read is left out, with a warning.

    Raises:
        ValueError: Fewer than two pictures, or columns that are not there.
        OSError: The folder, file or dataset is missing.
    """
    if settings.gallery == SCENES:
        return scenes_gallery()
    from saha_st.data.inputs import load_inputs

    columns = {"image": settings.image_column, "text": settings.text_column}
    if settings.text_column and not settings.image_column:
        columns["image"] = "image"  # where any column is named, `load_inputs` takes what is named, and no more
    try:
        inputs = load_inputs(settings.gallery, **columns, subset=settings.subset, split=settings.split)
    except OSError as error:
        reason = str(error).removeprefix("source: ")
        raise OSError(f"--gallery {settings.gallery!r} cannot be opened: {reason}") from error
    rows = _readable(inputs.select(range(min(len(inputs), settings.max_pictures))))
    return gallery_of_rows(shown_name(settings.gallery), rows)


def gallery_of_rows(title: str, rows: Sequence[Row]) -> Gallery:
    """A gallery of pictures with captions.

    Args:
        title: What to call it.
        rows: A name, a picture and its caption each; an empty caption is none.

    Raises:
        ValueError: There are fewer than two pictures.
    """
    if len(rows) < 2:
        raise ValueError(
            f"Pictures that can be read in the gallery {title!r}: {len(rows)}. A search needs two to rank."
        )
    names, pictures, captions = zip(*rows, strict=True)
    texts = list(dict.fromkeys(filter(None, captions)))
    number = {text: index for index, text in enumerate(texts)}
    pairs = [(number[caption], picture) for picture, caption in enumerate(captions) if caption]
    return Gallery(title, pictures, names, texts, pairs)


def _readable(inputs: Dataset) -> list[Row]:
    """The inputs with a picture that can be read, made small at once: many large ones would fill the memory."""
    rows, broken = [], []
    for index, name in enumerate(inputs["id"]):
        try:
            cell = inputs[index]["input"]  # decodes it
            cell = cell if isinstance(cell, Mapping) else {"image": cell}
            if cell.get("image") is not None and not isinstance(cell["image"], str):
                rows.append((name, bounded(cell["image"]), str(cell.get("text") or "").strip()))
        except Exception:  # decoders of broken files raise nearly anything: SyntaxError, struct.error, …
            broken.append(name)
    if broken:
        few = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
        logger.warning("Left out %d of %d pictures, which cannot be read: %s", len(broken), len(inputs), few)
    return rows


def bounded(picture: Any) -> Image.Image:
    """The picture in RGB, no larger than `MAX_SIDE`."""
    picture = open_image(picture).copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return picture


def scenes_gallery(*, groups: int = 24, renderings: int = 3, variants: int = 2, seed: int = 0) -> Gallery:
    """The generated gallery: scenes that no embedded model was trained on.

    Each group has a scene in several renderings, with a caption each (so they are false negatives of one another), and
    variants that differ in one thing (so they are hard negatives).

    Args:
        groups: Scenes to start from.
        renderings: Pictures of each.
        variants: Scenes that differ from it in one thing.
        seed: Decides everything.
    """
    rng = Random(f"gallery-{seed}")
    scenes: list[Scene] = []
    while len(scenes) < groups * (renderings + variants):
        scene = sample_scene(rng, held_out=True)
        scenes += [scene] * renderings + [alter(scene, rng)[0] for _ in range(variants)]
    rng.shuffle(scenes)
    captions = [language.caption(scene, rng) for scene in scenes]
    texts = list(dict.fromkeys(captions))
    return Gallery(
        "generated scenes",
        [draw(scene, f"gallery-{seed}-{index}") for index, scene in enumerate(scenes)],
        [f"scene {index + 1:03d}" for index in range(len(scenes))],
        texts,
        [(texts.index(caption), index) for index, caption in enumerate(captions)],
        [scene.concept for scene in scenes],
    )
