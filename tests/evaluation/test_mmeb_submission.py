"""A submission to the MMEB leaderboard has the leaderboard's form and our results' numbers, or there is none."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saha_st.card.run_folders import RunFolder
from saha_st.data.mmeb import MMEB_SUBSETS
from saha_st.data.mmeb_v2 import PAGE_SUBSETS, VIDEO_SUBSETS
from saha_st.evaluation.metrics import KS, METRICS
from saha_st.evaluation.mmeb import HIT_AT_1
from saha_st.evaluation.submission.mmeb import mmeb_submission, mmeb_submission_steps, validate_mmeb_submission

METADATA = {"url": "https://example.org/paper", "release_date": "2025-08-01"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def run_of_all(mmeb_v2_report, tmp_path: Path) -> RunFolder:
    """A copy of the results of all 78 tasks that the test may change."""
    run, _, _ = mmeb_v2_report
    shutil.copytree(run.output_dir, tmp_path / "out", ignore=shutil.ignore_patterns("vectors"))
    return RunFolder(tmp_path / "out", run.model_name, run.revision)


@pytest.fixture
def run(run_of_all: RunFolder) -> RunFolder:
    """A copy of the results of the 36 image tasks alone."""
    for subset in (*VIDEO_SUBSETS, *PAGE_SUBSETS):
        (run_of_all.results / f"MMEB_{subset}.json").unlink()
    return run_of_all


def edit_result(run: RunFolder, subset: str, change: Callable[[dict[str, Any]], None]) -> None:
    file = run.results / f"MMEB_{subset}.json"
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))


def edit_score(run: RunFolder, subset: str, name: str, value: float) -> None:
    edit_result(run, subset, lambda result: result["scores"]["test"][0].update({name: value}))


def edit_rankings(run: RunFolder, subset: str, change: Callable[[Any], Any]) -> None:
    file = run.rankings / f"MMEB_{subset}.parquet"
    pq.write_table(change(pq.read_table(file)), file)


def with_metadata(**changes: str) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        old = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
        assert set(changes) <= set(old)
        return table.replace_schema_metadata(old | changes)

    return change


def submit(model, run: RunFolder, **options: Any) -> Path:
    output = run.output_dir.parent / "submission"
    return mmeb_submission(model, run.output_dir, output, **({"model_name": "org/saha"} | METADATA | options))


def refused(model, run: RunFolder, error: type[Exception], match: str, **options: Any) -> None:
    with pytest.raises(error, match=match):
        submit(model, run, **options)
    assert not (run.output_dir.parent / "submission").exists()


def test_a_submission_has_the_leaderboards_form_and_the_results_hit_at_1(
    embedder, run: RunFolder, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, "saha_st"):
        file = submit(embedder, run)
    assert file == run.output_dir.parent / "submission" / "scores" / "saha.json"
    assert [path.name for path in file.parent.iterdir()] == ["saha.json"]
    written = json.loads(file.read_text())
    validate_mmeb_submission(written)
    metadata, metrics = written["metadata"], written["metrics"]
    assert {name: value for name, value in metadata.items() if name != "report_generated_date"} == {
        "model_name": "saha",
        "model_backbone": "qwen2_vl",
        "model_size": float(f"{sum(each.numel() for each in embedder.parameters()) / 1e9:.3g}"),
        "embedding_dimension": 32,
        "max_length_tokens": embedder.max_seq_length,
        "model_release_date": "2025-08-01",
        "data_source": "Self-Reported",
        "url": "https://example.org/paper",
    }
    assert list(metrics) == ["image", "video", "visdoc"] and list(metrics["image"]) == list(MMEB_SUBSETS)
    assert {len(metrics["video"]), len(metrics["visdoc"])} == {18, 24}
    assert {*metrics["video"].values(), *metrics["visdoc"].values()} == {"DIR_N/A"}
    names = [f"{metric}@{k}" for metric in METRICS for k in KS]
    hits = set()
    for subset, scores in metrics["image"].items():
        stored = json.loads((run.results / f"MMEB_{subset}.json").read_text())["scores"]["test"][0]
        assert list(scores) == [*names, "num_pred", "num_data"]
        assert scores["hit@1"] == pytest.approx(stored[HIT_AT_1], abs=1e-5)
        assert scores["hit@5"] == 1 and scores["num_data"] == scores["num_pred"] == 3
        hits.add(scores["hit@1"])
    assert len(hits) > 1
    assert "36 of 36 subsets do not have as many queries" in caplog.text and "CIRR (3, not 1000)" in caplog.text


def test_the_steps_name_the_space_and_the_file(tmp_path: Path):
    steps = mmeb_submission_steps(tmp_path / "scores" / "saha.json")
    for part in ("TIGER-Lab/MMEB-Leaderboard", "scores/saha.json", "--repo-type space --create-pr", "Comment"):
        assert part in steps


def test_name_and_revision_are_those_of_the_model_unless_given(embedder, run: RunFolder):
    length = embedder[0].max_seq_length
    refused(embedder, run, FileNotFoundError, "no results of .*another", revision="another")
    embedder[0].max_seq_length = 7  # other settings, so other vectors
    refused(embedder, run, FileNotFoundError, "no results of any model @")
    embedder[0].max_seq_length = length
    assert submit(embedder, run, model_name="org/other").name == "other.json"  # evaluated before it got this name
    submit(embedder, run, revision=run.revision, backbone="Qwen2-VL-2B", data_source="TIGER-Lab")
    written = json.loads((run.output_dir.parent / "submission" / "scores" / "saha.json").read_text())["metadata"]
    assert (written["model_backbone"], written["data_source"]) == ("Qwen2-VL-2B", "TIGER-Lab")


def test_the_page_on_the_hub_is_the_default_link(embedder, run: RunFolder):
    written = json.loads(submit(embedder, run, url=None).read_text())
    assert written["metadata"]["url"] == "https://huggingface.co/org/saha"
    embedder.model_card_data.base_model = "Qwen/Qwen2-VL-2B-Instruct"
    assert json.loads(submit(embedder, run).read_text())["metadata"]["model_backbone"] == "Qwen2-VL-2B-Instruct"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"url": None, "model_name": "local/saha"}, "url: .*local/saha has no page"),
        ({"url": "example.org"}, "metadata/url: 'example.org'"),
        ({"release_date": None}, "release_date: None is not a day"),
        ({"release_date": "2025-02-30"}, "release_date: '2025-02-30'"),
        ({"data_source": ""}, "metadata/data_source"),
    ],
)
def test_malformed_metadata_are_refused(options: dict[str, Any], match: str, embedder, run: RunFolder):
    refused(embedder, run, ValueError, match, **options)


def test_subsets_that_are_missing_are_all_named(embedder, run: RunFolder):
    for subset in ("CIRR", "WebQA"):
        (run.results / f"MMEB_{subset}.json").unlink()
    refused(embedder, run, FileNotFoundError, "34 of the 36 Image subsets.*Evaluate these.*: CIRR, WebQA")


def test_rankings_that_are_missing_are_all_named(embedder, run: RunFolder):
    for subset in ("CIRR", "WebQA"):
        (run.rankings / f"MMEB_{subset}.parquet").unlink()
    refused(embedder, run, FileNotFoundError, "rankings of CIRR, WebQA. Evaluate these subsets again")


def test_quick_looks_are_no_results(embedder, run: RunFolder):
    limited = RunFolder(run.output_dir, run.model_name, run.revision, limit=2)
    files = list(run.results.glob("MMEB_*.json"))
    limited.results.mkdir(parents=True)
    for file in files:
        file.rename(limited.results / file.name)
    refused(embedder, run, ValueError, "quick looks.*limit_2.*without --limit")
    for file in files[1:]:
        shutil.copy(limited.results / file.name, file)
    refused(embedder, run, FileNotFoundError, f"without a limit: {files[0].stem.removeprefix('MMEB_')}")


@pytest.mark.parametrize(
    "change",
    [
        with_metadata(model_revision="other"),
        with_metadata(model_name="org/other"),
        with_metadata(dataset_revision="other"),
        with_metadata(task="MMEB_WebQA"),
    ],
)
def test_rankings_of_another_source_than_the_result_are_refused(change, embedder, run: RunFolder):
    edit_rankings(run, "CIRR", change)
    refused(embedder, run, ValueError, "^CIRR: 1 of 36 subsets have rankings of another model or task")


def test_rankings_that_do_not_fit_the_scores_are_refused(embedder, run: RunFolder):
    table = pq.read_table(run.rankings / "MMEB_CIRR.parquet")
    edit_rankings(run, "CIRR", lambda table: table.slice(0, 2))
    refused(embedder, run, ValueError, "^CIRR: .*another number of queries")
    edit_rankings(run, "CIRR", lambda _: table)
    stored = run.result("MMEB_CIRR").scores["test"][0][HIT_AT_1]
    edit_score(run, "CIRR", HIT_AT_1, stored + 2e-6)
    submit(embedder, run)
    shutil.rmtree(run.output_dir.parent / "submission")
    edit_score(run, "CIRR", HIT_AT_1, (stored + 1 / 3) % 1)
    refused(embedder, run, ValueError, "^CIRR: .*another hit@1")


@pytest.mark.parametrize(
    ("name", "value", "reason"), [("undefined", 0.33333, "not numbers"), ("all_tied", 1, "no sc")]
)
def test_degenerate_results_are_refused(name: str, value: float, reason: str, embedder, run: RunFolder):
    edit_score(run, "CIRR", name, value)
    edit_score(run, "EDIS", name, value)
    refused(embedder, run, ValueError, f"^CIRR, EDIS: 2 of 36 subsets.*{reason}")


def set_data_revision(run: RunFolder, subset: str, revision: str) -> None:
    edit_result(run, subset, lambda result: result.update(dataset_revision=revision))
    edit_rankings(run, subset, with_metadata(dataset_revision=revision))


def test_results_on_several_versions_of_the_data_are_refused(embedder, run: RunFolder):
    set_data_revision(run, "CIRR", COMMIT)  # the others are local
    refused(embedder, run, ValueError, f"2 versions of MMEB's data.*{COMMIT}: CIRR")
    for subset in MMEB_SUBSETS:
        set_data_revision(run, subset, COMMIT)
    submit(embedder, run)
    shutil.rmtree(run.output_dir.parent / "submission")
    for other in (COMMIT[::-1], "main", f"{COMMIT}-0123456789abcdef"):  # the last with images from elsewhere
        set_data_revision(run, "EDIS", other)
        refused(embedder, run, ValueError, f"2 versions of MMEB's data.*{other}: EDIS")


def test_a_damaged_file_is_named(embedder, run: RunFolder):
    file = run.rankings / "MMEB_CIRR.parquet"
    file.write_bytes(file.read_bytes()[:50])
    refused(embedder, run, ValueError, "MMEB_CIRR.parquet is not a Parquet file")
    (run.results / "MMEB_EDIS.json").write_text('{"dataset_')
    refused(embedder, run, ValueError, "MMEB_EDIS.json is not a result")


def test_the_schema_takes_nothing_else(embedder, run: RunFolder):
    good = submit(embedder, run).read_text()

    def malformed(match: str, change: Callable[[dict[str, Any]], Any]) -> None:
        submission = json.loads(good)
        change(submission)
        with pytest.raises(ValueError, match=match):
            validate_mmeb_submission(submission)

    malformed("metrics/image: 'CIRR' is a required", lambda it: it["metrics"]["image"].pop("CIRR"))
    malformed(
        "metrics/image: .*too many", lambda it: it["metrics"]["image"].update(more=it["metrics"]["image"]["CIRR"])
    )
    malformed("image/CIRR: 'mrr@10' is a required", lambda it: it["metrics"]["image"]["CIRR"].pop("mrr@10"))
    malformed("image/CIRR: .*too many", lambda it: it["metrics"]["image"]["CIRR"].update(acc=0.5))
    malformed("CIRR/hit@1: 80.8 is greater", lambda it: it["metrics"]["image"]["CIRR"].update({"hit@1": 80.8}))
    malformed("CIRR/num_data: 0 is less", lambda it: it["metrics"]["image"]["CIRR"].update(num_data=0))
    malformed("metrics/video/K700", lambda it: it["metrics"]["video"].update(K700=0.5))
    malformed("metrics: 'visdoc' is a required", lambda it: it["metrics"].pop("visdoc"))
    malformed("metadata/model_size: '2B' is not of type", lambda it: it["metadata"].update(model_size="2B"))
    malformed("metadata: .*'more' was unexpected", lambda it: it["metadata"].update(more=1))
    malformed("the top level: 'metadata' is a required", lambda it: it.pop("metadata"))


def test_the_rankings_of_the_run_tell_more_than_hit_at_1(embedder, run: RunFolder):
    scores = json.loads(submit(embedder, run).read_text())["metrics"]["image"]
    below = [each for each in scores.values() if each["hit@1"] < 1]
    assert below and all(each["hit@1"] < each["mrr@5"] <= each["ndcg_linear@5"] < 1 for each in below)
    assert np.allclose([each["precision@10"] for each in scores.values()], 0.1)


def test_a_submission_of_all_modalities_has_all_metrics_of_all_datasets(
    embedder, run_of_all: RunFolder, mmeb_v2_report, caplog: pytest.LogCaptureFixture
):
    _, _, scores = mmeb_v2_report
    with caplog.at_level(logging.WARNING, "saha_st"):
        written = json.loads(submit(embedder, run_of_all).read_text())
    validate_mmeb_submission(written)
    metrics = written["metrics"]
    assert {name: len(each) for name, each in metrics.items()} == {"image": 36, "video": 18, "visdoc": 24}
    names = [*(f"{metric}@{k}" for metric in METRICS for k in KS), "num_pred", "num_data"]
    for modality, main_score in (("image", "hit@1"), ("video", "hit@1"), ("visdoc", "ndcg_linear@5")):
        for key, found in metrics[modality].items():
            subset = key.removesuffix("-fixed")
            assert list(found) == names
            assert found[main_score] == pytest.approx(scores.by_task[subset], abs=1e-5)
            assert found["num_data"] == scores.tasks[subset].num_queries
    graded = metrics["visdoc"]["ViDoRe_esg_reports_v2_multilingual"]
    assert graded["recall@1"] < graded["hit@1"] or graded["ndcg_linear@5"] != graded["ndcg_exponential@5"]
    assert "MMLongBench-doc (2, not 838)" in caplog.text and "YouCook2 (2, not 3179)" in caplog.text


VISDOC_KEYS = [
    "ViDoRe_arxivqa",
    "ViDoRe_docvqa",
    "ViDoRe_infovqa",
    "ViDoRe_tabfquad",
    "ViDoRe_tatdqa",
    "ViDoRe_shiftproject",
    "ViDoRe_syntheticDocQA_artificial_intelligence",
    "ViDoRe_syntheticDocQA_energy",
    "ViDoRe_syntheticDocQA_government_reports",
    "ViDoRe_syntheticDocQA_healthcare_industry",
    "ViDoRe_esg_reports_human_labeled_v2",
    "ViDoRe_biomedical_lectures_v2_multilingual",
    "ViDoRe_economics_reports_v2_multilingual",
    "ViDoRe_esg_reports_v2_multilingual",
    "VisRAG_ArxivQA",
    "VisRAG_ChartQA",
    "VisRAG_MP-DocVQA",
    "VisRAG_SlideVQA",
    "VisRAG_InfoVQA",
    "VisRAG_PlotQA",
    "ViDoSeek-page-fixed",
    "ViDoSeek-doc",
    "MMLongBench-page-fixed",
    "MMLongBench-doc",
]


def test_the_visual_documents_have_the_keys_of_the_leaderboards_files(embedder, run_of_all: RunFolder):
    """Those of the scores that the Space has of Qwen3-VL-Embedding-8B, with the corrected datasets' names."""
    metrics = json.loads(submit(embedder, run_of_all).read_text())["metrics"]
    assert list(metrics["visdoc"]) == VISDOC_KEYS
    for subset in PAGE_SUBSETS:
        (run_of_all.results / f"MMEB_{subset}.json").unlink()
    metrics = json.loads(submit(embedder, run_of_all).read_text())["metrics"]
    assert metrics["visdoc"] == dict.fromkeys(VISDOC_KEYS, "DIR_N/A")


