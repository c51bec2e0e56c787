"""Evaluation during training: does an anchor find its positive among those of all held-out pairs?"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator

from saha_st.encoding import encode_column
from saha_st.mining.neighbours import top_k


class PairRetrievalEvaluator(BaseEvaluator):
    """Hit@1 and MRR@10 on held-out pairs, each dataset on its own; several positives of an anchor all count.

    A quick look while a run goes on, on images as on text; benchmarks are scored by `saha_st.evaluation`.

    Args:
        datasets: Held-out pairs by name, with the columns ``anchor`` and ``positive``.
        batch_size: Most inputs per forward; by default by tokens, as in `Encoder`.
    """

    def __init__(self, datasets: Mapping[str, Dataset], *, batch_size: int | None = None) -> None:
        super().__init__()
        self.datasets = dict(datasets)
        self.batch_size = batch_size
        self.primary_metric = "mean_hit@1"

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Score the model; also appended to ``pair_retrieval.csv`` under ``output_path``."""
        metrics = {}
        for name, dataset in self.datasets.items():
            metrics |= {f"{name}_{metric}": value for metric, value in self._score(model, dataset).items()}
        hits = [value for metric, value in metrics.items() if metric.endswith("_hit@1")]
        metrics["mean_hit@1"] = float(np.mean(hits))
        if output_path is not None:
            _append(Path(output_path) / "pair_retrieval.csv", {"epoch": epoch, "steps": steps} | metrics)
        return metrics

    def _score(self, model: SentenceTransformer, dataset: Dataset) -> dict[str, float]:
        options = {"batch_size": self.batch_size, "show_progress_bar": False}
        anchors = encode_column(dataset, "anchor", model, task="query", **options)
        documents = encode_column(dataset, "positive", model, task="document", **options)
        found, _ = top_k(anchors.embeddings, documents.embeddings, 10)  # (anchors, 10)
        pairs = anchors.distinct.index_of_row * len(documents.distinct) + documents.distinct.index_of_row
        candidates = np.arange(len(found))[:, None] * len(documents.distinct) + found
        relevant = np.isin(candidates, pairs)
        rank = np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, np.inf)
        return {"hit@1": float((rank == 1).mean()), "mrr@10": float((1 / rank).mean())}


def _append(path: Path, row: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)
