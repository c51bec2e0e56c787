"""What mteb wants to know of a model: read from the checkpoint where it says so, else stated by its author.

Nothing is guessed. A field that neither the checkpoint nor the author fills is an open item: a leaderboard takes an
empty set of training datasets for "never saw any of the tasks", which is a claim, not a gap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from typing import Any, get_args

import mteb
import torch
from huggingface_hub import ModelCard
from mteb.languages import check_language_code
from mteb.models.model_meta import ScoringFunction
from mteb.types import Licenses, OutputDType
from sentence_transformers import SentenceTransformer

from saha_st.evaluation.encoder import has_hierarchical_prompt, modalities_of

MMEB_TRAIN_TASKS = frozenset(
    {
        "CIRRIT2IRetrieval",
        "HatefulMemesI2TRetrieval",
        "HatefulMemesT2IRetrieval",
        "MSCOCOI2TRetrieval",
        "MSCOCOT2IRetrieval",
        "NIGHTSI2IRetrieval",
        "OKVQAIT2TRetrieval",
        "SUN397",
        "SUN397ZeroShot",
        "VOC2007",
        "VisualNewsI2TRetrieval",
        "VisualNewsT2IRetrieval",
        "WebQAT2ITRetrieval",
        "WebQAT2TRetrieval",
    }
)
"""Tasks of mteb whose data MMEB-train overlaps with, as models on the leaderboard that disclose it list them."""

MMEB_TRAIN = "TIGER-Lab/MMEB-train"

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DTYPES = {torch.bfloat16: OutputDType.BF16, torch.float16: OutputDType.FLOAT16, torch.float32: OutputDType.FLOAT32}


@dataclass(frozen=True)
class Statements:
    """What only the author of a model can say; `None` for what is not known (yet). Arguments of `mteb_submission`.

    Raises:
        ValueError: A value that mteb would not take.
    """

    model_name: str | None = None
    hub_revision: str | None = None
    license: str | None = None
    release_date: str | None = None
    reference: str | None = None
    public_training_code: str | None = None
    public_training_data: str | bool | None = None
    adapted_from: str | None = None
    languages: Sequence[str] = ("eng-Latn",)
    training_datasets: Sequence[str] | None = None
    contacts: Sequence[str] | None = None
    trained_on_mmeb: bool | None = None

    def __post_init__(self) -> None:
        for name in ("model_name", "adapted_from"):
            _require(name, getattr(self, name), _NAME.fullmatch, "a name on the Hub, such as 'org/model'")
        _require("hub_revision", self.hub_revision, _COMMIT.fullmatch, "a commit on the Hub, 40 hexadecimal digits")
        _require("license", self.license, is_known_license, "one that mteb knows, such as 'apache-2.0', or a URL")
        _require("release_date", self.release_date, _is_date, "a date like '2026-01-31'")
        for name in ("reference", "public_training_code"):
            _require(name, getattr(self, name), _is_url, "a URL")
        for name in ("languages", "training_datasets", "contacts"):
            _require(name, getattr(self, name), lambda value: not isinstance(value, str), "a list of strings")
        if not self.languages:
            raise ValueError("languages must name one language at least, such as ['eng-Latn'].")
        for language in self.languages:
            _require("languages", language, _is_language, "languages with scripts, such as 'eng-Latn'")
        for task in self.training_datasets or ():
            require_task(task)


@dataclass(frozen=True)
class MetaFields:
    """The fields of mteb's `ModelMeta`, under its names, and what is open.

    Attributes:
        open_items: By field, what is still to be filled in or confirmed.
        trained_on_mmeb: Whether the model is known to be trained on MMEB-train.
    """

    name: str
    revision: str | None
    release_date: str | None
    languages: tuple[str, ...]
    modalities: tuple[str, ...]
    n_parameters: int
    n_embedding_parameters: int
    memory_usage_mb: int
    max_tokens: int | None
    embed_dim: int
    output_dtype: str
    license: str | None
    reference: str | None
    similarity: str
    use_instructions: bool
    public_training_code: str | None
    public_training_data: str | bool | None
    training_datasets: tuple[str, ...] | None
    adapted_from: str | None
    contacts: tuple[str, ...] | None
    extras: tuple[str, ...]
    loader_kwargs: dict[str, Any]
    trained_on_mmeb: bool
    open_items: dict[str, str] = field(default_factory=dict)

    @property
    def is_on_hub(self) -> bool:
        """Whether name and revision are such that mteb can load the model."""
        return self.revision is not None and not self.name.startswith("local/")

    @property
    def slug(self) -> str:
        """The model's name as a Python identifier."""
        slug = re.sub(r"[^a-z0-9]+", "_", self.name.split("/")[1].lower()).strip("_")
        return slug if slug.isidentifier() else f"model_{slug}"


def read_fields(model: SentenceTransformer, name: str, stated: Statements) -> MetaFields:
    """Fill mteb's metadata.

    Args:
        model: The loaded checkpoint.
        name: What the model is called here: its name on the Hub, or `local/...`.
        stated: What its author says.
    """
    card = _card(model)
    disclosed = stated.trained_on_mmeb
    on_mmeb = MMEB_TRAIN in _as_list(card.get("datasets")) if disclosed is None else disclosed
    found = {
        "name": stated.model_name or name,
        "revision": stated.hub_revision or _loaded_commit(model, name, stated),
        "release_date": stated.release_date,
        "license": stated.license or _card_license(model, card),
        "public_training_code": stated.public_training_code,
        "public_training_data": _training_data(stated, on_mmeb),
        "training_datasets": _training_datasets(stated, on_mmeb),
        "adapted_from": stated.adapted_from or _base_model(model, card, not_itself=stated.model_name or name),
        "contacts": tuple(stated.contacts) if stated.contacts else None,
        "max_tokens": model.max_seq_length,
    }
    is_local = found["name"].startswith("local/")
    found["reference"] = stated.reference or (None if is_local else f"https://huggingface.co/{found['name']}")
    open_items = {name: text for name, text in _OPEN.items() if found[name] is None}
    if is_local:
        open_items["name"] = "push the model to the Hub and give its name there (model_name)"
    return MetaFields(
        **found,
        **_read_weights(model),
        languages=tuple(stated.languages),
        modalities=tuple(modalities_of(model)),
        embed_dim=model.get_embedding_dimension(),
        similarity=ScoringFunction.from_str(model.similarity_fn_name or "cosine").name,
        use_instructions=has_hierarchical_prompt(model) or any((model.prompts or {}).values()),
        trained_on_mmeb=on_mmeb,
        open_items=open_items,
    )


