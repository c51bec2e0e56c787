"""How an adapter becomes weights: merged, compared with the unmerged model, and only then trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from sentence_transformers import SentenceTransformer
from torch import nn

_PROBES = ("a probe", "another text, to compare vectors before and after")


def has_adapter(model: SentenceTransformer) -> bool:
    """Whether an adapter is in place."""
    return any(isinstance(module, BaseTunerLayer) for module in model[0].model.modules())


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


def adapter_effect(model: SentenceTransformer, *, probes: Sequence[Any] = _PROBES) -> AdapterEffect | None:
    """Measure what an adapter does; None if there is none.

    Raises:
        ValueError: It is there and changes nothing: it was never trained, or its weights were not loaded.
    """
    layers = [module for module in model[0].model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        return None
    names = tuple(f"{name}." for layer in layers[:1] for name in layer.adapter_layer_names)
    tensors = sum(any(part in f"{name}." for part in names) for name, _ in model[0].model.named_parameters())
    adapted = model.encode(list(probes))
    for layer in layers:
        layer.enable_adapters(False)
    try:
        plain = model.encode(list(probes))
    finally:
        for layer in layers:
            layer.enable_adapters(True)
    lengths = np.linalg.norm(adapted, axis=1) * np.linalg.norm(plain, axis=1)
    change = float((1 - (adapted * plain).sum(axis=1) / lengths).max())
    if np.array_equal(adapted, plain):
        raise ValueError(
            f"The adapter has {tensors} tensors on {len(layers)} layers, and changes nothing: the vectors are those "
            "of the base model to the last bit. It was never trained, or its weights were not loaded."
        )
    return AdapterEffect(tensors, len(layers), change)


def merge_adapter(model: SentenceTransformer, *, probes: Sequence[Any] = _PROBES) -> None:
    """Merge an adapter into the weights, in place, so that the model saves and loads as a plain one.

    Args:
        model: An embedder with an adapter; without one, nothing happens.
        probes: Inputs to compare before and after.

    Raises:
        RuntimeError: The merged model gives other vectors.
    """
    if not has_adapter(model):
        return
    backbone = model[0].model
    before = model.encode(list(probes))
    for name, module in list(backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            _replace(backbone, name, module.get_base_layer())
    # What transformers remembers of the adapter would make it write the weights under the adapter's names.
    for attribute in ("peft_config", "_weight_conversions"):
        if hasattr(backbone, attribute):
            delattr(backbone, attribute)
    backbone._hf_peft_config_loaded = False
    if problem := disagreement(model.encode(list(probes)), before, backbone.dtype):
        raise RuntimeError(
            f"Merging the adapter changed the vectors: {problem}. Keep the unmerged checkpoint, and load it with the "
            "same version of peft."
        )


def disagreement(vectors: np.ndarray, expected: np.ndarray, dtype: torch.dtype) -> str | None:
    """Say how two sets of vectors (inputs, dim) differ in direction, if by more than rounding in ``dtype`` does."""
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    # Vectors that were normalised in bfloat16 are not of length 1.
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(((vectors * expected).sum(axis=1) / lengths).min())
    return None if 1 - cosine <= tolerance else f"the smallest cosine is {cosine:.7f}, at least {1 - tolerance} is due"


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
