"""Scenes that differ in one thing, and the words that say so: hard negatives, and the queries of ``Changes_it2i``."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from saha_st.data.scenes import language
from saha_st.data.scenes.scene import COLOURS, DIGITS, NUMBERS, PLACES, POSITIONS, SHAPES, WORDS, Item, Scene


def alter(scene: Scene, rng: Random) -> tuple[Scene, str]:
    """Change one thing about a scene, and say what: 'put it on sand', 'make the circle blue'."""
    while True:
        changed, change = rng.choice(_CHANGES)(scene, rng)
        if changed.concept != scene.concept:
            return changed, change


def _thing(scene: Scene, item: Item) -> str:
    """How a change refers to an item."""
    if scene.kind in ("word", "digit"):
        return scene.kind
    return language.plural(item.name) if scene.kind == "group" and len(scene.items) > 1 else item.name


def _with_item(scene: Scene, old: Item, new: Item) -> Scene:
    return replace(scene, items=tuple(new if item == old else item for item in scene.items))


def _change_place(scene: Scene, rng: Random) -> tuple[Scene, str]:
    place = rng.choice(PLACES)
    return replace(scene, place=place), f"put it {language.place_phrase(place, rng)}"


def _change_colour(scene: Scene, rng: Random) -> tuple[Scene, str]:
    item, colour = rng.choice(scene.items), rng.choice(COLOURS)
    return _with_item(scene, item, replace(item, colour=colour)), f"make the {_thing(scene, item)} {colour}"


def _change_name(scene: Scene, rng: Random) -> tuple[Scene, str]:
    item = rng.choice(scene.items)
    names = {"word": WORDS, "digit": DIGITS}.get(scene.kind, SHAPES)
    name = rng.choice(names)
    if name in {other.name for other in scene.items}:
        return scene, ""
    new = replace(item, name=name)
    changed = _with_item(scene, item, new)
    what = _thing(changed, new)
    if scene.kind in ("word", "digit"):
        return changed, f"write {name}"
    many = scene.kind == "group" and len(scene.items) > 1
    return changed, f"turn the {_thing(scene, item)} into {what if many else language.with_article(what)}"


def _change_layout(scene: Scene, rng: Random) -> tuple[Scene, str]:
    """Another number, another position, or change places: whatever the kind of scene has."""
    if scene.kind == "group":
        changed = replace(scene, items=(scene.item,) * rng.randint(1, len(NUMBERS)))
        return changed, f"show {language.number(changed)}"
    if scene.kind == "spot":
        position = rng.choice(POSITIONS)
        return replace(scene, items=(replace(scene.item, position=position),)), f"move it to the {position}"
    if scene.kind == "pair":
        first, second = scene.items
        swapped = (replace(second, position=first.position), replace(first, position=second.position))
        return replace(scene, items=swapped), "swap the two"
    return scene, ""


_CHANGES = (_change_place, _change_colour, _change_name, _change_layout)
