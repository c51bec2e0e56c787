"""Several datasets, one task a step.

accelerate deals the batches of a sampler out to the ranks in turn: of ``world_size`` consecutive batches each rank
gets one, and these make up one step. If they come from different datasets, gathered negatives belong to another task,
which makes them trivial, and ranks may wait for columns that the others do not have. So batches are drawn here in
groups of ``world_size`` from one dataset.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from sentence_transformers.base.sampler import MultiDatasetDefaultBatchSampler
from sentence_transformers.util import get_world_size

if TYPE_CHECKING:
    import torch
    from torch.utils.data import BatchSampler, ConcatDataset

logger = logging.getLogger(__name__)


class SameTaskBatchSampler(MultiDatasetDefaultBatchSampler):
    """Draw from the datasets in proportion to their batches, all ranks from the same one in every step.

    Pass the class as ``multi_dataset_batch_sampler`` to ``SentenceTransformerTrainingArguments``.

    What an epoch holds: of a dataset whose own sampler yields ``n`` batches, ``n // world_size`` steps, each batch at
    most once. The fewer than ``world_size`` batches left over are the last ones of that epoch's order, hence others in
    every epoch. With one process nothing is left over. The order of the steps depends on ``seed + epoch`` only.

    Args:
        dataset: The datasets, concatenated.
        batch_samplers: The batch sampler of each dataset, such as
            :class:`~saha_st.samplers.ClusterBatchSampler`.
        generator: Reseeded with ``seed + epoch`` for batch samplers that draw from it; the order of the datasets does
            not come from it.
        seed: Seed of the order; the epoch is added to it.
        world_size: Number of processes that share the batches. Defaults to the number of this run.

    Raises:
        ValueError: A dataset has fewer batches than there are processes, so that no step could come from it; or, with
            several processes, a batch sampler may end on a smaller batch, on which gathering would fail.
    """

    def __init__(
        self,
        dataset: ConcatDataset,
        batch_samplers: list[BatchSampler],
        generator: torch.Generator | None = None,
        seed: int = 0,
        *,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_samplers=batch_samplers, generator=generator, seed=seed)
        self.world_size = get_world_size() if world_size is None else world_size
        for index, sampler in enumerate(batch_samplers):
            if len(sampler) < self.world_size:
                raise ValueError(
                    f"Dataset {index} has {len(sampler)} batches ({len(dataset.datasets[index])} rows, batch_size="
                    f"{sampler.batch_size}) for {self.world_size} processes, so that no step could come from it. Use "
                    "a smaller batch size or fewer processes, or leave the dataset out."
                )
            if self.world_size > 1 and not sampler.drop_last:
                raise ValueError(
                    f"The batch sampler of dataset {index}, {type(sampler).__name__}, has drop_last=False: its last "
                    "batch may be smaller, and then the processes disagree on the number of rows. Set "
                    "dataloader_drop_last=True."
                )

    def __iter__(self) -> Iterator[list[int]]:
        """Yield row indices into the concatenated dataset, ``world_size`` batches of one dataset in a row."""
        if self.generator is not None:
            self.generator.manual_seed(self.seed + self.epoch)
        offsets = np.cumsum([0] + [len(dataset) for dataset in self.dataset.datasets]).tolist()
        batches = [iter(sampler) for sampler in self.batch_samplers]
        for index in self._order():
            group = list(islice(batches[index], self.world_size))
            if len(group) < self.world_size:
                # Samplers such as NoDuplicatesBatchSampler only estimate their length. A group that is not complete
                # would leave some processes without a batch.
                logger.warning("Dataset %d ended before the %d batches it announced.", index, self._lengths()[index])
                continue
            for batch in group:
                yield [offsets[index] + row for row in batch]

    def __len__(self) -> int:
        """Batches in an epoch over all processes, a multiple of ``world_size``."""
        return self.world_size * sum(self._groups())

    def _order(self) -> list[int]:
        """The dataset of each step of this epoch."""
        steps = np.repeat(np.arange(len(self.batch_samplers)), self._groups())
        return np.random.default_rng(self.seed + self.epoch).permutation(steps).tolist()

    def _groups(self) -> list[int]:
        return [length // self.world_size for length in self._lengths()]

    def _lengths(self) -> list[int]:
        return [len(sampler) for sampler in self.batch_samplers]
