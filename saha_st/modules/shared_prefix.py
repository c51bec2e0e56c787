"""Run once what all rows of a batch begin with: the system turn and the opening of the user turn.

With a hierarchical prompt that is more than half of all tokens of a caption. The common prefix runs as one row, its
keys and values are handed to every row, and only what differs is run on top of them. The hidden states are those of
the plain forward, up to the rounding of another order of sums, as long as the backbone is causal and its cache can be
continued. Where a family is known not to be so it is not tried; whether it is so is never believed: the first batch is
run in both ways and compared.

Not while training: the prefix would see one dropout mask for all rows, and the cached loss, which runs each row
twice, would see two different ones.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from saha_st.modules.families import family_of

logger = logging.getLogger(__name__)

Features = Mapping[str, Any]
Forward = Callable[
    ..., Tensor
]  # features and further arguments of the backbone in, hidden states (rows, tokens, dim) out

_SHORTEST_PREFIX = 8  # tokens below which a second pass costs more than it saves
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_HALF_TOLERANCE = 0.1  # of a single token: bfloat16 and float16 round as much between two batch sizes
_MEDIA_TOKEN = re.compile(r"(image|video|audio|media)(_pad)?_token_(id|index)$")
_UNFIT = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


class SharedPrefix:
    """Forwards of one backbone that share the prefix of a batch.

    Args:
        config: The backbone's configuration: names its media tokens, and what its cache looks like.
        processor: Its processor, which may name further media tokens.
    """

    def __init__(self, config: Any, processor: Any = None) -> None:
        self._config = config
        found = _media_tokens(config.to_dict()) | (_media_tokens(vars(processor)) if processor is not None else set())
        self._media_tokens = torch.tensor(sorted(found), dtype=torch.long)
        family = family_of(config.model_type)
        self._shareable = {"text", "images"} if family is None else family.shares_prefix
        self._agrees: dict[tuple[Any, ...], bool] = {}  # by kind of batch: whether sharing gave the plain states

    def forward(self, features: Features, plain: Forward, model: Any) -> Tensor | None:
        """Return the hidden states of a batch, shape (rows, tokens, dim); None where the plain forward must do.

        Args:
            features: ``input_ids`` and ``attention_mask`` of shape (rows, tokens), and whatever else the model takes.
            plain: Runs features through the backbone.
            model: The backbone; gives M-RoPE positions if it has them.
        """
        kind = self._kind(features, model)
        if ("images" if _has_media(features) else "text") not in self._shareable or self._agrees.get(kind) is False:
            return None
        length = self._prefix_length(features)
        if length < _SHORTEST_PREFIX:
            return None
        if kind in self._agrees:
            return self._run(features, length, plain, model)
        return self._try(kind, features, length, plain, model)

    def _try(
        self, kind: tuple[Any, ...], features: Features, length: int, plain: Forward, model: Any
    ) -> Tensor | None:
        """Run the first batch of a kind in both ways."""
        expected = plain(features)
        try:
            states = self._run(features, length, plain, model)
            reason = _difference(states, expected, features["attention_mask"].bool())
        except torch.OutOfMemoryError:
            raise
        except _UNFIT as error:
            states, reason = expected, f"{type(error).__name__}: {error}"
        self._agrees[kind] = not reason
        if reason:
            name = type(model).__name__
            logger.info("%s runs the whole prompt of every row: its cache cannot be shared (%s).", name, reason)
            return expected
        return states

    def _run(self, features: Features, length: int, plain: Forward, model: Any) -> Tensor:
        ids, mask = features["input_ids"], features["attention_mask"]
        order = None if mask[:, 0].all() else torch.argsort(mask, dim=1, descending=True, stable=True)
        if order is not None:  # padded on the left: move the padding to the right, where it leaves the prefix in place
            features = _per_token(features, lambda tensor: tensor.gather(1, order))
        positions = _positions(features, model)  # (rows, tokens), or (3, rows, tokens)
        cache = DynamicCache(config=self._config)
        head = plain(
            {name: value[:1, :length] for name, value in features.items() if _is_per_token(value, ids)},
            position_ids=positions[..., :1, :length],
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_repeat_interleave(len(ids))
        rest = _per_token(features, lambda tensor: tensor[:, length:])
        rest["attention_mask"] = features["attention_mask"]  # of the cache, too
        tail = plain(rest, position_ids=positions[..., length:], past_key_values=cache, use_cache=True)
        states = torch.cat((head.expand(len(ids), -1, -1), tail), dim=1)
        if order is None:
            return states
        return torch.empty_like(states).scatter_(1, order[..., None].expand_as(states), states)

    def _prefix_length(self, features: Features) -> int:
        """Tokens that all rows begin with: no media, no padding, and at least one token of each row left."""
        ids, mask = features["input_ids"], features["attention_mask"].bool()
        media = self._media_tokens.to(ids.device)
        if len(ids) < 2 or (_has_media(features) and not self._may_share_with_media(features, media)):
            return 0
        start = mask.to(torch.uint8).argmax(dim=1, keepdim=True)  # (rows, 1)
        shortest = int(mask.sum(dim=1).min())
        place = start + torch.arange(shortest - 1, device=ids.device)  # (rows, shortest - 1)
        rows = ids.gather(1, place)
        equal = (rows == rows[:1]).all(dim=0) & ~torch.isin(rows[0], media)
        return int(equal.cumprod(dim=0).sum())

    @staticmethod
    def _may_share_with_media(features: Features, placeholders: Tensor) -> bool:
        """Whether it is known where media are, and that no token looks ahead to them.

        Placeholders that are not known might be taken for a part of the prefix. Token types make the pictures of Gemma
        3 and PaliGemma attend in both directions, which half precision is too coarse to notice.
        """
        return "token_type_ids" not in features and bool(torch.isin(features["input_ids"], placeholders).any())

    def _kind(self, features: Features, model: Any) -> tuple[Any, ...]:
        """What decides which code of a backbone a batch runs through, and how it rounds."""
        tensors = sorted(name for name, value in features.items() if isinstance(value, Tensor))
        device = features["input_ids"].device.type
        return (*tensors, device, getattr(model, "dtype", None), torch.is_autocast_enabled(device))


def _has_media(features: Features) -> bool:
    """Whether there are pictures, videos or sound in a batch."""
    return any(isinstance(value, Tensor) and value.is_floating_point() for value in features.values())


def _media_tokens(settings: Mapping[str, Any]) -> set[int]:
    return {value for name, value in settings.items() if _MEDIA_TOKEN.match(name) and isinstance(value, int)}


def _is_per_token(value: Any, ids: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == ids.shape


def _per_token(features: Features, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    ids = features["input_ids"]
    return {name: change(value) if _is_per_token(value, ids) else value for name, value in features.items()}


def _positions(features: Features, model: Any) -> Tensor:
    """Positions of all tokens, padding on the right; those of M-RoPE where there are images or videos."""
    ids = features["input_ids"]
    rope = getattr(model, "get_rope_index", None)
    if rope is None or not any(name.endswith("_grid_thw") for name in features):
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    known = inspect.signature(rope).parameters
    return rope(**{name: value for name, value in features.items() if name in known})[0]


def _difference(states: Tensor, expected: Tensor, mask: Tensor) -> str:
    """What is wrong with hidden states, in words; empty if they agree on all tokens that are no padding."""
    is_half = torch.is_autocast_enabled(expected.device.type)
    tolerance = _HALF_TOLERANCE if is_half else _TOLERANCE.get(expected.dtype, _HALF_TOLERANCE)
    if states.shape != expected.shape:
        return f"shape {tuple(states.shape)} instead of {tuple(expected.shape)}"
    found, wanted = states[mask].float(), expected[mask].float()  # (tokens, dim)
    worst = ((found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-30)).max().item()
    return "" if worst <= tolerance else f"relative error {worst:.1e}"
