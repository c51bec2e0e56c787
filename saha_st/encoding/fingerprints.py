"""Names for what a vector depends on beside its input: weights, prompt, settings, libraries.

Vectors are kept under such a name, so that those of another model, prompt or image resolution are never found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal

import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer

Task = Literal["query", "document"] | None


def vector_fingerprint(
    model: SentenceTransformer,
    *,
    task: Task = None,
    prompt: str | None = None,
    weights: str | None = None,
    versions: tuple[str, str] | None = None,
) -> str:
    """Name everything beside the input that a vector depends on.

    Weights and their dtype, the modules' settings, chat template, processor, tokenizer, prompts, task, the requested
    dimension, and the versions of the libraries that compute it.

    Args:
        model: The embedder.
        task: As `encode_column`.
        prompt: As `encode_column`.
        weights: The model's `weights_digest`, where it is known already: reading all weights takes seconds a billion.
        versions: Those of sentence-transformers and transformers; by default the installed ones.

    Returns:
        32 hexadecimal digits.
    """
    settings = {
        "weights": weights_digest(model) if weights is None else weights,
        "modules": [repr(module) if index else _input_settings(module) for index, module in enumerate(model)],
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "truncate_dim": model.truncate_dim,
        "task": task,
        "prompt": prompt,
        "versions": list(versions or (sentence_transformers.__version__, transformers.__version__)),
    }
    return blake2b(json.dumps(settings, sort_keys=True, default=_as_json).encode(), digest_size=16).hexdigest()


def results_revision(
    model: SentenceTransformer, *, weights: str | None = None, versions: tuple[str, str] | None = None
) -> str:
    """Name all that the results of a model depend on: what its vectors do, and how they are compared.

    `evaluate` keeps results under this name, and `publish` takes along those of the vectors that it publishes.

    Args:
        model: The embedder.
        weights: As `vector_fingerprint`.
        versions: As `vector_fingerprint`.

    Returns:
        32 hexadecimal digits.
    """
    parts = [vector_fingerprint(model, weights=weights, versions=versions), model.similarity_fn_name or "cosine"]
    return blake2b(":".join(parts).encode(), digest_size=16).hexdigest()


def weights_digest(model: SentenceTransformer) -> str:
    """Name the weights and their dtype, to the last bit; 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _input_settings(module: Any) -> dict[str, Any]:
    """What the input module does to an input before the weights see it."""
    processor, tokenizer = getattr(module, "processor", None), getattr(module, "tokenizer", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = json.loads(backend.to_str()) if backend is not None else {"repr": repr(tokenizer)}
    for state in ("truncation", "padding"):  # left over from the last call
        vocabulary.pop(state, None)
    return {
        "config": module.get_config_dict() if hasattr(module, "get_config_dict") else repr(module),
        "backbone": _without_origin(getattr(getattr(module, "config", None), "to_dict", dict)()),
        "adapters": _adapters(getattr(getattr(module, "model", None), "peft_config", None)),
        "max_seq_length": getattr(module, "max_seq_length", None),
        "chat_template": getattr(processor, "chat_template", None),
        "image_processor": _settings_of(processor, "image_processor"),
        "tokenizer": vocabulary,
    } | _video_settings(processor)


def _settings_of(processor: Any, part: str) -> dict[str, Any]:
    return getattr(getattr(processor, part, None), "to_dict", dict)()


_ONLY_OF_VIDEOS = ("do_sample_frames", "return_metadata", "min_frames", "max_frames", "max_video_tokens")


def _video_settings(processor: Any) -> dict[str, Any]:
    """How videos are read, if that says more than how pictures are: embedders keep the names that they had without."""
    pictures, videos = _settings_of(processor, "image_processor"), _settings_of(processor, "video_processor")
    more = {name for name, value in videos.items() if pictures.get(name) != value} - {"video_processor_type"}
    samples = videos.get("do_sample_frames") or not more <= set(_ONLY_OF_VIDEOS)
    return {"video_processor": videos} if samples else {}


def _adapters(configs: Mapping[str, Any] | None) -> dict[str, Any]:
    """What adapters do to a model."""
    return {name: _without_origin(config.to_dict()) for name, config in (configs or {}).items()}


_ORIGIN = {
    *("_name_or_path", "_commit_hash", "architectures", "transformers_version"),
    *("base_model_name_or_path", "revision", "peft_version", "inference_mode"),  # of adapters
}


def _without_origin(settings: Any) -> Any:
    """Leave out where and by what a model was saved: a checkpoint is the same in a folder, on the Hub, and copied."""
    if not isinstance(settings, dict):
        return settings
    return {name: _without_origin(value) for name, value in settings.items() if name not in _ORIGIN}


def _as_json(value: Any) -> Any:
    """Sets come in an order that differs from process to process."""
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else str(value)
