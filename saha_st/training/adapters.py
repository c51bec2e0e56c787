"""What is trained: LoRA/DoRA on the language model, or weights; and how an adapter becomes weights again.

Adapters sit on the language model only (serving engines ignore those of a vision tower) and are float32, since steps
of 1e-5 on bfloat16 numbers are rounded away. A merged model is compared with the unmerged one before it is trusted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from sentence_transformers import SentenceTransformer
from torch import nn

from saha_st.training.config import AdapterConfig

logger = logging.getLogger(__name__)

VISION_MODULES = ("visual", "vision_tower", "vision_model", "image_newline")
"""Names under which transformers keeps a vision tower, its projector included where it belongs to the tower."""

_PROBES = ("a probe", "another text, to compare vectors before and after")


def add_adapter(model: SentenceTransformer, config: AdapterConfig, *, seed: int = 0) -> None:
    """Put a LoRA/DoRA adapter on the language model, in float32, and freeze everything else.

    Args:
        model: The embedder; changed in place.
        config: Rank, scaling and where.
        seed: Seed of the adapter's initial weights.

    Raises:
        ValueError: No linear layer of the language model has one of the names.
    """
    pattern = language_model_layers(model[0].model, config.target_modules)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_dora=config.use_dora,
        target_modules=pattern,
    )
    model.add_adapter(lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def freeze_vision(model: SentenceTransformer) -> int:
    """Freeze the vision tower; returns how many parameters that are."""
    frozen = 0
    for name, parameter in model[0].model.named_parameters():
        if set(name.split(".")) & set(VISION_MODULES):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen


def log_trainable(model: SentenceTransformer) -> None:
    """Log how much is trained, and in which precision."""
    counts: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = ", ".join(f"{count:,} in {str(dtype).removeprefix('torch.')}" for dtype, count in counts.items())
    logger.info("Training %s of %s parameters.", trained or "none", f"{total:,}")
    if set(counts) & {torch.bfloat16, torch.float16}:
        logger.warning(
            "Small steps on 16-bit weights are rounded away. Load them with model_kwargs: {dtype: float32}."
        )


def has_adapter(model: SentenceTransformer) -> bool:
    """Whether an adapter is in place."""
    return any(isinstance(module, BaseTunerLayer) for module in model[0].model.modules())


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


def language_model_layers(backbone: nn.Module, names: tuple[str, ...]) -> str:
    """A regular expression for the layers to adapt; anchored, because vision towers use the same names.

    Raises:
        ValueError: No linear layer of the language model has one of the names.
    """
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    owner = r"(.*\.)?language_model\..*" if hasattr(backbone, "language_model") else r"(?!.*vision).*"
    pattern = rf"{owner}\.({'|'.join(map(re.escape, names))})"
    if not any(re.fullmatch(pattern, name) for name in linear):
        found = sorted({name.rsplit(".", 1)[-1] for name in linear if not set(name.split(".")) & set(VISION_MODULES)})
        raise ValueError(
            f"adapter.target_modules={list(names)} names no linear layer of {type(backbone).__name__}'s language "
            f"model; it has {', '.join(found) or 'none'}."
        )
    return pattern


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
