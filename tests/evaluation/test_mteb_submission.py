"""What is handed to mteb is complete, true to the run, and works where this package is not installed."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mteb
import numpy as np
import pytest
from mmeb_folder import paint
from mteb.benchmarks.get_benchmark import _build_registry
from mteb.get_tasks import _TASKS_REGISTRY
from mteb.mocks.mock_tasks import (
    MockAny2AnyRetrievalI2TTask,
    MockAny2AnyRetrievalT2ITask,
    MockClassificationTask,
    MockMultiChoiceTask,
    MockMultilingualClassificationTask,
    MockRetrievalTask,
    MockSTSTask,
    MockZeroShotClassificationTask,
)
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from sentence_transformers import SentenceTransformer

from saha_st.evaluation import Embedder, evaluate, mmeb_tasks
from saha_st.evaluation.submission.mteb import MTEBSubmission, mteb_submission
from saha_st.evaluation.submission.mteb_meta import MMEB_TRAIN_TASKS, is_known_license
from saha_st.evaluation.submission.mteb_module import as_python, import_module
from saha_st.prompts import HierarchicalPrompt

NAME, COMMIT = "org/Tiny-VL.2", "0123456789abcdef0123456789abcdef01234567"
BENCHMARK = "Mock(image, text)"
AT_HOME = ("--config", 'lint.isort.known-first-party = ["mteb"]')  # what ruff sees in mteb's repository
TASKS = (MockRetrievalTask, MockMultilingualClassificationTask, MockAny2AnyRetrievalI2TTask)
STATED = {
    "model_name": NAME,
    "hub_revision": COMMIT,
    "license": "apache-2.0",
    "release_date": "2026-01-31",
    "public_training_code": "https://github.com/org/code",
    "adapted_from": "Qwen/Qwen2-VL-2B-Instruct",
    "trained_on_mmeb": True,
    "contacts": ["someone"],
}


def as_benchmark(tasks: Any, name: str = BENCHMARK) -> mteb.Benchmark:
    return mteb.Benchmark(name=name, tasks=[task() for task in tasks])


@pytest.fixture(autouse=True)
def benchmark(monkeypatch: pytest.MonkeyPatch) -> mteb.Benchmark:
    """A benchmark of tasks with generated data, which mteb knows."""
    benchmark = as_benchmark(TASKS)
    for task in (*TASKS, MockSTSTask):
        monkeypatch.setitem(_TASKS_REGISTRY, task.metadata.name, task)
    monkeypatch.setitem(_build_registry(), BENCHMARK, benchmark)
    return benchmark


@pytest.fixture(scope="session")
def _evaluated(_embedder, mmeb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the benchmark, of one more task of mteb, and of one that mteb does not have."""
    root = tmp_path_factory.mktemp("evaluated")
    tasks = [*(task() for task in TASKS), MockSTSTask(), *mmeb_tasks(mmeb, "OK-VQA")]
    encoder = Embedder(_embedder, show_progress_bar=False)
    evaluate(encoder, tasks, output_dir=root, show_progress_bar=False)
    return root


@pytest.fixture
def evaluated(_evaluated: Path, tmp_path: Path) -> Path:
    """A copy of the run that the test may change."""
    return Path(shutil.copytree(_evaluated, tmp_path / "evaluated"))


