"""Any task of mteb runs, a finished one never again, and a number that measures nothing is no score."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mteb
import numpy as np
import pytest
from mocks import GRID, mock
from mteb.benchmarks.benchmark import Benchmark
from mteb.mocks.mock_tasks.reranking import MockAggregatedTask
from mteb.results import TaskResult

from saha_st.card.run_folders import RunFolder, find_run
from saha_st.evaluation import Embedder, evaluate, mmeb_tasks
from saha_st.evaluation.run import names_of
from saha_st.evaluation.scores import NO_SCORE, TaskScore

QUIET = {"show_progress_bar": False}
SOME = ["MockRetrievalTask", "MockMultilingualClassificationTask", "MockSTSTask", "MockVisionCentricQA"]


@pytest.fixture
def calls(embedder) -> list[int]:
    """Counts the inputs of every call that encodes."""
    found: list[int] = []
    for name in ("encode_query", "encode_document"):
        method = getattr(embedder, name)
        setattr(
            embedder, name, lambda inputs, _m=method, **options: found.append(len(inputs)) or _m(inputs, **options)
        )
    return found


def test_main_scores_are_those_of_mteb_and_means_are_those_of_the_benchmark(embedder):
    tasks = [mock(name) for name in SOME]
    benchmark = Benchmark(name="some", tasks=tasks)
    scores = evaluate(embedder, benchmark, **QUIET)
    encoder = Embedder(embedder, **QUIET)
    theirs = mteb.evaluate(encoder, [mock(name) for name in SOME], cache=None, co2_tracker=False, **QUIET)
    assert scores.by_task == pytest.approx({result.task_name: result.get_score() for result in theirs.task_results})
    assert list(scores.means)[:4] == ["Retrieval", "Classification", "STS", "VisionCentricQA"]
    expected = np.mean(list(scores.by_task.values()))
    assert scores.means["Mean (Task)"] == scores.means["Mean (TaskType)"] == pytest.approx(expected)
    assert scores.tasks["MockRetrievalTask"].metric == "ndcg_at_10" and scores.metric == "main score"


def test_a_finished_task_is_never_run_again(embedder, calls, tmp_path: Path):
    options = {"output_dir": tmp_path, "cache_folder": tmp_path / "v", **QUIET}
    first = evaluate(embedder, [mock(name) for name in SOME], **options)
    assert sum(calls) > 0
    calls.clear()
    encoder = Embedder(embedder, **QUIET)
    assert evaluate(encoder, [mock(name) for name in SOME], output_dir=tmp_path, **QUIET) == first
    assert not calls


@pytest.mark.parametrize("loss", ["half a result", "no checks", "no rankings"])
def test_what_a_kill_leaves_half_done_is_done_again(loss: str, embedder, calls, mmeb: Path, tmp_path: Path):
    def run():
        encoder = Embedder(embedder, name="org/m", **QUIET)
        return evaluate(encoder, mmeb_tasks(mmeb, ["CIRR", "WebQA"]), output_dir=tmp_path, **QUIET)

    first = run()
    folder = find_run(tmp_path)
    before = {file.name: file.read_text() for file in folder.results.glob("MMEB_*.json")}
    if loss == "half a result":
        file = folder.results / "MMEB_CIRR.json"
        file.write_text(file.read_text()[:200])
    else:
        lost = {"no checks": folder.checks / "MMEB_CIRR.json", "no rankings": folder.rankings / "MMEB_CIRR.parquet"}
        lost[loss].unlink()
    calls.clear()
    assert run() == first
    assert calls == [20, len(set(calls)) and calls[1]]  # CIRR's queries and documents, and nothing of WebQA
    assert {file.name for file in folder.checks.glob("*")} == {"MMEB_CIRR.json", "MMEB_WebQA.json"}
    assert json.loads(before["MMEB_WebQA.json"]) == json.loads((folder.results / "MMEB_WebQA.json").read_text())


def test_of_a_task_with_subsets_only_those_that_are_missing_are_run(embedder, calls, tmp_path: Path):
    def run():
        encoder = Embedder(embedder, name="org/m", **QUIET)
        return evaluate(encoder, [mock("MockMultilingualSTSTask")], output_dir=tmp_path, **QUIET)

    first = run()
    file = find_run(tmp_path).results / "MockMultilingualSTSTask.json"
    stored = json.loads(file.read_text())
    assert [each["hf_subset"] for each in stored["scores"]["test"]] == ["eng", "fra"]
    stored["scores"]["test"].pop()
    stored["scores"]["test"][0]["main_score"] = stored["scores"]["test"][0]["cosine_spearman"] = -0.25
    file.write_text(json.dumps(stored))
    again = run()
    assert first.overall == pytest.approx(1, abs=2) and again.overall != first.overall
    scores = {each["hf_subset"]: each["main_score"] for each in json.loads(file.read_text())["scores"]["test"]}
    assert scores["eng"] == -0.25 and set(scores) == {"eng", "fra"}


def test_other_data_are_scored_anew_but_the_old_result_stays_until_then(embedder, tmp_path: Path):
    encoder = Embedder(embedder, name="org/m", **QUIET)
    evaluate(encoder, [mock("MockSTSTask")], output_dir=tmp_path, **QUIET)
    file = find_run(tmp_path).results / "MockSTSTask.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"dataset_revision": "of old"}))
    embedder.encode_query = None
    broken = Embedder(embedder, name="org/m", revision=encoder.mteb_model_meta.revision, **QUIET)
    with pytest.raises(ValueError, match="MockSTSTask, input 0: TypeError"):
        evaluate(broken, [mock("MockSTSTask")], output_dir=tmp_path, **QUIET)
    assert json.loads(file.read_text())["dataset_revision"] == "of old"
    evaluate(encoder, [mock("MockSTSTask")], output_dir=tmp_path, **QUIET)
    assert json.loads(file.read_text())["dataset_revision"] == stored["dataset_revision"]


def test_equal_vectors_are_no_score_whatever_the_task_and_stay_none_when_read_again(embedder, tmp_path: Path):
    same = lambda inputs, **options: np.full((len(inputs), 32), 0.1, dtype=np.float32)  # noqa: E731
    embedder.encode_query = embedder.encode_document = same
    for _ in range(2):
        scores = evaluate(embedder, [mock("MockRetrievalTask"), mock("MockClassificationTask")], output_dir=tmp_path)
        assert all(task.collapsed and task.is_degenerate for task in scores.tasks.values())
        assert scores.to_markdown(tasks=True).count(NO_SCORE) == 5
        assert len(scores.warnings) == 2 and "no score" in scores.warnings[0]


class Members(MockAggregatedTask):
    """An aggregate of two tasks."""

    metadata = MockAggregatedTask.metadata.model_copy(
        update={"name": "Members", "tasks": [mock("MockRetrievalTask"), mock("MockSTSTask")]}
    )


def constant(inputs, **options) -> np.ndarray:
    return np.full((len(inputs), 32), 0.1, dtype=np.float32)


def test_an_aggregate_is_no_score_if_a_member_is_none_whichever_was_run_first(embedder, tmp_path: Path):
    embedder.encode_query = embedder.encode_document = constant
    options = {"model_name": "org/m", "revision": "1", **QUIET}
    fresh = evaluate(embedder, [Members()], output_dir=tmp_path / "fresh", **options)
    evaluate(embedder, [mock("MockRetrievalTask"), mock("MockSTSTask")], output_dir=tmp_path / "parts", **options)
    after = evaluate(embedder, [Members()], output_dir=tmp_path / "parts", **options)
    again = evaluate(embedder, [Members()], output_dir=tmp_path / "parts", **options)
    for scores in (fresh, after, again):
        assert scores.tasks["Members"].collapsed and NO_SCORE in scores.to_markdown()
    names = {file.name for file in (tmp_path / "parts" / "checks" / "org__m" / "1").iterdir()}
    assert names == {"MockRetrievalTask.json", "MockSTSTask.json"}


def test_what_was_degenerate_before_a_kill_is_so_after_it(embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first subset collapses, the process ends in the second, another one goes on with a sound model."""
    name, options = "MockMultilingualRetrievalTask", {"model_name": "org/m", "revision": "1", **QUIET}
    encode = Embedder.encode

    def killed(self, inputs, *, hf_subset, **kwargs):
        if hf_subset == "fra":
            raise KeyboardInterrupt
        return encode(self, inputs, hf_subset=hf_subset, **kwargs)

    sound = embedder.encode_query, embedder.encode_document
    embedder.encode_query = embedder.encode_document = constant
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Embedder, "encode", killed)
        evaluate(embedder, [mock(name)], output_dir=tmp_path, cache_folder=tmp_path / "v1", **options)
    assert len(find_run(tmp_path).result(name).scores["val"]) == 1
    embedder.encode_query, embedder.encode_document = sound
    scores = evaluate(embedder, [mock(name)], output_dir=tmp_path, cache_folder=tmp_path / "v2", **options)
    assert scores.tasks[name].collapsed and NO_SCORE in scores.to_markdown()
    clean = evaluate(embedder, [mock(name)], output_dir=tmp_path / "clean", **options)
    assert not clean.tasks[name].collapsed


