"""Train an embedder on mutually hard clusters: load, mine, train, merge, save, verify.

Everything that trains is stock: `SentenceTransformerTrainer` and its arguments, PEFT, accelerate. What is ours comes
in through their doors: the clusters, the samplers, the loss, and the assertion that training reads its inputs exactly
as inference does.
"""

from __future__ import annotations

import difflib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import is_torch_bf16_gpu_available

from saha_st.card.data import SaHaModelCardData
from saha_st.card.recipe import publishable_recipe
from saha_st.encoding import DistinctInputs
from saha_st.errors import MemoryFullError
from saha_st.losses import SaHaLoss
from saha_st.mining.miner import MinedClusters, find_saha_clusters, label_pairs
from saha_st.modules import load_embedder
from saha_st.modules.adapter_files import ADAPTER_FILE, restore_adapter
from saha_st.modules.merging import disagreement, merge_adapter
from saha_st.modules.sources import FINAL
from saha_st.ranks import Ranks
from saha_st.samplers import SameTaskBatchSampler, SetEpochCallback
from saha_st.training.adapters import (
    add_adapter,
    freeze_vision,
    language_model_layers,
    log_trainable,
)
from saha_st.training.batches import RunBatchSampler, warn_of_leftovers
from saha_st.training.checkpoints import last_whole_checkpoint, open_output_dir
from saha_st.training.config import RunConfig
from saha_st.training.evaluator import PairRetrievalEvaluator
from saha_st.training.out_of_memory import explain_out_of_memory
from saha_st.training.probes import probes_of
from saha_st.training.sources import PairSource, load_sources

logger = logging.getLogger(__name__)

ROUTER_MAPPING = {"anchor": "query", "positive": "document", "negative": "document"}
"""Which side of the prompt each column is read with; without it, training would render queries like documents."""


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    evaluator: BaseEvaluator | None = None,
    callbacks: tuple = (),
    show_progress_bar: bool = True,
) -> SentenceTransformer:
    """Train an embedder.

    Args:
        config: The run.
        resume: Go on with a run that was interrupted, to the same result.
        evaluator: Evaluated when the trainer evaluates, beside ``config.eval_data``.
        callbacks: Further trainer callbacks.
        show_progress_bar: Show bars and print the trainer's logs; if not, callbacks and ``report_to`` get the logs.

    Returns:
        The trained model, adapters merged. It is saved in ``<output_dir>/final``, in stock modules only, with its
        card, ``recipe.yaml`` and ``mining.json``.

    Raises:
        FileExistsError: The output folder is not empty, and ``resume`` is False.
        ValueError: Settings that cannot work, data that cannot be used, or a resumed run with another config; all
            before the first step.
        RuntimeError: Training would not read its inputs as inference does, or the saved model gives other vectors.
        MemoryFullError: A step needs more memory than there is; in which rows, and what to lower.

    Source: Ju & Lee, arXiv 2508.00955, section 4.1 for the settings of the recipes.
    """
    args = training_arguments(config)
    args.disable_tqdm |= not show_progress_bar
    PartialState()  # forms the group, under a launcher that has prepared one
    ranks, folder = Ranks.current(), Path(config.output_dir)
    if ranks.is_main and (warning := accumulation_warning(args)):
        logger.warning(warning)
    with ranks.together():
        if ranks.is_main:
            open_output_dir(config, resume=resume)
    with ranks.together():
        sources = load_sources(config.data, seed=args.seed)
        evaluators = _evaluators(config, evaluator, args)
        model = load_model(config)
        loss = build_loss(config, args, model)
    # All that could be wrong without having looked at the data has been looked at: here the long work begins.
    datasets = {source.name: _clustered(source, model, config, folder, show_progress_bar) for source in sources}
    with ranks.together():
        if args.batch_sampler is RunBatchSampler and ranks.is_main:
            warn_of_leftovers(datasets, args.train_batch_size)
        probes = probes_of(
            datasets, model[0].processor
        )  # now: a video that cannot be read must not be found at the end
    choose_trainable(model, config, seed=args.seed)
    trainer = build_trainer(args, model, datasets, loss, evaluators, callbacks, config.matryoshka_dims)
    if not show_progress_bar:
        trainer.remove_callback(PrinterCallback)  # which prints every log where there is no bar
    _tell_card(model, config, datasets)
    check_rendering(trainer, datasets)
    checkpoint = last_whole_checkpoint(folder) if resume else None
    if checkpoint and config.adapter is not None:
        trainer.add_callback(_RestoreAdapter(checkpoint))
    rows = {name: _source_rows(folder, name, dataset) for name, dataset in datasets.items()}  # before memory is full
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise MemoryFullError(explain_out_of_memory(error, config, datasets, rows)) from error
    # Without the wrapper that mixed precision puts around `forward`, or the vectors would be those of bfloat16.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    merge_adapter(model, probes=probes)
    if ranks.is_main:
        save_verified(model, folder / FINAL, probes=probes)
    return model


