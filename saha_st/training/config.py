"""What a training run is made of: one frozen record, from YAML or Python, checked before anything is loaded.

Every key has its place; a key that is not known is refused with the nearest one that is. Whatever
`SentenceTransformerTrainingArguments` knows goes under ``training`` and is handed over as it is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from saha_st.mining.checks import check_builder
from saha_st.prompts import HierarchicalPrompt
from saha_st.token_budgets import BATCH_TOKENS, MINI_BATCH_NUM_TOKENS


@dataclass(frozen=True)
class DataConfig:
    """Where pairs come from. Each dataset is one task: mined and sampled on its own.

    Args:
        path: Hub id, folder or file, as in `load_pairs`; for MMEB the repository or its local copy.
        name: What to call it in logs and folders. Default: the subset, or the file's or folder's name.
        format: ``"pairs"`` for anchor/positive columns, ``"mmeb"`` for the layout of TIGER-Lab/MMEB-train.
        subset: Configuration of the dataset; the MMEB subset, or several. None: MMEB's all.
        split: Split of the dataset. Default: ``train``, for MMEB ``diverse_instruction``.
        anchor: Column of the anchors (``pairs``).
        positive: Column of the positives (``pairs``).
        image_root: Folder that relative image paths are under.
        max_rows: Take at most so many rows, drawn with the run's seed.
        owner_filter: False for classification data, where a label owns thousands of rows.
    """

    path: str
    format: Literal["pairs", "mmeb"] = "pairs"
    subset: str | tuple[str, ...] | None = None
    split: str | None = None
    anchor: str = "anchor"
    positive: str = "positive"
    image_root: str | None = None
    max_rows: int | None = None
    owner_filter: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        if self.format not in ("pairs", "mmeb"):
            raise ValueError(f"data: format must be 'pairs' or 'mmeb', got {self.format!r}.")
        if self.format == "pairs" and isinstance(self.subset, tuple):
            raise ValueError(
                f"data: {self.path!r} takes one subset, got {self.subset!r}. List the dataset once for each."
            )
        if self.max_rows is not None and self.max_rows < 2:
            raise ValueError(f"data: max_rows must be at least 2, got {self.max_rows}.")


@dataclass(frozen=True)
class MiningConfig:
    """How clusters are mined; the arguments of `mine_saha_clusters`, with the paper's defaults.

    Args:
        num_negatives: Mates of a full cluster.
        pool_multiplier: How much wider the choice is.
        max_owner_similarity: Beyond the paper; off.
        relative_margin: Beyond the paper; off.
        builder: ``"owners"``, the paper's rule, or ``"communities"``, beyond the paper.
        range_min: First rank of the window of communities.
        range_max: The rank behind its last one; None: as many ranks as the pool of the rule.
        partitioner: What divides the rows into communities: ``"greedy"``, or ``"metis"`` (extra ``metis``).
        batch_size: Most inputs per forward while encoding; None: as many as fit ``batch_tokens``.
        batch_tokens: Most tokens per forward while encoding, padding counted.
        cache_folder: Where vectors are kept; by default a folder ``vectors`` under the run's output.
    """

    num_negatives: int = 15
    pool_multiplier: int = 3
    max_owner_similarity: float | None = None
    relative_margin: float | None = None
    builder: Literal["owners", "communities"] = "owners"
    range_min: int = 0
    range_max: int | None = None
    partitioner: Literal["greedy", "metis"] = "greedy"
    batch_size: int | None = None
    batch_tokens: int = BATCH_TOKENS
    cache_folder: str | None = None

    def __post_init__(self) -> None:
        check_builder(self.builder, self.partitioner, self.range_min, self.range_max)


@dataclass(frozen=True)
class LossConfig:
    """The arguments of `SaHaLoss`, which says more of each.

    Args:
        scale: 1 / temperature.
        mini_batch_size: Rows of scores at a time, None: 32; and, unless ``mini_batch_num_tokens`` is given as well,
            inputs per forward.
        mini_batch_num_tokens: Tokens per forward, padding counted; if both are given, this alone decides the
            forwards. None: 4,096, or the run's ``max_seq_length`` if that is more; none if ``mini_batch_size`` is
            given.
        gather_across_devices: Contrast with the documents of all processes.
        false_negative_margin: Mask documents more similar than the positive plus this cosine; off in the paper.
    """

    scale: float = 50.0
    mini_batch_size: int | None = None
    mini_batch_num_tokens: int | None = None
    gather_across_devices: bool = True
    false_negative_margin: float | None = None

    def __post_init__(self) -> None:
        for name in ("mini_batch_size", "mini_batch_num_tokens"):
            value = getattr(self, name)
            if value is not None and not _is_count(value):
                raise ValueError(f"loss: {name} must be a whole number, at least 1, or null; got {value!r}.")


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA or DoRA on the language model.

    Args:
        r: Rank.
        lora_alpha: Scaling numerator.
        lora_dropout: Dropout in front of the adapter.
        use_dora: DoRA instead of plain LoRA, as in the paper.
        target_modules: Names of the linear layers within the language model's blocks.
    """

    r: int = 8
    lora_alpha: int = 64
    lora_dropout: float = 0.1
    use_dora: bool = True
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


