"""Pairs of which the truth is known, for `ablation.py`: mini-MMEB's training tasks, and handwritten digits.

The truth of a row is what its positive stands for: two rows of equal truth are each other's positives, whether their
documents are the same or not. Models never see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from sentence_transformers import SentenceTransformer

from saha_st.data import load_mmeb
from saha_st.data.scenes import write_mini_mmeb
from saha_st.data.scenes.mini_mmeb import TRAIN_DIR, concepts_of
from saha_st.encoding import DistinctInputs, encode_column
from saha_st.encoding.modality_gap import unit_vectors
from saha_st.evaluation import evaluate, find_benchmark
from saha_st.training.config import RunConfig

RECIPE = "mini-mmeb"
_DIGITS_FOR_TRAINING = 1200  # of 1,797; the same ones as mini-MMEB's


@dataclass(frozen=True)
class Task:
    """Pairs of one task, their vectors by the model that is going to be trained, and their truth.

    Attributes:
        pairs: Columns anchor and positive.
        owner_filter: False for classification.
        anchors: Which distinct anchor each row has, shape (rows,), counted over all tasks.
        documents: Which distinct document each row has, shape (rows,), counted over all tasks.
    """

    pairs: Dataset
    owner_filter: bool
    anchors: np.ndarray
    documents: np.ndarray


@dataclass(frozen=True)
class TrainingData:
    """All tasks of a run.

    Attributes:
        tasks: By name.
        anchor_vectors: Of length 1, shape (anchors, dim).
        document_vectors: Of length 1, shape (documents, dim).
        truth_of_document: A number for what each document stands for, shape (documents,).
        right: anchor x number of truths + truth for whatever is right, sorted.
    """

    tasks: dict[str, Task]
    anchor_vectors: np.ndarray
    document_vectors: np.ndarray
    truth_of_document: np.ndarray
    right: np.ndarray

    def are_right(self, anchors: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Whether documents are in truth positives of anchors, numbers that broadcast against each other."""
        truths = int(self.truth_of_document.max()) + 1
        return np.isin(anchors * truths + self.truth_of_document[documents], self.right)

    def cosines(self, anchors: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Cosines before training, shape (anchors, documents)."""
        return self.anchor_vectors[anchors] @ self.document_vectors[documents].T


@dataclass(frozen=True)
class Setting:
    """What is trained on and how much, and what is scored.

    Attributes:
        steps: Steps of a run.
        learning_rate: At its highest.
        load: Makes the training data of a seed, in a folder, with vectors of a model.
        score: hit@1 by name of mean, from 0 to 1.
    """

    steps: int
    learning_rate: float
    load: Callable[[Path, int, SentenceTransformer], TrainingData]
    score: Callable[[Path, SentenceTransformer], dict[str, float]]


def load_scenes(folder: Path, seed: int, model: SentenceTransformer) -> TrainingData:
    """The tasks of the quickstart, their pairs drawn by the seed."""
    root = folder / f"mini-mmeb-{seed}"
    if not root.exists():
        write_mini_mmeb(root, seed=seed, eval_rows=2, candidates=2)
    sources = {}
    for source in RunConfig.from_file(RECIPE).data:
        subsets = load_mmeb(root / TRAIN_DIR, list(source.subset), split="original")
        sources |= {name: (pairs, source.owner_filter) for name, pairs in subsets.items()}
    truth = {name: concepts_of(root / TRAIN_DIR, name) for name in sources}
    return _joined(sources, truth, model, folder / "vectors")


def score_scenes(folder: Path, model: SentenceTransformer) -> dict[str, float]:
    """hit@1 on mini-MMEB, whose queries are those of seed 0 for all."""
    benchmark = find_benchmark("mini-mmeb", data_dir=folder / "mini-mmeb")
    return {name: float(mean) for name, mean in evaluate(model, benchmark, show_progress_bar=False).means.items()}


def load_digits(folder: Path, seed: int, model: SentenceTransformer) -> TrainingData:
    """Each handwritten digit, and another one of the same class: of ten documents, one more is right."""
    pictures, classes = _digits()
    rng = np.random.default_rng(seed)
    anchors = rng.permutation(_DIGITS_FOR_TRAINING)
    positives = [
        rng.choice(np.setdiff1d(np.flatnonzero(classes[:_DIGITS_FOR_TRAINING] == classes[row]), row))
        for row in anchors
    ]
    pairs = Dataset.from_dict(
        {"anchor": [pictures[row] for row in anchors], "positive": [pictures[row] for row in positives]}
    )
    truth = [str(classes[row]) for row in positives]
    return _joined({"digits": (pairs, True)}, {"digits": truth}, model, folder / "vectors")


def score_digits(folder: Path, model: SentenceTransformer) -> dict[str, float]:
    """Share of digits that were not trained on whose nearest other digit is of their class."""
    pictures, classes = _digits()
    held_out, truth = pictures[_DIGITS_FOR_TRAINING:], classes[_DIGITS_FOR_TRAINING:]
    cosines = model.similarity(model.encode_query(held_out), model.encode_document(held_out)).numpy()
    np.fill_diagonal(cosines, -1)
    return {"Overall": float(np.mean(truth[cosines.argmax(axis=1)] == truth))}


SETTINGS = {
    "mini-mmeb": Setting(100, 5e-4, load_scenes, score_scenes),
    "digits": Setting(36, 5e-4, load_digits, score_digits),
}
"""Less than an epoch of each: of 4,500 pairs, and of 1,200."""


def _joined(
    sources: Mapping[str, tuple[Dataset, bool]],
    truth: Mapping[str, list[str]],
    model: SentenceTransformer,
    cache_folder: Path,
) -> TrainingData:
    """Encode all tasks, and count anchors and documents over all of them."""
    options = {"cache_folder": cache_folder, "show_progress_bar": False}
    anchors, documents, rows_of_tasks = [], [], []
    for pairs, _ in sources.values():
        anchors.append(encode_column(pairs, "anchor", model, task="query", **options))
        documents.append(encode_column(pairs, "positive", model, task="document", **options))
    # The same label may be a document of several tasks; an anchor asks something else in each.
    distinct = DistinctInputs.of_keys(np.concatenate([column.distinct.keys for column in documents]))
    first_anchor = first_document = 0
    for asked, answered in zip(anchors, documents, strict=True):
        here = distinct.index_of_row[first_document : first_document + len(answered.embeddings)]
        rows_of_tasks.append((asked.distinct.index_of_row + first_anchor, here[answered.distinct.index_of_row]))
        first_anchor, first_document = first_anchor + len(asked.embeddings), first_document + len(answered.embeddings)
    names, truth_of_row = np.unique(np.concatenate([truth[name] for name in sources]), return_inverse=True)
    anchor_of_row, document_of_row = (np.concatenate(each) for each in zip(*rows_of_tasks, strict=True))
    truth_of_document = np.empty(len(distinct), dtype=np.int64)
    truth_of_document[document_of_row] = truth_of_row
    return TrainingData(
        tasks={
            name: Task(pairs, owner_filter, *rows)
            for (name, (pairs, owner_filter)), rows in zip(sources.items(), rows_of_tasks, strict=True)
        },
        anchor_vectors=unit_vectors(np.concatenate([column.embeddings for column in anchors])),
        document_vectors=unit_vectors(np.concatenate([column.embeddings for column in documents])[distinct.first_row]),
        truth_of_document=truth_of_document,
        right=np.unique(anchor_of_row * len(names) + truth_of_row),
    )


def _digits() -> tuple[list[Image.Image], np.ndarray]:
    """scikit-learn's 1,797 handwritten digits, 64 x 64 pixels, and their classes."""
    from sklearn.datasets import load_digits as handwritten

    scans = handwritten()
    ink = (255 - scans.images * (255 / 16)).astype(np.uint8)
    pictures = [Image.fromarray(scan).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC) for scan in ink]
    return pictures, scans.target
