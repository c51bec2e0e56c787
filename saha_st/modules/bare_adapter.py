"""A bare adapter: what PEFT saves of a generative model, with neither pooling nor prompt, often without a processor.

Its tensors are named after the class and the release of transformers that it was trained with
(``base_model.model.model.layers.0…`` in 2024, ``base_model.model.model.language_model.layers.0…`` today). Loaders
drop what they cannot place, and only log it. Here every tensor finds its layer, or the adapter is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from peft import PeftConfig
from safetensors.torch import load_file
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import is_sentence_transformer_model, load_file_path
from torch import nn
from transformers import AutoProcessor

from saha_st.modules.adapter_files import ADAPTER_FILE, ADAPTER_PREFIX, does_not_fit, place_tensors

_RENAMED = (
    ("", ""),
    ("model.", ""),  # the backbone within its generative class
    ("model.", "language_model."),  # Qwen2-VL before transformers 4.52
    ("language_model.model.", "language_model."),  # LLaVA before transformers 4.52
)
"""How names of layers begin, in files and in the backbone."""

_CONFIG, _OUTPUT_LAYER = "adapter_config.json", "lm_head"
_FILES = ["*.json", "*.jinja", "*.txt", "*.model", ADAPTER_FILE]


def find_bare_adapter(path: str, **hub_kwargs: Any) -> Path | None:
    """Return the folder of a bare adapter, downloaded if it is on the Hub; None if ``path`` is something else.

    Raises:
        ValueError: An adapter whose tensors are a pickle.
    """
    if not load_file_path(path, _CONFIG, **hub_kwargs):
        return None
    if is_sentence_transformer_model(path, **hub_kwargs):
        return None
    folder = Path(path)
    if not folder.is_dir():
        kwargs = {"cache_dir" if name == "cache_folder" else name: value for name, value in hub_kwargs.items()}
        folder = Path(snapshot_download(path, allow_patterns=_FILES, **kwargs))
    if not (folder / ADAPTER_FILE).exists():
        raise ValueError(
            f"The adapter {path!r} has no {ADAPTER_FILE}. If it has an adapter_model.bin, which is a pickle, save it "
            "again with PeftModel.save_pretrained."
        )
    return folder


def base_of(folder: Path) -> tuple[str, str | None]:
    """The model that an adapter was trained on, and its revision.

    Raises:
        ValueError: It does not say.
    """
    config = _read_config(folder)
    if not config.get("base_model_name_or_path"):
        raise ValueError(
            f"The adapter {str(folder)!r} names no base model: set base_model_name_or_path in its {_CONFIG}."
        )
    return config["base_model_name_or_path"], config.get("revision")


def put_adapter(transformer: Transformer, folder: Path, *, processor_kwargs: dict[str, Any] | None = None) -> None:
    """Put a bare adapter on the backbone that it was trained on, and take its processor over if it has one.

    Args:
        transformer: The input module, with the base model in it; changed in place.
        folder: The adapter's folder.
        processor_kwargs: Settings for its processor.

    Raises:
        ValueError: An adapter of another kind than LoRA or DoRA, a tensor of the file that has no place in the model,
            or an adapter in the model that is not all in the file.
    """
    backbone, source = transformer.model, str(folder)
    _check_kind(folder)
    layers = {name for name, module in backbone.named_modules() if name and not list(module.children())}
    tensors, missing = {}, []
    for name, tensor in load_file(folder / ADAPTER_FILE).items():
        layer, part = _split(name)
        if _OUTPUT_LAYER in layer.split("."):  # which plays no part in embedding
            continue
        place = _place(layer, layers)
        if place is None:
            missing.append(name)
        else:
            tensors[f"{ADAPTER_PREFIX}{place}.{part}"] = tensor
    if missing:
        raise does_not_fit(backbone, source, missing, len(missing) + len(tensors))
    backbone.add_adapter(_config_for(folder, layers, {_split(name)[0] for name in tensors}))
    place_tensors(backbone, tensors, source)
    _check_filled(backbone, tensors, source)
    backbone.requires_grad_(False).eval()
    _take_processor(transformer, folder, processor_kwargs or {})


def _read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _CONFIG).read_text(encoding="utf8"))


def _check_kind(folder: Path) -> None:
    """Refuse adapters that are more than low-rank matrices beside the layers."""
    config = _read_config(folder)
    stated = {"peft_type": config.get("peft_type", "LORA"), "bias": config.get("bias", "none")}
    stated["modules_to_save"] = sorted(set(config.get("modules_to_save") or ()) - {_OUTPUT_LAYER})
    unknown = {name: value for name, value in stated.items() if value not in ("LORA", "none", [])}
    if unknown:
        what = ", ".join(f"{name} {value}" for name, value in unknown.items())
        raise ValueError(
            f"The adapter {str(folder)!r} is of a kind that is not read here ({_CONFIG}: {what}). Merge it with peft "
            "(merge_and_unload), save the whole model, and load that."
        )


def _split(name: str) -> tuple[str, str]:
    """The layer that a tensor belongs to, and what it is there."""
    found = re.fullmatch(r"(.+?)\.(lora_.+)", name.removeprefix(ADAPTER_PREFIX))
    return (found[1], found[2]) if found else (name, "")


def _place(layer: str, layers: set[str]) -> str | None:
    for theirs, ours in _RENAMED:
        if layer.startswith(theirs) and ours + layer.removeprefix(theirs) in layers:
            return ours + layer.removeprefix(theirs)
    return None


def _config_for(folder: Path, layers: set[str], adapted: set[str]) -> PeftConfig:
    """The adapter's configuration, which says by name in this backbone which layers it is for."""
    config = PeftConfig.from_pretrained(str(folder))
    config.target_modules = adapted
    config.layers_to_transform = config.layers_pattern = config.exclude_modules = config.modules_to_save = None
    for patterns in ("rank_pattern", "alpha_pattern"):
        renamed = {_place(name, layers) or name: value for name, value in getattr(config, patterns, {}).items()}
        setattr(config, patterns, renamed)
    return config


def _check_filled(backbone: nn.Module, tensors: dict[str, Any], source: str) -> None:
    parts = [name for name, _ in backbone.named_parameters() if ".lora_" in name]
    if len(parts) != len(tensors):
        known = {name.removeprefix(ADAPTER_PREFIX).removesuffix(".weight") for name in tensors}
        empty = [name for name in parts if name.removesuffix(".default.weight") not in known]
        raise ValueError(
            f"The adapter {source!r} is incomplete: by its adapter_config.json it has {len(parts)} tensors, the file "
            f"has {len(tensors)}. Missing are {', '.join(map(repr, empty[:3]))}, …."
        )


def _take_processor(transformer: Transformer, folder: Path, settings: dict[str, Any]) -> None:
    """Use the adapter's own processor where it has a whole one; a lone tokenizer could not read images."""
    try:
        processor = AutoProcessor.from_pretrained(str(folder), **settings)
    except (OSError, ValueError):
        return
    base = transformer.processor
    if type(processor) is not type(base):
        return
    processor.chat_template = processor.chat_template or base.chat_template
    limit = transformer.tokenizer.model_max_length
    transformer.processor = transformer.input_formatter.processor = processor
    transformer.tokenizer.model_max_length = min(transformer.tokenizer.model_max_length, limit)
