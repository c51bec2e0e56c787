from __future__ import annotations

import pytest

from saha_st.evaluation.scores import Scores, TaskScore, comparison_table


def score(hit: float, meta_task: str = "VQA", *, ind: bool = True, **options) -> TaskScore:
    return TaskScore(hit, "hit@1", meta_task, ind, **({"num_queries": 100, "chance": 0.01} | options))


@pytest.fixture
def scores() -> Scores:
    tasks = {
        "A": score(0.5, "Classification"),
        "B": score(0.3, "VQA"),
        "C": score(0.4, "VQA", ind=False),
        "D": score(1.0, "VQA", ind=False),
    }
    return Scores(tasks)


def test_means_are_over_tasks_and_the_overall_is_no_mean_of_means(scores: Scores):
    assert scores.meta_tasks == pytest.approx({"Classification": 0.5, "VQA": 1.7 / 3})
    assert scores.ind == pytest.approx(0.4)
    assert scores.ood == pytest.approx(0.7)
    assert scores.overall == pytest.approx(0.55) != pytest.approx((0.5 + 1.7 / 3) / 2)


def test_a_mean_without_tasks_is_none_and_shows_as_a_dash():
    scores = Scores({"A": score(0.5)})
    assert scores.ood is None
    assert "| OOD | – |" in scores.to_markdown()


def test_the_table_is_in_percent_with_one_decimal(scores: Scores):
    assert scores.to_markdown().splitlines() == [
        "|  | hit@1 |",
        "|:--|--:|",
        "| Classification | 50.0 |",
        "| VQA | 56.7 |",
        "| IND | 40.0 |",
        "| OOD | 70.0 |",
        "| **Overall** | **55.0** |",
    ]
    assert scores.to_markdown(["OOD"]).splitlines()[2:] == ["| OOD | 70.0 |"]
    assert "| D | 100.0 |" in scores.to_markdown(tasks=True)
    with pytest.raises(ValueError, match="'Video'"):
        scores.to_markdown(["Video"])


def test_stages_stand_side_by_side(scores: Scores):
    better = Scores({name: score(1, task.meta_task, ind=task.in_distribution) for name, task in scores.tasks.items()})
    lines = comparison_table({"zero-shot": scores, "fine-tuned": better}).splitlines()
    assert lines[0] == "| hit@1 (%) | zero-shot | fine-tuned |"
    assert lines[-1] == "| **Overall** | **55.0** | **100.0** |"
    assert lines[3] == "| VQA | 56.7 | 100.0 |"


def test_stages_that_cannot_be_compared_are_refused(scores: Scores):
    with pytest.raises(ValueError, match="nothing to compare"):
        comparison_table({})
    with pytest.raises(ValueError, match="'other' was scored on other tasks.*'B', 'C', 'D'"):
        comparison_table({"zero-shot": scores, "other": Scores({"A": score(1)})})
    with pytest.raises(ValueError, match="no result"):
        Scores({})


def test_a_degenerate_run_says_so(scores: Scores):
    assert scores.warnings == ()
    (tied,) = Scores({"A": score(1.0, all_tied=1.0)}).warnings
    assert tied.startswith("A: ") and "100.0% is no score" in tied
    (partly,) = Scores({"A": score(0.5, all_tied=0.25)}).warnings
    assert "25.0% of the queries" in partly
    (undefined,) = Scores({"A": score(0.0, undefined=0.5)}).warnings
    assert "not a number" in undefined
    (guessing,) = Scores({"A": score(0.02), "B": score(0.01)}).warnings
    assert "chance level (1.0%)" in guessing
