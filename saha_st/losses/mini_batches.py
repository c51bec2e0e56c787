"""Mini-batches that hold as many rows as a budget of tokens allows, whatever the lengths of the rows.

What a forward pass costs is rows x longest row, padding included. Sentence Transformers counts tokens without padding
and takes the rows as they come: one long row among short ones then costs many times its budget. So rows are sorted
here, the longest first, and a mini-batch is filled to the budget with the padding counted. That bounds the memory, and
a batch that does not fit fails in its first forward pass instead of its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from saha_st.token_budgets import deal_out

Features = dict[str, Any]

_GRIDS = {
    "image_grid_thw": ("num_images_per_sample", "pixel_values"),
    "video_grid_thw": ("num_videos_per_sample", "pixel_values_videos"),
}
"""Where all patches stand in one line (Qwen-VL): the grid of each picture, how many a row has, and the patches."""

_BY_PICTURE = ("pixel_values", "image_sizes", "image_position_ids")
"""What has an entry for each picture where there are no grids (LLaVA, Gemma 3) ..."""

_BY_ROW_WITH_PICTURES = "batch_num_images"
"""What has an entry for each row that has pictures (LLaVA-OneVision)."""

_PADDED = ("pixel_attention_mask", "aspect_ratio_ids")
"""... unless there is one of these: then every row has as many places for pictures (Idefics, SmolVLM, Mllama)."""

_PIXELS_AND_MASK = ("pixel_values", "pixel_attention_mask")


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
            return cls(in_turn(_count_rows(features), rows_without_lengths), [])
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
    return [sorted(rows) for rows in deal_out(lengths, num_tokens)]


def in_turn(rows: int, size: int) -> list[list[int]]:
    """Deal rows out to mini-batches of a size, as they come."""
    return [list(range(start, min(start + size, rows))) for start in range(0, rows, size)]


def take_rows(features: Features, rows: Sequence[int], *, image_token: int | None = None) -> Features:
    """The features of some rows with their pictures and videos, without the padding that all of them have.

    Args:
        features: A column of padded features.
        rows: At least one row, ascending.
        image_token: Id of the token that stands for a part of a picture. Where pictures are cut into tiles of equally
            many tokens (InternVL, Gemma 3 with pan and scan), a row's tokens tell how many tiles are its own.

    Raises:
        ValueError: Nothing says which row a picture belongs to.
    """
    ones = [1] * _count_rows(features)
    features = _with_counted_tiles(features, image_token)
    if len(rows) == len(ones):
        return without_padding(features)
    entries = _entries(features)
    taken: Features = {}
    for key, value in features.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            taken[key] = value
            continue
        entries_of_row = entries.get(key, ones)
        if key.startswith("pixel_values") and sum(entries_of_row) != len(value):
            raise ValueError(
                f"{key} has {len(value)} entries, and nothing says which of the {len(ones)} rows each belongs to: "
                "mini-batches cannot be cut for this kind of model. Embed the batch as one, with a mini_batch_size of "
                "all its rows."
            )
        if pieces := _pieces(entries_of_row, rows):  # rows without pictures have no key for pixels
            taken[key] = torch.cat([value[piece] for piece in pieces]) if len(pieces) > 1 else value[pieces[0]]
    return _without_empty_places(without_padding(taken))


def _count_rows(features: Features) -> int:
    tensors = [value for value in features.values() if isinstance(value, Tensor) and value.ndim]
    known = [features[key] for key in ("input_ids", "attention_mask") if key in features]  # pixels may have others
    return len([*known, *tensors][0])


def _entries(features: Features) -> dict[str, list[int]]:
    """How many entries each row has in what does not have one for each row.

    Numbers are brought to the CPU all at once, or every row would wait for the GPU.
    """
    entries = {}
    for grid_key, (count_key, pixel_key) in _GRIDS.items():
        grid = features.get(grid_key)
        if grid is None or features.get(pixel_key) is None:
            continue
        counts = features[count_key].tolist() if count_key in features else [1] * _count_rows(features)
        if sum(counts) != len(grid):
            raise ValueError(
                f"{grid_key} has {len(grid)} entries, and {count_key} tells of {sum(counts)}: nothing says which row "
                "each belongs to. Let the model's own preprocess make the features."
            )
        ends = [0, *accumulate(counts)]
        patches = [0, *accumulate(grid.prod(dim=1).tolist())]
        entries[grid_key] = counts
        if grid_key == "video_grid_thw":
            entries["second_per_grid_ts"] = counts
        entries[pixel_key] = [patches[end] - patches[begin] for begin, end in pairwise(ends)]
    if "pixel_values_videos" in features and "num_videos_per_sample" in features and not entries.get("video_grid_thw"):
        entries |= _entries_of_videos(features, features["num_videos_per_sample"].tolist())
    counts = features.get("num_images_per_sample")
    pixels = features.get("pixel_values")
    if counts is None or pixels is None or "pixel_values" in entries or any(key in features for key in _PADDED):
        return entries
    counts = counts.tolist()
    if len(pixels) == sum(counts):
        entries |= dict.fromkeys(_BY_PICTURE, counts)
        entries[_BY_ROW_WITH_PICTURES] = [int(count > 0) for count in counts]
    return entries


def _entries_of_videos(features: Features, videos: list[int]) -> dict[str, list[int]]:
    """Entries of videos without grids: one for each (LLaVA-OneVision), or one for each of their frames (Gemma 4)."""
    lengths = features.get("num_frames_per_video")
    if lengths is None:
        return {"pixel_values_videos": videos}
    ends = [0, *accumulate(lengths.tolist())]
    rows = [0, *accumulate(videos)]
    frames = [ends[last] - ends[first] for first, last in pairwise(rows)]
    return {"num_frames_per_video": videos, "pixel_values_videos": frames, "video_position_ids": frames}


def _with_counted_tiles(features: Features, image_token: int | None) -> Features:
    """Count tiles instead of pictures where each tile is an entry; Sentence Transformers cuts by the same counts."""
    pixels, ids, counts = (features.get(key) for key in ("pixel_values", "input_ids", "num_images_per_sample"))
    if pixels is None or ids is None or counts is None or image_token is None:
        return features
    if any(key in features for key in (*_GRIDS, *_PADDED)) or len(pixels) == int(counts.sum()):
        return features
    tokens = (ids == image_token).sum(dim=1)  # (rows,)
    total = int(tokens.sum())
    if total == 0 or total % len(pixels) or (tokens % (total // len(pixels))).any():
        return features
    return {**features, "num_images_per_sample": tokens // (total // len(pixels))}


def _without_empty_places(features: Features) -> Features:
    """Leave out the places for pictures that no row fills, and all of them where there is no picture.

    Models refuse pixels without a picture, as a mini-batch of texts would have them.
    """
    mask = features.get("pixel_attention_mask")
    if not isinstance(mask, Tensor) or "pixel_values" not in features:
        return features
    used = int(mask.flatten(2).any(dim=2).sum(dim=1).max())  # of (rows, places, height, width)
    kept = {key: value for key, value in features.items() if used or key not in _PIXELS_AND_MASK}
    return kept | {key: kept[key][:, :used].contiguous() for key in _PIXELS_AND_MASK if key in kept}


def _pieces(entries: Sequence[int], rows: Sequence[int]) -> list[slice]:
    """The entries of some rows, in as few pieces as they come in."""
    ends = [0, *accumulate(entries)]
    pieces: list[slice] = []
    for row in rows:
        begin, end = ends[row], ends[row + 1]
        if begin == end:
            continue
        if pieces and pieces[-1].stop == begin:
            begin = pieces.pop().start
        pieces.append(slice(begin, end))
    return pieces


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