@pytest.fixture(scope="session")
def saved(_embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that was evaluated, as a checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint") / "saved"
    copy.deepcopy(_embedder).save_pretrained(str(folder))
    return folder


@pytest.fixture
def submit(embedder, evaluated: Path, tmp_path: Path):
    def submit(**options: Any) -> MTEBSubmission:
        options = {"mock_run": False, **STATED, **options}
        return mteb_submission(embedder, evaluated, tmp_path / "out", **options)

    return submit


def results_of(evaluated: Path) -> Path:
    (folder,) = (evaluated / "results").glob("*/*/")
    return folder


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(tmp_path: Path) -> bool:
    """Whether nothing was left behind."""
    return {path.name for path in tmp_path.iterdir()} <= {"evaluated"}


def test_the_metadata_are_those_of_the_checkpoint(submit, embedder):
    module = import_module(submit().module)
    meta = module.tiny_vl_2
    found = {name: getattr(meta, name) for name in type(meta).model_fields}
    assert found.pop("loader") is module.VerbatimWrapper
    citation = found.pop("citation")
    assert "2508.00955" in citation and "2410.05160" in citation
    assert sum(parameter.numel() for parameter in embedder.parameters()) == 81_856
    assert found == {
        "loader_kwargs": {"sideless_as_queries": True, "model_kwargs": {"dtype": "float32"}},
        "name": NAME,
        "revision": COMMIT,
        "release_date": "2026-01-31",
        "languages": ["eng-Latn"],
        "n_parameters": 81_856,
        "n_active_parameters_override": None,
        "n_embedding_parameters": 408 * 32,
        "memory_usage_mb": 0,
        "max_tokens": 2048,
        "embed_dim": 32,
        "license": "apache-2.0",
        "open_weights": True,
        "public_training_code": "https://github.com/org/code",
        "public_training_data": "https://huggingface.co/datasets/TIGER-Lab/MMEB-train",
        "framework": ["Sentence Transformers", "PyTorch", "Transformers", "safetensors"],
        "reference": f"https://huggingface.co/{NAME}",
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": True,
        "training_datasets": set(MMEB_TRAIN_TASKS),
        "adapted_from": "Qwen/Qwen2-VL-2B-Instruct",
        "superseded_by": None,
        "modalities": ["image", "text"],
        "model_type": ["dense"],
        "contacts": ["someone"],
        "experiment_kwargs": None,
        "output_dtypes": mteb.types.OutputDType.FLOAT32,
        "extra_requirements_groups": ["multimodal-sbert"],
    }


def test_half_precision_is_told_and_loaded_again(embedder, evaluated: Path, tmp_path: Path):
    run = results_of(evaluated)
    embedder.bfloat16()
    written = mteb_submission(
        embedder, evaluated, tmp_path / "out", results_revision=run.name, mock_run=False, **STATED
    )
    meta = import_module(written.module).tiny_vl_2
    assert meta.output_dtypes is mteb.types.OutputDType.BF16
    assert meta.loader_kwargs["model_kwargs"] == {"dtype": "bfloat16"}


def test_the_results_lie_under_the_commit_with_their_settings(submit, evaluated: Path, tmp_path: Path):
    written = submit()
    assert written.benchmarks == (BENCHMARK,) and not {"results", "revision", "name"} & set(written.open_items)
    assert written.results == tmp_path / "out" / "results" / "org__Tiny-VL.2" / COMMIT
    names = {task.metadata.name for task in TASKS}
    files = {path.name for path in written.results.iterdir()}
    assert files == {f"{name}.json" for name in names} | {"model_meta.json", "run_settings.jsonl"}
    for name in names:
        assert (written.results / f"{name}.json").read_bytes() == (results_of(evaluated) / f"{name}.json").read_bytes()
    meta = json.loads((written.results / "model_meta.json").read_text())
    assert (meta["name"], meta["revision"], meta["loader"]) == (NAME, COMMIT, "VerbatimWrapper")
    settings = [json.loads(line) for line in (written.results / "run_settings.jsonl").read_text().splitlines()]
    covered = {
        (line["task"], split, subset) for line in settings for split in line["splits"] for subset in line["subsets"]
    }
    assert covered == {
        ("MockRetrievalTask", "val", "default"),
        ("MockRetrievalTask", "test", "default"),
        ("MockMultilingualClassificationTask", "test", "eng"),
        ("MockMultilingualClassificationTask", "test", "fra"),
        ("MockAny2AnyRetrievalI2T", "test", "default"),
    }
    assert written.left_out == ("MMEB_OK-VQA", "MockSTSTask")
    shutil.rmtree(evaluated.parent / "out")


def test_mteb_reads_the_results_folder_as_its_own(submit, benchmark, tmp_path: Path):
    submit()
    found = mteb.ResultCache(tmp_path / "out").load_results(tasks=benchmark, include_remote=False)
    (model,) = found.model_results
    assert (model.model_name, model.model_revision) == (NAME, COMMIT)
    assert {result.task_name for result in model.task_results} == {task.metadata.name for task in TASKS}


def test_the_module_is_clean_and_needs_no_saha_st(submit, embedder, evaluated: Path, tmp_path: Path):
    full = submit(languages=["eng-Latn", "kor-Hang"], public_training_data=True, contacts=["o'neil", 'a"b'])
    bare = mteb_submission(embedder, evaluated, tmp_path / "bare", mock_run=False)
    none = mteb_submission(
        embedder, evaluated, tmp_path / "none", mock_run=False, model_name=f"o/{'1-Long' * 12}", training_datasets=()
    )
    for written in (full, bare, none):
        text = written.module.read_text()
        assert "saha_st" not in text and "trust_remote_code" not in text
        for command in (("check",), ("format", "--check")):
            ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(written.module)]
            run = subprocess.run([*ruff, *AT_HOME], check=False, capture_output=True, text=True)
            assert run.returncode == 0, run.stdout + run.stderr
        assert not list(written.module.parent.glob("*.pyc")) and not list(written.module.parent.glob("__pycache__"))
    assert import_module(full.module).tiny_vl_2.contacts == ["o'neil", 'a"b']
    assert none.module.stem.isidentifier()


