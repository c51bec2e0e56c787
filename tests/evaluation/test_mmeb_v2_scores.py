"""Through mteb, the scores of MMEB-V2's videos and pages are those of VLM2Vec's rule, to the last hit."""

from __future__ import annotations

import gc
import math
import shutil
import weakref
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset
from mmeb_v2_files import Folder, picture
from mteb.get_tasks import _TASKS_REGISTRY

from saha_st.card.run_folders import RunFolder
from saha_st.data.mmeb_v2 import load_mmeb_v2_eval
from saha_st.evaluation import Embedder, evaluate, find_benchmark, mmeb_v2_tasks
from saha_st.evaluation.exact_search import ExactSearch
from saha_st.evaluation.mmeb import as_benchmark
from saha_st.evaluation.specs import VIDEO, VISDOC, mmeb_v2_specs
from saha_st.modules import load_embedder

QUIET = {"show_progress_bar": False}
VIDEOS = ["UCF101", "SmthSmthV2", "MVBench", "EgoSchema", "VATEX", "QVHighlight", "MomentSeeker"]
PAGES = ["ViDoRe_tatdqa", "ViDoRe_esg_reports_v2_multilingual", "VisRAG_SlideVQA", "ViDoSeek-page", "MMLongBench-doc"]


@pytest.fixture(scope="module")
def root(mmeb_v2: Path) -> Path:
    return mmeb_v2


@pytest.fixture(scope="module")
def scores(_embedder, root: Path):
    return evaluate(_embedder, mmeb_v2_tasks(root, [*VIDEOS, *PAGES]), **QUIET)


def vectors(rows: Dataset, encode: Any) -> np.ndarray:
    """Encode the rows one at a time, their pictures and frames decoded."""
    found = []
    for row in rows:
        cell = {name: row[name] for name in ("image", "video", "text") if row.get(name)}
        found.append(encode([cell], show_progress_bar=False)[0])
    matrix = np.array(found, dtype=np.float64)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def literal(metric: str, ranked: list[str], relevant: dict[str, int]) -> float:
    if metric == "hit@1":
        return float(ranked[0] in relevant)
    gained = sum(relevant.get(name, 0) / math.log2(place + 2) for place, name in enumerate(ranked[:5]))
    best = sorted(relevant.values(), reverse=True)[:5]
    return gained / sum(grade / math.log2(place + 2) for place, grade in enumerate(best))


def by_hand(model: Any, subset: str, root: Path) -> list[float]:
    """The main score of every query, from vectors encoded one at a time and a sort that leaves ties in their order."""
    split = load_mmeb_v2_eval(subset, root)
    queries, documents = vectors(split.queries, model.encode_query), vectors(split.documents, model.encode_document)
    rows = {name: row for row, name in enumerate(split.documents["id"])}
    metric = "hit@1" if subset in VIDEOS else "ndcg_linear@5"
    found = []
    for name, query in zip(split.queries["id"], queries, strict=True):
        candidates = list(rows) if split.candidates is None else split.candidates[name]
        ranked = sorted(candidates, key=lambda document: -float(documents[rows[document]] @ query))  # noqa: B023
        found.append(literal(metric, ranked, split.relevant[name]))
    return found


@pytest.mark.parametrize("subset", [*VIDEOS, *PAGES])
def test_scores_equal_the_independent_computation(subset: str, scores, _embedder, root: Path):
    expected, found = by_hand(_embedder, subset, root), scores.tasks[subset]
    assert found.num_queries == len(expected) > 2 and not found.is_degenerate
    assert found.score == pytest.approx(np.mean(expected), abs=6e-6)
    assert found.metric == ("hit@1" if subset in VIDEOS else "ndcg_linear@5")
    assert found.modality == (VIDEO if subset in VIDEOS else VISDOC)


def test_scores_are_neither_all_hits_nor_all_misses(scores):
    assert 0 < np.mean([scores.by_task[name] for name in VIDEOS]) < 1
    assert all(0 < scores.by_task[name] < 1 for name in PAGES)


def test_chance_is_what_random_rankings_score(scores, root: Path):
    rng = np.random.default_rng(0)
    for subset in ("SmthSmthV2", "MomentSeeker", "ViDoRe_tatdqa", "MMLongBench-doc"):
        split = load_mmeb_v2_eval(subset, root)
        metric, values = scores.tasks[subset].metric, []
        for name, relevant in split.relevant.items():
            listed = list(split.documents["id"]) if split.candidates is None else split.candidates[name]
            values += [literal(metric, rng.permutation(listed).tolist(), relevant) for _ in range(3000)]
        assert scores.tasks[subset].chance == pytest.approx(np.mean(values), abs=0.02), subset


