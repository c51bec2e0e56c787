"""`load_embedder`: any multimodal LLM with a chat template, a PEFT adapter of one, or any checkpoint of ours."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import is_sentence_transformer_model, load_dir_path, load_file_path

from saha_st.card.data import SaHaModelCardData
from saha_st.card.sidecars import MINING_FILE, RECIPE_FILE, REPORTS_DIR
from saha_st.modules.adapter_files import ADAPTER_FILE, restore_adapter
from saha_st.modules.backbone_settings import share_settings
from saha_st.modules.bare_adapter import base_of, find_bare_adapter, put_adapter
from saha_st.modules.families import check_family, warn_if_untested
from saha_st.modules.image_tokens import set_image_tokens, settings_that_bound
from saha_st.modules.overrides import FRAME_SIZES, FRAMES, drop_overrides
from saha_st.modules.sources import not_loadable, resolve_model, shown_name
from saha_st.modules.transformer import HierarchicalPromptTransformer
from saha_st.modules.video_frames import frame_options, set_frames
from saha_st.modules.video_tokens import set_video_tokens
from saha_st.modules.weight_names import load_renamed
from saha_st.prompts import HierarchicalPrompt

logger = logging.getLogger(__name__)


class NoLanguageModelError(ValueError):
    """A checkpoint that begins with no language model, and so cannot be prompted."""


_PROBE = "a probe"
_HUB_ARGUMENTS = ("token", "cache_folder", "revision", "local_files_only")
_CHANGES_VECTORS = {
    *("truncate_dim", "similarity_fn_name", "prompts", "default_prompt_name", "processor_kwargs", "config_kwargs"),
    *("dtype", "torch_dtype"),  # of model_kwargs
}
"""Arguments of `load_embedder` with which a model is not the one that was saved and measured."""


def load_embedder(
    model_name_or_path: str,
    *,
    prompt: HierarchicalPrompt | None = None,
    image_tokens: tuple[int, int] | None = None,
    num_frames: int | None = None,
    video_tokens: tuple[int, int] | None = None,
    max_seq_length: int | None = None,
    device: str | None = None,
    **kwargs: Any,
) -> SentenceTransformer:
    """Load a generative multimodal LLM, or a checkpoint, as an embedder with a hierarchical prompt.

    The embedding is the L2-normalised hidden state of the last token, with the generation prompt left open. What is
    saved gets a card of its own, see `SaHaModelCardData`; no README is passed on.

    Args:
        model_name_or_path: A Hub id, a local folder, or one of the embedded ``saha-tiny-base`` and ``saha-tiny``: a
            checkpoint, a plain LLM, or a LoRA/DoRA adapter that PEFT saved of one.
        prompt: The prompt; by default what the checkpoint of an embedder has, ours or not, and for a plain LLM or
            adapter the paper's. An embedder keeps its pooling in any case.
        image_tokens: Smallest and largest number of tokens per image; saved with the model. As ``num_frames`` and
            ``video_tokens``, it wins over what the checkpoint has in its ``processing_kwargs``.
        num_frames: Frames that the model is shown of a video, evenly spaced; saved with the model. By default the
            checkpoint's own number, and for a plain LLM or adapter 8, as in MMEB-V2.
        video_tokens: Smallest and largest number of tokens of all these frames; saved with the model.
        max_seq_length: Longest input in tokens, images and prompt included.
        device: Torch device, by default the best available.
        **kwargs: As in `SentenceTransformer`: ``model_kwargs``, ``processor_kwargs``, ``revision``, ``token``,
            ``cache_folder``, ``local_files_only``, ``truncate_dim``, …

    Returns:
        A plain `SentenceTransformer`, whatever is saved from it loads without this package.

    Raises:
        NoLanguageModelError: A Sentence Transformer that begins with another module than `Transformer`.
        OSError: A name that cannot be loaded from the Hub.
        ValueError: A folder that is no checkpoint, an adapter without its base or with tensors that have no place in
            it, a backbone that is known not to work, a model without a chat template, a chat template that drops the
            prompt, or bounds of images or videos or a number of frames that the processor does not obey.

    Example:
        >>> model = load_embedder("saha-tiny-base")
        >>> model.encode_query(["a red circle"]).shape
        (1, 160)
    """
    path = resolve_model(model_name_or_path)
    hub_kwargs = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
    options = {"device": device, "model_card_data": SaHaModelCardData(), **kwargs}
    model, bare_adapter = _load(path, model_name_or_path, options, hub_kwargs)
    transformer = HierarchicalPromptTransformer.adopt(_input_module(model, model_name_or_path))
    if bare_adapter:
        put_adapter(transformer, bare_adapter, processor_kwargs=kwargs.get("processor_kwargs"))
    elif adapter := load_file_path(path, ADAPTER_FILE, **hub_kwargs):
        restore_adapter(transformer.model, Path(adapter))
    # A plain LLM says nothing about pooling, and gets mean pooling from Sentence Transformers.
    is_embedder = is_sentence_transformer_model(path, **hub_kwargs)
    if not is_embedder:
        model = _embedder_of(model, transformer)
        prompt = prompt or HierarchicalPrompt()
    if "model_card_data" not in kwargs:
        _set_card_data(model, path, is_embedder, hub_kwargs, bare_adapter)
        if _CHANGES_VECTORS & {*kwargs, *kwargs.get("model_kwargs", ())}:
            model.model_card_data.forget_results()  # which are of the model as it was saved
    model._model_card_text = None  # a README that Sentence Transformers would pass on as this model's
    if prompt is not None:
        set_prompt(model, prompt, model_name_or_path)
    else:
        warn_if_untested(transformer.model, modalities=transformer.modalities)
    share_settings(transformer.processor, transformer.model.config)
    _set_images(transformer, image_tokens)
    _set_videos(transformer, num_frames, video_tokens, is_embedder=is_embedder)
    if max_seq_length is not None:
        transformer.max_seq_length = max_seq_length
    return model


def set_prompt(model: SentenceTransformer, prompt: HierarchicalPrompt, name: str) -> None:
    """Give an embedder another prompt, and make sure that its chat template renders both levels.

    Args:
        model: What `load_embedder` returned.
        prompt: The prompt.
        name: What to call the model in an error.

    Raises:
        ValueError: A backbone that is known not to work, no chat template, or one that drops the prompt.
    """
    check_family(model[0].model, name, modalities=model[0].modalities)
    if model[0].chat_template is None:
        raise ValueError(
            f"The model {name!r} has no chat template, so it cannot be prompted. Use its instruction-tuned "
            "sibling, or set processor.chat_template in the checkpoint."
        )
    if "message" not in model[0].modalities:
        raise ValueError(
            f"The tokenizer of {name!r} has a chat template and its processor, a {type(model[0].processor).__name__}, "
            "has none, so no prompt would reach the model. Set processor.chat_template in the checkpoint."
        )
    model[0].prompt = prompt
    # The same text twice: here for people and for tools that read `prompts`, in the template for every engine.
    model.prompts = {"query": prompt.system or "", "document": prompt.system or ""}
    _verify_rendering(model[0], prompt, name)


def with_prompt(model: SentenceTransformer, prompt: HierarchicalPrompt | None, name: str) -> SentenceTransformer:
    """Return a copy of an embedder that shares its weights and has another prompt; with None, its own.

    Raises:
        ValueError: As `set_prompt`.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    variant = copy.deepcopy(model, shared)
    if prompt is not None:
        set_prompt(variant, prompt, name)
    return variant


