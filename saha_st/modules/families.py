"""What differs between families of backbones: one entry each, read by the code and by the table in the README.

Nearly everything is the same for all: the prompt is in the chat template, the embedding is the last token's state, and
how pictures stand in a batch is read from the batch itself. What is left is here, and `tests/backbones` runs every
entry on the real architecture. A backbone without an entry is taken by its structure, and a warning names what nobody
verified.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

logger = logging.getLogger(__name__)

Batch = Literal["text", "images"]


@dataclass(frozen=True)
class Family:
    """Backbones that are handled alike.

    Attributes:
        name: What people call it.
        model_types: ``model_type`` of its configurations.
        language_model: The part of the backbone that adapters sit on; None: all of it.
        vision: Parts that only pictures, videos and sound run through; frozen unless vision is trained. A process
            whose batch has no picture gives them no gradient, which others would wait for.
        image_tokens: How its processor bounds the tokens of a picture; None: it takes none, or all take equally many.
            For the table only: the code asks the processor (`saha_st.modules.image_tokens.image_setting`), which
            works without an entry as well, and the suite holds one against the other.
        shares_prefix: Batches whose common prefix may run once: its cache can be continued, and no token of the
            prefix looks ahead.
        videos: Whether it is tested with videos.
        replaces_template: Whether its processor renders videos by another chat template than the model's, unless a
            call brings that.
        note: What else a user should know.
        unsupported: Why it cannot be used; None: it can.
    """

    name: str
    model_types: tuple[str, ...]
    language_model: str | None = "language_model"
    vision: tuple[str, ...] = ()
    image_tokens: str | None = None
    shares_prefix: frozenset[Batch] = frozenset({"text", "images"})
    videos: bool = False
    replaces_template: bool = False
    note: str = ""
    unsupported: str | None = None


_TEXT, _NONE = frozenset({"text"}), frozenset()
_BOTH_WAYS = "a picture's tokens attend both ways"
_NO_SYSTEM_TURN = "system text in the user turn"

FAMILIES = (
    Family("Qwen2-VL", ("qwen2_vl",), vision=("visual",), image_tokens="pixels", videos=True),
    Family("Qwen2.5-VL", ("qwen2_5_vl",), vision=("visual",), image_tokens="pixels", videos=True),
    Family("Qwen3-VL", ("qwen3_vl",), vision=("visual",), image_tokens="pixels", videos=True),
    Family(
        "Qwen3.5",
        ("qwen3_5",),
        vision=("visual",),
        image_tokens="pixels",
        shares_prefix=_NONE,
        videos=True,
        note="linear attention gets adapters where `target_modules` names `in_proj_qkv`, `in_proj_z`, `out_proj`",
    ),
    Family(
        "Qwen4-Exp",
        ("qwen4_exp",),
        vision=("visual",),
        image_tokens="pixels",
        shares_prefix=_NONE,
        videos=True,
        note="as Qwen3.5; routed experts get no adapters",
    ),
    Family(
        "SmolVLM",
        ("smolvlm",),
        language_model="text_model",
        vision=("vision_model", "connector"),
        image_tokens="longest_edge",
        videos=True,
        replaces_template=True,
        note="needs `pip install num2words`",
    ),
    Family(
        "Idefics3",
        ("idefics3",),
        language_model="text_model",
        vision=("vision_model", "connector"),
        image_tokens="longest_edge",
    ),
    Family(
        "LLaVA-NeXT",
        ("llava_next",),
        vision=("vision_tower", "multi_modal_projector", "image_newline"),
        image_tokens="grids",
    ),
    Family(
        "LLaVA-OneVision",
        ("llava_onevision",),
        vision=("vision_tower", "multi_modal_projector", "image_newline"),
        image_tokens="grids",
        videos=True,
    ),
    Family(
        "InternVL",
        ("internvl",),
        vision=("vision_tower", "multi_modal_projector"),
        image_tokens="tiles",
        videos=True,
    ),
    Family(
        "Gemma 3",
        ("gemma3",),
        vision=("vision_tower", "multi_modal_projector"),
        shares_prefix=_TEXT,
        note=f"{_NO_SYSTEM_TURN}; {_BOTH_WAYS}",
    ),
    Family(
        "Gemma 4",
        ("gemma4",),
        vision=("vision_tower", "embed_vision", "audio_tower", "embed_audio"),
        image_tokens="soft_tokens",
        shares_prefix=_TEXT,
        videos=True,
        note=_BOTH_WAYS,
    ),
    Family("Llama, Qwen2, Qwen3", ("llama", "qwen2", "qwen3"), language_model=None, shares_prefix=_TEXT),
    Family(
        "PaliGemma",
        ("paligemma",),
        unsupported="a prefix LM without a chat template, whose processor takes no text without a picture",
    ),
    Family(
        "Phi-4-multimodal",
        ("phi4_multimodal",),
        unsupported="transformers does not load a chat template into its processor, so that prompts do not reach it",
    ),
)

_OF_MODEL_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}
_LANGUAGE_MODELS = ("language_model", "text_model")
_VISION = tuple(sorted({part for family in FAMILIES for part in family.vision}))
_warned: set[str] = set()


def family_of(model_type: str) -> Family | None:
    """The entry for backbones of a ``model_type``, if there is one."""
    return _OF_MODEL_TYPE.get(model_type)


def family_by_structure(backbone: nn.Module) -> Family:
    """What can be told of a backbone without an entry by looking at its parts."""
    parts = dict(backbone.named_children()) | dict(backbone.named_parameters(recurse=False))
    modules = [name for name, _ in backbone.named_modules()]
    owners = (name for part in _LANGUAGE_MODELS for name in modules if name.rsplit(".", 1)[-1] == part)
    return Family(
        type(backbone).__name__,
        (backbone.config.model_type,),
        language_model=next(owners, None),
        vision=tuple(part for part in _VISION if part in parts),
    )


def known_or_by_structure(backbone: nn.Module) -> Family:
    """The entry for a backbone, or what its structure tells."""
    return family_of(backbone.config.model_type) or family_by_structure(backbone)


def check_family(backbone: nn.Module, name: str, *, modalities: Sequence[str]) -> None:
    """Refuse a backbone that is known not to work, and warn of one that nobody tested.

    Args:
        backbone: What the input module holds.
        name: What to call the model in an error.
        modalities: What it takes, such as ``"image"``.

    Raises:
        ValueError: A backbone that cannot be used.
    """
    model_type = backbone.config.model_type
    family = family_of(model_type)
    if family is not None and family.unsupported:
        raise ValueError(
            f"The model {name!r} is a {family.name}, which cannot be an embedder here: {family.unsupported}. The "
            "backbones that work are listed in the README of saha-st."
        )
    warn_if_untested(backbone, modalities=modalities)


def warn_if_untested(backbone: nn.Module, *, modalities: Sequence[str]) -> None:
    """Name, once, what nobody verified of a backbone without an entry; arguments as `check_family`."""
    model_type = backbone.config.model_type
    if family_of(model_type) is not None or model_type in _warned:
        return
    _warned.add(model_type)
    guess = family_by_structure(backbone)
    unverified = [f"LoRA on {guess.language_model or 'all linear layers'}"]
    if "image" in modalities:
        frozen = " and ".join(guess.vision) or "nothing"
        unverified += [f"{frozen} frozen as what sees", "image_tokens", "mini-batches with pictures"]
    if "video" in modalities:
        unverified += ["videos", "mini-batches with them"]
    logger.warning(
        "The backbone %r is none of those that are tested. Not verified for it: %s. Compare a row's vector alone and "
        "in a batch before you rely on it. (Said once.)",
        model_type,
        ", ".join(unverified),
    )
