"""Mini-batches that hold as many rows as a budget of tokens allows, whatever the lengths of the rows.

What a forward pass costs is rows x longest row, padding included. Sentence Transformers counts tokens without padding
and takes the rows as they come: one long row among short ones then costs many times its budget. So rows are sorted
here, the longest first, and a mini-batch is filled to the budget with the padding counted. That bounds the memory, and
a batch that does not fit fails in its first forward pass instead of its last.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import _create_minibatch, _get_batch_size
from torch import Tensor

Features = dict[str, Any]

_COUNTS = ("image_grid_thw", "video_grid_thw", "num_images_per_sample", "num_videos_per_sample")
"""What says where the pixels of a row begin; read on the CPU, or every row would wait for the GPU."""


@dataclass(frozen=True)
class MiniBatches:
    """The rows of a column, dealt out.

    Attributes:
        rows: The rows of each mini-batch, ascending.
        lengths: Tokens of each row of the column, without padding; empty where the features do not tell.
    """

    rows: list[list[int]]
    lengths: list[int]

    @classmethod
    def of(cls, features: Features, num_tokens: int, *, rows_without_lengths: int) -> MiniBatches:
        """Deal out a column of padded features, ``num_tokens`` to a mini-batch; a longer row has one of its own.

        Without an attention mask nobody knows the lengths: then ``rows_without_lengths`` rows are a mini-batch.
        """
        if "attention_mask" not in features:
            rows = range(_get_batch_size(features))
            return cls([list(rows[i : i + rows_without_lengths]) for i in rows[::rows_without_lengths]], [])
        lengths = features["attention_mask"].sum(dim=1).tolist()
        return cls(fill(lengths, num_tokens), lengths)

    @property
    def place_of_row(self) -> list[int]:
        """Where each row is when the mini-batches are put in line."""
        dealt = [row for rows in self.rows for row in rows]
        return sorted(range(len(dealt)), key=dealt.__getitem__)


@dataclass(frozen=True)
class FailedMiniBatch:
    """A mini-batch that did not fit into the memory.

    Attributes:
        column: Number of the column: 0 for anchors, 1 for positives.
        rows: Its rows within the batch.
        tokens: Tokens of each of them; empty where the features do not tell.
        labels: The labels of the whole batch.
    """

    column: int
    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    labels: list[Any] | None


def check_mini_batches(mini_batch_size: int | None, mini_batch_num_tokens: int | None) -> None:
    """Refuse sizes of mini-batches below 1.

    Raises:
        ValueError: One of them is.
    """
    for name, value in (("mini_batch_size", mini_batch_size), ("mini_batch_num_tokens", mini_batch_num_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def fill(lengths: list[int], num_tokens: int) -> list[list[int]]:
    """Deal rows of some lengths out to mini-batches, the longest first.

    Args:
        lengths: Tokens of each row.
        num_tokens: Most tokens of a mini-batch, padding included.

    Returns:
        The rows of each mini-batch, ascending; as many as fit, and at least one.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])  # stable
    mini_batches, begin = [], 0
    while begin < len(order):
        end = begin + max(1, num_tokens // max(lengths[order[begin]], 1))
        mini_batches.append(sorted(order[begin:end]))
        begin = end
    return mini_batches


def take_rows(features: Features, rows: list[int]) -> Features:
    """The features of some rows, without the padding that all of them have.

    Rows in a piece are cut out by Sentence Transformers, which knows how models lay out the pixels of their images.
    """
    # Under another name the mask is cut like any other tensor, instead of deciding where its own rows end.
    layout = {"mask" if key == "attention_mask" else key: value for key, value in features.items()}
    layout |= {key: features[key].cpu() for key in _COUNTS if isinstance(features.get(key), Tensor)}
    starts = [0, *(place for place in range(1, len(rows)) if rows[place] != rows[place - 1] + 1), len(rows)]
    pieces = [_create_minibatch(layout, rows[begin], rows[end - 1] + 1) for begin, end in pairwise(starts)]
    taken: Features = {}
    for key in dict.fromkeys(key for piece in pieces for key in piece):
        parts = [piece[key] for piece in pieces if key in piece]
        taken[key] = torch.cat(parts) if isinstance(parts[0], Tensor) and len(parts) > 1 else parts[0]
    taken |= {key: taken[key].to(features[key].device) for key in _COUNTS if isinstance(taken.get(key), Tensor)}
    if "mask" in taken:
        taken["attention_mask"] = taken.pop("mask")
    return without_padding(taken)


def without_padding(features: Features) -> Features:
    """Leave out the columns of tokens that are padding in every row, on either side.

    A row's positions count from its own first token, as they do where it is encoded: models with rotary positions
    give the same vector whatever padding stands in front.
    """
    mask = features.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return features
    used = mask.any(dim=0).nonzero()
    if len(used) == 0 or len(used) == mask.shape[1]:
        return features
    first, last = int(used[0]), int(used[-1])

    def cut(value: Any) -> Any:
        is_per_token = isinstance(value, Tensor) and value.ndim >= 2 and value.shape[:2] == mask.shape
        return value[:, first : last + 1] if is_per_token else value

    return {key: cut(value) for key, value in features.items()}