def test_chance_counts_all_relevant_pages_and_not_only_the_ten_that_are_kept(_embedder, tmp_path: Path):
    rng = np.random.default_rng(0)
    right = rng.permutation(200)[:40].tolist()
    qrels = [(0, page, 1) for page in right]
    Folder(tmp_path).pages("tatdqa_test_beir", "test", [(0, "which?")], list(range(200)), qrels)
    found = evaluate(_embedder, mmeb_v2_tasks(tmp_path, "ViDoRe_tatdqa"), **QUIET).tasks["ViDoRe_tatdqa"]
    relevant = {f"d{page:06d}": 1 for page in right}
    names = [f"d{page:06d}" for page in range(200)]
    values = [literal("ndcg@5", rng.permutation(names).tolist(), relevant) for _ in range(5000)]
    assert found.chance == pytest.approx(40 / 200, abs=1e-5)  # all grades are the same, and so is the gain of a place
    assert found.chance == pytest.approx(np.mean(values), abs=0.01)


def test_a_task_that_was_evaluated_holds_neither_model_nor_vectors(_embedder, root: Path):
    (task,) = mmeb_v2_tasks(root, "VATEX")
    made: list[weakref.ref] = []

    class Watched(Embedder):
        def encode(self, *args: Any, **options: Any) -> Any:
            found = super().encode(*args, **options)
            made.append(weakref.ref(found))
            return found

    encoder = Watched(_embedder, **QUIET)
    assert evaluate(encoder, [task], **QUIET).tasks["VATEX"].num_queries == 6 and len(made) == 2
    made.append(weakref.ref(encoder))
    del encoder
    gc.collect()
    assert task.metadata.name == "MMEB_VATEX" and [each() for each in made] == [None] * 3


def test_the_frames_reach_the_model_and_decide_the_vector(_embedder, root: Path):
    split = load_mmeb_v2_eval("UCF101", root)
    rows = split.queries.to_list()
    assert len({row["text"] for row in rows}) == 1  # the videos are all that tells the queries apart
    encoded = vectors(split.queries, _embedder.encode_query)
    off_diagonal = (encoded @ encoded.T)[~np.eye(len(rows), dtype=bool)]
    assert off_diagonal.max() < 1 - 1e-3


def test_of_documents_that_tie_the_first_stands_first(embedder, root: Path):
    embedder.encode_document = lambda inputs, **options: np.full((len(inputs), 32), 0.1, dtype=np.float32)
    scores = evaluate(embedder, mmeb_v2_tasks(root, ["SmthSmthV2", "QVHighlight", "ViDoRe_tatdqa"]), **QUIET)
    assert scores.by_task["SmthSmthV2"] == pytest.approx(2 / 6)  # of six queries, two have the first of three labels
    assert scores.by_task["QVHighlight"] == 0  # its wrong clips stand first
    assert all(task.is_degenerate and task.all_tied == 1 for task in scores.tasks.values())
    assert "no score" in scores.to_markdown(tasks=True) and "MMEB" not in scores.to_markdown()


def test_similarities_that_are_not_numbers_are_misses(embedder, root: Path):
    encode = embedder.encode_document

    def broken(inputs, **options):
        return np.where(np.arange(len(inputs))[:, None] % 2, encode(inputs, **options), np.nan)

    embedder.encode_document = broken
    scores = evaluate(embedder, mmeb_v2_tasks(root, ["VATEX", "SmthSmthV2"]), **QUIET)
    assert all(task.undefined > 0.5 for task in scores.tasks.values()) and "not a number" in scores.warnings[0]
    embedder.encode_document = lambda inputs, **options: np.full((len(inputs), 32), np.nan)
    assert evaluate(embedder, mmeb_v2_tasks(root, ["VATEX", "ViDoRe_tatdqa"]), **QUIET).overall == 0


class Stored:
    """An encoder whose vectors are at hand."""

    def __init__(self, queries: np.ndarray, documents: np.ndarray) -> None:
        self.vectors = {"query": queries, "document": documents}
        self.mteb_model_meta = Embedder.__new__(Embedder)
        self.mteb_model_meta.similarity_fn_name = mteb.models.model_meta.ScoringFunction.COSINE

    def encode(self, batches: Any, *, prompt_type: Any, **options: Any) -> np.ndarray:
        rows = [int(name[1:]) for batch in batches for name in batch["id"]]
        return self.vectors[prompt_type.value][rows]


