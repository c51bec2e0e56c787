"""What a scene is: a few items in a place. Two scenes with the same ``concept`` show the same thing.

There are six kinds. A *group* is one to four equal shapes, a *spot* is one shape in one of nine positions, a *pair* is
two shapes of which one is left of or above the other, a *scatter* has three or four different shapes in the corners, a
*word* is a written word and a *digit* a written digit. One concept in eight is held out: it occurs in the evaluation
side only, never in training and never in the pre-training of the embedded model.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "pink", "black")
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")
PLACES = ("paper", "sand", "grass", "sky", "grid")
NUMBERS = ("one", "two", "three", "four")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = tuple(
    "bell bird boat book cake cat corn cup deer desk dog door fire fish frog gold "
    "hand hat home king lamp leaf milk moon nest rain road salt ship snow sun tree".split()
)
POSITIONS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
PAIR_POSITIONS = (("left", "right"), ("top", "bottom"))
KINDS = ("group", "spot", "pair", "scatter", "word", "digit")
HELD_OUT_SHARE = 8


@dataclass(frozen=True, order=True)
class Item:
    """One thing in a scene.

    Args:
        colour: One of ``COLOURS``.
        name: A shape, or the written word, or the name of the written digit.
        position: Where it stands, one of ``POSITIONS``; empty where the scene does not fix it.
    """

    colour: str
    name: str
    position: str = ""


@dataclass(frozen=True)
class Scene:
    """A few items in a place.

    Args:
        kind: One of ``KINDS``.
        items: The things shown; a group repeats an equal item.
        place: One of ``PLACES``, drawn as the background.
    """

    kind: str
    items: tuple[Item, ...]
    place: str

    @property
    def concept(self) -> str:
        """Canonical text of the content: equal for two scenes exactly if they show the same thing."""
        items = sorted(
            " ".join(part for part in (item.colour, item.name, item.position) if part) for item in self.items
        )
        return f"{self.kind}: {', '.join(items)} / {self.place}"

    @property
    def looser_concept(self) -> str:
        """The concept with a spot's position left out: "a red circle on sand" is as true of a red circle top left."""
        if self.kind != "spot":
            return self.concept
        return Scene("group", (replace(self.item, position=""),), self.place).concept

    @property
    def item(self) -> Item:
        """The first item, which is all there is in a group, spot, word or digit."""
        return self.items[0]


def is_held_out(scene: Scene) -> bool:
    """Whether the scene belongs to the one eighth of concepts kept for evaluation; the same on every machine."""
    return zlib.crc32(scene.concept.encode()) % HELD_OUT_SHARE == 0


def sample_scene(rng: Random, *, kind: str | None = None, held_out: bool | None = None) -> Scene:
    """Draw a random scene.

    Args:
        rng: Source of randomness.
        kind: One of ``KINDS``; None draws the kind too.
        held_out: True for scenes of the evaluation side only, False for the training side only, None for both.

    Raises:
        ValueError: If ``kind`` is none of ``KINDS``.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    while True:
        scene = _SAMPLERS[kind or rng.choice(KINDS)](rng)
        if held_out is None or is_held_out(scene) == held_out:
            return scene


def _group(rng: Random) -> Scene:
    item = Item(rng.choice(COLOURS), rng.choice(SHAPES))
    return Scene("group", (item,) * rng.randint(1, 4), rng.choice(PLACES))


def _spot(rng: Random) -> Scene:
    item = Item(rng.choice(COLOURS), rng.choice(SHAPES), rng.choice(POSITIONS))
    return Scene("spot", (item,), rng.choice(PLACES))


def _different_items(rng: Random, positions: tuple[str, ...]) -> tuple[Item, ...]:
    """Items that differ in shape *and* in colour, so that either names one of them without doubt."""
    colours, shapes = rng.sample(COLOURS, len(positions)), rng.sample(SHAPES, len(positions))
    return tuple(Item(*parts) for parts in zip(colours, shapes, positions, strict=True))


def _pair(rng: Random) -> Scene:
    return Scene("pair", _different_items(rng, rng.choice(PAIR_POSITIONS)), rng.choice(PLACES))


def _scatter(rng: Random) -> Scene:
    corners = tuple(sorted(rng.sample(CORNERS, rng.randint(3, 4)), key=CORNERS.index))
    return Scene("scatter", _different_items(rng, corners), rng.choice(PLACES))


def _word(rng: Random) -> Scene:
    return Scene("word", (Item(rng.choice(COLOURS), rng.choice(WORDS)),), rng.choice(PLACES))


def _digit(rng: Random) -> Scene:
    return Scene("digit", (Item(rng.choice(COLOURS), rng.choice(DIGITS)),), rng.choice(PLACES))


_SAMPLERS: dict[str, Callable[[Random], Scene]] = {
    "group": _group,
    "spot": _spot,
    "pair": _pair,
    "scatter": _scatter,
    "word": _word,
    "digit": _digit,
}