def _load(
    path: str, name: str, options: dict[str, Any], hub_kwargs: dict[str, Any]
) -> tuple[SentenceTransformer, Path | None]:
    """Load a model; of a bare adapter the base, and with it the adapter's folder."""
    try:
        if adapter := find_bare_adapter(path, **hub_kwargs):
            return _load_base(adapter, options, hub_kwargs), adapter
        return load_renamed(path, options, hub_kwargs), None
    except OSError as error:  # says neither what was looked for nor what else there is
        if Path(path).is_dir():
            raise
        raise OSError(f"{not_loadable(name)} {error}") from error


def _load_base(adapter: Path, options: dict[str, Any], hub_kwargs: dict[str, Any]) -> SentenceTransformer:
    """Load the model that a bare adapter was trained on, at the revision that the adapter names."""
    base, revision = base_of(adapter)
    try:
        at_revision = {"revision": revision}  # what the caller names is the adapter's
        return load_renamed(resolve_model(base), options | at_revision, hub_kwargs | at_revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The adapter {str(adapter)!r} was trained on {base!r}, which cannot be loaded ({error}). Set "
            "base_model_name_or_path in its adapter_config.json to the base model's Hub id or folder."
        ) from error


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


def _set_images(transformer: HierarchicalPromptTransformer, image_tokens: tuple[int, int] | None) -> None:
    if image_tokens is not None:
        set_image_tokens(transformer.processor, image_tokens, config=transformer.model.config)
        _make_way(transformer, "image", settings_that_bound(transformer.processor))