@pytest.mark.parametrize("count", [1, 7, 700])
def test_search_keeps_the_best_of_all_queries_and_the_order_of_equal_documents(count: int):
    rng = np.random.default_rng(count)
    distinct = rng.standard_normal((40, 24)).astype(np.float32)
    which = rng.integers(0, 40, 300)
    queries = rng.standard_normal((count, 24)).astype(np.float32)
    search = ExactSearch(Stored(queries, distinct[which]))
    options = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "encode_kwargs": {}}
    search.index(Dataset.from_dict({"id": [f"d{row}" for row in range(300)]}), **options)
    asked = Dataset.from_dict({"id": [f"q{row}" for row in range(count)]})
    found = search.search(asked, top_k=10, **options)
    listed = {f"q{row}": [f"d{each}" for each in range(300)] for row in range(count)}
    assert list(found) == list(search.search(asked, top_k=10, top_ranked=listed, **options))
    assert search.seen.candidates == [300] * count and not any(search.seen.all_tied + search.seen.undefined)
    cosines = (queries @ distinct.T) / np.linalg.norm(distinct, axis=1)
    for row, best in enumerate(found.values()):
        assert len(best) == 10
        expected = sorted(range(300), key=lambda document: (-cosines[row, which[document]], document))  # noqa: B023
        assert list(best) == [f"d{document}" for document in expected[:10]]


def test_a_run_that_is_started_again_encodes_nothing_and_one_on_other_videos_does(
    embedder, root: Path, tmp_path: Path
):
    data, out = shutil.copytree(root, tmp_path / "data"), tmp_path / "out"
    names = ["UCF101", "QVHighlight", "ViDoRe_tatdqa"]
    ask = {"output_dir": out, "model_name": "org/m", **QUIET}
    first = evaluate(embedder, mmeb_v2_tasks(data, names), **ask)
    encoder = Embedder(embedder, name="org/m", **QUIET)
    run = RunFolder(out, "org/m", encoder.mteb_model_meta.revision)
    assert {file.stem for file in run.result_files} == {f"MMEB_{name}" for name in names}
    encoder.encode = None  # nothing may be encoded
    assert evaluate(encoder, mmeb_v2_tasks(data, names), output_dir=out, **QUIET) == first

    shown: list[int] = []
    encode = embedder.encode_query
    embedder.encode_query = lambda inputs, **options: shown.append(len(inputs)) or encode(inputs, **options)
    (run.rankings / "MMEB_UCF101.parquet").unlink()  # lost: the task is run again, from vectors that are on disk
    evaluate(embedder, mmeb_v2_tasks(data, names), **ask)
    assert not shown and (run.rankings / "MMEB_UCF101.parquet").is_file()
    picture(99).save(data / "video-tasks" / "frames" / "video_cls" / "UCF101" / "v1" / "frame_4.jpg")
    evaluate(embedder, mmeb_v2_tasks(data, names), **ask)
    assert shown == [1]  # one of the six videos has another frame
    Folder(data).rows("qvhighlight.jsonl", [{"query": "another", "video_path": "q1.mp4"}])
    changed = evaluate(embedder, mmeb_v2_tasks(data, names), **ask)
    assert changed.tasks["QVHighlight"].num_queries == 1 and changed.tasks["UCF101"].num_queries == 6


def test_a_quick_look_asks_some_of_the_queries(embedder, root: Path):
    scores = evaluate(embedder, mmeb_v2_tasks(root, ["VATEX", "MVBench", "ViDoRe_tatdqa"]), limit=2, **QUIET)
    assert {task.num_queries for task in scores.tasks.values()} == {2} and scores.limit == 2


def test_the_benchmark_groups_78_tasks_by_meta_task_and_modality(mmeb_v2_report):
    _, benchmark, scores = mmeb_v2_report
    means = {group.label: len(group.tasks) for each in benchmark.aggregations[1:] for group in each.groups}
    assert len(benchmark.tasks) == len(scores.tasks) == 78 and list(scores.tasks) == list(mmeb_v2_specs())
    assert {name: means[name] for name in ("Image", "Video", "VisDoc")} == {"Image": 36, "Video": 18, "VisDoc": 24}
    assert list(scores.means) == [*means, "Overall"] and "IND" not in means
    by_task = scores.by_task
    video = [by_task[name] for name, spec in mmeb_v2_specs().items() if spec.modality == VIDEO]
    assert scores.means["Video"] == pytest.approx(np.mean(video))
    assert scores.overall == pytest.approx(np.mean(list(by_task.values())))  # of tasks, not of modalities
    assert scores.metric == "main score"
    table = scores.to_markdown(tasks=True)
    assert all(f"| {name} |" in table for name in ("K700", "ViDoRe v2", "Moment retrieval", "VisDoc"))


