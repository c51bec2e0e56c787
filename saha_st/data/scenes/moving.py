"""Moving shapes: short videos whose motion no single picture tells.

A scene is one or two shapes of which one moves to a side, grows, shrinks, or stands still as the other does. Opposite
motions are the same frames in the opposite order, pixel by pixel: whoever looks at a frame without knowing which one
it is, at the middle of the video, or at all frames without their order, cannot tell left from right.

One look (colour, shape and place) in eight is held out: only on the evaluation side does a shape of such a look move,
and nowhere does it stand beside another. So no caption of the evaluation side is true of two of its videos.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random

from PIL import Image

from saha_st.data.scenes.drawing import PICTURE_SIZE, Circle, draw_frames
from saha_st.data.scenes.language import noun, place_phrase, with_article
from saha_st.data.scenes.scene import COLOURS, HELD_OUT_SHARE, PLACES, SHAPES, Item

NUM_FRAMES = 12

_PHRASES = {
    "moves to the left": ("moves to the left", "slides to the left", "goes from the right to the left"),
    "moves to the right": ("moves to the right", "slides to the right", "goes from the left to the right"),
    "moves up": ("moves up", "rises", "goes from the bottom to the top"),
    "moves down": ("moves down", "sinks", "goes from the top to the bottom"),
    "grows": ("grows", "gets larger", "becomes bigger"),
    "shrinks": ("shrinks", "gets smaller", "becomes smaller"),
    "stands still": ("stands still", "does not move", "stays where it is"),
}
MOTIONS = tuple(_PHRASES)
"""What the first shape may do; the labels of ``Motions``."""

# The first is drawn as the second, and shown from its end.
_BACKWARDS = {"moves to the left": "moves to the right", "moves up": "moves down", "shrinks": "grows"}
_CAPTIONS = ("{what} {does} {place}", "{place}, {what} {does}", "a video in which {what} {does} {place}")
_BESIDE = ("", " beside {other}", " next to {other}")


@dataclass(frozen=True)
class MovingScene:
    """One or two shapes, of which the first moves.

    Args:
        item: The shape that moves.
        place: One of ``PLACES``.
        motion: One of ``MOTIONS``.
        other: A shape that stands still beside it.
    """

    item: Item
    place: str
    motion: str
    other: Item | None = None

    @property
    def concept(self) -> str:
        """Canonical text of the content: equal for two scenes exactly if they show the same thing."""
        shapes = [f"{noun(self.item)} {self.motion}"]
        if self.other is not None:
            shapes.append(f"{noun(self.other)} stands still")
        return f"moving: {', '.join(sorted(shapes))} / {self.place}"

    def caption(self, rng: Random) -> str:
        """One of the many captions of the scene."""
        does = rng.choice(_PHRASES[self.motion])
        if self.other is not None:
            does += rng.choice(_BESIDE).format(other=with_article(noun(self.other)))
        what, place = with_article(noun(self.item)), place_phrase(self.place, rng)
        return rng.choice(_CAPTIONS).format(what=what, does=does, place=place)

    def draw(self, seed: int | str, *, size: int = PICTURE_SIZE) -> list[Image.Image]:
        """Draw one video of the scene.

        Args:
            seed: Which one; the same scene and seed give the same pixels.
            size: Side of the square frames in pixels.

        Returns:
            ``NUM_FRAMES`` RGB pictures of ``size`` x ``size`` pixels.
        """
        drawn_as = _BACKWARDS.get(self.motion, self.motion)
        name = f"{seed}/{drawn_as}/{self.item}/{self.other}/{self.place}"
        items = [self.item] if self.other is None else [self.other, self.item]
        first, last, beside = _way(drawn_as, Random(f"way-{name}"), alone=self.other is None)
        circles = []
        for number in range(NUM_FRAMES):
            part = number / (NUM_FRAMES - 1)
            circle = tuple(a + (b - a) * part for a, b in zip(first, last, strict=True))
            circles.append([circle] if self.other is None else [beside, circle])
        frames = draw_frames(items, circles, self.place, name, size=size)
        return frames if drawn_as == self.motion else frames[::-1]


def sample_moving(rng: Random) -> MovingScene:
    """Draw a random scene of the training side."""
    item, place = rng.choice(_looks(held_out=False))
    return _scene(item, place, rng.choice(MOTIONS), rng)


def held_out_scenes(rng: Random, count: int) -> list[MovingScene]:
    """Draw scenes of the evaluation side: of each look all motions, as far as the count goes, and none twice.

    Args:
        rng: Source of randomness.
        count: How many, at most ``MAX_HELD_OUT``.
    """
    looks = list(_looks(held_out=True))
    rng.shuffle(looks)
    pairs = ((look, motion) for look in looks for motion in rng.sample(MOTIONS, len(MOTIONS)))
    scenes = [_scene(*look, motion, rng) for (look, motion), _ in zip(pairs, range(count), strict=False)]
    rng.shuffle(scenes)
    return scenes


def _scene(item: Item, place: str, motion: str, rng: Random) -> MovingScene:
    return MovingScene(item, place, motion, _other(item, place, rng) if rng.random() < 0.5 else None)


def _other(item: Item, place: str, rng: Random) -> Item:
    """Return a shape that differs in colour and in shape."""
    others = (other for other, where in _looks(held_out=False) if where == place)
    return rng.choice([other for other in others if other.colour != item.colour and other.name != item.name])


@cache
def _looks(*, held_out: bool) -> tuple[tuple[Item, str], ...]:
    """Return the shapes and places of a side, the same on every machine."""
    looks = ((Item(colour, shape), place) for colour, shape, place in product(COLOURS, SHAPES, PLACES))
    return tuple(look for look in looks if _is_held_out(*look) == held_out)


def _is_held_out(item: Item, place: str) -> bool:
    return zlib.crc32(f"moving: {noun(item)} / {place}".encode()) % HELD_OUT_SHARE == 0


MAX_HELD_OUT = len(_looks(held_out=True)) * len(MOTIONS)
"""How many scenes the evaluation side has, those with another shape beside not counted apart."""


def _way(motion: str, rng: Random, *, alone: bool) -> tuple[Circle, Circle, Circle]:
    """Return where the shape is first and last, and where another one stands, which it never touches."""
    across = motion == "moves to the right" or (motion != "moves down" and rng.random() < 0.5)
    side = rng.choice((-1, 1))
    lane = rng.uniform(0.3, 0.7) if alone else 0.5 - side * rng.uniform(0.2, 0.24)
    start, radius = rng.uniform(0.35, 0.65), rng.uniform(0.13, 0.17)
    first, last = (start, lane, radius), (start, lane, radius)
    if motion in ("moves to the right", "moves down"):
        first, last = (rng.uniform(0.16, 0.26), lane, radius), (rng.uniform(0.74, 0.84), lane, radius)
    elif motion == "grows":
        first, last = (start, lane, rng.uniform(0.07, 0.1)), (start, lane, rng.uniform(0.21, 0.25))
    beside = (rng.uniform(0.25, 0.75), 0.5 + side * rng.uniform(0.28, 0.32), rng.uniform(0.11, 0.14))
    return (first, last, beside) if across else (_turned(first), _turned(last), _turned(beside))


def _turned(circle: Circle) -> Circle:
    x, y, radius = circle
    return y, x, radius
