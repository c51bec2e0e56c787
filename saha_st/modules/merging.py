"""How an adapter becomes weights: merged, compared with the unmerged model, and only then trusted.

A merged model may differ from the unmerged one by rounding, and 16-bit weights round coarsely: an adapter that was
trained for a few steps changes less than that. So vectors are compared with those of the base, too: merged ones should
be nearer to the adapter's than these are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image, ImageDraw
from sentence_transformers import SentenceTransformer
from torch import nn

from saha_st.card import facts

logger = logging.getLogger(__name__)

_TEXTS = ("a probe", "another text, to compare vectors before and after")


def has_adapter(model: SentenceTransformer) -> bool:
    """Whether an adapter is in place."""
    return bool(_adapter_layers(model))


@dataclass(frozen=True)
class AdapterEffect:
    """What an adapter does.

    Attributes:
        tensors: How many tensors it has in the model.
        layers: How many layers it sits on.
        change: How far it turns the vectors of the probes, at most, as 1 - cosine.
    """

    tensors: int
    layers: int
    change: float


def adapter_effect(model: SentenceTransformer, *, probes: Sequence[Any] | None = None) -> AdapterEffect | None:
    """Measure what an adapter does; None if there is none.

    Args:
        model: An embedder; left as it was.
        probes: Inputs to measure it on; by default a few texts and, if the model sees, pictures.

    Raises:
        ValueError: It is there and changes nothing: it was never trained, or its weights were not loaded.
    """
    layers = _adapter_layers(model)
    if not layers:
        return None
    names = {name for layer in layers for name in layer.adapter_layer_names}
    tensors = sum(not names.isdisjoint(name.split(".")) for name, _ in model[0].model.named_parameters())
    probes = default_probes(model) if probes is None else list(probes)
    with _kept_as_it_is(model):
        adapted = model.encode(probes)
    plain = _without_adapter(model, probes)
    if np.array_equal(adapted, plain):
        raise ValueError(
            f"The adapter has {tensors} tensors on {len(layers)} layers, and changes nothing: the vectors are those "
            "of the base model to the last bit. It was never trained, or its weights were not loaded."
        )
    return AdapterEffect(tensors, len(layers), float(_turns(adapted, plain).max()))


def merge_adapter(model: SentenceTransformer, *, probes: Sequence[Any] | None = None) -> bool:
    """Merge an adapter into the weights, in place, so that the model saves and loads as a plain one.

    The merged vectors must be those of the unmerged model but for rounding, and some weight must have changed. In 16
    bits an adapter that does little may pass that and be lost all the same, its change smaller than a weight's last
    bit. So the probe that it changes most is looked at: where the base's vector is as near to the adapter's as the
    merged one is, nothing of the adapter is left, which is a warning. A run of a few steps ends so.

    Args:
        model: An embedder with an adapter; without one, nothing happens.
        probes: Inputs to compare before and after; by default as in `adapter_effect`.

    Returns:
        Whether the weights hold what the adapter did.

    Raises:
        RuntimeError: The merged model gives other vectors than the unmerged one, or its weights are the base's.
    """
    if not has_adapter(model):
        return True
    backbone = model[0].model
    probes = default_probes(model) if probes is None else list(probes)
    adapted, plain = model.encode(probes), _without_adapter(model, probes)
    changed = False
    for name, module in list(backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            before = [parameter.detach().clone() for parameter in layer.parameters()]
            module.merge(safe_merge=True)
            changed |= not all(map(torch.equal, before, layer.parameters()))
            _replace(backbone, name, layer)
    # What transformers remembers of the adapter would make it write the weights under the adapter's names.
    for attribute in ("peft_config", "_weight_conversions"):
        if hasattr(backbone, attribute):
            delattr(backbone, attribute)
    backbone._hf_peft_config_loaded = False
    merged = model.encode(probes)
    if problem := disagreement(merged, adapted, backbone.dtype):
        problem = f"Merging the adapter changed the vectors: {problem}"
    elif not changed and not np.array_equal(adapted, plain):
        problem = "Merging the adapter changed no weight, and without the adapter the vectors are others"
    if problem:
        raise RuntimeError(f"{problem}. Keep the unmerged checkpoint, and load it with the same version of peft.")
    return not _is_lost(merged, adapted, plain, backbone.dtype)


def default_probes(model: SentenceTransformer) -> list[Any]:
    """Inputs that reach every part of a model: texts and, if it sees, a picture by itself and with a text.

    A picture that does not fit into ``max_seq_length`` is left out; the model cannot be used with one, either.
    """
    if not facts.sees(model):
        return list(_TEXTS)
    picture = _draw_probe()
    return [*_TEXTS, *(cell for cell in (picture, {"image": picture, "text": _TEXTS[0]}) if _fits(model, cell))]


def disagreement(vectors: np.ndarray, expected: np.ndarray, dtype: torch.dtype) -> str | None:
    """Say how two sets of vectors (inputs, dim) differ in direction, if by more than rounding in ``dtype`` does."""
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    turn = float(_turns(vectors, expected).max())
    return None if turn <= tolerance else f"the smallest cosine is {1 - turn:.7f}, at least {1 - tolerance} is due"


def _is_lost(merged: np.ndarray, adapted: np.ndarray, plain: np.ndarray, dtype: torch.dtype) -> bool:
    """Whether merged vectors are as far from the adapter's as those without it are; says so."""
    of_merged, of_plain = _turns(merged, adapted), _turns(plain, adapted)
    most = int(of_plain.argmax())
    lost = bool(of_merged[most] >= of_plain[most]) and not np.array_equal(adapted, plain)
    if lost:
        logger.warning(
            "Merging lost the adapter: it turns vectors by no more than %.1e (1 - cosine), and the merged ones are "
            "%.1e away from its. Weights in %s are too coarse for it: train on, or merge in float32, with "
            "model_kwargs={'dtype': 'float32'}.",
            of_plain[most],
            of_merged[most],
            str(dtype).removeprefix("torch."),
        )
    return lost


