"""What a card says of a model, read from its modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling

from saha_st.prompts import HierarchicalPrompt

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def sees(model: SentenceTransformer) -> bool:
    """Whether it takes pictures."""
    return "image" in model.modalities


def dtype_of(model: SentenceTransformer) -> str:
    """The dtype of its weights, such as ``float32``."""
    return str(model.dtype).removeprefix("torch.")


def prompt_of(model: SentenceTransformer) -> HierarchicalPrompt | None:
    """The hierarchical prompt in its chat template."""
    found = (HierarchicalPrompt.from_chat_template(each) for each in _chat_templates(model))
    return next((prompt for prompt in found if prompt), None)


def is_in_template(model: SentenceTransformer) -> bool:
    """Whether the chat template, with the generation prompt open, renders all of the prompt by itself."""
    prompt, options = prompt_of(model), dict(model[0].processing_kwargs.get("chat_template", {}))
    if options.get("chat_template") in _chat_templates(model):  # named again, for SmolVLM's videos
        del options["chat_template"]
    if prompt is None or options != {"add_generation_prompt": True}:
        return False
    # What Sentence Transformers is told to put in front of an input takes the place of the template's system text.
    return all((model.prompts or {}).get(task) in (None, "", prompt.system) for task in ("query", "document"))


def adapter_of(model: SentenceTransformer) -> Any | None:
    """The configuration of the adapter that is on its backbone; None if there is none, or it was merged."""
    configs = getattr(getattr(model[0], "model", None), "peft_config", None) or {}
    return next(iter(configs.values()), None)


def is_last_token(model: SentenceTransformer) -> bool:
    """Whether its vectors are hidden states of the last token, normalised, and nothing else."""
    modules = list(model)[1:]
    return [type(module) for module in modules] == [Pooling, Normalize] and modules[0].pooling_mode == "lasttoken"


def steps_of(model: SentenceTransformer) -> str:
    """Its modules in words, such as ``Transformer, Pooling (mean), Normalize``."""
    modes = [getattr(module, "pooling_mode", None) for module in model]
    modes = [mode if mode is None or isinstance(mode, str) else " + ".join(mode) for mode in modes]
    names = [type(module).__name__ for module in model]
    return ", ".join(f"{name} ({mode})" if mode else name for name, mode in zip(names, modes, strict=True))


def is_stock(model: SentenceTransformer) -> bool:
    """Whether it loads without code from elsewhere."""
    is_foreign = type(getattr(model[0], "model", None)).__module__.startswith("transformers_modules.")
    return not is_foreign and all(type(module).__module__.startswith("sentence_transformers.") for module in model)


def whole_dimension(model: SentenceTransformer) -> int | None:
    """The number of dimensions before any are cut off."""
    methods = [getattr(module, "get_embedding_dimension", None) for module in reversed(list(model))]
    return next((method() for method in methods if method is not None), None)


def pixel_bounds(model: SentenceTransformer) -> tuple[int, int] | None:
    """The smallest and the largest number of pixels, where the processor is of the kind that bounds them."""
    processor = _image_processor(model)
    size = dict(getattr(processor, "size", None) or {})
    bounds = size.get("shortest_edge"), size.get("longest_edge")
    return bounds if isinstance(getattr(processor, "merge_size", None), int) and all(bounds) else None


def settings_of(model: SentenceTransformer) -> tuple[Any, ...]:
    """What its vectors and results depend on beside the weights, to be compared with what it was at another time."""
    return (
        _chat_templates(model),
        dict(model.prompts or {}),
        model.default_prompt_name,
        model.truncate_dim,
        model.max_seq_length,
        model.similarity_fn_name,
        model.dtype,
        str(getattr(_image_processor(model), "size", None)),
        [repr(module) for module in list(model)[1:]],
    )


def _chat_templates(model: SentenceTransformer) -> list[str]:
    owners = (getattr(model[0], "processor", None), getattr(model[0], "tokenizer", None))
    templates = [getattr(owner, "chat_template", None) for owner in owners]
    return [each for each in templates if isinstance(each, str)]


def _image_processor(model: SentenceTransformer) -> Any | None:
    return getattr(getattr(model[0], "processor", None), "image_processor", None)
