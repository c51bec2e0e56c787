"""Through mteb, the scores are those of MMEB's own rule, to the last hit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmeb_folder import MARK, paint, write_rows
from reference_scorer import hits

from saha_st.data.scenes import write_mini_mmeb
from saha_st.evaluation import Embedder, evaluate, mini_mmeb_tasks, mmeb_benchmark, mmeb_tasks
from saha_st.evaluation.encoder import cosine_with_each
from saha_st.evaluation.mmeb import as_benchmark
from saha_st.prompts import HierarchicalPrompt

SUBSETS = ["OK-VQA", "MSCOCO_t2i", "CIRR", "WebQA", "RefCOCO-Matching"]
QUIET = {"show_progress_bar": False}


@pytest.fixture(scope="module")
def scores(_embedder, mmeb: Path):
    return evaluate(_embedder, mmeb_tasks(mmeb, SUBSETS), **QUIET)


@pytest.mark.parametrize("subset", SUBSETS)  # it2t, t2it, it2it, text queries with stray marks, targets as queries
def test_scores_equal_the_independent_scorer_to_the_last_hit(subset: str, scores, embedder, mmeb: Path):
    expected = hits(embedder, mmeb, subset, targets_as_queries=subset == "RefCOCO-Matching")
    assert 0 < expected.sum() < len(expected)
    assert scores.tasks[subset].num_queries == len(expected)
    assert scores.tasks[subset].score == expected.mean()


def test_targets_of_refcoco_matching_are_encoded_as_queries(embedder, mmeb: Path):
    task = mmeb_tasks(mmeb, "RefCOCO-Matching")
    calls: list[str] = []
    for role in ("query", "document"):
        method = getattr(embedder, f"encode_{role}")
        setattr(embedder, f"encode_{role}", lambda *a, _r=role, _m=method, **k: calls.append(_r) or _m(*a, **k))
    evaluate(embedder, task, **QUIET)
    assert calls and set(calls) == {"query"}


@pytest.mark.parametrize("subset", ["OK-VQA", "MSCOCO_t2i", "CIRR"])
def test_when_all_candidates_tie_every_query_is_a_hit_and_the_result_says_so(subset: str, embedder, mmeb: Path):
    embedder.encode_document = lambda inputs, **options: np.full((len(inputs), 32), 0.1, dtype=np.float32)
    scores = evaluate(embedder, mmeb_tasks(mmeb, subset), **QUIET)
    assert scores.overall == 1.0
    assert "no score" in scores.warnings[0] and subset in scores.warnings[0]


def test_vectors_that_are_not_numbers_are_misses_and_the_result_says_so(embedder, mmeb: Path):
    encode = embedder.encode_document

    def broken(inputs, **options):
        return np.where(np.arange(len(inputs))[:, None] % 2, encode(inputs, **options), np.nan)

    embedder.encode_document = broken
    scores = evaluate(embedder, mmeb_tasks(mmeb, "CIRR"), **QUIET)
    assert scores.tasks["CIRR"].undefined > 0.5 and "not a number" in scores.warnings[0]
    embedder.encode_document = lambda inputs, **options: np.full((len(inputs), 32), np.nan)
    assert evaluate(embedder, mmeb_tasks(mmeb, "CIRR"), **QUIET).overall == 0


@pytest.mark.parametrize("dim", [1, 3, 32, 127, 1536])
def test_equal_candidates_get_equal_cosines_wherever_they_stand(dim: int):
    rng = np.random.default_rng(dim)
    distinct = rng.standard_normal((7, dim)).astype(np.float32)
    where = rng.integers(0, 7, 61)
    cosines = cosine_with_each(rng.standard_normal(dim).astype(np.float32), distinct[where])
    assert len(set(cosines.tolist())) <= 7
    assert all(len(set(cosines[where == index].tolist())) == 1 for index in set(where.tolist()))
    assert np.abs(cosines).max() <= 1 + 1e-12


def test_a_truth_that_ties_with_another_document_is_a_hit(embedder, tmp_path: Path):
    write_rows(tmp_path, "OK-VQA", [("which\n", "", ["same", "other", "third"], ["", "", ""])] * 2)
    encode = embedder.encode_document

    def tied(inputs, **options):
        rank = {"same": 0, "other": 0, "third": 1}
        vectors = np.eye(32, dtype=np.float32)[[rank[each["text"]] for each in inputs]]
        return vectors + 0 * encode(inputs, **options)

    embedder.encode_document = tied
    embedder.encode_query = lambda inputs, **options: np.eye(32, dtype=np.float32)[[0] * len(inputs)]
    assert evaluate(embedder, mmeb_tasks(tmp_path, "OK-VQA"), **QUIET).overall == 1
    embedder.encode_query = lambda inputs, **options: np.eye(32, dtype=np.float32)[[1] * len(inputs)]
    assert evaluate(embedder, mmeb_tasks(tmp_path, "OK-VQA"), **QUIET).overall == 0


def test_results_lie_in_mtebs_layout_and_are_taken_up_again_unless_model_or_data_change(
    embedder, mmeb: Path, tmp_path: Path
):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(mmeb, data)
    first = evaluate(embedder, mmeb_tasks(data, ["CIRR", "WebQA"]), output_dir=out, model_name="org/m", **QUIET)
    (folder,) = (out / "results" / "org__m").iterdir()
    result = json.loads((folder / "MMEB_CIRR.json").read_text())
    assert result["scores"]["test"][0]["main_score"] == pytest.approx(first.by_task["CIRR"])
    assert {"MMEB_WebQA.json", "model_meta.json", "run_settings.jsonl"} <= {path.name for path in folder.iterdir()}

    encoder = Embedder(embedder, name="org/m", show_progress_bar=False)
    encoder.encode = None  # nothing may be encoded
    assert evaluate(encoder, mmeb_tasks(data, ["CIRR", "WebQA"]), output_dir=out, **QUIET) == first

    write_rows(data, "CIRR", [(f"{MARK}\nwhat?\n", "pictures/1.png", ["cat"], [""])])
    changed = evaluate(embedder, mmeb_tasks(data, ["CIRR", "WebQA"]), output_dir=out, model_name="org/m", **QUIET)
    assert changed.tasks["CIRR"].num_queries == 1 and changed.tasks["WebQA"] == first.tasks["WebQA"]

    paint(data / "eval_images" / "pictures" / "1.png", 99)  # the same path, of the same size
    ask = {"output_dir": out, "model_name": "org/m", **QUIET}
    shown: list[object] = []
    encode = embedder.encode_query
    embedder.encode_query = lambda inputs, **options: shown.append(inputs) or encode(inputs, **options)
    evaluate(embedder, mmeb_tasks(data, ["CIRR"]), **ask)
    assert shown

    embedder[0].prompt = HierarchicalPrompt(system="Name it.")
    evaluate(embedder, mmeb_tasks(data, ["WebQA"]), output_dir=out, model_name="org/m", **QUIET)
    assert len(list((out / "results" / "org__m").iterdir())) == 2


def test_other_pictures_are_another_revision_and_the_same_ones_are_not(mmeb: Path, tmp_path: Path):
    def revision(**options: Path) -> str:
        return mmeb_tasks(mmeb, "CIRR", **options)[0].metadata.revision

    copy = shutil.copytree(mmeb / "eval_images", tmp_path / "copy")
    assert revision() == revision() and revision(image_root=copy) == revision(image_root=copy)
    found = {revision(), revision(image_root=copy), revision(image_root=tmp_path)}
    paint(copy / "pictures" / "3.png", 98)
    found.add(revision(image_root=copy))
    (copy / "pictures" / "3.png").unlink()
    found.add(revision(image_root=copy))
    assert len(found) == 5
    (elsewhere,) = {task.metadata.revision for task in mmeb_tasks(subsets="CIRR", image_root=copy)}
    assert elsewhere.startswith("main-") and mmeb_tasks(subsets="CIRR")[0].metadata.revision == "main"


def test_all_tasks_from_the_hub_are_pinned_to_one_commit(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def resolve(repo_id, *, repo_type, revision, cache_dir):
        asked.append((repo_id, repo_type, revision))
        return SimpleNamespace(resolved="c0ffee" * 6 + "c0ff")

    monkeypatch.setattr("huggingface_hub.resolve_revision", resolve)
    loaded = []
    monkeypatch.setattr("saha_st.evaluation.mmeb.load_mmeb_eval", lambda name, subset, **place: loaded.append(place))
    tasks = mmeb_tasks(revision="a-tag")
    assert {task.metadata.revision for task in tasks} == {"c0ffee" * 6 + "c0ff"}
    assert asked == [("TIGER-Lab/MMEB-eval", "dataset", "a-tag")]
    type(tasks[0]).load()
    assert loaded[0]["revision"] == "c0ffee" * 6 + "c0ff"


def test_images_beside_rows_from_the_hub_are_part_of_the_revision(tmp_path: Path):
    paint(tmp_path / "CIRR" / "a.png", 0)

    def revision() -> str:
        return mmeb_tasks(subsets="CIRR", image_root=tmp_path)[0].metadata.revision

    first = revision()
    assert revision() == first
    paint(tmp_path / "CIRR" / "a.png", 1, size=(40, 40))
    assert revision() != first


def test_a_corrupt_parquet_file_is_named_before_anything_runs(mmeb: Path, tmp_path: Path):
    folder = shutil.copytree(mmeb, tmp_path / "data")
    (file,) = (folder / "CIRR").glob("*.parquet")
    for broken in (b"no parquet", file.read_bytes()[:500]):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"{file.name} is not an intact Parquet file .* Get it again"):
            mmeb_tasks(folder, "CIRR")


def test_mini_mmeb_runs_through_the_same_tasks(embedder, tmp_path: Path):
    root = write_mini_mmeb(
        tmp_path / "mini",
        train_rows=1,
        eval_rows=4,
        candidates=6,
        subsets=["Digits", "CountVQA", "Scenes_t2i", "Crops"],
    )
    tasks = mini_mmeb_tasks(root)
    scores = evaluate(embedder, tasks, **QUIET)
    assert list(scores.meta_tasks) == ["Classification", "VQA", "Retrieval", "Grounding"]
    for task in tasks:
        expected = hits(embedder, root / "MMEB-eval", task.spec.subset).mean()
        assert scores.by_task[task.spec.subset] == expected
    with pytest.raises(ValueError, match="'Objects'"):
        mini_mmeb_tasks(root, "Objects")
    with pytest.raises(FileNotFoundError, match="write_mini_mmeb"):
        mini_mmeb_tasks(tmp_path / "nowhere")


def test_the_benchmark_has_36_tasks_and_the_means_that_papers_quote():
    benchmark = mmeb_benchmark()
    means = {group.label: group.tasks for each in benchmark.aggregations[1:] for group in each.groups}
    assert len(benchmark.tasks) == 36
    assert {label: len(tasks) for label, tasks in means.items()} == {
        "Classification": 10,
        "VQA": 10,
        "Retrieval": 12,
        "Grounding": 4,
        "IND": 20,
        "OOD": 16,
    }
    queries = [task.spec.subset for task in benchmark.tasks if task.metadata.targets_as_queries]
    assert queries == ["RefCOCO-Matching"]


def test_mtebs_own_means_of_the_benchmark_equal_ours(_embedder, scores, mmeb: Path, monkeypatch: pytest.MonkeyPatch):
    import mteb
    from mteb.get_tasks import _TASKS_REGISTRY

    benchmark = as_benchmark("five", mmeb_tasks(mmeb, SUBSETS))
    for task in benchmark.tasks:  # mteb looks up the tasks of results by name
        monkeypatch.setitem(_TASKS_REGISTRY, task.metadata.name, type(task))
    encoder = Embedder(_embedder, show_progress_bar=False)
    result = mteb.evaluate(encoder, benchmark, cache=None, co2_tracker=False, show_progress_bar=False)
    theirs, ours = benchmark._get_model_score(result), scores.means
    assert theirs["Mean(Task)"] == pytest.approx(ours["Overall"])
    assert theirs["Meta-task::Retrieval"] == pytest.approx(ours["Retrieval"])
    assert theirs["Domain::OOD"] == pytest.approx(ours["OOD"])


def test_an_image_that_the_category_denies_is_refused(embedder, tmp_path: Path):
    paint(tmp_path / "a.png", 0)
    write_rows(tmp_path, "WebQA", [(f"{MARK}\nwhich?\n", "a.png", ["cat", "dog"], ["", ""])])
    with pytest.raises(ValueError, match="MMEB_WebQA: query 0 has an image.*'t2it'"):
        evaluate(embedder, mmeb_tasks(tmp_path, "WebQA"), **QUIET)


def test_tasks_are_refused_that_are_none_twice_or_beyond_the_model(embedder, mmeb: Path):
    tasks = mmeb_tasks(mmeb, ["CIRR"])
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(embedder, [])
    with pytest.raises(ValueError, match="CIRR.*more than once"):
        evaluate(embedder, tasks * 2)
    encoder = Embedder(embedder)
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": ["text"]})
    with pytest.raises(ValueError, match="MMEB_CIRR has image inputs"):
        evaluate(encoder, tasks)
    with pytest.raises(ValueError, match="Did you mean 'OK-VQA'"):
        mmeb_tasks(mmeb, "OKVQA")