def load_model(config: RunConfig) -> SentenceTransformer:
    """Load the model to train, and see that the adapter has layers to sit on, and vectors the dimensions.

    Raises:
        ValueError: No linear layer of the language model has one of the names, or a dimension of ``matryoshka_dims``
            is beyond the model's.
    """
    model = load_embedder(
        config.model,
        prompt=config.prompt,
        image_tokens=config.image_tokens,
        num_frames=config.num_frames,
        video_tokens=config.video_tokens,
        max_seq_length=config.max_seq_length,
        model_kwargs=dict(config.model_kwargs),
    )
    if config.adapter is not None:
        language_model_layers(model[0].model, config.adapter.target_modules)
    if config.matryoshka_dims is not None and max(config.matryoshka_dims) != model.get_embedding_dimension():
        raise ValueError(
            f"matryoshka_dims={list(config.matryoshka_dims)}: {config.model!r} gives vectors of "
            f"{model.get_embedding_dimension()} dimensions. These must be the largest of the list: else whole vectors "
            "are not trained."
        )
    return model


def training_arguments(config: RunConfig) -> SentenceTransformerTrainingArguments:
    """The arguments of the stock trainer: the user's, and defaults where an embedder needs other ones.

    Raises:
        ValueError: A key that `SentenceTransformerTrainingArguments` does not know, or a batch smaller than a cluster.
    """
    known = {item.name for item in fields(SentenceTransformerTrainingArguments)}
    for key in config.training:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(
                f"training: unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else "see --help.")
            )
    on_cpu = bool(config.training.get("use_cpu")) or not torch.cuda.is_available()
    if config.training.get("bf16") and not (config.training.get("use_cpu") or is_torch_bf16_gpu_available()):
        raise ValueError(
            "training.bf16=true needs a GPU that computes in bfloat16, and there is none. Run where there is one, or "
            "set training.bf16: false."
        )
    defaults = {
        "per_device_train_batch_size": 64,
        "learning_rate": 5e-5,
        "bf16": not on_cpu and not config.training.get("fp16") and _has_bf16(),
        # Renamed in transformers 5.23.
        f"{'activation' if 'activation_checkpointing_kwargs' in known else 'gradient'}_checkpointing_kwargs": {
            "use_reentrant": False
        },
        "dataloader_pin_memory": not on_cpu,
        "dataloader_drop_last": True,
        "logging_steps": 10,
        "report_to": "none",
        "router_mapping": ROUTER_MAPPING,
    }
    if config.eval_data:
        defaults["eval_strategy"] = "epoch"
    if config.mining is not None:
        defaults |= {"batch_sampler": RunBatchSampler}
    defaults |= {"multi_dataset_batch_sampler": SameTaskBatchSampler}
    args = SentenceTransformerTrainingArguments(**{**defaults, **config.training, "output_dir": config.output_dir})
    if args.learning_rate <= 0:
        raise ValueError(f"training.learning_rate must be above 0, got {args.learning_rate}.")
    if config.mining is not None and args.per_device_train_batch_size < config.mining.num_negatives + 1:
        raise ValueError(
            f"training.per_device_train_batch_size={args.per_device_train_batch_size} is smaller than a cluster of "
            f"num_negatives + 1 = {config.mining.num_negatives + 1} pairs. Raise it, or lower mining.num_negatives; "
            "memory is bounded by loss.mini_batch_num_tokens, not by the batch size."
        )
    return args


