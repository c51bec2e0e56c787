"""The ways of choosing negatives that `ablation.py` compares, and a loss that counts what they are in truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ablation_data import Task, TrainingData
from datasets import Dataset, concatenate_datasets
from known_vectors import KnownVectors
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
from torch import Tensor

from saha_st.losses import SaHaLoss
from saha_st.losses.known_pairs import KnownPairs
from saha_st.mining.miner import LABEL, find_saha_clusters

NUM_NEGATIVES = 7


@dataclass(frozen=True)
class Batches:
    """What a run is trained on.

    Attributes:
        datasets: By name, columns anchor, positive, negatives if there are any, and label = [group, anchor, document],
            counted over all tasks.
        negatives: Documents that a group's negative columns hold, shape (groups, negatives).
        are_clusters: Whether rows of a group belong into one batch.
    """

    datasets: dict[str, Dataset]
    negatives: np.ndarray | None = None
    are_clusters: bool = False


Build = Callable[[TrainingData, SentenceTransformer, Path], Batches]


@dataclass(frozen=True)
class Arm:
    """A way of choosing negatives.

    Attributes:
        name: As it stands in the table.
        build: Makes the batches' rows, from data, model, and a folder that keeps vectors.
        masks: Arguments of the loss.
        mines_again: Whether it mines once more, with the model that is half trained.
        restarts: Whether a new trainer goes on from there, as it does when it mines again.
        share: Of the steps of the others that it takes.
    """

    name: str
    build: Build
    masks: dict[str, Any]
    mines_again: bool = False
    restarts: bool = False
    share: Fraction = Fraction(1)

    def parts(self, steps: int) -> tuple[int, ...]:
        """Steps of its trainers, one after the other, where others take so many."""
        steps = int(steps * self.share)
        return (steps // 2, steps - steps // 2) if self.restarts else (steps,)


def in_batch(data: TrainingData, model: SentenceTransformer, folder: Path, *, mixed: bool) -> Batches:
    """Pairs as they come, batches of one task each, or of all tasks mixed."""
    datasets, first = {}, 0
    for name, task in data.tasks.items():
        groups = np.arange(first, first + len(task.pairs))
        datasets[name], first = _labelled(task.pairs, groups, task), first + len(task.pairs)
    return Batches({"all": concatenate_datasets(list(datasets.values()))} if mixed else datasets)


def explicit(
    data: TrainingData, model: SentenceTransformer, folder: Path, *, relative_margin: float | None
) -> Batches:
    """The nearest documents as columns, by `mine_hard_negatives`, which leaves out rows that have too few of them."""
    datasets, tables, first = {}, [], 0
    for name, task in data.tasks.items():
        rows, negatives = _nearest(task, data, relative_margin)
        if len(rows) == 0:
            continue
        groups = np.arange(first, first + len(rows))
        columns = [_labelled(task.pairs.select(rows), groups, task, rows)]
        holder = dict(zip(task.documents.tolist(), range(len(task.pairs)), strict=True))  # a row that has the document
        for number in range(NUM_NEGATIVES):
            wanted = [holder[document] for document in negatives[:, number].tolist()]
            column = task.pairs.select_columns(["positive"]).select(wanted).flatten_indices()
            columns.append(column.rename_column("positive", f"negative_{number}"))
        names = ["anchor", "positive", *(f"negative_{number}" for number in range(NUM_NEGATIVES)), LABEL]
        datasets[name] = concatenate_datasets(columns, axis=1).select_columns(names)
        tables.append(negatives)
        first += len(rows)
    return Batches(datasets, negatives=np.concatenate(tables) if tables else None)


def clusters(
    data: TrainingData,
    model: SentenceTransformer,
    folder: Path,
    *,
    range_min: int = 0,
    range_max: int | None = None,
    **options: Any,
) -> Batches:
    """Clusters mined with the model; few documents make smaller ones, and windows from the first rank on."""
    datasets, first = {}, 0
    for name, task in data.tasks.items():
        documents = len(np.unique(task.documents))
        settings = {"num_negatives": min(NUM_NEGATIVES, documents - 1), "owner_filter": task.owner_filter} | options
        if documents > (range_max or range_min + 2 * NUM_NEGATIVES * 3):
            settings |= {"range_min": range_min, "range_max": range_max}
        mined = find_saha_clusters(task.pairs, model, cache_folder=folder, show_progress_bar=False, **settings)
        groups = mined.labels[:, 0] + first
        datasets[name] = _labelled(task.pairs.select(mined.rows), groups, task, mined.rows)
        first = int(groups.max()) + 1
    return Batches(datasets, are_clusters=True)


NO_MASKS = {"mask_duplicates": False}
DUPLICATES = {"mask_duplicates": True}
MARGIN = {"false_negative_margin": 0.1}
BOTH = DUPLICATES | MARGIN

EQUAL_INPUTS = Fraction(2, 2 + NUM_NEGATIVES)
COMMUNITIES = partial(clusters, builder="communities")
_COMMUNITIES = "communities, ranks from"

ARMS = (
    Arm("random in-batch", partial(in_batch, mixed=True), NO_MASKS),
    Arm("same-task in-batch", partial(in_batch, mixed=False), NO_MASKS),
    Arm("same-task in-batch + both masks", partial(in_batch, mixed=False), BOTH),
    Arm("mine_hard_negatives, top 7", partial(explicit, relative_margin=None), NO_MASKS),
    Arm("mine_hard_negatives, relative_margin=0.05", partial(explicit, relative_margin=0.05), NO_MASKS),
    Arm(
        "mine_hard_negatives, top 7, 2/9 of the steps",
        partial(explicit, relative_margin=None),
        NO_MASKS,
        share=EQUAL_INPUTS,
    ),
    Arm(
        "mine_hard_negatives, relative_margin=0.05, 2/9 of the steps",
        partial(explicit, relative_margin=0.05),
        NO_MASKS,
        share=EQUAL_INPUTS,
    ),
    Arm("SaHa as in the paper", clusters, NO_MASKS),
    Arm("SaHa + duplicate mask", clusters, DUPLICATES),
    Arm("SaHa + false_negative_margin 0.1", clusters, NO_MASKS | MARGIN),
    Arm("SaHa + both masks", clusters, BOTH),
    Arm("SaHa without the owner filter + both masks", partial(clusters, owner_filter=False), BOTH),
    Arm(
        f"{_COMMUNITIES} 30 to 130 (B3) + both masks",
        partial(COMMUNITIES, range_min=30, range_max=130, owner_filter=False),
        BOTH,
    ),
    Arm(f"{_COMMUNITIES} 5 + both masks", partial(COMMUNITIES, range_min=5, owner_filter=False), BOTH),
    Arm(f"{_COMMUNITIES} 5, owner filter + both masks", partial(COMMUNITIES, range_min=5), BOTH),
    Arm(f"{_COMMUNITIES} 0, owner filter + both masks", COMMUNITIES, BOTH),
    Arm("SaHa + both masks, restarted half-way", clusters, BOTH, restarts=True),
    Arm("SaHa + both masks, mined again half-way", clusters, BOTH, restarts=True, mines_again=True),
)


class AuditedLoss(SaHaLoss):
    """`SaHaLoss` that counts what its negatives are in truth, and how hard they are.

    Args:
        model: The model.
        data: Knows the truth.
        batches: What is trained on.
        **options: As of `SaHaLoss`.
    """

    def __init__(self, model: SentenceTransformer, data: TrainingData, batches: Batches, **options: Any) -> None:
        super().__init__(model, **options)
        self.data, self.batches = data, batches
        self.counts = dict.fromkeys(("kept", "kept_right", "mined", "mined_right"), 0)
        self.hardest: list[float] = []

    def _false_negatives(self, cosines: Tensor, own: Tensor, known: KnownPairs | None) -> Tensor:
        masked = super()._false_negatives(cosines, own, known)
        self._count(~masked.cpu().numpy(), own.cpu().numpy(), self._labels.cpu().numpy())
        return masked

    def _count(self, kept: np.ndarray, own: np.ndarray, labels: np.ndarray) -> None:
        """Count a chunk: which documents are kept, shape (chunk, documents), and the batch's labels, (rows, 3)."""
        groups, anchors, documents = labels.T
        mined = groups[own][:, None] == groups
        if self.batches.negatives is not None:
            further = self.batches.negatives[groups]  # (rows, negatives); the loss has one column after the other
            documents = np.concatenate([documents, further.T.ravel()])
            mined = np.concatenate([mined] + [mined] * further.shape[1], axis=1)
        kept = kept.copy()
        kept[np.arange(len(own)), own] = False
        right = self.data.are_right(anchors[own][:, None], documents)
        for name, which in {"kept": kept, "mined": kept & mined}.items():
            self.counts[name] += int(which.sum())
            self.counts[f"{name}_right"] += int((which & right).sum())
        hardness = np.where(kept & ~right, self.data.cosines(anchors[own], documents), np.nan)
        hardest = -np.sort(-hardness, axis=1)[:, :NUM_NEGATIVES]  # NaN comes last
        self.hardest += hardest[~np.isnan(hardest)].tolist()

    def audit(self) -> dict[str, float | None]:
        """Shares of negatives that are in truth positives, and the mean cosine of the hardest true ones of an anchor.

        Cosines are those before training, so that they are comparable.
        """
        counts = self.counts
        return {
            "contamination": counts["kept_right"] / counts["kept"],
            "contamination_mined": counts["mined_right"] / counts["mined"] if counts["mined"] else None,
            "hardness": float(np.mean(self.hardest)),
        }