def test_values_are_written_as_python_reads_them():
    for value in ("plain", 'with "', "both ' and \"", "back\\slash", 1_234_567, True, None, {"a": 1}, "é"):
        assert eval(as_python(value)) == value
    assert as_python(1_234_567) == "1_234_567"


class Recorder:
    """Takes down the vectors that an encoder returns, in the order of the calls."""

    def __init__(self, encoder: Any) -> None:
        self.vectors: list[np.ndarray] = []
        encode = encoder.encode

        def spy(*args: Any, **kwargs: Any) -> Any:
            self.vectors.append(encode(*args, **kwargs))
            return self.vectors[-1]

        encoder.encode = spy
        self.encoder = encoder

    def scores(self, tasks: list[Any]) -> dict[str, Any]:
        options = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
        results = mteb.evaluate(self.encoder, tasks, encode_kwargs={"batch_size": 4}, **options).task_results
        return {
            result.task_name: [each["main_score"] for split in result.scores.values() for each in split]
            for result in results
        }


def loaded_by_mteb(module: ModuleType, folder: Path) -> Any:
    """What `ModelMeta.load_model` makes, from a folder in place of the Hub."""
    meta = module.tiny_vl_2
    encoder = meta.loader(str(folder), revision=None, device="cpu", **meta.loader_kwargs)
    encoder.mteb_model_meta = meta
    assert isinstance(encoder.model, SentenceTransformer)
    assert type(encoder.model[0]).__module__.startswith("sentence_transformers.")
    assert type(encoder.model[0]).preprocess.__module__.startswith("sentence_transformers.")  # nothing of ours
    return encoder


