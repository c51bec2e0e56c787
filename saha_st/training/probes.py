"""Inputs on which a saved model is compared with the one in memory; plain Sentence Transformers has to take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from saha_st.modules.video_frames import DEFAULT_NUM_FRAMES, get_num_frames
from saha_st.modules.videos import open_video

_FPS = 24.0  # of probes; some processors want to know


def probes_of(datasets: Mapping[str, Dataset], processor: Any) -> list[Any]:
    """Return a text, and an anchor and a positive of every dataset.

    Args:
        datasets: What is trained on, by name.
        processor: The model's processor, which says how many frames of a video it takes.
    """
    cells = [dataset[0][column] for dataset in datasets.values() for column in ("anchor", "positive")]
    return ["a probe", *(_probe(cell, processor) for cell in cells)]


def _probe(cell: Any, processor: Any) -> Any:
    """A cell without the parts that are None, its video decoded: twice as many frames as the model is shown of it."""
    if not isinstance(cell, Mapping):
        return cell
    parts = {name: value for name, value in cell.items() if value is not None}
    if "video" in parts:
        video, count = open_video(parts["video"]), 2 * (get_num_frames(processor) or DEFAULT_NUM_FRAMES)
        frames = video.read(np.linspace(0, video.total_frames - 1, count).round().astype(int).tolist())
        metadata = {"total_num_frames": count, "fps": _FPS, "duration": count / _FPS}
        parts["video"] = {"array": frames, "video_metadata": metadata}
    return parts