def _labelled(pairs: Dataset, groups: np.ndarray, task: Task, rows: np.ndarray | None = None) -> Dataset:
    """Pairs with label = [group, anchor, document]; ``rows`` of the task are those of the pairs."""
    rows = np.arange(len(task.pairs)) if rows is None else rows
    labels = np.stack([groups, task.anchors[rows], task.documents[rows]], axis=1)
    return pairs.flatten_indices().add_column(LABEL, labels.tolist())


def _nearest(task: Task, data: TrainingData, relative_margin: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have enough negatives, shape (rows,), and these, (rows, negatives), by `mine_hard_negatives` itself.

    It reads texts only, so that it is given names of inputs, and their vectors.
    """
    anchors = [f"anchor {number}" for number in task.anchors.tolist()]
    documents = [f"document {number}" for number in task.documents.tolist()]
    vectors = dict(zip(anchors, data.anchor_vectors[task.anchors], strict=True))
    vectors |= dict(zip(documents, data.document_vectors[task.documents], strict=True))
    pairs = Dataset.from_dict({"anchor": anchors, "positive": documents})
    options = {"num_negatives": NUM_NEGATIVES, "relative_margin": relative_margin, "output_format": "n-tuple"}
    mined = mine_hard_negatives(pairs, KnownVectors(vectors), **options, verbose=False)
    row_of = {pair: row for row, pair in enumerate(zip(anchors, documents, strict=True))}
    rows = [row_of[pair] for pair in zip(mined["anchor"][:], mined["positive"][:], strict=True)]
    columns = [mined[f"negative_{number}"][:] for number in range(1, NUM_NEGATIVES + 1)]
    numbers = [[int(name.split()[1]) for name in column] for column in columns]
    return np.asarray(rows, dtype=np.int64), np.asarray(numbers, dtype=np.int64).reshape(NUM_NEGATIVES, len(rows)).T
