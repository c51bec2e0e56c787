"""The expected score of guessing, against all rankings there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from mocks import IMAGE_TEXT, mock
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

from saha_st.evaluation.chance import _retrieval, chances_of


@pytest.mark.parametrize("relevant", [1, 2])
def test_retrieval_equals_the_mean_over_all_rankings_scored_by_mteb(relevant: int):
    documents = [f"d{number}" for number in range(5)]
    qrels = {"q": {name: int(index < relevant) for index, name in enumerate(documents)}}
    tables = []
    for order in itertools.permutations(documents):
        results = {"q": {name: float(-place) for place, name in enumerate(order)}}
        scores = calculate_retrieval_scores(results, qrels, [1, 2, 3, 10])
        table = {f"ndcg_at_{k}": scores.ndcg[f"NDCG@{k}"] for k in (1, 3, 10)}
        table |= {"recall_at_2": scores.recall["Recall@2"], "accuracy": scores.recall["Recall@1"]}
        tables.append(table | {"hit_rate_at_2": float(any(qrels["q"][name] for name in order[:2]))})
    data = {"corpus": documents, "relevant_docs": qrels, "top_ranked": None}
    of_a_list = {**data, "corpus": documents * 9, "top_ranked": {"q": documents}}
    for metric in tables[0]:
        mean = np.mean([table[metric] for table in tables])
        assert _retrieval(data, metric) == pytest.approx(mean, abs=1e-5), metric
        assert _retrieval(of_a_list, metric) == pytest.approx(mean, abs=1e-5), metric


def test_a_metric_without_a_formula_has_no_chance():
    data = {"corpus": ["a", "b"], "relevant_docs": {"q": {"a": 1}}, "top_ranked": None}
    assert _retrieval(data, "map_at_10") is None and _retrieval(data, "ndcg_at_ten") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MockClassificationTask", 0.5),
        ("MockMultilingualClassificationTask", 0.5),
        ("MockImageClassification", 0.5),
        ("MockTextZeroShotClassification", 0.5),
        ("MockPairClassificationTask", 0.5),
        ("MockSTSTask", 0.0),
        ("MockVisionCentricQA", 0.5),
        ("MockClusteringTask", None),
        ("MockMultilabelClassification", None),
    ],
)
def test_other_tasks(name: str, expected: float | None):
    task = mock(name)
    task.load_data()
    found = chances_of(task)
    assert {chance for chance, _ in found.values()} == {expected} and all(rows >= 1 for _, rows in found.values())


def test_no_task_of_mteb_stumbles_over_it():
    for name in IMAGE_TEXT:
        task = mock(name)
        task.load_data()
        found = chances_of(task)
        assert found and all(rows and (chance is None or 0 <= chance <= 1) for chance, rows in found.values()), name
