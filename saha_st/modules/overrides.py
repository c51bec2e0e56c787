"""What a caller asks for wins over what a checkpoint says at every call.

Sentence Transformers saves ``processing_kwargs`` with a model, and hands them to the processor with every batch: they
overrule what the processor itself is set to. A resolution or a number of frames that is asked for would be set, saved,
and never be used. So whatever decides the same is taken out of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

FRAMES = ("num_frames", "fps", "min_frames", "max_frames", "do_sample_frames")
"""Settings that decide which frames of a video are shown."""

FRAME_SIZES = ("size", "min_pixels", "max_pixels", "max_video_tokens", "cap_pixels_per_frame", "do_resize")
"""Settings that decide how many tokens these take."""

_ONLY_OF_VIDEOS = frozenset({*FRAMES, "max_video_tokens", "cap_pixels_per_frame"})

_FOR_ALL = ("common", "chat_template")
"""Parts of ``processing_kwargs`` that reach pictures as well as videos; the second overrules every other."""


def drop_overrides(
    processing_kwargs: Mapping[str, Mapping[str, Any]], medium: str, settings: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Take settings of one medium out of a module's ``processing_kwargs``; of the other medium they stay.

    Args:
        processing_kwargs: As in `Transformer`, by part: ``image``, ``video``, ``text``, ``common``, …
        medium: Whose settings: ``image`` or ``video``.
        settings: Their names.

    Returns:
        The rest.
    """
    other = "video" if medium == "image" else "image"
    kept = {part: dict(options) for part, options in processing_kwargs.items()}
    dropped = {name: kept[medium].pop(name) for name in settings if name in kept.get(medium, ())}
    for part in _FOR_ALL:
        shared = {name: kept[part].pop(name) for name in settings if name in kept.get(part, ())}
        dropped |= shared
        if other == "image":  # whose processor refuses what it does not know
            shared = {name: value for name, value in shared.items() if name not in _ONLY_OF_VIDEOS}
        if shared:
            others = kept.get(other, {})
            kept[other] = {**shared, **others} if part == "common" else {**others, **shared}
    if dropped:
        logger.info("The model's own processing_kwargs for a %s give way: %s.", medium, dropped)
    return {part: options for part, options in kept.items() if options or not processing_kwargs.get(part)}
