"""How a scene is drawn: the same scene gives a different picture for every seed, and the same one for the same seed.

Renderings differ in size, place, tilt, shade, fill (solid, outlined, striped) and background; nothing that the scene
states is ever lost: positions keep to their third of the picture, shades keep to their colour. Shapes are drawn at
twice the size and scaled down, which is all the anti-aliasing they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

from saha_st.data.scenes.scene import DIGITS, POSITIONS, Item, Scene

Point = tuple[float, float]
Circle = tuple[float, float, float]
Colour = tuple[int, int, int]

PICTURE_SIZE = 64
_SCALE = 2

_RGB: dict[str, Colour] = {
    "red": (214, 32, 32),
    "blue": (36, 70, 214),
    "green": (20, 130, 50),
    "yellow": (238, 206, 20),
    "purple": (122, 38, 160),
    "orange": (244, 128, 20),
    "pink": (246, 120, 186),
    "black": (18, 18, 18),
}
_GROUND: dict[str, Colour] = {
    "paper": (250, 250, 250),
    "sand": (230, 212, 172),
    "grass": (176, 222, 150),
    "sky": (176, 214, 246),
    "grid": (240, 240, 240),
}
# An item without a position takes one of the layouts for its count: centres in parts of the picture's side.
_LAYOUTS: dict[int, tuple[tuple[Point, ...], ...]] = {
    1: (((0.5, 0.5),), ((0.4, 0.55),), ((0.58, 0.42),)),
    2: (((0.28, 0.5), (0.72, 0.5)), ((0.5, 0.28), (0.5, 0.72)), ((0.3, 0.3), (0.7, 0.7)), ((0.7, 0.3), (0.3, 0.7))),
    3: (
        ((0.27, 0.3), (0.73, 0.3), (0.5, 0.73)),
        ((0.5, 0.27), (0.27, 0.7), (0.73, 0.7)),
        ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)),
        ((0.2, 0.2), (0.5, 0.5), (0.8, 0.8)),
    ),
    4: (((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)), ((0.5, 0.2), (0.2, 0.5), (0.8, 0.5), (0.5, 0.8))),
}
_RADIUS = {1: (0.2, 0.36), 2: (0.14, 0.2), 3: (0.11, 0.15), 4: (0.11, 0.14)}


def draw(scene: Scene, seed: int | str, *, size: int = PICTURE_SIZE) -> Image.Image:
    """Draw one rendering of a scene.

    Args:
        scene: What to draw.
        seed: Which rendering; the same scene and seed give the same pixels.
        size: Side of the square picture in pixels.

    Returns:
        An RGB picture of ``size`` x ``size`` pixels.
    """
    return _render(scene, seed, size)[0]


def draw_frames(
    items: Sequence[Item],
    frames: Sequence[Sequence[Circle]],
    place: str,
    seed: int | str,
    *,
    size: int = PICTURE_SIZE,
) -> list[Image.Image]:
    """Draw shapes where one is told to, several times; the pictures differ in nothing but where the shapes are.

    Args:
        items: The shapes; a later one covers an earlier one.
        frames: For each picture, centre x, centre y and radius of each item, in parts of the picture's side.
        place: One of ``PLACES``, the background.
        seed: Which rendering.
        size: Side of the square pictures in pixels.

    Returns:
        RGB pictures of ``size`` x ``size`` pixels.
    """
    rng = Random(seed)
    ground = _background(place, size * _SCALE, rng)
    colours = [_shade(_RGB[item.colour], rng) for item in items]
    drawn = []
    for circles in frames:
        canvas, style = ground.copy(), Random(f"style-{seed}")
        for item, colour, circle in zip(items, colours, circles, strict=True):
            x, y, radius = (part * canvas.width for part in circle)
            _paint(canvas, item.name, colour, (x, y, radius), style)
        drawn.append(canvas.resize((size, size), Image.Resampling.BOX))
    return drawn


def crop_item(scene: Scene, seed: int | str, index: int, *, size: int = PICTURE_SIZE) -> Image.Image:
    """Cut one item out of the picture that ``draw(scene, seed)`` gives, scaled to ``size`` x ``size`` pixels."""
    picture, boxes = _render(scene, seed, size)
    left, top, side = boxes[index]
    box = tuple(round(edge) for edge in (left, top, left + side, top + side))
    return picture.crop(box).resize((size, size), Image.Resampling.BICUBIC)


def _render(scene: Scene, seed: int | str, size: int) -> tuple[Image.Image, list[tuple[float, float, float]]]:
    """The picture, and per item the (left, top, side) of the square around it."""
    rng = Random(f"{seed}/{scene.concept}")
    canvas = _background(scene.place, size * _SCALE, rng)
    places = _place_items(scene, rng)
    for item, (x, y, radius) in zip(scene.items, places, strict=True):
        colour = _shade(_RGB[item.colour], rng)
        if scene.kind in ("word", "digit"):
            _write(canvas, item, colour, (x, y), rng, tall=scene.kind == "digit")
        else:
            _paint(canvas, item.name, colour, (x * canvas.width, y * canvas.height, radius * canvas.width), rng)
    boxes = [((x - 1.3 * r) * size, (y - 1.3 * r) * size, 2.6 * r * size) for x, y, r in places]
    return canvas.resize((size, size), Image.Resampling.BOX), boxes


def _place_items(scene: Scene, rng: Random) -> list[tuple[float, float, float]]:
    """Centre x, centre y and radius of every item, in parts of the side."""
    count = len(scene.items)
    if not scene.item.position:
        layout = list(rng.choice(_LAYOUTS[count]))
        low, high = _RADIUS[count]
        jitter = 0.03
    else:
        layout = [_anchor(item.position, wide=scene.kind == "spot") for item in scene.items]
        low, high = (0.12, 0.16) if scene.kind == "spot" else (0.14, 0.19)
        jitter = 0.02
    return [
        (x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter), rng.uniform(low, high)) for x, y in layout
    ]


def _anchor(position: str, *, wide: bool) -> Point:
    """Centre of a position: the three by three raster, pulled inwards where items are larger."""
    row, column = divmod(POSITIONS.index(position), 3)
    step = 0.31 if wide else 0.26
    return 0.5 + (column - 1) * step, 0.5 + (row - 1) * step


def _shade(colour: Colour, rng: Random, spread: int = 14) -> Colour:
    """The colour, a little lighter or darker and a little off."""
    light = rng.randint(-spread, spread)
    red, green, blue = (min(255, max(0, channel + light + rng.randint(-6, 6))) for channel in colour)
    return red, green, blue


def _background(place: str, side: int, rng: Random) -> Image.Image:
    ground = _shade(_GROUND[place], rng, spread=5)
    canvas = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(canvas)
    darker = tuple(max(0, channel - 26) for channel in ground)
    if place == "sand":
        for _ in range(60):
            x, y = rng.randrange(side), rng.randrange(side)
            pen.ellipse((x, y, x + 2, y + 2), fill=darker)
    elif place == "grass":
        for _ in range(45):
            x, y = rng.randrange(side), rng.randrange(side)
            pen.line((x, y, x + rng.randint(-3, 3), y - 8), fill=darker, width=2)
    elif place == "sky":
        for _ in range(3):
            x, y = rng.randrange(side), rng.randrange(side)
            pen.ellipse((x - 24, y - 8, x + 24, y + 8), fill=(236, 244, 252))
    elif place == "grid":
        gap = rng.randint(14, 18)
        for line in range(rng.randrange(gap), side, gap):
            pen.line((line, 0, line, side), fill=darker, width=2)
            pen.line((0, line, side, line), fill=darker, width=2)
    return canvas


def _paint(canvas: Image.Image, shape: str, colour: Colour, circle: tuple[float, float, float], rng: Random) -> None:
    """Paint a shape into the circle (x, y, radius), in pixels of the canvas."""
    x, y, radius = circle
    style = rng.choice(("solid", "solid", "outlined", "striped"))
    tilt = rng.uniform(-0.2, 0.2)
    mask = Image.new("L", canvas.size, 0)
    pen = ImageDraw.Draw(mask)
    corners = [(x + radius * px, y + radius * py) for px, py in _outline(shape, tilt)]
    pen.polygon(corners, fill=255)
    if shape == "ring":
        pen.ellipse((x - radius / 2, y - radius / 2, x + radius / 2, y + radius / 2), fill=0)
    elif style == "outlined":
        pen.polygon([(x + (cx - x) * 0.62, y + (cy - y) * 0.62) for cx, cy in corners], fill=90)
    elif style == "striped":
        for offset in range(int(y - radius), int(y + radius), 8):
            pen.line((x - radius, offset, x + radius, offset + 4), fill=0, width=2)
    canvas.paste(colour, (0, 0), mask)


@cache
def _unit_outline(shape: str) -> tuple[Point, ...]:
    """Corners of a shape of radius about 1 around the origin, y pointing down."""
    if shape == "square":
        return ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
    if shape == "diamond":
        return ((0, -1.1), (0.7, 0), (0, 1.1), (-0.7, 0))
    if shape == "triangle":
        return ((0, -1), (1, 0.8), (-1, 0.8))
    if shape == "cross":
        arm, width = 1.0, 0.34
        return tuple(
            point
            for sx, sy in ((1, -1), (1, 1), (-1, 1), (-1, -1))
            for point in (
                ((sx * width, sy * arm), (sx * width, sy * width), (sx * arm, sy * width))
                if sx * sy < 0
                else ((sx * arm, sy * width), (sx * width, sy * width), (sx * width, sy * arm))
            )
        )
    steps = [2 * math.pi * step / 40 for step in range(40)]
    if shape == "heart":
        return tuple(
            (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) / 15) for t in steps
        )
    if shape == "star":
        spikes = [(1.1 if step % 2 == 0 else 0.45, math.pi * step / 5) for step in range(10)]
        return tuple((radius * math.sin(t), -radius * math.cos(t)) for radius, t in spikes)
    return tuple((math.cos(t), math.sin(t)) for t in steps)


def _outline(shape: str, tilt: float) -> list[Point]:
    cos, sin = math.cos(tilt), math.sin(tilt)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in _unit_outline(shape)]


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _write(canvas: Image.Image, item: Item, colour: Colour, centre: Point, rng: Random, *, tall: bool) -> None:
    """Write a word, or a digit (tall), around the centre."""
    text = str(DIGITS.index(item.name)) if tall else item.name
    low, high = (52, 84) if tall else (36, 44)
    font = _font(rng.randint(low, high) * canvas.width // (PICTURE_SIZE * _SCALE))
    middle = (canvas.width * (0.5 + centre[0]) / 2, canvas.height * centre[1])
    # Words are nearly as wide as the picture, so they move up and down more than sideways.
    bold = rng.randint(0, 3) if tall else rng.randint(0, 1)
    layer = Image.new("L", canvas.size, 0)
    ImageDraw.Draw(layer).text(middle, text, fill=255, font=font, anchor="mm", stroke_width=bold)
    tilt = rng.uniform(-12, 12) if tall else rng.uniform(-4, 4)
    canvas.paste(colour, (0, 0), layer.rotate(tilt, Image.Resampling.BILINEAR, center=middle))