def test_the_loader_encodes_and_scores_as_the_embedder_does(submit, embedder, mmeb: Path, tmp_path: Path):
    embedder[0].prompt = HierarchicalPrompt(document_suffix="\nName it.")  # else documents are as without a side
    embedder.prompts["MockSTSTask"] = "Name the topic in one word."
    embedder.save_pretrained(str(tmp_path / "saved"))
    kinds = (
        MockRetrievalTask,
        MockClassificationTask,
        MockSTSTask,
        MockMultiChoiceTask,
        MockAny2AnyRetrievalI2TTask,
        MockAny2AnyRetrievalT2ITask,
        MockZeroShotClassificationTask,
    )

    def tasks() -> list[Any]:
        return [*(kind() for kind in kinds), *mmeb_tasks(mmeb, ["OK-VQA", "CIRR"])]

    module = import_module(submit(results_revision=results_of(tmp_path / "evaluated").name).module)
    ours = Recorder(Embedder(embedder, show_progress_bar=False))
    theirs = Recorder(loaded_by_mteb(module, tmp_path / "saved"))
    expected, found = ours.scores(tasks()), theirs.scores(tasks())
    assert len(expected) == len(kinds) + 2 and found.keys() == expected.keys()
    for name, scores in expected.items():
        assert np.allclose(scores, found[name], atol=1e-5), name
    assert len(ours.vectors) == len(theirs.vectors) > 15
    for mine, its in zip(ours.vectors, theirs.vectors, strict=True):
        assert its.dtype == np.float32 and mine.shape == its.shape
        assert np.abs(mine - its).max() < 1e-5
    stock = Recorder(SentenceTransformerEncoderWrapper(str(tmp_path / "saved"), device="cpu"))
    meta = stock.encoder.mteb_model_meta.model_copy(update={"modalities": ["image", "text"]})
    stock.encoder.mteb_model_meta = meta
    same_tasks = [MockClassificationTask(), *mmeb_tasks(mmeb, "OK-VQA")]
    stock.scores(same_tasks)
    ours.vectors.clear()
    ours.scores(same_tasks)
    differ = [np.abs(mine - its).max() > 1e-3 for mine, its in zip(ours.vectors, stock.vectors, strict=True)]
    assert differ == [True, True, False, True]  # train, test; queries; documents, whose ends are stripped


def test_images_of_any_colour_mode_and_rows_without_one_are_encoded(submit, embedder, tmp_path: Path):
    from datasets import Dataset, Features, Image, Value
    from mteb._create_dataloaders import create_dataloader
    from PIL import Image as Picture

    paint(tmp_path / "a.png", 0)
    for mode in ("L", "P", "RGBA"):
        with Picture.open(tmp_path / "a.png") as picture:
            picture.convert(mode).save(tmp_path / f"{mode}.png")
    paths = [str(tmp_path / f"{name}.png") for name in ("a", "L", "P", "RGBA")]
    features = Features({"id": Value("string"), "image": Image(), "text": Value("string")})
    rows = Dataset.from_dict(
        {"id": list("abcde"), "image": [*paths, None], "text": ["", "x", " y\n", None, "z\n"]}, features=features
    )
    task = MockMultiChoiceTask()
    wrapper = import_module(submit().module).VerbatimWrapper(embedder, sideless_as_queries=True)
    loader = create_dataloader(rows, task_metadata=task.metadata)
    place = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    shutil.rmtree(tmp_path / "out")
    vectors = wrapper.encode(loader, batch_size=1, show_progress_bar=False, **place)
    assert np.abs(vectors - Embedder(embedder, show_progress_bar=False).encode(loader, **place)).max() < 1e-5


def test_the_mock_run_goes_through_the_module_and_tells_what_failed(submit, monkeypatch: pytest.MonkeyPatch):
    from mteb.mocks import mock_run

    class Failing(MockClassificationTask):
        metadata = MockClassificationTask.metadata.model_copy(update={"name": "Failing"})

        def load_data(self, **kwargs: Any) -> None:
            raise ImportError("install 'nothing'")  # which mteb's own verdict lets pass

    monkeypatch.setattr(mock_run, "ALL_MOCK_TASK_TEST_GRID", [MockSTSTask(), MockAny2AnyRetrievalI2TTask()])
    written = submit(mock_run=True)
    report = written.mock_run.read_text()
    assert f"`{NAME}`" in report and report.count("✓ |") == 2 and set(written.open_items) == {"loader"}
    assert "all 2 tasks for image and text ran" in written.checklist.read_text()
    shutil.rmtree(written.module.parents[3])
    monkeypatch.setattr(mock_run, "ALL_MOCK_TASK_TEST_GRID", [MockSTSTask(), Failing()])
    written = submit(mock_run=True)
    assert written.open_items.pop("loader") and written.open_items == {"mock run, Failing": "install 'nothing'"}
    assert "- [ ] mock run, Failing: install 'nothing'" in written.checklist.read_text()
    assert "tasks for image and text ran" not in written.checklist.read_text()


