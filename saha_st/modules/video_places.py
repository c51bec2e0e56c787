"""Pixels of pictures and videos in one tensor, for models that keep both where every row has as many places.

SmolVLM's processor writes the frames of videos, (videos, frames, ...), over the places of pictures, (rows, places,
...). Its model takes what stands in a row's places one after the other: pictures first, as in the row, then frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_KEYS = ("pixel_values", "pixel_attention_mask")


def keeps_videos_in_places(processor: Any) -> bool:
    """Whether a processor puts videos where pictures are."""
    names = getattr(getattr(processor, "video_processor", None), "model_input_names", None) or ()
    return set(_KEYS) <= set(names)


def in_places(features: Mapping[str, Any], pictures: Mapping[str, Any], videos: Sequence[int]) -> dict[str, Any]:
    """Give every row its places: those of its pictures, then those of the frames of its videos.

    Args:
        features: What the processor made of the whole batch; its pixels are those of videos alone.
        pictures: What it makes of the batch without videos.
        videos: How many videos each row has.

    Returns:
        The features with pixels of shape (rows, places, 3, height, width) and a mask without the 3. Empty places are
        zeros, and come last.
    """
    placed = {key: _by_row(features[key], videos) for key in _KEYS}
    if _KEYS[0] in pictures:
        placed = {key: torch.cat([pictures[key], placed[key]], dim=1) for key in _KEYS}
    used = placed["pixel_attention_mask"].flatten(2).any(dim=2)  # (rows, places)
    order = used.int().argsort(dim=1, descending=True, stable=True)[:, : int(used.sum(dim=1).max())]
    rows = torch.arange(len(order))[:, None]
    return {**features, **{key: value[rows, order] for key, value in placed.items()}}


def without_videos(row: Any) -> Any:
    """A canonical input whose videos are left out; an empty text if it is nothing else."""
    if isinstance(row, list):
        return [without_videos(message) for message in row]
    if isinstance(row.get("content"), list):
        return {**row, "content": [part for part in row["content"] if part.get("type") != "video"]}
    return {name: part for name, part in row.items() if name != "video"} or {"text": ""}


def _by_row(frames: Tensor, videos: Sequence[int]) -> Tensor:
    """Frames of shape (videos, frames, ...) in the places of their rows, (rows, most videos x frames, ...)."""
    placed = frames.new_zeros((len(videos), max(videos), *frames.shape[1:]))
    done = 0
    for row, count in enumerate(videos):
        placed[row, :count] = frames[done : done + count]
        done += count
    return placed.flatten(1, 2)