def _turns(vectors: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Angles between rows of two sets of vectors (inputs, dim), as 1 - cosine."""
    vectors, expected = vectors.astype(np.float64), expected.astype(np.float64)
    # Vectors that were normalised in bfloat16 are not of length 1.
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return 1 - (vectors * expected).sum(axis=1) / lengths  # (inputs,)


def _adapter_layers(model: SentenceTransformer) -> list[BaseTunerLayer]:
    return [module for module in model[0].model.modules() if isinstance(module, BaseTunerLayer)]


def _without_adapter(model: SentenceTransformer, probes: list[Any]) -> np.ndarray:
    """Vectors (inputs, dim) of the base model."""
    layers = [layer for layer in _adapter_layers(model) if not layer.disable_adapters]
    with _kept_as_it_is(model):
        try:
            for layer in layers:
                layer.enable_adapters(False)
            return model.encode(probes)
        finally:
            for layer in layers:
                layer.enable_adapters(True)


@contextmanager
def _kept_as_it_is(model: SentenceTransformer) -> Iterator[None]:
    """Put back what `encode` and `enable_adapters` change: who trains, and what gets gradients."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, needed in gradients:
            parameter.requires_grad_(needed)


def _draw_probe() -> Image.Image:
    """A picture without symmetry: vision towers tell its parts apart."""
    picture = Image.new("RGB", (84, 56), "navy")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((6, 4, 40, 38), fill="gold")
    pen.polygon([(50, 52), (80, 50), (72, 14)], fill="crimson")
    pen.line((0, 55, 83, 20), fill="white", width=3)
    return picture


def _fits(model: SentenceTransformer, cell: Any) -> bool:
    try:
        model.preprocess([cell])
    except ValueError:
        return False
    return True


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
