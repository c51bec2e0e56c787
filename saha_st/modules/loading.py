"""`load_embedder`: any multimodal LLM with a chat template, or any checkpoint of ours, as an embedder."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import is_sentence_transformer_model, load_file_path

from saha_st.modules.adapter_files import ADAPTER_FILE, restore_adapter
from saha_st.modules.card import EmbedderCardData
from saha_st.modules.image_tokens import set_image_tokens
from saha_st.modules.transformer import HierarchicalPromptTransformer
from saha_st.prompts import HierarchicalPrompt

EMBEDDED_MODELS = ("saha-tiny-base", "saha-tiny")
"""Models whose weights come with the package."""


class NoLanguageModelError(ValueError):
    """A checkpoint that begins with no language model, and so cannot be prompted."""


_PROBE = "a probe"
_HUB_ARGUMENTS = ("token", "cache_folder", "revision", "local_files_only")


def load_embedder(
    model_name_or_path: str,
    *,
    prompt: HierarchicalPrompt | None = None,
    image_tokens: tuple[int, int] | None = None,
    max_seq_length: int | None = None,
    device: str | None = None,
    **kwargs: Any,
) -> SentenceTransformer:
    """Load a generative multimodal LLM, or a checkpoint, as an embedder with a hierarchical prompt.

    The embedding is the L2-normalised hidden state of the last token, with the generation prompt left open.

    Args:
        model_name_or_path: A Hub id, a local folder, or one of the embedded ``saha-tiny-base`` and ``saha-tiny``.
        prompt: The prompt; by default the one in the checkpoint, and for a plain LLM the paper's.
        image_tokens: Smallest and largest number of tokens per image; saved with the model.
        max_seq_length: Longest input in tokens, images and prompt included.
        device: Torch device, by default the best available.
        **kwargs: As in `SentenceTransformer`: ``model_kwargs``, ``processor_kwargs``, ``revision``, ``token``,
            ``cache_folder``, ``local_files_only``, ``truncate_dim``, …

    Returns:
        A plain `SentenceTransformer`, whatever is saved from it loads without this package.

    Raises:
        NoLanguageModelError: A Sentence Transformer that begins with another module than `Transformer`.
        OSError: A name that cannot be loaded from the Hub.
        ValueError: A folder that is no checkpoint, a model without a chat template, a chat template that drops the
            prompt, or image bounds that the processor does not obey.

    Example:
        >>> model = load_embedder("saha-tiny-base")
        >>> model.encode_query(["a red circle"]).shape
        (1, 160)
    """
    path = resolve_model(model_name_or_path)
    try:
        model = SentenceTransformer(path, device=device, **{"model_card_data": EmbedderCardData(), **kwargs})
    except OSError as error:  # says neither what was looked for nor what else there is
        if Path(path).is_dir():
            raise
        raise OSError(f"{not_loadable(model_name_or_path)} {error}") from error
    transformer = HierarchicalPromptTransformer.adopt(_input_module(model, model_name_or_path))
    hub_kwargs = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
    if adapter := load_file_path(path, ADAPTER_FILE, **hub_kwargs):
        restore_adapter(transformer.model, Path(adapter))
    # A plain LLM says nothing about pooling, and gets mean pooling from Sentence Transformers.
    if not is_sentence_transformer_model(path, **hub_kwargs):
        model = _embedder_of(model, transformer)
        prompt = prompt or HierarchicalPrompt()
    if prompt is not None:
        _set_prompt(model, prompt, model_name_or_path)
    if image_tokens is not None:
        set_image_tokens(transformer.processor, image_tokens)
    if max_seq_length is not None:
        transformer.max_seq_length = max_seq_length
    return model


def resolve_model(model_name_or_path: str) -> str:
    """Return the folder of an embedded model, or check that a local folder holds a checkpoint.

    Raises:
        ValueError: A path that does not exist, or a folder that is no checkpoint.
    """
    name = str(model_name_or_path)
    if name in EMBEDDED_MODELS and not Path(name).exists():
        return str(resources.files("saha_st") / "quickstart" / name)
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).exists() for file in ("modules.json", "config.json", "adapter_config.json")):
            raise ValueError(
                f"The folder {name!r} is not a model checkpoint: it has no modules.json, config.json or "
                f"adapter_config.json. It holds: {', '.join(sorted(p.name for p in path.iterdir())[:8]) or 'nothing'}."
            )
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(
            f"There is no model folder {name!r}. A model is a local folder, a Hub id like 'org/name', or one of the "
            f"embedded {', '.join(EMBEDDED_MODELS)}."
        )
    return name


def not_loadable(name: str) -> str:
    """Return how to say that a model cannot be loaded, with what may have been meant."""
    close = difflib.get_close_matches(str(name), EMBEDDED_MODELS, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}?" if close else f"Embedded models are {' and '.join(EMBEDDED_MODELS)}."
    return f"The model {str(name)!r} is no folder here, and could not be loaded from the Hub. {hint}"


def _input_module(model: SentenceTransformer, name: str) -> Transformer:
    module = model[0]
    if not isinstance(module, Transformer):
        raise NoLanguageModelError(
            f"The model {name!r} begins with a {type(module).__name__} module, not with a Transformer; a hierarchical "
            "prompt needs a language model with a chat template."
        )
    return module


def _embedder_of(model: SentenceTransformer, transformer: HierarchicalPromptTransformer) -> SentenceTransformer:
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    modules = [transformer, pooling, Normalize()]
    options = {"truncate_dim": model.truncate_dim, "model_card_data": model.model_card_data}
    return SentenceTransformer(modules=modules, device=str(model.device), similarity_fn_name="cosine", **options)


def _set_prompt(model: SentenceTransformer, prompt: HierarchicalPrompt, name: str) -> None:
    if model[0].chat_template is None:
        raise ValueError(
            f"The model {name!r} has no chat template, so it cannot be prompted. Use its instruction-tuned "
            "sibling, or set processor.chat_template in the checkpoint."
        )
    model[0].prompt = prompt
    # The same text twice: here for people and for tools that read `prompts`, in the template for every engine.
    model.prompts = {"query": prompt.system or "", "document": prompt.system or ""}
    _verify_rendering(model[0], prompt, name)


def _verify_rendering(transformer: HierarchicalPromptTransformer, prompt: HierarchicalPrompt, name: str) -> None:
    """Render a probe and make sure that both levels of the prompt are in it."""
    messages = transformer.input_formatter.to_message({"text": _PROBE})
    try:
        rendered = transformer.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, task="query"
        )
    except Exception as error:
        raise ValueError(
            f"The chat template of {name!r} cannot render the prompt ({error}). If it has no system turn, use "
            "HierarchicalPrompt(system=None, query_suffix=...)."
        ) from error
    user_level = _PROBE + (prompt.query_suffix["text"] if prompt.query_suffix else "")
    for level, text in (("system", prompt.system or ""), ("query_suffix", user_level)):
        # Many templates trim their contents at the ends.
        if text.strip() not in rendered:
            raise ValueError(
                f"The chat template of {name!r} drops the {level} text {text!r} of the prompt; it renders "
                f"{rendered!r}. Pass a HierarchicalPrompt with {level}=None, or correct the template."
            )
