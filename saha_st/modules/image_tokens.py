"""One setting for the resolution of pictures: how many tokens an image may take, ``(min, max)``.

Processors spell it in their own ways (pixels, tiles, grids, …), and a spelling that a version does not know is ignored
silently. So the setting is translated, the largest value is taken whose pictures keep to it, and the processor itself
is asked: what it makes of a huge and of a tiny picture is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from PIL import Image

from saha_st.modules.backbone_settings import share_settings
from saha_st.modules.token_counts import tokens_of_pictures

_LARGE = (4096, 4096)
"""Size (height, width) of a picture that takes as many tokens as any where pictures are resized."""

_TILE = 1024  # pixels of a side of a large picture for every tile

_SMALL = 28
"""Side of a small picture that no processor refuses."""

_SOFT_TOKENS = (70, 140, 280, 560, 1120)
"""What Gemma 4 was trained with; its processor takes nothing else."""


def set_image_tokens(processor: Any, bounds: tuple[int, int], *, config: Any = None) -> None:
    """Make ``processor`` spend between ``bounds[0]`` and ``bounds[1]`` tokens on an image of usual shape.

    Where pictures are cut into tiles, the maximum holds for every shape; LLaVA-OneVision, which makes pictures of more
    than nine tiles smaller again, may exceed it by 7 % if it allows all grids. Where pictures are resized (Qwen-VL), a
    side is at least one token long, so that a strip may take more. The setting lives in the processor, of LLaVA in the
    backbone's configuration as well, and is saved with them. What a processor writes between tiles counts.

    Args:
        processor: A multimodal processor.
        bounds: Smallest and largest number of tokens per image.
        config: The backbone's configuration.

    Raises:
        ValueError: Bounds that are not 1 <= min <= max, a processor whose pictures take a fixed number of tokens or
            more than the largest, or one that did not obey.
    """
    low, high = _validate(bounds)
    kind = image_setting(processor)
    if kind is None:
        raise ValueError(
            f"image_tokens is not available for {type(processor).__name__}: its image processor has no setting that "
            "bounds the tokens of a picture. Set the resolution through processor_kwargs, in this processor's own "
            "terms, or leave image_tokens out."
        )
    if kind == "pixels":
        pixels = _pixels_per_token(processor.image_processor)
        processor.image_processor.size = {"shortest_edge": low * pixels, "longest_edge": high * pixels}
    else:
        _take_largest(processor, _CANDIDATES[kind](processor, config), low, high)
    _verify(processor, low, high)


def get_image_tokens(processor: Any) -> tuple[int, int] | None:
    """Read the setting back from a processor; ``None`` where it is no number of pixels."""
    image_processor = getattr(processor, "image_processor", None)
    pixels = _pixels_per_token(image_processor)
    size = dict(getattr(image_processor, "size", None) or {})
    if pixels is None or not {"shortest_edge", "longest_edge"} <= set(size):
        return None
    return size["shortest_edge"] // pixels, size["longest_edge"] // pixels


def image_setting(processor: Any) -> str | None:
    """How a processor bounds the tokens of a picture, as `Family.image_tokens` names it; None if it does not."""
    image_processor = getattr(processor, "image_processor", None)
    if _pixels_per_token(image_processor) is not None:
        return "pixels"
    return next((kind for kind, names in _SETTINGS.items() if getattr(image_processor, names[0], None)), None)


def settings_that_bound(processor: Any) -> tuple[str, ...]:
    """Names of the settings of an image processor that decide how many tokens a picture takes."""
    kind = image_setting(processor)
    return _OF_PIXELS if kind == "pixels" else _SETTINGS.get(kind or "", ())


def count_image_tokens(processor: Any, image: Image.Image) -> int:
    """Number of tokens that a processor writes in place of ``image``, what it writes between tiles included."""
    placeholder = processor.image_token
    ids = processor(text=[placeholder], images=[image])["input_ids"][0]
    return len(ids) - len(processor.tokenizer(placeholder)["input_ids"]) + 1


Candidate = Callable[[], None]  # changes the setting


def _edges(processor: Any, config: Any) -> Iterable[Candidate]:
    """Idefics3, SmolVLM: a picture is resized to a longest edge, and cut into tiles of this edge."""
    image_processor = processor.image_processor
    tile = dict(image_processor.max_image_size)["longest_edge"]
    most = max(dict(image_processor.size)["longest_edge"] // tile, 1)
    for tiles in range(most, 0, -1):
        yield lambda tiles=tiles: setattr(image_processor, "size", {"longest_edge": tiles * tile})


def _tiles(processor: Any, config: Any) -> Iterable[Candidate]:
    """InternVL: a picture is cut into so many tiles at most, and shown whole beside them."""
    for tiles in range(processor.image_processor.max_patches, 0, -1):
        yield lambda tiles=tiles: setattr(processor.image_processor, "max_patches", tiles)


def _grids(processor: Any, config: Any) -> Iterable[Candidate]:
    """LLaVA: a picture is cut into the best of some grids of tiles; a grid stays with all of its area."""
    grids = [tuple(grid) for grid in processor.image_processor.image_grid_pinpoints]

    def take(largest: int) -> None:
        kept = [list(grid) for grid in grids if math.prod(grid) <= largest]
        processor.image_processor.image_grid_pinpoints = kept
        share_settings(processor, config)

    for area in sorted({math.prod(grid) for grid in grids}, reverse=True):
        yield lambda area=area: take(area)


def _soft_tokens(processor: Any, config: Any) -> Iterable[Candidate]:
    """Gemma 4: a picture is resized to about so many tokens."""
    for tokens in reversed(_SOFT_TOKENS):
        yield lambda tokens=tokens: setattr(processor.image_processor, "max_soft_tokens", tokens)


_CANDIDATES = {"longest_edge": _edges, "tiles": _tiles, "grids": _grids, "soft_tokens": _soft_tokens}
_SETTINGS = {
    "longest_edge": ("max_image_size", "size", "do_image_splitting", "do_resize"),
    "tiles": ("max_patches", "min_patches", "crop_to_patches"),
    "grids": ("image_grid_pinpoints",),
    "soft_tokens": ("max_soft_tokens",),
}
"""What decides the tokens of a picture, by the kind of its processor, which is told by the first of them."""

_OF_PIXELS = ("size", "min_pixels", "max_pixels", "do_resize")
"""The same for processors that resize to a number of pixels; others have such settings, too."""


def _take_largest(processor: Any, candidates: Iterable[Candidate], low: int, high: int) -> None:
    """Take the first setting, of the largest first, whose pictures keep to ``high``."""
    most = 0
    for take in candidates:
        take()
        most = max(_count_large(processor))
        if most <= high:
            return
    raise ValueError(
        f"image_tokens=({low}, {high}): {type(processor).__name__} spends at least {most} tokens on a picture. Raise "
        "the maximum."
    )


def _count_large(processor: Any) -> list[int]:
    """Tokens of large pictures; of a processor that has to see them (SmolVLM), of the first, which is the worst."""
    small = Image.new("RGB", (_SMALL, _SMALL))
    counted = tokens_of_pictures(processor, [(_SMALL, _SMALL), *_large_sizes(processor.image_processor)])
    if counted is None:
        return [count_image_tokens(processor, Image.new("RGB", _LARGE))]
    around = count_image_tokens(processor, small) - counted[0]  # what Gemma 4 writes before and after a picture
    return [count + around for count in counted[1:]]


def _large_sizes(image_processor: Any) -> list[tuple[int, int]]:
    """Sizes (height, width) of pictures of which one takes as many tokens as any: those that fill a grid of tiles."""
    shapes = [(rows, columns) for rows in range(1, 7) for columns in range(1, 7)]
    # The longest strip of InternVL has as many tiles as there may be, a square one often has fewer.
    shapes += [(1, tiles) for tiles in range(7, (getattr(image_processor, "max_patches", None) or 0) + 1)]
    grids = [tuple(grid) for grid in getattr(image_processor, "image_grid_pinpoints", None) or ()]
    return [_LARGE, *((_TILE * rows, _TILE * columns) for rows, columns in shapes), *grids]


def _pixels_per_token(image_processor: Any) -> int | None:
    patch, merge = getattr(image_processor, "patch_size", None), getattr(image_processor, "merge_size", None)
    return (patch * merge) ** 2 if isinstance(patch, int) and isinstance(merge, int) else None


def _validate(bounds: tuple[int, int]) -> tuple[int, int]:
    valid = isinstance(bounds, tuple | list) and len(bounds) == 2 and all(isinstance(n, int) for n in bounds)
    if not valid or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"image_tokens must be (min, max) with 1 <= min <= max, in tokens per image; got {bounds!r}.")
    return bounds[0], bounds[1]


def _verify(processor: Any, low: int, high: int) -> None:
    large = count_image_tokens(processor, Image.new("RGB", _LARGE))
    small = count_image_tokens(processor, Image.new("RGB", (_SMALL, _SMALL)))
    # Sides are rounded to whole tokens, so a square picture can miss a bound that is no square number.
    if large > high or small < min(low, _floor_square(high)):
        raise ValueError(
            f"{type(processor).__name__} does not obey image_tokens=({low}, {high}): a 4096x4096 picture takes "
            f"{large} tokens, a {_SMALL}x{_SMALL} picture {small}. It may know only a few sizes: choose bounds around "
            "these."
        )


def _floor_square(number: int) -> int:
    return int(number**0.5) ** 2
