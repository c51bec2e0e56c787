"""`saha-st evaluate` as a user runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saha_st.cli import main
from saha_st.data.scenes import write_mini_mmeb


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subsets = ["Digits", "CountVQA", "Scenes_t2i", "Crops"]
    folder = tmp_path_factory.mktemp("data") / "mini"
    return write_mini_mmeb(folder, train_rows=1, eval_rows=12, candidates=6, subsets=subsets)


def evaluate(model: Path | str, *flags: str, benchmark: str = "mini-mmeb") -> list[str]:
    return ["evaluate", str(model), "--benchmark", benchmark, "--quiet", "--device", "cpu", *flags]


def test_a_table_a_chart_and_mtebs_files_come_out_and_a_second_run_only_reads(tiny_mllm, mini, tmp_path, capsys):
    out = tmp_path / "out"
    command = evaluate(tiny_mllm, "--data_dir", str(mini), "--output_dir", str(out), "--name", "org/tiny")
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| hit@1 (%) | org/tiny |" in printed and "| **Overall** |" in printed
    (report,) = (out / "reports" / "org__tiny").glob("*/mini-mmeb.md")
    assert str(report) in printed and report.with_suffix(".png").exists()
    files = {file: file.stat().st_mtime_ns for file in (out / "results").rglob("*") if file.is_file()}
    assert {file.name for file in files} == {
        *(f"MiniMMEB_{name}.json" for name in ("Digits", "CountVQA", "Scenes_t2i", "Crops")),
        "model_meta.json",
        "run_settings.jsonl",
    }
    assert main(command) == 0
    again = capsys.readouterr().out
    assert again == printed
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_an_interrupted_run_says_how_to_go_on(tiny_mllm, mini, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("saha_st.evaluation.run.mteb.evaluate", interrupt)
    assert main(evaluate(tiny_mllm, "--data_dir", str(mini), "--output_dir", str(tmp_path))) == 130
    assert "saha-st evaluate: interrupted. Start the same command again to go on." in capsys.readouterr().err


def test_two_models_side_by_side_and_a_quick_look(tiny_mllm, mini, tmp_path, capsys):
    out = tmp_path / "out"
    command = evaluate(tiny_mllm, "--data_dir", str(mini), "--output_dir", str(out), "--limit", "3")
    assert main([*command, "--compare_with", "saha-tiny"]) == 0
    printed = capsys.readouterr().out
    assert f"| hit@1 (%) | local/{tiny_mllm.name} | local/saha-tiny |" in printed
    assert "A quick look at 3 queries" in printed and "mini-mmeb.limit-3.md" in printed
    assert not list((out / "results").glob("*/*/*.json"))
    assert len(list((out / "results").glob("*/*/experiments/limit_3/MiniMMEB_*.json"))) == 8


def test_the_folder_of_a_run_stands_for_its_model_and_names_it(embedder, mini, tmp_path, capsys):
    embedder.save_pretrained(str(tmp_path / "my-run" / "final"))
    out, flags = tmp_path / "out", ("--data_dir", str(mini), "--limit", "3")
    assert main(evaluate(tmp_path / "my-run", *flags, "--output_dir", str(out))) == 0
    assert "| hit@1 (%) | local/my-run |" in capsys.readouterr().out
    found = sorted(out.glob("results/*/*/experiments/limit_3/MiniMMEB_*.json"))
    assert len(found) == 4 and {file.parents[3].name for file in found} == {"local__my-run"}
    times = [file.stat().st_mtime_ns for file in found]
    assert main(evaluate(tmp_path / "my-run" / "final", *flags, "--output_dir", str(out))) == 0
    assert [file.stat().st_mtime_ns for file in found] == times


def test_tasks_of_mteb_run_by_name(tiny_mllm, tmp_path, capsys, monkeypatch):
    from mteb.mocks import ALL_MOCK_TASK_TEST_GRID

    (task,) = [task for task in ALL_MOCK_TASK_TEST_GRID if task.metadata.name == "MockVisionCentricQA"]
    monkeypatch.setattr("saha_st.evaluation.catalogue.TASK_LIST", (type(task),))
    monkeypatch.setitem(
        __import__("mteb.get_tasks").get_tasks.__globals__["_TASKS_REGISTRY"], task.metadata.name, type(task)
    )
    assert main(evaluate(tiny_mllm, "--output_dir", str(tmp_path), benchmark=task.metadata.name)) == 0
    assert "| accuracy (%) |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "benchmark", "message"),
    [
        ([], "MMEB(v3)", r"Did you mean 'MMEB\(v2\)'"),
        (["--compare_with", "paper"], "mini-mmeb", "no published figures on 'mini-mmeb'"),
        (
            ["--compare_with", "saha-tyny"],
            "mini-mmeb",
            "'saha-tyny' is no folder here.*Did you mean 'saha-tiny'",
        ),
        (["--compare_with", "./nowhere"], "mini-mmeb", "There is no model folder './nowhere'"),
        (["--image_root", "x"], "mini-mmeb", "image_root: mini-mmeb is generated"),
        (["--data_dir", "nowhere"], "MMEB(v1)", "nowhere"),
    ],
)
def test_a_mistake_is_named_before_the_model_is_run(flags, benchmark, message, tiny_mllm, mini, tmp_path, capsys):
    place = [] if "--data_dir" in flags else ["--data_dir", str(mini)]
    command = evaluate(tiny_mllm, *place, "--output_dir", str(tmp_path / "out"), *flags, benchmark=benchmark)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and "Traceback" not in error
    assert not (tmp_path / "out" / "results").exists()
