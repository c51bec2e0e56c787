"""Lessons into tensors: many exchanges behind one prefix, as if each were a conversation of its own.

The processor is bypassed for speed. That pictures, tokens and positions equal what the processor and the model would
compute for each conversation alone is tested, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLProcessor

from saha_st.data.scenes.drawing import PICTURE_SIZE, draw
from saha_st.quickstart.lessons import Exchange, Lesson
from saha_st.quickstart.tiny_model import (
    IMAGE_TOKEN,
    MERGE_SIZE,
    PATCH_SIZE,
    TEMPORAL_PATCH_SIZE,
    TURN_END,
    TURN_START,
    VISION_END,
    VISION_START,
)

TOKENS_PER_SIDE = PICTURE_SIZE // (PATCH_SIZE * MERGE_SIZE)
END_WEIGHT = 0.2
"""Weight of the token that ends a turn: needed, and learned at once."""


@dataclass(frozen=True)
class Batch:
    """One training step's tensors.

    Args:
        inputs: Keyword arguments of the model's backbone.
        at: Indices into the flattened (rows * length) hidden states, (targets,).
        token: The token to be predicted there, (targets,).
        weight: Its weight in the loss, (targets,).
    """

    inputs: dict[str, torch.Tensor]
    at: torch.Tensor
    token: torch.Tensor
    weight: torch.Tensor


class LessonPacker:
    """Turns lessons into a batch of one fixed length; the last exchanges of a lesson that is longer are left out.

    Args:
        processor: The processor whose tokenizer and pixel normalisation are used.
        length: Tokens in a row. A fixed length lets the layers be compiled once.

    Raises:
        ValueError: On a call, if not even the first exchange of a lesson fits.
    """

    def __init__(self, processor: Qwen2VLProcessor, *, length: int = 128) -> None:
        self.length = length
        self._encode = lru_cache(maxsize=100_000)(self._tokenise)
        self._backend = processor.tokenizer.backend_tokenizer
        self._mean = np.asarray(processor.image_processor.image_mean, np.float32) * 255
        self._std = np.asarray(processor.image_processor.image_std, np.float32) * 255

    def __call__(self, lessons: Sequence[Lesson]) -> Batch:
        """Pack the lessons into one padded batch, pictures drawn."""
        rows = [self._pack(lesson) for lesson in lessons]
        length = self.length
        ids, segments = np.zeros((len(rows), length), np.int64), np.full((len(rows), length), -1)
        positions = np.zeros((3, len(rows), length), np.int64)
        targets: list[tuple[int, int, float]] = []
        for index, row in enumerate(rows):
            used = len(row.ids)
            ids[index, :used], segments[index, :used], positions[:, index, :used] = (
                row.ids,
                row.segments,
                row.positions,
            )
            targets += [(index * length + at, token, weight) for at, token, weight in row.targets]
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(_visible(segments)),
            "position_ids": torch.from_numpy(positions),
        }
        pictures = [draw(lesson.scene, lesson.seed) for lesson in lessons if lesson.scene is not None]
        if pictures:
            inputs["pixel_values"] = torch.from_numpy(self.patches(pictures))
            grid = [1, PICTURE_SIZE // PATCH_SIZE, PICTURE_SIZE // PATCH_SIZE]
            inputs["image_grid_thw"] = torch.tensor([grid] * len(pictures))
        at, token, weight = zip(*targets, strict=True)
        return Batch(inputs, torch.tensor(at), torch.tensor(token), torch.tensor(weight, dtype=torch.float32))

    def patches(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Normalised patches in the order of Qwen2-VL's processor, (pictures * patches, channels * time * area)."""
        pixels = np.stack([np.asarray(picture, np.float32) for picture in pictures])  # (n, height, width, channels)
        pixels = (pixels - self._mean) / self._std
        blocks = PICTURE_SIZE // (PATCH_SIZE * MERGE_SIZE)
        pixels = pixels.reshape(len(pictures), *(blocks, MERGE_SIZE, PATCH_SIZE) * 2, 3)
        # Patches of one merged block stand together: block row, block column, row and column in the block.
        pixels = pixels.transpose(0, 1, 4, 2, 5, 7, 3, 6)
        pixels = np.repeat(pixels[:, :, :, :, :, :, None], TEMPORAL_PATCH_SIZE, axis=6)
        return pixels.reshape(-1, 3 * TEMPORAL_PATCH_SIZE * PATCH_SIZE**2)

    def _pack(self, lesson: Lesson) -> _Row:
        prefix = f"{TURN_START}system\n{lesson.system}{TURN_END}\n{TURN_START}user\n{lesson.text}"
        ids = list(self._encode(prefix))
        positions = [np.tile(np.arange(len(ids)), (3, 1))]
        if lesson.scene is not None:
            ids += (
                self._encode(VISION_START) + self._encode(IMAGE_TOKEN) * TOKENS_PER_SIDE**2 + self._encode(VISION_END)
            )
            positions.append(_picture_positions(positions[0].shape[1]))
        start = int(positions[-1].max()) + 1
        row = _Row(ids, [0] * len(ids), positions, [])
        for segment, exchange in enumerate(lesson.exchanges, start=1):
            if not self._append(row, exchange, segment, start):
                break
        if not row.targets:
            raise ValueError(f"length={self.length} tokens hold no exchange of the lesson {lesson}; raise length.")
        row.positions = np.concatenate(row.positions, axis=1)
        return row

    def _append(self, row: _Row, exchange: Exchange, segment: int, start: int) -> bool:
        """Add an exchange whose positions begin at ``start``, and its targets; False if there is no room for it."""
        asked = self._encode(f"{exchange.tail}{TURN_END}\n{TURN_START}assistant\n")
        answer = self._encode(exchange.answer)
        spoken = (*asked, *answer, *self._encode(TURN_END))
        if len(row.ids) + len(spoken) > self.length:
            return False
        first = len(row.ids) + len(asked) - 1
        row.ids += spoken
        row.segments += [segment] * len(spoken)
        row.positions.append(np.tile(np.arange(start, start + len(spoken)), (3, 1)))
        bag = exchange.first_words or {exchange.answer: 1.0}
        row.targets += [(first, self._encode(word)[0], exchange.weight * share) for word, share in bag.items()]
        row.targets += [(first + step, answer[step], exchange.weight) for step in range(1, len(answer))]
        row.targets.append((first + len(answer), self._encode(TURN_END)[0], END_WEIGHT))
        return True

    def _tokenise(self, text: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)


@dataclass
class _Row:
    """One lesson while it is being packed; ``positions`` is a list of (3, tokens) pieces, then one array."""

    ids: list[int]
    segments: list[int]
    positions: list[np.ndarray] | np.ndarray
    targets: list[tuple[int, int, float]]


def _visible(segments: np.ndarray) -> np.ndarray:
    """Additive attention mask, (rows, 1, length, length): a token sees the past of the prefix and of its segment."""
    own, other = segments[:, :, None], segments[:, None, :]
    past = np.tri(segments.shape[1], dtype=bool)
    # A padding token (segment -1) sees its own kind, because attention over nothing is not a number.
    seen = ((other == 0) | (other == own)) & past
    return np.where(seen, np.float32(0), np.float32(-1e9))[:, None]


def _picture_positions(start: int) -> np.ndarray:
    """M-RoPE positions of the vision start token, the picture and the vision end token, (3, tokens)."""
    raster = np.indices((1, TOKENS_PER_SIDE, TOKENS_PER_SIDE)).reshape(3, -1) + start + 1
    opening, closing = np.full((3, 1), start), np.full((3, 1), start + 1 + TOKENS_PER_SIDE)
    return np.concatenate([opening, raster, closing], axis=1)
