"""The input module: Sentence Transformers' ``Transformer``, reading a hierarchical prompt.

It differs from the stock module in how it computes, never in what it means: inputs are brought into one canonical
form, and a row that is too long loses the end of its *own text*, never an image token, the prompt's suffix or the
opened assistant turn whose last token is the embedding. A checkpoint therefore names the stock class, and loads
where `saha_st` is not installed; `HierarchicalPromptTransformer.adopt` turns the loaded stock module into ours again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modality import infer_modality, is_message_dict
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from saha_st.modules.adapter_files import write_whole_names
from saha_st.modules.backbone_settings import write_beside_adapter
from saha_st.modules.families import family_of
from saha_st.modules.inputs import canonical_inputs, has_media, has_video
from saha_st.modules.shared_prefix import SharedPrefix
from saha_st.modules.video_frames import (
    TakenFrames,
    frame_options,
    not_sampling,
    read_clips,
    take_frames,
    without_sampling,
)
from saha_st.modules.video_places import in_places, keeps_videos_in_places, without_videos
from saha_st.modules.video_templates import place_for_videos, with_place_for_videos
from saha_st.prompts import HierarchicalPrompt

REQUIREMENTS = {
    "sentence-transformers": {
        "specifier": ">=6.2",
        "reason": "older versions do not pass the task to the chat template",
    },
    "transformers": {"specifier": ">=5.4", "reason": "older versions route chat-template arguments differently"},
}
"""Written into ``config_sentence_transformers.json``; checked by Sentence Transformers before it loads a weight."""


class HierarchicalPromptTransformer(Transformer):
    """A multimodal LLM behind a hierarchical prompt; takes what `Transformer` takes.

    Inputs are strings, PIL images, dicts ``{"image": ..., "video": ..., "text": ...}`` (an image or a list of them; a
    video as `open_video` takes it) or chat messages; features are those of `Transformer`, with the generation prompt
    open at the end of every row.

    Source: Ju & Lee, arXiv 2508.00955, section 3.1.
    """

    @classmethod
    def adopt(cls, module: Transformer) -> HierarchicalPromptTransformer:
        """Turn a loaded stock module into this class, in place."""
        module.__class__ = cls
        # Packing rows without padding is not supported by multimodal position ids (Qwen2-VL), and gains nothing
        # where images are in the batch.
        module.unpad_inputs = False
        module._forget_template_copy()
        return module

    @property
    def prompt(self) -> HierarchicalPrompt | None:
        """The hierarchical prompt in the chat template; assigning another one replaces it, and opens the answer."""
        return HierarchicalPrompt.from_chat_template(self.chat_template)

    @prompt.setter
    def prompt(self, prompt: HierarchicalPrompt) -> None:
        template = prompt.compile(self._template_with_videos)
        self.processor.chat_template = template
        # A tokenizer may carry a copy that other engines read.
        self.tokenizer.chat_template = template
        kwargs = self.processing_kwargs
        opened = {**kwargs.get("chat_template", {}), "add_generation_prompt": True}
        if self._replaces_template:
            opened.pop("chat_template", None)  # another one, which would leave the prompt out
        self.processing_kwargs = {**kwargs, "chat_template": opened}
        self._chat_template_suffix_cache.clear()

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the chat template: the processor's, else the tokenizer's; the default of named ones."""
        for owner in (self.processor, self.tokenizer):
            template = getattr(owner, "chat_template", None)
            if isinstance(template, dict):
                template = template.get("default")
            if template:
                return template
        return None

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Turn inputs into model-ready features; see `Transformer.preprocess`.

        Raises:
            ValueError: An input that cannot be embedded, or one that does not fit into ``max_seq_length`` tokens
                even without any text of its own. The message gives its position, the counts and the way out.
        """
        rows = self._with_clips(canonical_inputs(inputs, supported=self.modalities), processing_kwargs)
        limit = self._token_limit(processing_kwargs, kwargs)

        def render(rows: list[Any], *, truncation: bool = True) -> dict[str, Any]:
            return self._render(
                rows, prompt, processing_kwargs if truncation else _untruncated(processing_kwargs), kwargs
            )

        def length(row: Any) -> int:
            return int(render([row], truncation=False)["attention_mask"].sum())

        if not rows or limit is None:
            return render(rows)
        media = [has_media(row) for row in rows]
        # The stock module truncates rows of text alone and puts the suffix back, which is exact. Rows with media it
        # cuts through the image tokens, or it loses their suffix: those are made to fit before it sees them.
        features = render(rows, truncation=not any(media))
        lengths = features["attention_mask"].sum(dim=1).tolist()
        if max(lengths) < limit or (any(media) and max(lengths) == limit):
            return features
        for index, row in enumerate(rows):
            if media[index] and lengths[index] > limit:
                rows[index] = self._shorten(row, index, limit, length)
            elif not media[index] and lengths[index] >= limit:
                self._check_room(row, index, limit, length)
        return render(rows) if any(media) else features

    def get_config_dict(self) -> dict[str, Any]:
        """As the stock module's; for SmolVLM with the chat template, which else gives way to another for videos."""
        config = super().get_config_dict()
        if self._replaces_template and (template := self._template_with_videos) is not None:
            kwargs = config.get("processing_kwargs", {})
            options = {"chat_template": template, **kwargs.get("chat_template", {})}
            config["processing_kwargs"] = {**kwargs, "chat_template": options}
        return config

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the backbone; see `Transformer.forward`. In inference, what all rows begin with runs once."""
        if not self._may_share_prefix(features, kwargs):
            return super().forward(features, **kwargs)

        def plain(features: Mapping[str, Any], **kwargs: Any) -> Tensor:
            return super(HierarchicalPromptTransformer, self).forward(dict(features), **kwargs)[
                self.module_output_name
            ]

        states = self._shared_prefix.forward(features, plain, self.model)
        if states is None:
            return super().forward(features, **kwargs)
        features[self.module_output_name] = states
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save like the stock module, and state in the model's config which versions it needs."""
        if backend := getattr(self.tokenizer, "backend_tokenizer", None):
            # Left over from the last call; other engines would cut and pad by it.
            backend.no_truncation()
            backend.no_padding()
        super().save(output_path, *args, **kwargs)
        write_whole_names(Path(output_path))
        write_beside_adapter(Path(output_path), self.config)
        _share_weights(Path(output_path))
        _forget_loading(Path(output_path) / "tokenizer_config.json")
        # Sentence Transformers writes this file first, but offers no other place to state requirements.
        config_path = Path(output_path) / "config_sentence_transformers.json"
        if config_path.exists():
            config = json.loads(config_path.read_text(encoding="utf8"))
            config["requirements"] = REQUIREMENTS
            config_path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf8")

    @property
    def _replaces_template(self) -> bool:
        """Whether transformers renders this model's videos by another chat template, unless a call brings one."""
        family = family_of(self.config.model_type)
        return family is not None and family.replaces_template

    @property
    def _template_with_videos(self) -> str | None:
        """The chat template that rows with videos are rendered by, as it is at this moment."""
        template = self.chat_template
        if template is None or not self._replaces_template:
            return template
        return with_place_for_videos(template, self.processor)

    def _forget_template_copy(self) -> None:
        """Drop the copy that `get_config_dict` wrote: it would not follow the template when that changes."""
        options = self.processing_kwargs.get("chat_template", {})
        copied = options.get("chat_template")
        if copied and self._replaces_template and copied in (self.chat_template, self._template_with_videos):
            kept = {name: value for name, value in options.items() if name != "chat_template"}
            self.processing_kwargs = {**self.processing_kwargs, "chat_template": kept}

    def _may_share_prefix(self, features: Mapping[str, Any], kwargs: Mapping[str, Any]) -> bool:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or self.backend != "torch":
            return False
        takes_cache = self.model_forward_params is None or "past_key_values" in self.model_forward_params
        all_layers = getattr(self.model.config, "output_hidden_states", False)
        extra = {name for name in kwargs if name != "task"}
        return takes_cache and not all_layers and not extra and {"input_ids", "attention_mask"} <= features.keys()

    @cached_property
    def _shared_prefix(self) -> SharedPrefix:
        return SharedPrefix(self.config, self.processor)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class goes by the stock class's name, so pickle cannot find it by name.
        return _new, (), self.__dict__

    def _with_clips(self, rows: list[Any], processing_kwargs: dict[str, Any] | None) -> list[Any]:
        """Decode the frames of videos that the processor chooses."""
        if any(map(has_video, rows)):
            self._check_place_for_videos(self._template_of_call(processing_kwargs))
        options = frame_options(self._merge_processing_kwargs(processing_kwargs))
        clips = []
        for index, row in enumerate(rows):
            try:
                clips.append(read_clips(row, self.processor, options))
            except ValueError as error:
                raise ValueError(f"Input {index} of the batch: {error}") from error.__cause__
        return clips

    def _template_of_call(self, processing_kwargs: dict[str, Any] | None) -> str | None:
        """The chat template that a call is rendered by: its own, or the model's."""
        options = self._merge_processing_kwargs(processing_kwargs).get("chat_template", {})
        return options.get("chat_template") or self._template_with_videos

    def _check_place_for_videos(self, template: str | None) -> None:
        """Refuse a chat template that leaves videos out, before they are decoded."""
        if template is None:
            return
        has_place, rendered = place_for_videos(template, self.processor)
        if not has_place:
            token = getattr(self.processor, "video_token", None)
            raise ValueError(
                f"The chat template renders no place for a video: {rendered!r}. Add {token or 'it'!r} to "
                "processor.chat_template for parts of the type 'video', or show the model frames as pictures."
            )

    def _render(
        self, rows: list[Any], prompt: str | None, processing_kwargs: dict[str, Any] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The stock module's features of canonical inputs whose videos are decoded."""
        if not any(map(has_video, rows)):
            return self._render_others(rows, prompt, processing_kwargs, kwargs)
        try:
            taken = take_frames(rows, self.processor)
            features = self._render_frames(taken, prompt, processing_kwargs, kwargs)
        except ValueError as error:
            raise ValueError(f"{type(self.processor).__name__} cannot read a batch with videos: {error}") from error
        features["num_videos_per_sample"] = torch.tensor(taken.videos)  # whose rows each video belongs to
        if keeps_videos_in_places(self.processor):
            others = [without_videos(row) for row in rows]
            pictures = self._render_others(others, prompt, processing_kwargs, kwargs)
            return in_places(features, pictures, rows, self.processor)
        return features

    def _render_others(
        self, rows: list[Any], prompt: str | None, processing_kwargs: dict[str, Any] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The stock module's features of inputs without videos, of whose frames SmolVLM's processor must not hear."""
        module, options = self, processing_kwargs
        if frame_options(self._merge_processing_kwargs(processing_kwargs)):
            module, options = self._not_sampling(), not_sampling(processing_kwargs)
        return super(HierarchicalPromptTransformer, module).preprocess(self._alike(rows), prompt, options, **kwargs)

    def _render_frames(
        self, taken: TakenFrames, prompt: str | None, processing_kwargs: dict[str, Any] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The stock module's features, by a processor that does not choose frames, through our chat template."""
        module, options = self._not_sampling(), not_sampling(processing_kwargs)
        module.processor = without_sampling(self.processor)
        options["video"] |= taken.options
        if (template := self._template_of_call(processing_kwargs)) is not None:  # or SmolVLM takes one of its own
            options["chat_template"]["chat_template"] = template
        rows = self._alike(taken.rows)
        return super(HierarchicalPromptTransformer, module).preprocess(rows, prompt, options, **kwargs)

    def _not_sampling(self) -> HierarchicalPromptTransformer:
        """This module without options of frames; a copy, for others may be reading videos at the same time."""
        module = copy.copy(self)
        module.processing_kwargs = not_sampling(self.processing_kwargs)
        return module

    def _alike(self, rows: list[Any]) -> list[Any]:
        """All inputs as chat messages where some are: Sentence Transformers loses what those and pairs hold."""
        kinds = {_kind(row) for row in rows}
        if len(kinds) == 1 or "message" not in self.modality_config:
            return rows
        return [row if _kind(row) == "messages" else self._to_messages(row) for row in rows]

    def _to_messages(self, row: Any) -> list[dict[str, Any]]:
        """A canonical input as chat messages, as Sentence Transformers makes them where pairs are in a batch."""
        if isinstance(row, Mapping):
            return self.input_formatter.to_message(row)
        if _kind(row) == "pair":
            return self.input_formatter.pair_to_messages(row)
        modality = infer_modality(row, supported_modalities=self.modalities)
        return self.input_formatter.to_message({modality: row})

    def _token_limit(self, processing_kwargs: dict[str, Any] | None, kwargs: dict[str, Any]) -> int | None:
        """Longest row in tokens, from the most specific setting to the least, as the stock module looks it up."""
        text_kwargs = self._merge_processing_kwargs(processing_kwargs).get("text", {})
        if text_kwargs.get("truncation", True) is False:
            return None
        return text_kwargs.get("max_length") or kwargs.get("max_length") or self.max_seq_length

    def _shorten(self, row: Any, index: int, limit: int, length: Any) -> Any:
        """Cut the end of a row's text until the row has ``limit`` tokens."""
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text:
            raise _too_long(index, length(row), limit, text_tokens=0)
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        keep = len(offsets)
        total = length(row)
        while total > limit:
            keep -= total - limit
            if keep < 0:
                raise _too_long(index, total, limit, text_tokens=max(keep + total - limit, 0))
            row = {**row, "text": text[: offsets[keep - 1][1]] if keep else ""}
            total = length(row)
        return row

    def _check_room(self, row: Any, index: int, limit: int, length: Any) -> None:
        """Refuse a limit that leaves no room for any text of a row beside its prompt."""
        if isinstance(row, dict) and (fixed := length({**row, "text": ""})) >= limit:
            raise _too_long(index, fixed, limit, text_tokens=0)


# Saved as the stock class: `SentenceTransformer.save` writes the names that it finds here into modules.json.
HierarchicalPromptTransformer.__module__ = Transformer.__module__
HierarchicalPromptTransformer.__name__ = Transformer.__name__
HierarchicalPromptTransformer.__qualname__ = Transformer.__qualname__


def _share_weights(folder: Path) -> None:
    """Give weights the access rights of the files beside them: safetensors 0.8 leaves them to their owner alone."""
    mode = (folder / "sentence_bert_config.json").stat().st_mode
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)


def _forget_loading(tokenizer_config: Path) -> None:
    """Leave out how the tokenizer was loaded: the same model would be other files on the next machine."""
    if tokenizer_config.exists():
        config = json.loads(tokenizer_config.read_text(encoding="utf8"))
        kept = {name: value for name, value in config.items() if name not in ("is_local", "local_files_only")}
        tokenizer_config.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


def _new() -> HierarchicalPromptTransformer:
    return HierarchicalPromptTransformer.__new__(HierarchicalPromptTransformer)


def _kind(row: Any) -> str:
    """What a canonical input is to Sentence Transformers, which takes one kind in a batch."""
    if not isinstance(row, list | tuple):
        return "single"
    if isinstance(row, list) and row and is_message_dict(row[0]):
        return "messages"
    return "pair" if len(row) == 2 else "single"


def _untruncated(processing_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    processing_kwargs = processing_kwargs or {}
    text_kwargs = {**processing_kwargs.get("text", {}), "truncation": False, "max_length": None}
    return {**processing_kwargs, "text": text_kwargs}


def _too_long(index: int, total: int, limit: int, *, text_tokens: int) -> ValueError:
    return ValueError(
        f"Input {index} of the batch: {total - text_tokens} tokens of images, videos and prompt do not leave room "
        f"within max_seq_length={limit}. Raise max_seq_length, lower image_tokens or num_frames, or shorten the "
        "prompt; images, videos and prompt are never cut."
    )
