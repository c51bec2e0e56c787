"""A small world of coloured shapes: scenes, their pictures, their language, and the mini-MMEB made of them.

Everything is generated from a seed with Pillow and its built-in font, so quickstart and tests download nothing. A
scene can be drawn in many ways and described in many ways; what it *is* stays known as its ``concept``, which is how
false negatives are counted. Models never see a concept. mini-MMEB has pictures; mini-MMEB-V2 has videos, in which the
shapes move, and pages.
"""

from __future__ import annotations

from saha_st.data.scenes.drawing import crop_item, draw
from saha_st.data.scenes.mini_mmeb import concepts_of, write_mini_mmeb
from saha_st.data.scenes.mini_mmeb_v2 import write_mini_mmeb_v2
from saha_st.data.scenes.scene import Item, Scene, is_held_out, sample_scene
from saha_st.data.scenes.subsets import SUBSETS, Subset

__all__ = [
    "SUBSETS",
    "Item",
    "Scene",
    "Subset",
    "concepts_of",
    "crop_item",
    "draw",
    "is_held_out",
    "sample_scene",
    "write_mini_mmeb",
    "write_mini_mmeb_v2",
]