def test_a_quick_look_that_is_interrupted_leaves_no_cut_data_behind(embedder, mmeb: Path, tmp_path: Path):
    tasks = [*mmeb_tasks(mmeb, "CIRR"), mock("MockRetrievalTask")]
    for task in tasks:
        sound = embedder.encode_query
        embedder.encode_query = lambda inputs, **options: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluate(embedder, [task], limit=1, **QUIET)
        assert not task.data_loaded and "load_data" not in task.__dict__
        embedder.encode_query = sound
        scores = evaluate(embedder, [task], output_dir=tmp_path, **QUIET)
        assert next(iter(scores.tasks.values())).num_queries == {"CIRR": 20}.get(next(iter(scores.tasks)), 4)


def test_another_way_to_compare_is_another_revision(embedder, calls, tmp_path: Path):
    cosine = evaluate(embedder, [mock("MockRetrievalTask")], output_dir=tmp_path, **QUIET)
    embedder.similarity_fn_name = "euclidean"
    evaluate(embedder, [mock("MockRetrievalTask")], output_dir=tmp_path, **QUIET)
    scores = evaluate(embedder, [mock("MockRetrievalTask"), mock("MockSTSTask")], **QUIET)
    assert len(list((tmp_path / "results").glob("*/*"))) == 2
    assert set(scores.tasks) == {*cosine.tasks, "MockSTSTask"}


