"""`saha-st evaluate`, then `saha-st submission`: the files of both leaderboards, or what they lack."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest
from mmeb_folder import write_all_subsets

from saha_st.cli import main

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def evaluated(tiny_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an evaluation on all 36 subsets."""
    folder = tmp_path_factory.mktemp("mmeb")
    write_all_subsets(folder / "MMEB-eval")
    flags = ["--data_dir", str(folder / "MMEB-eval"), "--output_dir", str(folder / "out"), "--quiet"]
    assert main(["evaluate", str(tiny_mllm), "--benchmark", "MMEB(v1)", *flags]) == 0
    return folder / "out"


def submission(board: str, model: Path, results: Path, out: Path, *flags: str) -> list[str]:
    return ["submission", board, str(model), "--results", str(results), "--out", str(out), "--quiet", *flags]


def test_the_file_for_mmeb_and_what_to_do_with_it(tiny_mllm, evaluated, tmp_path, capsys):
    flags = ["--name", "org/tiny", "--release_date", "2026-01-31"]
    assert main(submission("mmeb", tiny_mllm, evaluated, tmp_path, *flags)) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "scores" / "tiny.json").read_text())
    assert len(written["metrics"]["image"]) == 36 and written["metadata"]["model_release_date"] == "2026-01-31"
    assert str(tmp_path / "scores" / "tiny.json") in printed and "TIGER-Lab/MMEB-Leaderboard" in printed


def test_missing_subsets_are_named(tiny_mllm, mmeb_part, tmp_path, capsys):
    flags = ["--name", "org/tiny", "--release_date", "2026-01-31"]
    assert main(submission("mmeb", tiny_mllm, mmeb_part, tmp_path, *flags)) == 2
    error = capsys.readouterr().err
    assert "35 of the 36 Image subsets" in error and "GQA" in error and not (tmp_path / "scores").exists()


@pytest.fixture
def mmeb_part(evaluated: Path, tmp_path: Path) -> Path:
    part = shutil.copytree(evaluated, tmp_path / "part", ignore=shutil.ignore_patterns("MMEB_GQA.json"))
    assert len(list(part.rglob("results/*/*/MMEB_*.json"))) == 35
    return part


@pytest.fixture
def benchmark(monkeypatch) -> str:
    """A benchmark of two of mteb's mock tasks, known to mteb."""
    import mteb
    from mteb.benchmarks.benchmark import Benchmark
    from mteb.get_tasks import _TASKS_REGISTRY
    from mteb.mocks import ALL_MOCK_TASK_TEST_GRID

    names = ("MockSTSTask", "MockVisionCentricQA")
    tasks = {task.metadata.name: task for task in ALL_MOCK_TASK_TEST_GRID if task.metadata.name in names}
    for name, task in tasks.items():
        monkeypatch.setitem(_TASKS_REGISTRY, name, type(task))
    made = Benchmark(name="Mocks(v1)", tasks=[type(task)() for task in tasks.values()])
    registry = importlib.import_module("mteb.benchmarks.get_benchmark")
    monkeypatch.setattr(registry, "_build_registry", lambda: {made.name: made})
    monkeypatch.setattr(registry, "_build_aliases_registry", dict)
    assert [each.name for each in mteb.get_benchmarks()] == ["Mocks(v1)"]
    return made.name


def test_the_files_for_mteb_and_what_is_open(embedder, benchmark, tmp_path, capsys):
    model = tmp_path / "tiny"
    embedder.save_pretrained(str(model))
    results, out = tmp_path / "out", tmp_path / "submission"
    flags = ["--output_dir", str(results), "--quiet"]
    assert main(["evaluate", str(model), "--benchmark", benchmark, "--limit", "2", *flags]) == 0
    command = submission("mteb", model, results, out, "--name", "org/tiny", "--hub_revision", COMMIT)
    capsys.readouterr()
    assert main(command) == 2
    assert "only quick looks" in capsys.readouterr().err and not out.exists()

    assert main(["evaluate", str(model), "--benchmark", benchmark, *flags]) == 0
    capsys.readouterr()
    assert main([*command, "--no_mock_run", "--training_datasets", "--license", "mit", "--contacts", "me"]) == 0
    printed = capsys.readouterr().out
    assert "Complete: Mocks(v1)." in printed and "Open: release_date" in printed
    assert "Open: training_datasets" not in printed  # stated: none
    assert (out / "results" / "org__tiny" / COMMIT / "MockVisionCentricQA.json").is_file()
    module = (out / "mteb" / "models" / "model_implementations" / "tiny_models.py").read_text()
    assert f'revision="{COMMIT}"' in module and "training_datasets=set()" in module and 'license="mit"' in module
    assert main([*command, "--no_mock_run"]) == 2
    assert "is not empty" in capsys.readouterr().err
