"""A quick look takes some of the rows, runs the same code, and is never taken for a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset
from mocks import IMAGE_TEXT, mock

from saha_st.card.run_folders import RunFolder, find_run
from saha_st.evaluation import evaluate, mmeb_tasks
from saha_st.evaluation.limits import keep_rows, splits_of

QUIET = {"show_progress_bar": False}


@pytest.mark.parametrize("name", IMAGE_TEXT)
def test_every_kind_of_task_is_cut_to_the_limit(name: str):
    task = mock(name)
    task.load_data()
    before = [len(data["queries"] if "queries" in data else data) for _, data in splits_of(task)]
    keep_rows(task, 1)
    after = [data for _, data in splits_of(task)]
    assert len(after) == len(before) > 0
    for data in after:
        if isinstance(data, Dataset):
            assert len(data) == 1
        elif "queries" in data:
            assert len(data["queries"]) == len(data["relevant_docs"]) == 1
            (judged,) = data["relevant_docs"].values()
            assert set(judged) <= set(data["corpus"]["id"])
        else:
            assert {len(column) for column in data.values()} == {1}


def test_a_limited_corpus_keeps_what_its_queries_name_and_some_others(mmeb: Path):
    (task,) = mmeb_tasks(mmeb, "CIRR")
    task.load_data()
    whole = task.dataset["default"]["test"]
    keep_rows(task, 2)
    ((_, cut),) = splits_of(task)
    named = {name for query in ("q000000", "q000001") for name in whole["top_ranked"][query]}
    assert set(cut["corpus"]["id"]) == named and len(named) < len(whole["corpus"])

    task = mock("MockRetrievalTask")
    task.load_data()
    corpus = Dataset.from_dict({"id": [f"d{row}" for row in range(50)], "text": ["text"] * 50, "title": [""] * 50})
    data = task.dataset["default"]["test"]
    data |= {"corpus": corpus, "relevant_docs": {"q1": {"d40": 1}}}
    keep_rows(task, 1)
    assert task.dataset["default"]["test"]["corpus"]["id"][:] == [*[f"d{row}" for row in range(10)], "d40"]


def test_a_quick_look_is_kept_apart_and_is_no_result(embedder, mmeb: Path, tmp_path: Path):
    options = {"output_dir": tmp_path, "model_name": "org/m", **QUIET}
    quick = evaluate(embedder, mmeb_tasks(mmeb, ["CIRR", "WebQA"]), limit=3, **options)
    assert [task.num_queries for task in quick.tasks.values()] == [3, 3]
    assert "A quick look at 3 queries or rows of each task, which is no result." in quick.to_markdown()
    with pytest.raises(ValueError, match=r"only quick looks of org/m \(limit_3\)"):
        find_run(tmp_path, model_name="org/m")
    whole = evaluate(embedder, mmeb_tasks(mmeb, ["CIRR", "WebQA"]), **options)
    assert [task.num_queries for task in whole.tasks.values()] == [20, 12]
    run = find_run(tmp_path)
    assert run.limit is None and run.result("MMEB_CIRR").scores["test"][0]["num_queries"] == 20
    limited = RunFolder(tmp_path, "org/m", run.revision, limit=3)
    assert limited.result("MMEB_CIRR").scores["test"][0]["num_queries"] == 3
    meta = json.loads((limited.results / "model_meta.json").read_text())
    assert meta["experiment_kwargs"] == {"limit": 3}
    assert evaluate(embedder, mmeb_tasks(mmeb, ["CIRR", "WebQA"]), limit=3, **options) == quick


def test_a_limit_that_cannot_be_is_refused(embedder, mmeb: Path):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        evaluate(embedder, mmeb_tasks(mmeb, "CIRR"), limit=0, **QUIET)
    tasks = mmeb_tasks(mmeb, "CIRR")
    tasks[0].load_data()
    with pytest.raises(ValueError, match="MMEB_CIRR are loaded already"):
        evaluate(embedder, tasks, limit=1, **QUIET)
