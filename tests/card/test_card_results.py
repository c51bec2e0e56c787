"""Results go from an evaluation's folder into a checkpoint's, and from there into the card, whole and of one model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResultEntry, parse_eval_result_entries

from saha_st.card.hub_results import hub_results
from saha_st.card.results import copy_results
from saha_st.card.sidecars import read_report, remove_results
from saha_st.card.tables import results_table, shows_chance
from saha_st.evaluation.report import Report, published_for
from saha_st.evaluation.scores import Scores, TaskScore
from saha_st.evaluation.task_sources import TaskSource

COMMIT = "0123456789" * 4
SOURCES = {"A": TaskSource("MMEB_A", "TIGER-Lab/MMEB-eval"), "B": TaskSource("MMEB_B")}


def scores(*, limit: int | None = None, **changes) -> Scores:
    common = {"metric": "hit@1", "num_queries": 100, "chance": 0.01}
    tasks = {
        "A": TaskScore(**(common | {"score": 0.5, "meta_task": "Classification"} | changes)),
        "B": TaskScore(**(common | {"score": 0.02, "meta_task": "Grounding"})),
    }
    return Scores(tasks, limit=limit)


def evaluated(
    folder: Path, *, model: str = "org/m", revision: str = "abc", limit: int | None = None, **changes
) -> Path:
    """Write what `saha-st evaluate` writes."""
    run = folder / "results" / model.replace("/", "__") / revision
    place = run if limit is None else run / "experiments" / f"limit_{limit}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model_meta.json").write_text(json.dumps({"name": model}))
    for task, score in (("MMEB_A", 0.5), ("MMEB_B", 0.02)):
        result = {
            "task_name": task,
            "dataset_revision": COMMIT,
            "mteb_version": "2.26.24",
            "date": 1795579869.2,
            "scores": {"test": [{"main_score": score, "hf_subset": "default"}]},
        }
        (place / f"{task}.json").write_text(json.dumps(result))
    columns = {model: scores(limit=limit, **changes), "local/base": scores(limit=limit)}
    Report("MMEB(v1)", columns, published_for("MMEB(v1)"), revision, SOURCES).write(folder)
    return folder


def test_results_reports_and_the_hubs_files_are_copied_and_old_ones_removed(tmp_path):
    source, target = evaluated(tmp_path / "evaluation"), tmp_path / "model"
    (target / "results" / "reports").mkdir(parents=True)
    old = {"task_name": "Old", "scores": {}, "mteb_version": "2", "dataset_revision": "1"}
    (target / "results" / "Old.json").write_text(json.dumps(old))
    written = copy_results(source, target)
    assert written == [
        "results/MMEB_A.json", "results/MMEB_B.json", "results/reports/MMEB-v1.json", ".eval_results/MMEB_A.yaml",
    ]  # fmt: skip
    assert sorted(str(file.relative_to(target)) for file in target.rglob("*.*") if file.is_file()) == sorted(written)
    original = source / "results" / "org__m" / "abc" / "MMEB_A.json"
    assert (target / "results" / "MMEB_A.json").read_bytes() == original.read_bytes()


def test_files_that_are_no_results_stay_where_results_are_removed(tmp_path):
    source = evaluated(tmp_path / "evaluation")
    copy_results(source, tmp_path / "model")
    theirs = ["results/rows.json", "results/mine/thesis.csv", "results/reports/notes.json", ".eval_results/gsm8k.yaml"]
    for name in theirs:
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text("{}")
    remove_results(tmp_path / "model")
    left = [str(file.relative_to(tmp_path / "model")) for file in (tmp_path / "model").rglob("*") if file.is_file()]
    assert sorted(left) == sorted(theirs)
    before = {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    copy_results(source, source)  # into the evaluation's own folder
    assert before == {file: file.read_bytes() for file in before}


def test_the_hub_reads_its_files_and_tasks_without_data_there_have_none(tmp_path):
    copy_results(evaluated(tmp_path / "evaluation"), tmp_path / "model")
    text = (tmp_path / "model" / ".eval_results" / "MMEB_A.yaml").read_text()
    first, whole = parse_eval_result_entries(yaml.safe_load(text))
    assert isinstance(first, EvalResultEntry) and (first.task_id, first.value) == ("MMEB_A_default_test", 50.0)
    assert (first.dataset_id, first.dataset_revision, first.date) == ("TIGER-Lab/MMEB-eval", COMMIT, "2026-11-25")
    assert whole.task_id == "MMEB_A" and "mteb 2.26.24" in first.notes


def test_a_run_with_a_limit_is_refused_and_one_beside_a_whole_run_is_left_out(tmp_path):
    source = evaluated(tmp_path / "evaluation", limit=7)
    with pytest.raises(ValueError, match=r"only quick looks of org/m \(limit_7\).*without --limit"):
        copy_results(source, tmp_path / "model")
    with pytest.raises(ValueError, match=r"limit-7\.json is of a quick look \(limit 7\)"):
        read_report(source / "reports" / "org__m" / "abc" / "MMEB-v1.limit-7.json")
    evaluated(tmp_path / "evaluation")
    assert "results/reports/MMEB-v1.limit-7.json" not in copy_results(source, tmp_path / "model")


def test_results_of_several_models_are_never_mixed(tmp_path):
    source = evaluated(tmp_path / "evaluation")
    evaluated(source, model="local/base", revision="def")
    with pytest.raises(ValueError, match=r"several.*local/base @ def, org/m @ abc\. Name one"):
        copy_results(source, tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"no results of org/x @ any revision.*org/m @ abc"):
        copy_results(source, tmp_path / "model", model_name="org/x")
    with pytest.raises(FileNotFoundError, match="saha-st evaluate"):
        copy_results(tmp_path / "nothing", tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert copy_results(source, tmp_path / "model", model_name="org/m", revision="abc")
    assert copy_results(source, tmp_path / "model", revision="def")


def test_a_file_that_is_no_result_is_named_before_anything_is_removed(tmp_path):
    source, target = evaluated(tmp_path / "evaluation"), tmp_path / "model"
    copy_results(source, target)
    for text in ("{", "{}", "[]"):
        (source / "results" / "org__m" / "abc" / "MMEB_B.json").write_text(text)
        with pytest.raises(ValueError, match=r"MMEB_B\.json is not a result of mteb .*evaluate again"):
            copy_results(source, target)
    assert json.loads((target / "results" / "MMEB_B.json").read_text())["task_name"] == "MMEB_B"


def test_results_without_a_report_are_copied_with_a_warning(tmp_path, caplog):
    source = evaluated(tmp_path / "evaluation")
    (source / "reports" / "org__m" / "abc" / "MMEB-v1.json").unlink()
    assert copy_results(source, tmp_path / "model") == ["results/MMEB_A.json", "results/MMEB_B.json"]
    assert "holds no report" in caplog.text


@pytest.mark.parametrize("changes", [{"collapsed": True}, {"score": float("nan")}, {"undefined": 0.1}])
def test_what_is_no_score_is_shown_as_none_and_not_told_to_the_hub(tmp_path, changes):
    source = evaluated(tmp_path / "evaluation", **changes)
    written = copy_results(source, tmp_path / "model")
    assert not any(name.startswith(".eval_results") for name in written)
    report = read_report(tmp_path / "model" / "results" / "reports" / "MMEB-v1.json")
    rows = results_table(report, "means").splitlines()
    assert rows[2].startswith("| Classification | no score | 50.0 | 48.6 |")
    assert rows[-1].startswith("| **Overall** | **no score** | **26.0** |")
    assert any("MMEB" not in note and "A:" in note for note in report["notes"])


def test_tables_keep_the_mark_of_chance_and_say_whose_figures_they_are(tmp_path):
    evaluated(tmp_path)
    report = read_report(tmp_path / "reports" / "org__m" / "abc" / "MMEB-v1.json")
    table = results_table(report, "means")
    assert "| this model | base |" in table.splitlines()[0] and "local/" not in table
    assert "| Grounding | 2.0† | 2.0† | 52.6 | – | – |" in table and shows_chance(report)
    assert table.count("(published, not measured here)") == 3
    assert "not measured" not in results_table(report, "tasks")


def test_the_card_shows_the_table_who_measured_it_and_the_notes(tmp_path):
    from saha_st import SaHaModelCardData, load_embedder
    from saha_st.card import render_card

    copy_results(evaluated(tmp_path / "evaluation", collapsed=True), tmp_path / "model")
    card = render_card(load_embedder("saha-tiny", device="cpu"), SaHaModelCardData.of_folder(tmp_path / "model"))
    assert "| **Overall** | **no score** |" in card and "† within two standard deviations of guessing." in card
    assert "Measured with `saha-st evaluate` (saha_st " in card and ", mteb " in card
    assert "\n* SaHa Qwen2-VL-7B: figures of Ju & Lee, arXiv 2508.00955, not measured here.\n" in card
    assert "\n* org/m: A: every candidate" in card and "Not evaluated" not in card
    assert "- mteb\n" in card  # by which loading from the Hub knows that there are reports


def test_entries_need_a_number(tmp_path):
    report = json.loads(json.dumps(Report("m", {"x": scores()}, sources=SOURCES).to_dict()))
    result = {
        "task_name": "MMEB_A", "dataset_revision": "local digest", "mteb_version": "2",
        "scores": {"test": [{"main_score": None, "hf_subset": "default"}]},
    }  # fmt: skip
    assert hub_results([result], [report]) == {}
    result["scores"]["test"][0]["main_score"] = 0.5
    (entry, _) = hub_results([result], [report])["MMEB_A"]
    assert "revision" not in entry["dataset"] and "date" not in entry