@pytest.mark.slow
def test_every_mock_task_of_mteb_runs_through_the_module(submit, saved: Path):
    written = submit(mock_run=True, source=saved)
    assert not written.open_items
    assert "all 43 tasks for image and text ran" in written.checklist.read_text()


def test_what_is_not_known_is_open_and_never_made_up(saved: Path, evaluated: Path, tmp_path: Path):
    written = mteb_submission(str(saved), evaluated, tmp_path / "out", mock_run=False)
    fields = {
        "name",
        "revision",
        "release_date",
        "license",
        "reference",
        "public_training_code",
        "public_training_data",
        "training_datasets",
        "adapted_from",
        "contacts",
    }
    assert set(written.open_items) == fields | {"results", "mteb_mock_run_results.md"}
    assert written.results is None and not (tmp_path / "out" / "results").exists()
    text, checklist = written.module.read_text(), written.checklist.read_text()
    for field in fields:
        (line,) = [line for line in text.splitlines() if line.startswith(f"    {field}=")]
        assert "  # TODO: " in line and (field == "name" or f"{field}=None," in line)
        assert f"- [ ] {field}: " in checklist
    (meta,) = [value for value in vars(import_module(written.module)).values() if isinstance(value, ModelMeta)]
    assert meta.training_datasets is None and meta.name == f"local/{saved.name}"


def test_training_data_are_disclosed_as_stated_or_as_the_card_says(submit, embedder, tmp_path: Path):
    def disclosed(**options: Any) -> set[str] | None:
        written = submit(**options)
        meta = import_module(written.module).tiny_vl_2
        shutil.rmtree(tmp_path / "out")
        assert ("training_datasets" in written.open_items) is (meta.training_datasets is None)
        return meta.training_datasets

    assert disclosed(trained_on_mmeb=None) is None
    assert disclosed(trained_on_mmeb=False) is None
    assert disclosed(trained_on_mmeb=False, training_datasets=()) == set()
    assert disclosed(trained_on_mmeb=False, training_datasets=["ArguAna"]) == {"ArguAna"}
    assert disclosed(training_datasets=["ArguAna"]) == {"ArguAna", *MMEB_TRAIN_TASKS}
    card = "---\ndatasets:\n- TIGER-Lab/MMEB-train\nlicense: mit\nbase_model: Qwen/Qwen2-VL-2B-Instruct\n---\n"
    embedder._model_card_text = card
    assert disclosed(trained_on_mmeb=None) == MMEB_TRAIN_TASKS
    meta = import_module(submit(license=None, adapted_from=None).module).tiny_vl_2
    assert (meta.license, meta.adapted_from) == ("mit", "Qwen/Qwen2-VL-2B-Instruct")


def test_the_tasks_that_mmeb_train_overlaps_with_are_in_mteb_and_not_zero_shot(submit):
    assert {mteb.get_task(name).metadata.name for name in MMEB_TRAIN_TASKS} == MMEB_TRAIN_TASKS
    meta = import_module(submit().module).tiny_vl_2
    assert meta.is_zero_shot_on(["CIRRIT2IRetrieval"]) is False and meta.is_zero_shot_on(["ArguAna"]) is True
    assert is_known_license("apache-2.0") and is_known_license("https://a.b/c") and not is_known_license("free")


def test_a_commit_is_taken_over_only_for_the_model_that_was_loaded(submit, embedder, tmp_path: Path):
    embedder[0].config._commit_hash = COMMIT
    assert "revision" in submit(hub_revision=None).open_items  # a local folder, fine-tuned from that commit perhaps
    shutil.rmtree(tmp_path / "out")
    embedder.model_card_data.model_id = "org/base"
    assert "revision" in submit(hub_revision=None).open_items
    shutil.rmtree(tmp_path / "out")
    embedder.model_card_data.model_id = NAME
    assert submit(hub_revision=None).results.name == COMMIT