def _set_videos(
    transformer: HierarchicalPromptTransformer,
    num_frames: int | None,
    video_tokens: tuple[int, int] | None,
    *,
    is_embedder: bool,
) -> None:
    set_frames(transformer.processor, num_frames, is_embedder=is_embedder)
    if num_frames is not None:
        _make_way(transformer, "video", FRAMES)
    if video_tokens is not None:
        set_video_tokens(transformer.processor, video_tokens, options=frame_options(transformer.processing_kwargs))
        _make_way(transformer, "video", FRAME_SIZES)


def _make_way(transformer: HierarchicalPromptTransformer, medium: str, settings: tuple[str, ...]) -> None:
    """Let what the caller asks for win over what the checkpoint says at every call."""
    transformer.processing_kwargs = drop_overrides(transformer.processing_kwargs, medium, settings)


def _set_card_data(
    model: SentenceTransformer, path: str, is_embedder: bool, hub_kwargs: dict[str, Any], bare_adapter: Path | None
) -> None:
    """Give a model what its card is rendered from: of a checkpoint, what lies beside the weights."""
    origin = base_of(bare_adapter)[0] if bare_adapter else path
    name = shown_name(origin)
    if not is_embedder:
        model.model_card_data.base_model = model.model_card_data.base_model or name
        model.model_card_data.is_untrained = bare_adapter is None
        if bare_adapter:
            model.model_card_data.adapter = shown_name(path)
        return
    try:
        # Vectors to compare with are not saved with the model, so that the card must not speak of them.
        data = SaHaModelCardData.of_folder(_sidecars_of(path, hub_kwargs), source=name, parity=False)
    except (ValueError, OSError) as error:  # the model is as good without
        logger.warning("The card of %r goes without what cannot be read: %s", name, error)
        data = SaHaModelCardData(source=name)
    data.register_model(model)
    model.model_card_data = data


def _sidecars_of(path: str, hub_kwargs: dict[str, Any]) -> Path:
    """Return a folder that holds the files beside a checkpoint's weights, downloaded if it is on the Hub."""
    if Path(path).is_dir():
        return Path(path)
    for file in (RECIPE_FILE, MINING_FILE):
        load_file_path(path, file, **hub_kwargs)
    readme = load_file_path(path, "README.md", **hub_kwargs)
    if readme and "- mteb\n" in Path(readme).read_text(encoding="utf8"):  # a tag of cards with results
        load_dir_path(path, REPORTS_DIR, **hub_kwargs)
    return Path(load_file_path(path, "modules.json", **hub_kwargs)).parent


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
