"""One setting for the resolution of videos: how many tokens all the frames that are shown may take, ``(min, max)``.

It is the number of frames times their size, and processors bound the size in two ways: of each frame, or of all
together. So the setting is translated into both, and the one is taken that what would be saved obeys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from saha_st.modules.video_frames import frames_together, get_num_frames

_LARGE = 4096  # side of a frame that takes as many tokens as any, in pixels


def set_video_tokens(processor: Any, bounds: tuple[int, int], *, options: Mapping[str, Any] | None = None) -> None:
    """Make ``processor`` spend between ``bounds[0]`` and ``bounds[1]`` tokens on a video of usual shape.

    The setting lives in the video processor and is saved with it.

    Args:
        processor: A multimodal processor of the Qwen-VL kind whose number of frames is set.
        bounds: Smallest and largest number of tokens of a video of that many frames; a shorter one takes its share.
        options: What replaces the processor's settings at every call, as from `frame_options`.

    Raises:
        ValueError: Bounds that are not 1 <= min <= max or too small for the frames, a processor of another kind or
            without a number of frames, or one that did not obey.
    """
    low, high = _validate(bounds)
    frames, video_processor = get_num_frames(processor, options), getattr(processor, "video_processor", None)
    patch, merge = (getattr(video_processor, name, None) for name in ("patch_size", "merge_size"))
    counts = hasattr(video_processor, "get_num_of_video_patches")
    if not (counts and isinstance(patch, int) and isinstance(merge, int)) or frames is None:
        raise ValueError(
            f"video_tokens is not available for {type(processor).__name__}: its video processor has no patch and "
            "merge size, or takes no certain number of frames. Set num_frames, or the resolution through "
            "processor_kwargs."
        )
    together, pixels = frames_together(video_processor), (patch * merge) ** 2
    groups = frames // together  # of frames that share their tokens
    if high < groups:
        raise ValueError(
            f"video_tokens: {frames} frames take at least {groups} tokens, got {bounds!r}. Raise the largest number, "
            "or lower num_frames."
        )
    # Sides are rounded to whole tokens, so a square frame can miss a bound that is no square number.
    least = min(low, groups * int((high // groups) ** 0.5) ** 2)
    before = video_processor.size
    for smallest, largest in ((low * together, high * together), (-(-low // groups), high // groups)):
        video_processor.size = {"shortest_edge": smallest * pixels, "longest_edge": largest * pixels}
        large, small = (_tokens(processor, frames, side) for side in (_LARGE, patch * merge))
        if large <= high and least <= small <= high and _does_as_it_counts(processor, frames):
            return
    video_processor.size = before
    raise ValueError(
        f"{type(video_processor).__name__} does not obey video_tokens=({low}, {high}): a large video takes {large} "
        f"tokens, a tiny one {small}. Sides are whole tokens: leave more room between the bounds."
    )


def _validate(bounds: tuple[int, int]) -> tuple[int, int]:
    valid = isinstance(bounds, tuple | list) and len(bounds) == 2 and all(isinstance(n, int) for n in bounds)
    if not valid or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"video_tokens must be (min, max) with 1 <= min <= max, in tokens per video; got {bounds!r}.")
    return bounds[0], bounds[1]


def _tokens(processor: Any, frames: int, side: int) -> int:
    """Tokens of a square video as the processor counts them, without what it writes between frames."""
    patches = processor.video_processor.get_num_of_video_patches(frames, side, side, {})
    return patches // processor.video_processor.merge_size**2


def _does_as_it_counts(processor: Any, frames: int) -> bool:
    """Whether what would be loaded again makes of a video as many tokens as it counts."""
    loaded = type(processor.video_processor).from_dict(json.loads(processor.video_processor.to_json_string()))
    side = 512
    video = np.zeros((frames, side, side, 3), dtype=np.uint8)
    grid = loaded([video], do_sample_frames=False, return_tensors="pt")["video_grid_thw"]
    return int(grid.prod()) // loaded.merge_size**2 == _tokens(processor, frames, side)
