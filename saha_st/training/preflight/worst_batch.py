"""The longest rows first: two real training steps on the batch that needs most memory.

Everything is what `train` uses: the stock trainer with the run's arguments, the loss, the adapter. Two steps, because
only from the second on the optimiser's states take part in the peak, and only that is a typical time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import PrinterCallback, TrainerCallback

from saha_st.losses import SaHaLoss
from saha_st.mining.miner import label_pairs
from saha_st.training.config import RunConfig
from saha_st.training.out_of_memory import explain_out_of_memory
from saha_st.training.preflight.lengths import ColumnLengths
from saha_st.training.preflight.memory import PeakMemory
from saha_st.training.run import build_loss, build_trainer, training_arguments
from saha_st.training.sources import PairSource

STEPS = 2

_VISION = 4  # patches that a vision tower of the Qwen-VL kind sees for a token of an image


@dataclass(frozen=True)
class WorstBatch:
    """The pairs whose rows are the longest, of one dataset.

    Attributes:
        dataset: Its name.
        rows: Numbers of the pairs in the dataset, the longest first, shape (pairs,).
        tokens: Of each column, tokens of these pairs as the model reads them; two arrays of shape (pairs,).
    """

    dataset: str
    rows: np.ndarray
    tokens: tuple[np.ndarray, ...]

    def mini_batches(self, loss: SaHaLoss) -> list[tuple[int, int]]:
        """Rows, and tokens with padding, of the mini-batches of all columns."""
        sizes = []
        for lengths in self.tokens:
            for rows in loss.mini_batches(lengths.tolist()):
                sizes.append((len(rows), len(rows) * int(lengths[rows].max())))
        return sizes


@dataclass(frozen=True)
class MeasuredSteps:
    """What the steps took.

    Attributes:
        seconds: Of the last step.
        growth: Bytes by which memory grew at most: gradients, the optimiser's states and activations.
        failure: Why a step failed for want of memory, with the rows and the remedy; None if none did.
    """

    seconds: float | None
    growth: int
    failure: str | None = None


def find_worst_batch(columns: Sequence[ColumnLengths], pairs: int, *, train_vision: bool = False) -> WorstBatch | None:
    """The batch of one dataset that needs most memory; None if no two pairs can be read.

    Args:
        columns: Lengths, the columns of a dataset one after the other.
        pairs: Pairs of a batch; of a smaller dataset all.
        train_vision: Whether the vision tower keeps what it computes: then rows with images need the most.
    """
    batches = []
    for name in dict.fromkeys(column.dataset for column in columns):
        sides = [column for column in columns if column.dataset == name]
        usable = np.flatnonzero(np.logical_and.reduce([side.usable for side in sides]))
        if len(usable) < 2:
            continue
        costs = [
            side.read * np.where([train_vision and bool(sizes) for sizes in side.images], _VISION, 1) for side in sides
        ]
        cost = np.max(costs, axis=0)  # (rows,)
        chosen = usable[np.argsort(-cost[usable], kind="stable")[:pairs]]
        batch = WorstBatch(name, sides[0].rows[chosen], tuple(side.read[chosen] for side in sides))
        batches.append((int(np.sum([cost[chosen] for cost in costs])), batch))
    return max(batches, key=lambda batch: batch[0], default=(0, None))[1]


def run_worst_batch(
    batch: WorstBatch, sources: Sequence[PairSource], model: SentenceTransformer, config: RunConfig
) -> MeasuredSteps:
    """Train two steps on a batch; the model is of no use afterwards."""
    source = next(source for source in sources if source.name == batch.dataset)
    dataset = label_pairs(source.dataset.select(batch.rows))
    with tempfile.TemporaryDirectory() as folder:
        config = _two_steps(config, folder, pairs=len(batch.rows))
        args = training_arguments(config)
        args.disable_tqdm = True
        watch = _StepWatch()
        trainer = build_trainer(
            args,
            model,
            {source.name: dataset},
            build_loss(config, args, model),
            evaluators=[],
            callbacks=(watch,),
            matryoshka_dims=config.matryoshka_dims,
        )
        trainer.remove_callback(PrinterCallback)
        failure = None
        with PeakMemory(model.device) as peak:
            try:
                trainer.train()
            except torch.OutOfMemoryError as error:
                failure = explain_out_of_memory(error, config, {source.name: dataset}, {source.name: batch.rows})
    return MeasuredSteps(watch.seconds[-1] if watch.seconds else None, peak.growth, failure)


_NOTHING_WRITTEN = {
    "max_steps": STEPS,
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
}
"""What a step's memory does not depend on, and two steps have no use for."""

_OF_DATALOADER = ("dataloader_prefetch_factor", "dataloader_persistent_workers", "auto_find_batch_size")


def _two_steps(config: RunConfig, folder: str, *, pairs: int) -> RunConfig:
    training: dict[str, Any] = {key: value for key, value in config.training.items() if key not in _OF_DATALOADER}
    training |= _NOTHING_WRITTEN | {"per_device_train_batch_size": pairs}
    return replace(config, output_dir=folder, mining=None, eval_data=(), training=training)


class _StepWatch(TrainerCallback):
    """Times each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begin = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._begin)
