"""Look at a training run before it begins: count, warn, and try the worst batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from tqdm.auto import tqdm

from saha_st.training.config import RunConfig
from saha_st.training.preflight.lengths import TASKS, ColumnLengths, count_column
from saha_st.training.preflight.memory import MemoryEstimate, sixteen_bit_parameters
from saha_st.training.preflight.report import PreflightReport
from saha_st.training.preflight.worst_batch import find_worst_batch, run_worst_batch
from saha_st.training.run import accumulation_warning, build_loss, choose_trainable, load_model, training_arguments
from saha_st.training.sources import PairSource, load_sources


def preflight(
    config: RunConfig,
    *,
    max_rows: int | None = None,
    run_steps: bool = True,
    show_progress_bar: bool = True,
) -> PreflightReport:
    """Count the tokens of every row of a training run, and train two steps on the longest.

    Nothing is written, nothing is mined, and the output folder is not looked at.

    Args:
        config: The run.
        max_rows: Look at so many pairs of each dataset, drawn with the run's seed; None: at all.
        run_steps: Train on the worst batch; if not, memory is only estimated.
        show_progress_bar: Show a bar over the rows.

    Returns:
        Lengths, rows that are cut or refused, memory and time, and what is likely to go wrong.

    Raises:
        ValueError: Settings that cannot work, as `train` raises them, or more than one process.
        FileNotFoundError: A dataset or an image that is not there.
    """
    if max_rows is not None and max_rows < 2:
        raise ValueError(f"max_rows must be at least 2, got {max_rows}.")
    args = training_arguments(config)
    if args.world_size > 1:
        raise ValueError(f"preflight looks at one process's share of a run; started with {args.world_size}.")
    sources = load_sources(config.data, seed=args.seed)
    model = load_model(config)
    columns = count_columns(sources, model, seed=args.seed, max_rows=max_rows, show_progress_bar=show_progress_bar)
    choose_trainable(model, config, seed=args.seed)
    batch = find_worst_batch(columns, args.per_device_train_batch_size, train_vision=config.train_vision)
    loss = build_loss(config, args, model)
    mini_batches = batch.mini_batches(loss) if batch is not None else []
    estimate = MemoryEstimate.of(
        model,
        tokens=max((tokens for _, tokens in mini_batches), default=0),
        half_precision=args.bf16 or args.fp16 or model.dtype.itemsize == 2,
        checkpointing=bool(args.gradient_checkpointing),
    )
    return PreflightReport(
        columns=columns,
        batch=batch,
        mini_batches=mini_batches,
        budget=loss.mini_batch_num_tokens,
        estimate=estimate,
        warnings=_warnings(config, args, model, columns),
        measured=run_worst_batch(batch, sources, model, config) if run_steps and batch is not None else None,
    )


def count_columns(
    sources: Sequence[PairSource],
    model: SentenceTransformer,
    *,
    seed: int,
    max_rows: int | None = None,
    show_progress_bar: bool = True,
) -> list[ColumnLengths]:
    """Count the tokens of both columns of every dataset; see `preflight`."""
    rows_of = [_draw(len(source.dataset), max_rows, seed) for source in sources]
    total = len(TASKS) * sum(map(len, rows_of))
    with tqdm(total=total, desc="Counting tokens", unit="row", disable=not show_progress_bar) as bar:
        return [
            count_column(source.dataset, source.name, column, model, rows, bar)
            for source, rows in zip(sources, rows_of, strict=True)
            for column in TASKS
        ]


def _draw(count: int, max_rows: int | None, seed: int) -> np.ndarray:
    if max_rows is None or max_rows >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, max_rows, replace=False))


def _warnings(
    config: RunConfig,
    args: SentenceTransformerTrainingArguments,
    model: SentenceTransformer,
    columns: Sequence[ColumnLengths],
) -> list[str]:
    warnings = [accumulation_warning(args)] if accumulation_warning(args) else []
    if number := sixteen_bit_parameters(model):
        warnings.append(
            f"{number:,} trained numbers are kept in 16 bits, where small steps are rounded away. Load the model with "
            "model_kwargs: {dtype: float32}."
        )
    without = sum(not sizes for column in columns for sizes in column.images)
    # Unset, transformers takes it for true: a SentenceTransformer is no PreTrainedModel.
    if config.train_vision and without and args.ddp_find_unused_parameters is False:
        warnings.append(
            f"The vision tower is trained, and {without:,} inputs have no image: with several processes, one whose "
            "last mini-batch has none waits for ever. Leave training.ddp_find_unused_parameters out, or set "
            "train_vision: false."
        )
    return warnings
