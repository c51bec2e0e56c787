"""Tells the batch sampler the epoch, however deeply it is wrapped.

A run that resumes in the middle of an epoch on several processes wraps the sampler twice: once to deal its batches
out, once to skip those already trained. The trainer unwraps one layer, so the sampler would shuffle for epoch 0.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SetEpochCallback(TrainerCallback):
    """Set the epoch of the innermost batch sampler when an epoch begins.

    Needed for an exact resume with several processes after the first epoch; harmless otherwise.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        """Unwrap the batch sampler of ``train_dataloader`` and set its epoch."""
        sampler = getattr(train_dataloader, "batch_sampler", None)
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        if hasattr(sampler, "set_epoch"):
            # A resumed run starts at a fraction: 1.4 lies within epoch 1.
            sampler.set_epoch(int(state.epoch or 0))