def test_mtebs_own_means_equal_ours(mmeb_v2_report, _embedder, monkeypatch: pytest.MonkeyPatch):
    _, benchmark, scores = mmeb_v2_report
    names = ("CIRR", "UCF101", "VATEX", "ViDoRe_tatdqa")
    tasks = [task for task in benchmark.tasks if task.spec.subset in names]
    for task in tasks:  # mteb looks up the tasks of results by name
        monkeypatch.setitem(_TASKS_REGISTRY, task.metadata.name, type(task))
    encoder = Embedder(_embedder, **QUIET)
    result = mteb.evaluate(encoder, tasks, cache=None, co2_tracker=False, show_progress_bar=False)
    theirs = as_benchmark("four", tasks)._get_model_score(result)
    videos = np.mean([scores.by_task[name] for name in ("UCF101", "VATEX")])
    assert theirs["Modality::Video"] == pytest.approx(videos, abs=1e-5)
    assert theirs["Modality::VisDoc"] == pytest.approx(scores.by_task["ViDoRe_tatdqa"], abs=1e-5)
    assert theirs["Mean(Task)"] == pytest.approx(np.mean([scores.by_task[name] for name in names]), abs=1e-5)


def test_the_image_tasks_are_those_of_the_first_version(mmeb_v2_report, root: Path, tmp_path: Path):
    _, benchmark, _ = mmeb_v2_report
    (task,) = [task for task in benchmark.tasks if task.spec.subset == "CIRR"]
    (same,) = find_benchmark("MMEB_CIRR", data_dir=task.metadata.dataset["path"]).tasks
    assert task.metadata.name == same.metadata.name and task.metadata.revision == same.metadata.revision
    with pytest.raises(FileNotFoundError, match="has no image-tasks, the pictures of 36 of the tasks"):
        mmeb_v2_tasks(root)
    (tmp_path / "image-tasks").mkdir()  # pictures, with rows from the Hub
    picture(0).save(tmp_path / "image-tasks" / "a.png")
    (task,) = mmeb_v2_tasks(tmp_path, "CIRR")
    assert task.metadata.dataset["path"] == "TIGER-Lab/MMEB-eval"


@pytest.mark.parametrize("rows", ["image-tasks", "image-tasks/MMEB"])
def test_the_pictures_of_the_image_tasks_may_be_in_the_folder_of_their_archive(
    rows: str, mmeb: Path, embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As they are when mmeb_v1.tar.gz, all of which is in MMEB, is unpacked in image-tasks."""
    shutil.copytree(mmeb / "eval_images", tmp_path / "image-tasks" / "MMEB")
    shutil.copytree(mmeb / "CIRR", tmp_path / rows / "CIRR")
    (expected,) = find_benchmark("MMEB_CIRR", data_dir=mmeb).tasks
    scores = evaluate(embedder, [expected], **QUIET)
    found = evaluate(embedder, mmeb_v2_tasks(tmp_path, "CIRR"), **QUIET)
    assert found.by_task == scores.by_task and 0 < found.by_task["CIRR"] < 1

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("saha_st.evaluation.mmeb_v2.mmeb_tasks", lambda *_, **options: asked.append(options) or [])
    shutil.rmtree(tmp_path / rows / "CIRR")  # rows from the Hub
    with pytest.raises(KeyError):
        mmeb_v2_tasks(tmp_path, "CIRR")
    assert asked[0]["image_root"] == tmp_path / "image-tasks" / "MMEB"


def test_tasks_go_by_one_name_each_and_places_that_do_not_fit_are_refused(root: Path):
    (task,) = find_benchmark("MMEB_K700", data_dir=root).tasks
    assert task.metadata.category == "vt2t"
    assert task.metadata.dataset["path"] == str(root / "video-tasks" / "data" / "k700.jsonl")
    assert find_benchmark("MMEB_ViDoSeek-doc").tasks[0].metadata.dataset == {
        "path": "VLM2Vec/ViDoSeek",
        "revision": "main",
    }
    with pytest.raises(ValueError, match="data_revision: MMEB.v2. comes from many repositories"):
        find_benchmark("MMEB(v2)", data_revision="main")
    with pytest.raises(ValueError, match="MMEB-V2 has no subset 'VATX'. Did you mean 'VATEX'"):
        mmeb_v2_tasks(root, "VATX")


def test_models_without_videos_are_refused_before_anything_runs(embedder, root: Path):
    encoder = Embedder(embedder, **QUIET)
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": ["image", "text"]})
    with pytest.raises(ValueError, match="MMEB_UCF101 has video inputs, but .* takes only image and text"):
        evaluate(encoder, mmeb_v2_tasks(root, "UCF101"), **QUIET)
    with pytest.raises(ValueError, match="has videos as mteb decodes them"):
        evaluate(embedder, [mteb.get_task("MSRVTTT2V")], **QUIET)


def test_a_plain_sentence_transformer_gets_the_same_scores(scores, tiny_mllm, root: Path, tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    load_embedder(str(tiny_mllm), device="cpu").save_pretrained(str(tmp_path / "saved"))
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    names = ["VATEX", "SmthSmthV2"]  # it takes no videos of fewer frames than its processor samples
    found = evaluate(plain, mmeb_v2_tasks(root, names), **QUIET)
    assert found.by_task == {name: scores.by_task[name] for name in names}