_ADDED_LATER = ("matryoshka_dims", "num_frames", "video_tokens")
_OF_COMMUNITIES = ("builder", "range_min", "range_max", "partitioner")


@dataclass(frozen=True)
class RunConfig:
    """A whole training run.

    Args:
        model: The multimodal LLM or embedder to start from.
        data: Datasets to train on; at every step all processes draw from the same one.
        output_dir: Folder of the trained model, its checkpoints, and what was mined.
        eval_data: Held-out pairs for evaluation during training (hit@1 among their positives).
        prompt: The hierarchical prompt; None for the model's own, or the paper's.
        image_tokens: Smallest and largest number of tokens per image.
        num_frames: Frames that the model is shown of a video; None for the model's own number.
        video_tokens: Smallest and largest number of tokens of all these frames.
        max_seq_length: Longest input in tokens. Above 4,096 it is also the default of ``loss.mini_batch_num_tokens``.
        model_kwargs: Passed to `transformers` when the model is loaded, ``dtype`` for instance.
        mining: How clusters are mined; None trains on random batches instead (the in-batch baseline).
        loss: Arguments of the loss.
        matryoshka_dims: Train the first so many dimensions of a vector to be an embedding by themselves, with
            `MatryoshkaLoss` around the loss: ``[1536, 512, 128]``, the model's own dimension among them. None: only
            the whole vector.
        adapter: LoRA/DoRA; None trains the weights themselves.
        train_vision: Also train the vision tower. Never with an adapter.
        training: Arguments of `SentenceTransformerTrainingArguments`.
    """

    model: str
    data: tuple[DataConfig, ...]
    output_dir: str
    eval_data: tuple[DataConfig, ...] = ()
    prompt: HierarchicalPrompt | None = None
    image_tokens: tuple[int, int] | None = None
    num_frames: int | None = None
    video_tokens: tuple[int, int] | None = None
    max_seq_length: int | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    mining: MiningConfig | None = field(default_factory=MiningConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    matryoshka_dims: tuple[int, ...] | None = None
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    train_vision: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data is empty: name at least one dataset of pairs.")
        if self.adapter is not None and self.train_vision:
            raise ValueError(
                "train_vision=True trains the vision tower's own weights, which an adapter checkpoint does not hold. "
                "Set adapter: null to train weights, or train_vision: false."
            )
        dims = self.matryoshka_dims
        if dims is not None and not (isinstance(dims, tuple) and dims and all(map(_is_count, dims))):
            raise ValueError(f"matryoshka_dims must be whole numbers, each at least 1, or null; got {dims!r}.")
        if dims is not None and len(set(dims)) < len(dims):
            raise ValueError(f"matryoshka_dims names a dimension twice: {list(dims)}.")
        longest, budget = self.max_seq_length, self.loss.mini_batch_num_tokens
        if budget is not None and longest is not None and budget < longest:
            raise ValueError(
                f"loss.mini_batch_num_tokens={budget} is less than one row may have, max_seq_length="
                f"{longest}, so it would not bound the memory. Raise the one, or lower the other."
            )

    @property
    def mini_batch_num_tokens(self) -> int | None:
        """Tokens of a mini-batch, padding counted: as ``loss`` says, or by default enough for the longest row."""
        if self.loss.mini_batch_num_tokens is not None or self.loss.mini_batch_size is not None:
            return self.loss.mini_batch_num_tokens
        return max(MINI_BATCH_NUM_TOKENS, self.max_seq_length or 0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build a config from nested plain values.

        Raises:
            ValueError: A key that is not known (with the nearest that is), or is missing.
        """
        values = dict(values)
        parsers = {
            "data": lambda items: tuple(_build(DataConfig, item, "data") for item in _as_list(items, "data")),
            "eval_data": lambda items: tuple(
                _build(DataConfig, item, "eval_data") for item in _as_list(items, "eval_data")
            ),
            "prompt": lambda item: item and _build(HierarchicalPrompt, item, "prompt"),
            "image_tokens": lambda item: item and tuple(item),
            "video_tokens": lambda item: item and tuple(item),
            "mining": lambda item: item and _build(MiningConfig, item, "mining"),
            "loss": lambda item: _build(LossConfig, item or {}, "loss"),
            "adapter": lambda item: item and _build(AdapterConfig, item, "adapter"),
            "training": lambda item: dict(item or {}),
            "model_kwargs": lambda item: dict(item or {}),
        }
        parsed = {key: parsers.get(key, lambda item: item)(value) for key, value in values.items()}
        return _build(cls, parsed, "config")

    @classmethod
    def from_file(cls, config: str | Path, **overrides: Any) -> RunConfig:
        """Read a YAML file, or one of the recipes that come with the package, by name.

        Args:
            config: Path of a YAML file, or the name of a recipe such as ``"qwen2-vl-2b-mmeb"``.
            **overrides: Keys of the config that replace those of the file; under ``training`` one by one.

        Raises:
            FileNotFoundError: Neither a file nor a recipe.
            ValueError: As in `from_dict`, or the file is no YAML mapping.
        """
        text = _read_config(config)
        try:
            values = yaml.load(text, Loader=_Loader)  # noqa: S506, a safe loader
        except yaml.YAMLError as error:
            raise ValueError(f"{str(config)!r} is not valid YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{str(config)!r} must hold a mapping of config keys, got {type(values).__name__}.")
        training = {**(values.get("training") or {}), **overrides.pop("training", {})}
        return cls.from_dict({**values, **overrides, "training": training})

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values that `from_dict` reads back."""
        values = asdict(self)
        values["prompt"] = self.prompt.to_dict() if self.prompt else None
        for name in _ADDED_LATER:  # as in the files of before there was the key: a run of then may be resumed
            if values[name] is None:
                del values[name]
        if self.mining is not None and self.mining.builder == "owners":
            for name in _OF_COMMUNITIES:
                del values["mining"][name]
        return _plain(values)


class _Loader(yaml.SafeLoader):
    """YAML as people write it: ``5e-5`` is a number, not only ``5.0e-5``."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("saha_st") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read_config(config: str | Path) -> str:
    path = Path(config)
    if path.is_file():
        return path.read_text(encoding="utf8")
    if str(config) in recipe_names():
        return (resources.files("saha_st") / "recipes" / f"{config}.yaml").read_text(encoding="utf8")
    raise FileNotFoundError(f"{str(config)!r} is neither a file nor a recipe; recipes: {', '.join(recipe_names())}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _as_list(items: Any, where: str) -> list[Any]:
    if isinstance(items, Mapping):
        return [items]
    if not isinstance(items, list | tuple):
        raise ValueError(f"{where} must be a list of datasets, got {items!r}.")
    return list(items)


def _build(cls: type, values: Any, where: str) -> Any:
    """Call a dataclass with a mapping, refusing unknown and missing keys by name."""
    if isinstance(values, cls):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping of keys, got {values!r}.")
    known = {item.name for item in fields(cls)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}."
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {str(error).replace('__init__() ', '')}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
