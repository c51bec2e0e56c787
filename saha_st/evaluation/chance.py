"""What guessing would score on a task of mteb: a score has to be compared with it before it says anything."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mteb.abstasks import AbsTaskClassification, AbsTaskPairClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.image.image_text_pair_classification import AbsTaskImageTextPairClassification
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

from saha_st.evaluation.limits import splits_of


def chances_of(task: AbsTask) -> dict[str, tuple[float | None, int | None]]:
    """Return the expected main score of a model that guesses, and the number of queries or rows.

    Args:
        task: A task whose data are loaded.

    Returns:
        Both for each split and subset, by their names in checks. The first is `None` where we know no formula:
        clustering, and metrics other than the usual ones.
    """
    return {name: _chance(task, data) for name, data in splits_of(task)}


def _chance(task: AbsTask, data: Any) -> tuple[float | None, int | None]:
    metric = task.metadata.main_score
    try:
        if isinstance(task, AbsTaskRetrieval):
            return _retrieval(data, metric), len(data["relevant_docs"])
        if isinstance(task, AbsTaskZeroShotClassification):
            return _share(metric, len(task.get_candidate_labels())), len(data)
        if isinstance(task, AbsTaskImageTextPairClassification):
            return _pairing(task, metric), len(data)
        if isinstance(task, AbsTaskSTS):
            return (0.0 if "spearman" in metric or "pearson" in metric else None), len(data)
        if isinstance(task, AbsTaskPairClassification):
            labels = _flat(data[task.label_column_name])
            return (float(np.mean(labels)) if metric.endswith("_ap") else None), len(labels)
        if type(task)._evaluate_subset is AbsTaskClassification._evaluate_subset:
            return _share(metric, len({str(label) for label in data[task.label_column_name]})), len(data)
        return None, len(data)
    except (AttributeError, KeyError, TypeError):  # data in a form of the task's own: a score without a yardstick
        return None, None


def _share(metric: str, choices: int) -> float | None:
    return 1 / choices if metric == "accuracy" and choices else None


def _pairing(task: AbsTaskImageTextPairClassification, metric: str) -> float | None:
    columns = {"text_acc": task.texts_column_names, "image_acc": task.images_column_names}.get(metric)
    return None if columns is None or isinstance(columns, str) or len(columns) < 2 else 1 / len(columns)


def _flat(labels: Sequence[Any]) -> Sequence[Any]:
    """Return a column of labels; the oldest tasks hold all of them in one row."""
    return labels[0] if len(labels) == 1 and isinstance(labels[0], Sequence) else labels


def _retrieval(data: Mapping[str, Any], metric: str) -> float | None:
    """Return the mean over queries of the expected metric of a random ranking."""
    name, _, cutoff = metric.partition("_at_")
    if metric == "accuracy":
        name, cutoff = "recall", "1"
    expected = _EXPECTED.get(name)
    if expected is None or not re.fullmatch(r"\d+", cutoff):
        return None
    top_ranked, corpus = data.get("top_ranked"), len(data["corpus"])
    values = []
    for query, judged in data["relevant_docs"].items():
        documents = corpus if not top_ranked else len(top_ranked[query])
        relevant = min(sum(grade > 0 for grade in judged.values()), documents)
        if relevant:
            values.append(expected(documents, relevant, min(int(cutoff), documents)))
    return float(np.mean(values)) if values else None


def _ndcg(documents: int, relevant: int, k: int) -> float:
    """Each place of a random ranking holds a relevant document with the same probability."""
    discounts = [1 / math.log2(place + 2) for place in range(k)]
    return relevant / documents * sum(discounts) / sum(discounts[: min(relevant, k)])


def _recall(documents: int, relevant: int, k: int) -> float:
    return k / documents


def _hit_rate(documents: int, relevant: int, k: int) -> float:
    return 1 - math.comb(documents - relevant, k) / math.comb(documents, k)


_EXPECTED = {"ndcg": _ndcg, "recall": _recall, "hit_rate": _hit_rate, "cv_recall": _recall}
