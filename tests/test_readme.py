"""What README and FIDELITY.md show is what works: Python runs, commands exist with these flags."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saha_st.cli import build_parser, main
from saha_st.cli.train import parse_training_arguments
from saha_st.evaluation import find_benchmark, published_for
from saha_st.training.config import RunConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")
FIDELITY = (ROOT / "model_card" / "FIDELITY.md").read_text(encoding="utf8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.split("&&")[-1].strip() for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line.removeprefix("uv run --all-extras "), comments=True) for line in lines]


@pytest.fixture
def pairs(tmp_path):
    rows = [{"anchor": f"a question about {word}", "positive": f"{word} is the answer"} for word in "abcdefghijklmnop"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_the_python_blocks_run_one_after_another(tmp_path, monkeypatch, pairs):
    monkeypatch.chdir(tmp_path)
    assert len(blocks("python")) == 7
    namespace: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)  # noqa: S102
    assert namespace["model"].similarity(namespace["queries"], namespace["documents"]).shape == (1, 2)
    assert namespace["clips"].shape == (2, 160) and np.abs(namespace["clips"][0] - namespace["clips"][1]).max() > 1e-3
    assert len(namespace["mined"][0]["label"]) == 3
    assert Path("my-embedder/modules.json").exists()
    assert namespace["codes"].dtype == np.int8 and namespace["codes"].shape == (3, 80)
    assert {task.num_queries for task in namespace["scores"].tasks.values()} == {3}


def test_the_commands_do_their_job_on_files_like_those(tmp_path, monkeypatch, pairs):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("RGB", (64, 64), "red").save("photos/red.png")
    ran = []
    for command in commands():
        if command[0] == "saha-st" and command[1] in ("data", "mine", "encode"):
            assert main(command[1:]) == 0, command
            ran.append(command[1])
    assert sorted(ran) == ["data", "encode", "mine"]
    assert Path("mined/clusters.parquet").exists() and Path("photos.safetensors").exists()


def test_the_scripts_find_the_picture_that_was_encoded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("RGB", (64, 64), "red").save("photos/red.png")
    (encoding,) = [command[1:] for command in commands() if command[:2] == ["saha-st", "encode"]]
    assert main(encoding) == 0
    scripts = [command[1:] for command in commands() if command[0] == "python"]
    assert [(command[0], command[1]) for command in scripts] == [
        (f"examples/{store}_search.py", action) for store in ("faiss", "lancedb") for action in ("add", "search")
    ]
    for command in scripts:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", command)
        runpy.run_path(str(ROOT / command[0]), run_name="__main__")
        printed = capsys.readouterr().out
        assert printed.startswith("1 added") if command[1] == "add" else printed.endswith("  red.png\n")


def test_the_commands_for_many_processes_and_the_preflight_have_these_flags():
    launched = [command[command.index("saha_st") + 1 :] for command in commands() if "saha_st" in command]
    assert {command[0] for command in launched} == {"mine", "train", "evaluate"}
    preflights = [command[1:] for command in commands() if command[:2] == ["saha-st", "preflight"]]
    assert len(preflights) == 1
    for command in launched + preflights:
        assert build_parser().parse_args(command).command == command[0]


def test_the_training_command_has_these_flags():
    (command,) = [command for command in commands() if command[:2] == ["saha-st", "train"]]
    args, extra = build_parser().parse_known_args(command[1:])
    config = RunConfig.from_file(args.config, training=parse_training_arguments(extra), output_dir=args.output_dir)
    assert config.training["learning_rate"] == 5e-5 and config.output_dir == "saha-2b"


def test_the_evaluation_scores_what_it_says_and_the_other_commands_have_these_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [command[command.index("evaluate") :] for command in commands() if "evaluate" in command]
    assert len(lines) == 4
    for line in lines:
        args = build_parser().parse_args(line)
        assert args.benchmark and args.output_dir == "evaluation"
    assert main([*lines[0], "--limit", "2", "--quiet"]) == 0
    assert "| hit@1 (%) | local/saha-tiny | local/saha-tiny-base |" in capsys.readouterr().out
    assert len(list(Path("evaluation/reports/local__saha-tiny").glob("*/mini-mmeb.limit-2.png"))) == 1
    submissions = [build_parser().parse_args(command[1:]) for command in commands() if "submission" in command]
    assert [args.leaderboard for args in submissions] == ["mteb", "mmeb"]
    assert all(args.results == "evaluation" for args in submissions)


def test_the_two_commands_of_the_newcomer_are_there():
    assert ["saha-st", "quickstart"] in commands() and ["pytest", "-n", "2"] in commands()
    assert README.count("pip install uv && uv run --all-extras") == 2


def test_the_commands_that_share_and_show_have_these_flags():
    shared = {"publish": [], "verify": [], "demo": []}
    for command in commands():
        if command[0] == "saha-st" and command[1] in shared:
            shared[command[1]].append(build_parser().parse_args(command[1:]))
    assert [args.dry_run for args in shared["publish"]] == [True, False]
    assert [args.backend for args in shared["verify"]] == ["transformers", "vllm"]
    assert shared["verify"][1].server == "http://localhost:8000"
    assert [args.gallery for args in shared["demo"]] == ["scenes", "photos"]


def test_what_would_check_the_paper_s_claims_has_these_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = (ROOT / "saha_st/recipes/qwen2-vl-2b-mmeb.yaml").read_text()
    assert "s/^mining:.*/mining: null/" in FIDELITY
    Path("random.yaml").write_text(re.sub("^mining:.*", "mining: null", recipe, flags=re.MULTILINE))
    Path("val2017").mkdir()
    lines = [shlex.split(line) for line in re.findall(r"`((?:saha-st|accelerate launch) [^`]*)`", FIDELITY)]
    ran = []
    for line in lines:
        args, extra = build_parser().parse_known_args(
            line[1:] if line[0] == "saha-st" else line[line.index("saha_st") + 1 :]
        )
        assert not extra, line
        if args.command == "train":
            RunConfig.from_file(args.config)
        elif args.command == "evaluate":
            benchmark = find_benchmark(args.benchmark, image_root=args.image_root)
            assert not args.compare_with or published_for(benchmark.name)
        ran.append(args.command)
    assert {name: ran.count(name) for name in ran} == {"evaluate": 6, "train": 2, "mine": 1, "verify": 1}
    assert RunConfig.from_file("random.yaml").mining is None
    (python,) = re.findall(r"^```python\n(.*?)^```", FIDELITY, flags=re.MULTILINE | re.DOTALL)
    compile(python, "FIDELITY.md", "exec")
