"""Which rows of which dataset did not fit into the memory, and what to lower.

The loss knows the mini-batch that failed by its labels, and these are those of the mined dataset.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from saha_st.data.cells import cell_parts, cell_video, with_closed_videos
from saha_st.losses.mini_batches import FailedMiniBatch
from saha_st.mining.miner import LABEL
from saha_st.modules.videos import open_video
from saha_st.training.config import RunConfig

logger = logging.getLogger(__name__)

Sizes = tuple[tuple[int, ...], ...]
"""Width and height of the pictures of a cell; of its video also the number of frames."""

_SHOWN = 8  # rows of the mini-batch


def explain_out_of_memory(
    error: BaseException, config: RunConfig, datasets: Mapping[str, Dataset], row_ids: Mapping[str, Sequence[int]]
) -> str:
    """Name the rows of the mini-batch in which the memory was full, and the settings that decide about it.

    Nothing that goes wrong here hides the error itself: what cannot be read is left out.

    Args:
        error: What was raised.
        config: The run.
        datasets: What is trained on, by name, with labels.
        row_ids: By dataset, what to call each of its rows.
    """
    failed: FailedMiniBatch | None = getattr(error, "mini_batch", None)
    remedy = remedies(config) if failed is not None else remedies_outside(config)
    try:
        where = _where(failed, datasets, row_ids)
    except Exception as reason:  # of the data, or for want of memory
        logger.warning("Which rows did not fit is not known: %s: %s", type(reason).__name__, reason)
        where = "a step" if failed is None else _size(failed)
    return f"Out of memory in {where}. {remedy} ({_first_line(error)})"


def remedies_outside(config: RunConfig) -> str:
    """What to lower where it is no mini-batch that is too large, but what there is one of for all of them."""
    batch_size = config.training.get("per_device_train_batch_size", "the default, 64")
    fewer = ", train fewer weights (an adapter)" if config.adapter is None else ""
    return (
        "There are gradients, the optimiser's states, and the vectors of the whole batch: lower "
        f"training.per_device_train_batch_size (now {batch_size}){fewer}, or see what else takes memory there; "
        "the size of mini-batches decides little."
    )


def remedies(config: RunConfig) -> str:
    """What to lower in a mini-batch, with its value now; what costs nothing but time comes first."""
    settings = []
    loss = config.loss
    if loss.mini_batch_size is not None and loss.mini_batch_num_tokens is None:
        settings.append(f"loss.mini_batch_size (now {loss.mini_batch_size}; or fill by loss.mini_batch_num_tokens)")
    else:
        budget = loss.mini_batch_num_tokens or f"the default, {config.mini_batch_num_tokens}"
        settings.append(f"loss.mini_batch_num_tokens (now {budget})")
    settings.append(f"image_tokens (now {_shown(config.image_tokens)})")
    settings.append(f"num_frames (now {_shown(config.num_frames)})")
    settings.append(f"video_tokens (now {_shown(config.video_tokens)})")
    settings.append(f"max_seq_length (now {_shown(config.max_seq_length)})")
    checkpointing = "" if config.training.get("gradient_checkpointing") else ", or set gradient_checkpointing: true"
    return f"Lower {', '.join(settings)}{checkpointing}; the batch size decides little."


def media_sizes(cell: Any) -> Sizes:
    """Width and height of the pictures of a cell, and of its video.

    Raises:
        ImportError, ValueError: The video cannot be opened, as `open_video`.
    """
    images, _ = cell_parts(cell)
    sizes = tuple(image.size for image in images if hasattr(image, "size"))
    if (video := cell_video(cell)) is None:
        return sizes
    opened = open_video(video)
    return (*sizes, (opened.width, opened.height, opened.total_frames))


def describe_media(sizes: Sizes) -> str:
    """Sizes for a message, such as ``images 640x480, 32x32`` or ``video 640x480 of 240 frames``."""
    images = [f"{size[0]}x{size[1]}" for size in sizes if len(size) == 2]
    videos = [f"video {size[0]}x{size[1]} of {size[2]} frames" for size in sizes if len(size) == 3]
    return ", ".join([f"image{'s' * (len(images) > 1)} {', '.join(images)}"] * bool(images) + videos)


def _where(
    failed: FailedMiniBatch | None, datasets: Mapping[str, Dataset], row_ids: Mapping[str, Sequence[int]]
) -> str:
    if failed is None:
        return "a step, outside of the mini-batches"
    size, found = _size(failed), _find(failed, datasets)
    if len(found) != 1:  # labels count from 0 in each: without mining, several datasets may have those of the batch
        return size + (f" of one of {', '.join(found)}" if found else "")
    ((name, entries),) = found.items()
    column = [other for other in datasets[name].column_names if other != LABEL][failed.column]
    longest_first = sorted(range(len(entries)), key=lambda i: -failed.tokens[i] if failed.tokens else 0)
    shown = [_describe_row(datasets[name], column, entries[i], row_ids[name]) for i in longest_first[:_SHOWN]]
    more = f" and {len(entries) - _SHOWN} shorter ones" if len(entries) > _SHOWN else ""
    return f"{size}, column {column!r} of {name}: row{'s' * (len(entries) != 1)} {'; '.join(shown)}{more}"


def _size(failed: FailedMiniBatch) -> str:
    of_tokens = f" of up to {max(failed.tokens):,} tokens" if failed.tokens else ""
    return f"a mini-batch of {len(failed.rows)} row{'s' * (len(failed.rows) != 1)}{of_tokens}"


def _find(failed: FailedMiniBatch, datasets: Mapping[str, Dataset]) -> dict[str, list[int]]:
    """The datasets that have the labels of the whole batch, and the places of the failed rows in each."""
    if not failed.labels or not isinstance(failed.labels[0], list):
        return {}
    found = {}
    for name, dataset in datasets.items():
        labels = np.asarray(dataset.select_columns([LABEL]).with_format("numpy")[:][LABEL])  # (rows, 3)
        place = {tuple(label): index for index, label in enumerate(labels.tolist())}
        if all(tuple(label) in place for label in failed.labels):
            found[name] = [place[tuple(failed.labels[row])] for row in failed.rows]
    return found


def _describe_row(dataset: Dataset, column: str, entry: int, row_ids: Sequence[int]) -> str:
    try:
        sizes = media_sizes(with_closed_videos(dataset.select_columns([column]))[entry][column])
    except (ImportError, OSError, ValueError):  # a file that is gone by now
        sizes = ()
    return f"{row_ids[entry]}" + (f" ({describe_media(sizes)})" if sizes else "")


def _shown(value: Any) -> str:
    return "the model's own" if value is None else str(value)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".") or type(error).__name__
