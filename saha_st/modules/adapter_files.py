"""Adapter files that every loader reads completely.

PEFT strips ``.weight`` from the names of DoRA's magnitudes, and transformers (seen in 5.23) then takes them for
unknown: the adapter loads with the magnitudes of the base, the vectors are wrong, and nothing fails. Files are
therefore written with the whole name, which all loaders understand, and what was loaded is compared with the file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_model.safetensors"

ADAPTER_PREFIX = "base_model.model."
"""With which PEFT begins the name of every tensor."""

_MAGNITUDE = "lora_magnitude_vector"


def write_whole_names(folder: Path) -> None:
    """Give the magnitudes in a saved adapter their whole name."""
    path = folder / ADAPTER_FILE
    if not path.exists():
        return
    tensors = load_file(path)
    if any(name.endswith(_MAGNITUDE) for name in tensors):
        named = {f"{name}.weight" if name.endswith(_MAGNITUDE) else name: t for name, t in tensors.items()}
        save_file(named, path, metadata={"format": "pt"})


def restore_adapter(backbone: nn.Module, path: Path, *, adapter_name: str = "default") -> int:
    """Make sure that every tensor of an adapter file is in the model, and repair what a loader lost.

    Args:
        backbone: A model with the adapter injected.
        path: The ``adapter_model.safetensors`` that was loaded.
        adapter_name: PEFT's name of the adapter.

    Returns:
        How many tensors had to be repaired.

    Raises:
        ValueError: A tensor of the file has no place in the model.
    """
    tensors = load_file(path)
    repaired = place_tensors(backbone, tensors, str(path), adapter_name=adapter_name)
    if repaired:
        logger.warning(
            "Took %d of %d adapter tensors from the file again: they were not loaded whole.", repaired, len(tensors)
        )
    return repaired


def place_tensors(
    backbone: nn.Module, tensors: Mapping[str, Tensor], source: str, *, adapter_name: str = "default"
) -> int:
    """Copy the tensors of an adapter into a model with the adapter injected, where they differ.

    Args:
        backbone: The model.
        tensors: By their names in an adapter file; the layers' names are those of the model.
        source: Where they come from, for the error.
        adapter_name: PEFT's name of the adapter.

    Returns:
        How many tensors differed.

    Raises:
        ValueError: A tensor has no place in the model.
    """
    parameters = dict(backbone.named_parameters())
    differed, missing = 0, []
    for name, tensor in tensors.items():
        parameter = parameters.get(_parameter_name(name, adapter_name))
        if parameter is None or parameter.shape != tensor.shape:
            missing.append(name)
        elif not torch.equal(parameter.detach().cpu(), tensor.to(parameter.dtype)):
            parameter.data.copy_(tensor)
            differed += 1
    if missing:
        raise does_not_fit(backbone, source, missing, len(tensors))
    return differed


def does_not_fit(backbone: nn.Module, source: str, missing: Sequence[str], count: int) -> ValueError:
    """Return the error for an adapter of which tensors have no place in a model."""
    return ValueError(
        f"The adapter {source!r} does not fit {type(backbone).__name__}: {len(missing)} of {count} tensors have no "
        f"place, such as {', '.join(map(repr, missing[:3]))}. Load it with the base model it was trained on, which "
        "its adapter_config.json names as base_model_name_or_path."
    )


def _parameter_name(name: str, adapter_name: str) -> str:
    """The name within the model: the file leaves out the adapter's own name."""
    name = name.removeprefix(ADAPTER_PREFIX).removesuffix(".weight")
    return f"{name}.{adapter_name}.weight"
