"""One setting for the resolution of pictures: how many tokens an image may take, ``(min, max)``.

Processors spell it in their own ways (``min_pixels``, ``size``, …), and a spelling that a version does not know is
ignored silently. So the setting is translated, read back, and verified on a huge and on a tiny picture.
"""

from __future__ import annotations

from typing import Any

from PIL import Image


def set_image_tokens(processor: Any, bounds: tuple[int, int]) -> None:
    """Make ``processor`` spend between ``bounds[0]`` and ``bounds[1]`` tokens on an image of usual shape.

    The setting lives in the processor and is saved with it.

    Args:
        processor: A multimodal processor of the Qwen-VL kind, whose images take one token per merged patch.
        bounds: Smallest and largest number of tokens per image.

    Raises:
        ValueError: Bounds that are not 1 <= min <= max, a processor of another kind, or one that did not obey.
    """
    low, high = _validate(bounds)
    image_processor = getattr(processor, "image_processor", None)
    pixels = _pixels_per_token(image_processor)
    if pixels is None:
        raise ValueError(
            f"image_tokens is not available for {type(processor).__name__}: its image processor has no patch and "
            "merge size. Set the resolution through processor_kwargs, in this processor's own terms."
        )
    image_processor.size = {"shortest_edge": low * pixels, "longest_edge": high * pixels}
    _verify(image_processor, low, high)


def get_image_tokens(processor: Any) -> tuple[int, int] | None:
    """Read the setting back from a processor; ``None`` where it has no such notion."""
    image_processor = getattr(processor, "image_processor", None)
    pixels = _pixels_per_token(image_processor)
    size = dict(getattr(image_processor, "size", None) or {})
    if pixels is None or not {"shortest_edge", "longest_edge"} <= set(size):
        return None
    return size["shortest_edge"] // pixels, size["longest_edge"] // pixels


def count_image_tokens(image_processor: Any, image: Image.Image) -> int:
    """Number of tokens that ``image`` takes."""
    grid = image_processor(images=[image], return_tensors="pt")["image_grid_thw"]
    return int(grid.prod()) // image_processor.merge_size**2


def _pixels_per_token(image_processor: Any) -> int | None:
    patch, merge = getattr(image_processor, "patch_size", None), getattr(image_processor, "merge_size", None)
    return (patch * merge) ** 2 if isinstance(patch, int) and isinstance(merge, int) else None


def _validate(bounds: tuple[int, int]) -> tuple[int, int]:
    valid = isinstance(bounds, tuple | list) and len(bounds) == 2 and all(isinstance(n, int) for n in bounds)
    if not valid or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"image_tokens must be (min, max) with 1 <= min <= max, in tokens per image; got {bounds!r}.")
    return bounds[0], bounds[1]


def _verify(image_processor: Any, low: int, high: int) -> None:
    side = image_processor.patch_size * image_processor.merge_size
    large = count_image_tokens(image_processor, Image.new("RGB", (4096, 4096)))
    small = count_image_tokens(image_processor, Image.new("RGB", (side, side)))
    # Sides are rounded to whole tokens, so a square picture can miss a bound that is no square number.
    if large > high or small < min(low, _floor_square(high)):
        raise ValueError(
            f"{type(image_processor).__name__} does not obey image_tokens=({low}, {high}): a 4096x4096 picture takes "
            f"{large} tokens, a {side}x{side} picture {small}."
        )


def _floor_square(number: int) -> int:
    return int(number**0.5) ** 2