def test_a_modality_without_results_is_said_to_be_missing(embedder, run_of_all: RunFolder):
    for subset in MMEB_SUBSETS:
        (run_of_all.results / f"MMEB_{subset}.json").unlink()
    for subset in PAGE_SUBSETS:
        (run_of_all.results / f"MMEB_{subset}.json").unlink()
    metrics = json.loads(submit(embedder, run_of_all).read_text())["metrics"]
    assert set(metrics["image"].values()) == set(metrics["visdoc"].values()) == {"DIR_N/A"}
    assert len(metrics["image"]) == 36 and all(isinstance(each, dict) for each in metrics["video"].values())


def test_a_modality_with_some_results_is_refused(embedder, run_of_all: RunFolder):
    (run_of_all.results / "MMEB_VATEX.json").unlink()
    refused(embedder, run_of_all, FileNotFoundError, "17 of the 18 Video subsets, .*all or none.*: VATEX")


def test_rankings_of_pages_that_give_another_score_are_refused(embedder, run_of_all: RunFolder):
    name = "ViDoRe_esg_reports_v2_multilingual"

    def halved(table):
        grades = pa.array(
            [[3, 1, 1, 1][: len(row)] for row in table.column("grades").to_pylist()], pa.list_(pa.int32())
        )
        return table.set_column(table.schema.get_field_index("grades"), "grades", grades)

    edit_rankings(run_of_all, name, halved)
    refused(embedder, run_of_all, ValueError, f"^{name}: 1 of 24 subsets have .*another ndcg_linear@5")