_OPEN = {
    "revision": "the 40 digits of the commit on the Hub (hub_revision)",
    "release_date": "the day the model was published (release_date)",
    "license": "the license of the weights (license)",
    "reference": "the page of the model (reference)",
    "public_training_code": "a URL, unless the code is not public (public_training_code)",
    "public_training_data": "a URL, unless the data are not public (public_training_data)",
    "training_datasets": "tasks of mteb whose data were trained on; none at all is () (training_datasets)",
    "adapted_from": "the base model (adapted_from)",
    "contacts": "GitHub handles (contacts)",
    "max_tokens": "the checkpoint sets no maximal length",
}
"""What a field lacks that is not filled. `None` is allowed in all of them."""


def is_known_license(value: str) -> bool:
    """Tell whether mteb takes this for a license."""
    return value in get_args(Licenses) or _is_url(value)


def _read_weights(model: SentenceTransformer) -> dict[str, Any]:
    parameters = list(model.parameters())
    backbone = getattr(model[0], "model", None)
    embeddings = backbone.get_input_embeddings().weight.numel()
    dtype = next(each.dtype for each in parameters if each.is_floating_point())
    if dtype not in _DTYPES:
        raise ValueError(f"The weights are {dtype}; mteb's metadata are written for {', '.join(map(str, _DTYPES))}.")
    loader_kwargs = {"sideless_as_queries": has_hierarchical_prompt(model)}
    if model.truncate_dim is not None:
        loader_kwargs["truncate_dim"] = model.truncate_dim
    return {
        "n_parameters": sum(each.numel() for each in parameters),
        "n_embedding_parameters": embeddings,
        # As `ModelMeta.calculate_memory_usage_mb` does from the headers of the safetensors files on the Hub.
        "memory_usage_mb": round(sum(each.numel() * each.element_size() for each in parameters) / 1024**2),
        "output_dtype": _DTYPES[dtype].name,
        "loader_kwargs": loader_kwargs | {"model_kwargs": {"dtype": str(dtype).removeprefix("torch.")}},
        "extras": ("multimodal-sbert", "peft") if getattr(backbone, "peft_config", None) else ("multimodal-sbert",),
    }


def _loaded_commit(model: SentenceTransformer, name: str, stated: Statements) -> str | None:
    """Return the commit that was loaded, if the model was loaded under the name it is submitted with."""
    commit = getattr(getattr(model[0], "config", None), "_commit_hash", None)
    same = not name.startswith("local/") and stated.model_name in (None, name)
    return commit if same and commit and _COMMIT.fullmatch(commit) else None


def _card(model: SentenceTransformer) -> dict[str, Any]:
    """Return the metadata in the README that came with the checkpoint."""
    text = getattr(model, "_model_card_text", None)
    return ModelCard(text, ignore_metadata_errors=True).data.to_dict() if text else {}


def _card_license(model: SentenceTransformer, card: dict[str, Any]) -> str | None:
    """Return the license that the card names, if mteb knows it; else the author has to give a URL of it."""
    value = str(model.model_card_data.license or card.get("license") or "").lower()
    return value if is_known_license(value) else None


def _base_model(model: SentenceTransformer, card: dict[str, Any], *, not_itself: str) -> str | None:
    """Return the base model that the card names; of a model from the Hub it may be that model."""
    named = [model.model_card_data.base_model, *_as_list(card.get("base_model"))]
    return next((each for each in named if each and _NAME.fullmatch(each) and each != not_itself), None)


def _training_data(stated: Statements, on_mmeb: bool) -> str | bool | None:
    if stated.public_training_data is None and on_mmeb:
        return f"https://huggingface.co/datasets/{MMEB_TRAIN}"
    return stated.public_training_data


def _training_datasets(stated: Statements, on_mmeb: bool) -> tuple[str, ...] | None:
    if stated.training_datasets is None and not on_mmeb:
        return None
    return tuple(sorted({*(stated.training_datasets or ()), *(MMEB_TRAIN_TASKS if on_mmeb else ())}))


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _require(name: str, value: Any, accepts: Any, rule: str) -> None:
    if value is not None and not accepts(value):
        raise ValueError(f"{name} must be {rule}; got {value!r}.")


def require_task(name: str) -> None:
    """Refuse what is no task of the installed mteb.

    Raises:
        ValueError: There is no such task.
    """
    try:
        mteb.get_task(name)
    except KeyError:
        from mteb.get_tasks import _TASKS_REGISTRY

        close = get_close_matches(name, _TASKS_REGISTRY, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(
            f"training_datasets: mteb {mteb.__version__} has no task {name!r}.{hint} Give names of mteb's tasks; data "
            "that are in none of them are not listed."
        ) from None


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"https?://\S+", value) is not None


def _is_date(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _is_language(value: str) -> bool:
    try:
        check_language_code(value)
    except ValueError:
        return False
    return True