def test_a_full_disk_leaves_the_result_that_was_there(embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoder = Embedder(embedder, name="org/m", **QUIET)
    evaluate(encoder, [mock("MockSTSTask")], output_dir=tmp_path, **QUIET)
    folder = find_run(tmp_path).results
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (find_run(tmp_path).checks / "MockSTSTask.json").unlink()  # so that it is run again

    def full(self, path: Path) -> None:
        path.write_text("{half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TaskResult, "to_disk", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate(encoder, [mock("MockSTSTask")], output_dir=tmp_path, **QUIET)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_member_of_an_aggregate_that_cannot_be_read_is_run_again(embedder, tmp_path: Path):
    options = {"output_dir": tmp_path, "model_name": "org/m", **QUIET}
    first = evaluate(embedder, [Members()], **options)
    folder = find_run(tmp_path).results
    (folder / "Members.json").unlink()
    (folder / "MockSTSTask.json").write_text('{"half":')
    assert evaluate(embedder, [Members()], **options) == first
    assert json.loads((folder / "MockSTSTask.json").read_text())["task_name"] == "MockSTSTask"


def test_an_aggregate_is_combined_anew_from_its_members(embedder, tmp_path: Path):
    options = {"output_dir": tmp_path, "model_name": "org/m", **QUIET}
    first = evaluate(embedder, [Members()], **options)
    folder = find_run(tmp_path).results
    file = folder / "Members.json"
    stored = json.loads(file.read_text())
    stored["scores"]["test"][0]["main_score"] = 0.123
    file.write_text(json.dumps(stored))
    (folder / "MockSTSTask.json").unlink()
    assert evaluate(embedder, [Members()], **options) == first
    assert (folder / "MockSTSTask.json").exists() and "0.123" not in file.read_text()


@pytest.mark.parametrize("lost", ["checks", None])
def test_subsets_that_are_not_asked_for_are_kept_and_do_not_count(lost: str | None, embedder, tmp_path: Path):
    name, options = "MockMultilingualRetrievalTask", {"output_dir": tmp_path, "model_name": "org/m", **QUIET}
    whole = evaluate(embedder, [mock(name)], **options)
    run = find_run(tmp_path)
    if lost:
        (run.checks / f"{name}.json").unlink()
    narrow = mock(name)
    narrow.hf_subsets = ["eng"]
    scores = evaluate(embedder, [narrow], **options)
    assert scores.tasks[name].num_queries == whole.tasks[name].num_queries / 2
    stored = run.result(name).scores
    assert {split: [each["hf_subset"] for each in found] for split, found in stored.items()} == {
        split: ["eng", "fra"] for split in ("val", "test")
    }
    assert evaluate(embedder, [mock(name)], **options) == whole


def test_members_that_were_scored_by_others_are_not_taken_on_trust(embedder, tmp_path: Path):
    encoder = Embedder(embedder, name="org/m", **QUIET)
    options = {"co2_tracker": False, "show_progress_bar": False}
    mteb.evaluate(encoder, mock("MockRetrievalTask"), cache=mteb.ResultCache(tmp_path), **options)
    file = find_run(tmp_path).results / "MockRetrievalTask.json"
    before = file.stat().st_mtime_ns
    scores = evaluate(encoder, [Members()], output_dir=tmp_path, **QUIET)
    assert file.stat().st_mtime_ns != before and (find_run(tmp_path).checks / file.name).exists() and scores.tasks


def test_a_sentence_transformer_that_is_no_language_model_is_scored_as_it_is(tmp_path: Path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "This": 1, "is": 2, "a": 3, "test": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    scores = evaluate(model, [mock("MockRetrievalTask"), mock("MockClassificationTask")], **QUIET)
    assert set(scores.tasks) == {"MockRetrievalTask", "MockClassificationTask"}
    with pytest.raises(ValueError, match="MockVisionCentricQA has image inputs, but local/unnamed takes only text"):
        evaluate(model, [mock("MockVisionCentricQA")], **QUIET)


def test_tasks_of_mmeb_go_by_their_full_names_beside_those_of_mteb_with_the_same(mmeb: Path):
    theirs = mteb.get_task("SUN397")
    ours = mmeb_tasks(subsets=["SUN397", "CIRR"])
    assert names_of(ours) == ["SUN397", "CIRR"]
    assert names_of([*ours, theirs]) == ["MMEB_SUN397", "MMEB_CIRR", "SUN397"]


def test_guessing_at_a_correlation_is_told_from_judging():
    def at_chance(score: float, rows: int) -> bool:
        return TaskScore(score, "cosine_spearman", "STS", num_queries=rows, chance=0.0).is_at_chance

    assert at_chance(0.15, 100) and not at_chance(0.25, 100) and not at_chance(0.15, 1000)


def test_vectors_that_are_not_numbers_end_a_task_of_mteb_with_the_reason(embedder):
    embedder.encode_query = lambda inputs, **options: np.full((len(inputs), 32), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match=r"MockClassificationTask: .* not numbers.*bfloat16"):
        evaluate(embedder, [mock("MockClassificationTask")], **QUIET)


def test_a_task_with_private_data_is_left_out_and_the_result_says_so(embedder, monkeypatch, tmp_path: Path):
    from datasets.exceptions import DatasetNotFoundError

    secret = mock("MockSTSTask")
    closed = secret.metadata.model_copy(update={"name": "Closed", "is_public": False})
    monkeypatch.setattr(secret, "metadata", closed)

    def load(**options):
        raise DatasetNotFoundError("Dataset 'mteb/closed' doesn't exist on the Hub or cannot be accessed.")

    secret.load_data = load
    with pytest.warns(UserWarning, match="private task"):
        scores = evaluate(embedder, [mock("MockRetrievalTask"), secret], output_dir=tmp_path, **QUIET)
    assert list(scores.tasks) == ["MockRetrievalTask"] and scores.left_out == ("Closed",)
    assert any("Left out, as their data are not public: Closed." in warning for warning in scores.warnings)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="Closed are not public"):
        evaluate(embedder, [secret], **QUIET)


def test_what_mteb_stumbles_over_is_said_with_the_name_of_the_task(embedder):
    for name, reason in {"MockSTSTask": "length at least 2", "MockPairClassificationTask": ""}.items():
        with pytest.raises(ValueError, match=f"{name}: .*{reason}.*With --limit 1 it may have too few rows"):
            evaluate(embedder, [mock(name)], limit=1, **QUIET)


def test_a_score_that_is_not_a_number_is_none(embedder, tmp_path: Path):
    scores = evaluate(embedder, [mock("MockVisualSTS")], output_dir=tmp_path, **QUIET)  # its labels are constant
    assert math.isnan(scores.overall) and NO_SCORE in scores.to_markdown() and "not a number" in scores.warnings[0]


def test_results_of_two_models_or_revisions_are_never_taken_together(embedder, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no results.*saha-st evaluate"):
        find_run(tmp_path)
    for name, revision in (("org/a", "1"), ("org/a", "2"), ("org/b", "1")):
        evaluate(embedder, [mock("MockSTSTask")], output_dir=tmp_path, model_name=name, revision=revision, **QUIET)
    with pytest.raises(ValueError, match="do not belong together: org/a @ 1, org/a @ 2, org/b @ 1"):
        find_run(tmp_path)
    with pytest.raises(ValueError, match="several models or revisions"):
        find_run(tmp_path, model_name="org/a")
    assert find_run(tmp_path, model_name="org/a", revision="2") == RunFolder(tmp_path, "org/a", "2")
    assert find_run(tmp_path, model_name="org/b").revision == "1"
    with pytest.raises(FileNotFoundError, match="no results of org/c"):
        find_run(tmp_path, model_name="org/c")


def test_the_grid_has_all_kinds_of_tasks():
    assert len({task.metadata.type for task in GRID.values()}) > 12