def test_the_checklist_says_what_mteb_will_not_test_and_what_to_send_first(submit, monkeypatch: pytest.MonkeyPatch):
    from saha_st.evaluation.submission import mteb_meta

    read = mteb_meta._read_weights
    monkeypatch.setattr(mteb_meta, "_read_weights", lambda model: read(model) | {"n_parameters": 2_208_985_600})
    written = submit()
    text = written.checklist.read_text()
    assert '2,208,985,600 parameters: mteb\'s test that loads models reports "Over threshold. Not tested"' in text
    assert text.index("embeddings-benchmark/mteb>") < text.index("embeddings-benchmark/results>")
    assert f"mteb submit-results -m {NAME} --output-folder ." in text and "solemnly swear" in text
    assert "CIRRIT2IRetrieval" in text and "MMEB_OK-VQA, MockSTSTask" in text
    assert "{" not in text.replace("{{", "")


def test_registries_of_mteb_are_as_before(submit):
    before = list(MODEL_REGISTRY)
    submit()
    assert list(MODEL_REGISTRY) == before and NAME not in before


def test_an_incomplete_benchmark_is_refused_with_all_that_is_missing(submit, evaluated: Path, tmp_path: Path):
    folder = results_of(evaluated)
    file = folder / "MockRetrievalTask.json"
    scores = json.loads(file.read_text())["scores"]
    change(file, scores={"test": scores["test"]})
    file = folder / "MockMultilingualClassificationTask.json"
    scores = json.loads(file.read_text())["scores"]
    change(file, scores={"test": [each for each in scores["test"] if each["hf_subset"] == "fra"]})
    (folder / "MockAny2AnyRetrievalI2T.json").unlink()
    expected = (
        r"lacks 3 of 3 tasks: MockRetrievalTask \(val: default\), "
        r"MockMultilingualClassificationTask \(test: eng\), MockAny2AnyRetrievalI2T\."
    )
    with pytest.raises(ValueError, match=expected):
        submit(benchmarks=[BENCHMARK])
    assert refused(tmp_path)


def test_without_a_complete_benchmark_the_nearest_is_named(submit, evaluated: Path, tmp_path: Path):
    (results_of(evaluated) / "MockRetrievalTask.json").unlink()
    message = r"nearest lacks: Mock\(image, text\) lacks 1 of 3 tasks: MockRetrievalTask\.$"
    with pytest.raises(ValueError, match=message):
        submit()
    for task in TASKS[1:]:
        (results_of(evaluated) / f"{task.metadata.name}.json").unlink()
    with pytest.raises(
        ValueError, match="no results of any benchmark of mteb's leaderboards, but of these tasks: MMEB_OK-VQA"
    ):
        submit()
    with pytest.raises(ValueError, match="benchmarks: mteb .* has no 'MIEB'"):
        submit(benchmarks=["MIEB"])
    assert refused(tmp_path)


def test_tasks_that_are_not_public_are_left_to_mteb(submit, benchmark, evaluated: Path, monkeypatch):
    class Private(MockClassificationTask):
        metadata = MockClassificationTask.metadata.model_copy(update={"name": "Private", "is_public": False})

    mixed = as_benchmark([MockRetrievalTask, Private], "Mock(mixed)")
    monkeypatch.setitem(_build_registry(), "Mock(mixed)", mixed)
    monkeypatch.setitem(_build_registry(), "Mock(private)", as_benchmark([Private], "Mock(private)"))
    written = submit()
    assert "Not public, run by the maintainers of mteb: Private." in written.checklist.read_text()
    assert written.benchmarks == (BENCHMARK, "Mock(mixed)")  # nothing at all is no complete benchmark
    shutil.rmtree(written.checklist.parent)
    with pytest.raises(ValueError, match=r"no task of Mock\(private\) is public"):
        submit(benchmarks=["Mock(private)"])