def accumulation_warning(args: SentenceTransformerTrainingArguments) -> str | None:
    """What accumulating gradients does not do, if that was asked for."""
    if args.gradient_accumulation_steps <= 1:
        return None
    return (
        f"gradient_accumulation_steps={args.gradient_accumulation_steps} adds gradients, not negatives: each step "
        f"contrasts {args.per_device_train_batch_size} pairs. The cached loss reaches large batches in little memory: "
        "raise per_device_train_batch_size instead."
    )


def _has_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def choose_trainable(model: SentenceTransformer, config: RunConfig, *, seed: int) -> None:
    """Decide what of a model is trained: an adapter, or weights with or without the vision tower's."""
    if config.adapter is not None:
        add_adapter(model, config.adapter, seed=seed)
    elif not config.train_vision:
        freeze_vision(model)
    log_trainable(model)


def check_rendering(trainer: SentenceTransformerTrainer, datasets: Mapping[str, Dataset]) -> None:
    """Assert, on the first pairs of every dataset, that training reads exactly what inference reads.

    Raises:
        RuntimeError: The token ids differ; names the column and shows both texts.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    for name, dataset in datasets.items():
        rows = [dataset[index] for index in range(min(4, len(dataset)))]
        batch = trainer.data_collator(rows)
        for column, task in (("anchor", "query"), ("positive", "document")):
            wanted = model.preprocess([row[column] for row in rows], prompt=model.prompts.get(task), task=task)
            trained, inferred = batch[f"{column}_input_ids"], wanted["input_ids"]
            if trained.shape != inferred.shape or not torch.equal(trained, inferred):
                raise RuntimeError(
                    f"Dataset {name!r}, column {column!r}: training reads {model.tokenizer.decode(trained[0])!r}, but "
                    f"inference reads {model.tokenizer.decode(inferred[0])!r}. Leave training.router_mapping and "
                    "training.prompts unset, and set the prompt through prompt."
                )


def save_verified(model: SentenceTransformer, folder: Path, *, probes: Sequence[Any]) -> None:
    """Save a model and make sure that plain Sentence Transformers reads the same model back.

    Args:
        model: The model, adapters merged.
        folder: Where to save it; appears when it has been verified, and replaces what was there.
        probes: Inputs to compare.

    Raises:
        RuntimeError: The reloaded model gives other vectors.
    """
    unverified = folder.with_name(f"{folder.name}.unverified")
    shutil.rmtree(unverified, ignore_errors=True)
    model.save_pretrained(str(unverified))
    reloaded = SentenceTransformer(str(unverified), device=str(model.device))
    # One by one: plain SmolVLM reads no batch of pictures and videos.
    vectors = reloaded.encode_query(list(probes), batch_size=1)
    problem = disagreement(vectors, model.encode_query(list(probes)), model.dtype)
    if problem:
        raise RuntimeError(
            f"The model saved in {str(unverified)!r} gives other vectors when it is loaded again: {problem}. Do not "
            "publish it; the checkpoints beside it are intact."
        )
    shutil.rmtree(folder, ignore_errors=True)
    unverified.rename(folder)
    logger.info("Saved the model in %s; loaded again, it gives the same vectors.", folder)


def _source_rows(folder: Path, name: str, dataset: Dataset) -> Sequence[int]:
    """The row of the source that each row of a mined dataset is, shape (rows,)."""
    place = folder / "mining" / name
    return MinedClusters.load(place).rows if (place / "mining.json").exists() else range(len(dataset))


def _tell_card(model: SentenceTransformer, config: RunConfig, datasets: Mapping[str, Dataset]) -> None:
    """Let the card say how the model is trained, from its first checkpoint on, and lie beside the weights in files."""
    if isinstance(data := model.model_card_data, SaHaModelCardData):
        data.recipe = publishable_recipe(config.to_dict())
        data.base_model = data.base_model or data.recipe["model"]
        if config.mining is not None:
            data.mining = {name: json.loads(dataset.info.description) for name, dataset in datasets.items()}


class _LogLossMetrics(TrainerCallback):
    """Puts the loss's cosines and accuracy beside the loss in the trainer's logs."""

    def __init__(self, trainer: SentenceTransformerTrainer, loss: SaHaLoss) -> None:
        self.trainer, self.loss = trainer, loss

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if metrics := self.loss.pop_metrics():
            self.trainer.track_loss_components(metrics)


class _RestoreAdapter(TrainerCallback):
    """Takes an adapter's float32 numbers from the checkpoint: the trainer loads them in the base model's dtype."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_train_begin(self, *args: Any, model: Any, **kwargs: Any) -> None:
        restore_adapter(getattr(model, "module", model)[0].model, self.checkpoint / ADAPTER_FILE)


