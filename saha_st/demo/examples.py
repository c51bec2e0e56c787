"""Queries to click on, made from the gallery, so that they suit it."""

from __future__ import annotations

from pathlib import Path

from saha_st.demo.gallery import Gallery
from saha_st.demo.show import TEXTS
from saha_st.demo.tab_search import Example


def search_examples(gallery: Gallery, folder: Path) -> list[Example]:
    """Texts, a picture, a picture with a text, and a picture that looks for texts.

    Args:
        gallery: What is searched.
        folder: Where to put the pictures.
    """
    examples = [Example(text, text) for text in hat_examples(gallery)]
    picture = folder / "example.png"
    gallery.pictures[0].save(picture)
    examples.append(Example("more like this", "", picture))
    if gallery.concepts is not None:  # the generated scenes, whose pictures the model was taught to change
        examples.append(Example("this, and “put it on grass”", "put it on grass", picture))
    if gallery.texts:
        examples.append(Example("texts for this", "", picture, TEXTS))
    return examples


def hat_examples(gallery: Gallery, count: int = 3) -> list[str]:
    """A few texts of the gallery, short ones first."""
    return sorted(gallery.texts, key=lambda text: len(text) > 40)[:count]