def test_an_aggregate_is_complete_with_its_own_result_and_those_of_its_parts(
    submit, embedder, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mteb.mocks.mock_tasks.reranking import MockAggregatedTask

    parts = [MockRetrievalTask(), MockSTSTask()]

    class Aggregate(MockAggregatedTask):
        metadata = MockAggregatedTask.metadata.model_copy(update={"name": "Aggregate", "tasks": parts})

    monkeypatch.setitem(_TASKS_REGISTRY, "Aggregate", Aggregate)
    monkeypatch.setitem(_build_registry(), "Mock(aggregate)", as_benchmark([Aggregate], "Mock(aggregate)"))
    with pytest.raises(ValueError, match=r"lacks 1 of 3 tasks \(the parts of tasks counted\): Aggregate"):
        submit(benchmarks=["Mock(aggregate)"])
    encoder = Embedder(embedder, show_progress_bar=False)
    evaluate(encoder, [Aggregate()], output_dir=evaluated, show_progress_bar=False)
    names = {path.stem for path in submit(benchmarks=["Mock(aggregate)"]).results.glob("Mock*.json")}
    assert names == {"MockRetrievalTask", "MockSTSTask"}
    assert (tmp_path / "out" / "results" / "org__Tiny-VL.2" / COMMIT / "Aggregate.json").is_file()
    shutil.rmtree(tmp_path / "out")
    (results_of(evaluated) / "MockSTSTask.json").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 tasks \(the parts of tasks counted\): MockSTSTask"):
        submit(benchmarks=["Mock(aggregate)"])


def test_results_on_replaced_data_or_without_a_score_are_refused(submit, evaluated: Path, tmp_path: Path):
    file = results_of(evaluated) / "MockRetrievalTask.json"
    text = file.read_text()
    change(file, dataset_revision="older")
    with pytest.raises(ValueError, match="MockRetrievalTask was evaluated on revision 'older' .* has 'NA'"):
        submit()
    scores = json.loads(text)["scores"]
    for value, shown in ((float("nan"), "nan"), (None, "None")):
        scores["val"][0]["main_score"] = value
        file.write_text(text)
        change(file, scores=scores)
        with pytest.raises(ValueError, match=rf"MockRetrievalTask \(val: default\) has the score {shown}"):
            submit()
    file.write_text(text)
    checks = evaluated / "checks" / file.parent.parent.name / file.parent.name / file.name
    stored = json.loads(checks.read_text())
    next(iter(stored.values()))["collapsed"] = True
    checks.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="MockRetrievalTask: vectors of the run are all the same"):
        submit()
    assert {path.name for path in tmp_path.iterdir()} == {"evaluated"}


def test_a_checkpoint_that_mteb_would_load_as_another_model_is_refused(
    submit, saved: Path, embedder, tiny_mllm: Path, tmp_path: Path
):
    with pytest.raises(ValueError, match=r"gives other vectors .* differ by .* save_pretrained"):
        submit(source=tiny_mllm)  # a plain MLLM: Sentence Transformers takes the mean of its tokens, without a prompt
    assert "loader" not in submit(source=saved).open_items
    shutil.rmtree(tmp_path / "out")
    assert "loader" in submit().open_items
    shutil.rmtree(tmp_path / "out")
    embedder[0].max_seq_length = 100  # not in the checkpoint
    with pytest.raises(ValueError, match="gives other vectors"):
        submit(source=saved, results_revision=results_of(tmp_path / "evaluated").name)
    assert refused(tmp_path)


def test_a_score_of_which_nothing_is_known_is_refused(submit, evaluated: Path, tmp_path: Path):
    file = results_of(evaluated) / "MockRetrievalTask.json"
    (evaluated / "checks" / file.parent.parent.name / file.parent.name / file.name).unlink()
    with pytest.raises(ValueError, match="MockRetrievalTask: .* is missing, which tells whether the score is one"):
        submit()
    assert refused(tmp_path)


def test_results_without_their_settings_are_refused(submit, evaluated: Path, tmp_path: Path):
    file = results_of(evaluated) / "run_settings.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["task"] == "MockMultilingualClassificationTask":
            line["subsets"] = ["eng"]
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"evaluated: MockMultilingualClassificationTask \(test: fra\)\. Delete"):
        submit()
    file.write_text('{"task": ')
    with pytest.raises(ValueError, match="holds a line that is not JSON"):
        submit()
    file.unlink()
    with pytest.raises(ValueError, match=r"MockRetrievalTask \(test: default\), MockRetrievalTask \(val: default\)"):
        submit()
    assert refused(tmp_path)