def _clustered(
    source: PairSource, model: SentenceTransformer, config: RunConfig, folder: Path, show_progress_bar: bool
) -> Dataset:
    """Mine a dataset, or take up what an earlier start of this run mined."""
    if config.mining is None:
        return label_pairs(source.dataset)
    place = folder / "mining" / source.name
    options = asdict(config.mining) | {
        "cache_folder": config.mining.cache_folder or folder / "vectors",
        "num_negatives": _possible_negatives(source, config.mining.num_negatives),
        "owner_filter": source.owner_filter,
        "show_progress_bar": show_progress_bar,
    }
    ranks = Ranks.current()
    ranks.require_common_folder(folder, "output_dir")
    if ranks.share((place / "mining.json").exists()):
        return MinedClusters.load(place).of(source.dataset)
    if ranks.is_main:
        logger.info("Mining %s: %d pairs.", source.name, len(source.dataset))
    mined = find_saha_clusters(source.dataset, model, ranks=ranks, **options)
    with ranks.together():
        if ranks.is_main:
            mined.save(place)
    return mined.of(source.dataset)


def _possible_negatives(source: PairSource, wanted: int) -> int:
    """Clusters of a task with few labels are smaller: one row of each label at most."""
    possible = len(DistinctInputs.of(source.dataset, "positive")) - 1
    if possible < 1:
        raise ValueError(f"data: all positives of {source.name!r} are the same; there is nothing to tell apart.")
    if possible < wanted:
        logger.warning(
            "%s has %d distinct positives: its clusters have %d mates at most, not mining.num_negatives=%d.",
            source.name,
            possible + 1,
            possible,
            wanted,
        )
    return min(wanted, possible)


def build_loss(config: RunConfig, args: SentenceTransformerTrainingArguments, model: SentenceTransformer) -> SaHaLoss:
    """The loss of a run; gathers across devices only where there are several."""
    gather = config.loss.gather_across_devices and args.world_size > 1
    options = {"gather_across_devices": gather, "mini_batch_num_tokens": config.mini_batch_num_tokens}
    return SaHaLoss(model, **asdict(config.loss) | options)


def build_trainer(
    args: SentenceTransformerTrainingArguments,
    model: SentenceTransformer,
    datasets: dict[str, Dataset],
    loss: SaHaLoss,
    evaluators: list[BaseEvaluator],
    callbacks: tuple,
    matryoshka_dims: Sequence[int] | None = None,
) -> SentenceTransformerTrainer:
    """The stock trainer with what is ours: several datasets by name, epochs told to samplers, metrics of the loss."""
    nested = MatryoshkaLoss(model, loss, matryoshka_dims) if matryoshka_dims else loss
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=DatasetDict(datasets) if len(datasets) > 1 else next(iter(datasets.values())),
        loss=nested,
        evaluator=evaluators or None,
        callbacks=[SetEpochCallback(), *callbacks],
    )
    trainer.add_callback(_LogLossMetrics(trainer, loss))
    save = trainer._save  # transformers calls it in all processes, which would write into the same files at once
    trainer._save = lambda *args, **kwargs: save(*args, **kwargs) if trainer.args.should_save else None
    return trainer


def _evaluators(
    config: RunConfig, evaluator: BaseEvaluator | None, args: SentenceTransformerTrainingArguments
) -> list[BaseEvaluator]:
    held_out = load_sources(config.eval_data, seed=args.seed)
    datasets = {source.name: source.dataset for source in held_out}
    batch_size = config.training.get("per_device_eval_batch_size")
    own = [PairRetrievalEvaluator(datasets, batch_size=batch_size)] if datasets else []
    return own + ([evaluator] if evaluator is not None else [])
