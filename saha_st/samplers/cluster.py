"""Batches of whole clusters, each with exactly ``batch_size`` rows, from a mined dataset.

The rows of a cluster are each other's hard negatives, so a cluster that is torn apart loses what it was mined for. And
every rank needs the same number of rows in every step, or gathering embeddings across devices fails. Both hold at once
because the packing is planned from the cluster sizes alone (see ``packing``), and an epoch only shuffles clusters into
the plan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.util import get_world_size

from saha_st.samplers.packing import PackingPlan, better_batch_sizes, describe_counts, plan_batches

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

logger = logging.getLogger(__name__)


class ClusterBatchSampler(DefaultBatchSampler):
    """Yield batches of whole clusters with exactly ``batch_size`` rows each, the same number in every epoch.

    Clusters come from the first number of the ``label`` column, ``[cluster, anchor, positive]``, as
    :func:`~saha_st.mining.mine_saha_clusters` writes it. Pass the class as ``batch_sampler`` to
    ``SentenceTransformerTrainingArguments``; for several datasets add
    :class:`~saha_st.samplers.SameTaskBatchSampler` as ``multi_dataset_batch_sampler``.

    What an epoch holds: a cluster is used at most once and never split. Of the clusters of one size a fixed number is
    used, ``plan.share_of_size``; which ones is drawn anew in every epoch, so that each row of such a cluster has this
    share. ``dropped_rows`` is what an epoch leaves out. With several processes, batches beyond a multiple of their
    number are left out too, fewer than one a process.

    The order depends on ``seed + epoch`` only: iterating again gives the same batches, which is what resuming in the
    middle of an epoch relies on. Under several processes also add
    :class:`~saha_st.samplers.SetEpochCallback` to the trainer.

    Args:
        dataset: The mined dataset, rows in cluster order. Only its label column is read; no image is decoded.
        batch_size: Rows of every batch, on every process.
        drop_last: Has no effect: there never is a smaller batch. The attribute is always True, which makes accelerate
            give every process the same number of batches.
        valid_label_columns: Names of label columns, the first one found is used. Defaults to ``["label"]``.
        generator: Has no effect: the order comes from ``seed`` and the epoch alone.
        seed: Seed of the order; the epoch is added to it.

    Raises:
        ValueError: The dataset has no label column of the form above, rows of a cluster are apart, no packing into
            batches of ``batch_size`` exists, or there are fewer batches than processes.
    """

    warns = True
    """Whether it says when much is left out; a run of several datasets says it once, for all of them."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool = True,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            drop_last=True,
            valid_label_columns=valid_label_columns,
            generator=generator,
            seed=seed,
        )
        self._places = np.arange(batch_size)
        self._starts, self._sizes = _cluster_bounds(_read_clusters(dataset, valid_label_columns or ["label"]))
        size_values, counts = np.unique(self._sizes, return_counts=True)
        count_of_size = dict(zip(size_values.tolist(), counts.tolist(), strict=True))
        self.plan: PackingPlan = plan_batches(count_of_size, batch_size)
        if self.plan.num_batches < get_world_size():
            raise ValueError(
                f"batch_size={batch_size} gives {self.plan.num_batches} batches of whole clusters for "
                f"{get_world_size()} processes (clusters: {describe_counts(count_of_size)}). Use a smaller "
                "batch_size, fewer processes or more data."
            )
        if self.warns and self.plan.leaves_out_many:
            better = " or ".join(map(str, better_batch_sizes([count_of_size], batch_size)))
            logger.warning(
                "Each epoch leaves out %d of %d rows: the clusters (%s) do not pack well into batches of %d rows. %s",
                self.dropped_rows,
                self.plan.num_rows,
                describe_counts(count_of_size),
                batch_size,
                f"It would be fewer with batch_size={better}." if better else "More rows would help.",
            )

    @property
    def dropped_rows(self) -> int:
        """Rows that an epoch leaves out, on one process; the same number in every epoch."""
        return self.plan.dropped_rows

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row indices of one batch after the other, clusters in one piece."""
        rng = np.random.default_rng(self.seed + self.epoch)
        queues = [rng.permutation(np.flatnonzero(self._sizes == size)) for size in self.plan.sizes]
        order = rng.permutation(np.repeat(np.arange(len(self.plan.repeats)), self.plan.repeats))  # (batches,)
        begin = np.zeros(len(queues), dtype=np.int64)
        for fill in self.plan.recipes[order]:
            end = begin + fill
            clusters = np.concatenate([queue[b:e] for queue, b, e in zip(queues, begin, end, strict=True)])
            begin = end
            sizes = self._sizes[clusters]
            # Counted on within a cluster, from its first row: a batch in one go.
            first = np.repeat(self._starts[clusters] - np.cumsum(sizes) + sizes, sizes)  # (batch_size,)
            yield (first + self._places).tolist()

    def __len__(self) -> int:
        """Batches in every epoch, over all processes."""
        return self.plan.num_batches


def _read_clusters(dataset: Dataset, label_columns: list[str]) -> np.ndarray:
    """The cluster of each row, shape (rows,), without touching any other column."""
    column = next((name for name in label_columns if name in dataset.column_names), None)
    if column is None:
        raise ValueError(
            f"ClusterBatchSampler needs a column {' or '.join(map(repr, label_columns))} that holds [cluster, anchor, "
            f"positive] for each row; the dataset has the columns {dataset.column_names}. Mine it with "
            "mine_saha_clusters, or use another batch_sampler for it."
        )
    labels = dataset.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    if not (_is_list(labels.type) and pa.types.is_integer(labels.type.value_type)):
        raise ValueError(
            f"Column {column!r} must hold three integers for each row, [cluster, anchor, positive], but its type is "
            f"{labels.type}. Mine the dataset with mine_saha_clusters, or use another batch_sampler for it."
        )
    wrong = np.flatnonzero(pc.list_value_length(labels).fill_null(0).to_numpy(zero_copy_only=False) != 3)
    if len(wrong) > 0:
        raise ValueError(
            f"Column {column!r} must hold three integers for each row, [cluster, anchor, positive], but row "
            f"{wrong[0]} has {labels[wrong[0]].as_py()}. Mine the dataset again, or filter such rows out."
        )
    return labels.flatten().to_numpy(zero_copy_only=False).reshape(-1, 3)[:, 0]


def _is_list(arrow_type: pa.DataType) -> bool:
    return (
        pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type) or pa.types.is_fixed_size_list(arrow_type)
    )


def _cluster_bounds(clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row and number of rows of each cluster, both of shape (clusters,)."""
    if len(clusters) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], clusters[1:] != clusters[:-1]]))
    names, occurrences = np.unique(clusters[starts], return_counts=True)
    if (occurrences > 1).any():
        name = names[occurrences > 1][0]
        rows = starts[clusters[starts] == name]
        raise ValueError(
            f"Cluster {name} is in several places (rows {rows[0]} and {rows[1]}, for instance): the rows of a cluster "
            "must stay together. Do not shuffle or split a mined dataset (this sampler shuffles clusters itself), and "
            "pass several mined datasets as a DatasetDict instead of concatenating them."
        )
    return starts, np.diff(np.append(starts, len(clusters)))