def test_results_of_another_model_or_of_a_quick_look_are_refused(submit, embedder, evaluated: Path, tmp_path: Path):
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    embedder.truncate_dim = 16
    with pytest.raises(FileNotFoundError, match="holds no results of"):
        submit()
    embedder.truncate_dim = None
    folder = results_of(evaluated)
    (folder / "experiments" / "limit_5").mkdir(parents=True)
    for file in folder.glob("*.json"):
        file.rename(folder / "experiments" / "limit_5" / file.name)
    with pytest.raises(ValueError, match="only quick looks"):
        submit()
    assert refused(tmp_path)


def test_of_two_names_for_the_same_vectors_the_one_that_is_submitted_counts(submit, evaluated: Path):
    folder = results_of(evaluated)
    other = Path(shutil.copytree(folder, evaluated / "results" / "org__other" / folder.name))
    change(other / "model_meta.json", name="org/other")
    (other / "MockSTSTask.json").unlink()  # under two other names, the one with the most results counts
    assert submit(benchmarks=BENCHMARK).left_out == ("MMEB_OK-VQA", "MockSTSTask")
    shutil.rmtree(evaluated.parent / "out")
    for part in ("results", "checks"):
        shutil.copytree(evaluated / part / folder.parent.name, evaluated / part / "org__Tiny-VL.2")
    shutil.rmtree(other.parent)
    change(evaluated / "results" / "org__Tiny-VL.2" / folder.name / "model_meta.json", name=NAME)
    (evaluated / "results" / "org__Tiny-VL.2" / folder.name / "MockSTSTask.json").unlink()
    assert submit(benchmarks=BENCHMARK).left_out == ("MMEB_OK-VQA",)


def test_a_result_under_the_wrong_file_name_is_refused(submit, evaluated: Path):
    folder = results_of(evaluated)
    (folder / "MockSTSTask.json").rename(folder / "Other.json")
    with pytest.raises(ValueError, match="holds the result of 'MockSTSTask'"):
        submit()


def test_a_folder_with_something_in_it_is_not_written_to(submit, tmp_path: Path):
    (tmp_path / "out").mkdir()
    assert submit().checklist.parent == tmp_path / "out"
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        submit()


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("model_name", "tiny", "model_name must be a name on the Hub, such as 'org/model'; got 'tiny'"),
        ("hub_revision", "main", "hub_revision must be a commit on the Hub, 40 hexadecimal digits; got 'main'"),
        ("license", "Apache 2", "license must be one that mteb knows, such as 'apache-2.0', or a URL; got 'Apache 2'"),
        ("release_date", "31.1.2026", "release_date must be a date like '2026-01-31'; got '31.1.2026'"),
        ("public_training_code", "github", "public_training_code must be a URL; got 'github'"),
        ("languages", "eng-Latn", "languages must be a list of strings; got 'eng-Latn'"),
        ("languages", ["english"], "languages must be languages with scripts, such as 'eng-Latn'; got 'english'"),
        ("languages", [], "languages must name one language at least"),
        ("training_datasets", ["ArguAnna"], "has no task 'ArguAnna'. Did you mean ArguAna"),
        ("adapted_from", NAME, "adapted_from: 'org/Tiny-VL.2' cannot be adapted from itself"),
    ],
)
def test_an_argument_that_mteb_would_not_take_is_named(
    submit, tmp_path: Path, argument: str, value: Any, message: str
):
    with pytest.raises(ValueError) as error:
        submit(**{argument: value})
    assert message in str(error.value)
    assert refused(tmp_path)


def test_a_failure_on_the_way_leaves_nothing_behind(submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from saha_st.evaluation.submission import mteb_meta

    read = mteb_meta._read_weights
    monkeypatch.setattr(mteb_meta, "_read_weights", lambda model: read(model) | {"extras": ("no-such-extra",)})
    with pytest.raises(ValueError, match="no-such-extra"):
        submit()
    assert refused(tmp_path)
