"""What is trained: LoRA/DoRA on the language model, or weights.

Adapters sit on the language model only (serving engines ignore those of a vision tower) and are float32, since steps
of 1e-5 on bfloat16 numbers are rounded away.
"""

from __future__ import annotations

import logging
import re

import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from torch import nn

from saha_st.modules.families import known_or_by_structure
from saha_st.training.config import AdapterConfig

logger = logging.getLogger(__name__)


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
    """Freeze what only pictures run through; returns how many parameters that are."""
    parts = known_or_by_structure(model[0].model).vision
    frozen = 0
    for name, parameter in model[0].model.named_parameters():
        if name.split(".")[0] in parts:
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


def language_model_layers(backbone: nn.Module, names: tuple[str, ...]) -> str:
    """A regular expression for the layers to adapt; anchored, because vision towers use the same names.

    Raises:
        ValueError: No linear layer of the language model has one of the names.
    """
    family = known_or_by_structure(backbone)
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    others = "|".join(map(re.escape, (*family.vision, "vision")))
    owner = rf"{re.escape(family.language_model)}\..*" if family.language_model else rf"(?!.*({others})).*"
    pattern = rf"{owner}\.({'|'.join(map(re.escape, names))})"
    if not any(re.fullmatch(pattern, name) for name in linear):
        found = sorted({name.rsplit(".", 1)[-1] for name in linear if re.fullmatch(rf"{owner}\..*", name)})
        raise ValueError(
            f"adapter.target_modules={list(names)} names no linear layer of {type(backbone).__name__}'s language "
            f"model; it has {', '.join(found) or 'none'}."
        )
    return pattern
