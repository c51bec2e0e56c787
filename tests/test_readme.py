"""What the README shows is what works: its Python runs, its commands exist with these flags."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.split("&&")[-1].strip() for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line.removeprefix("uv run --all-extras ")) for line in lines]


def test_the_python_blocks_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"anchor": f"a question about {word}", "positive": f"{word} is the answer"} for word in "abcdefghijklmnop"]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(blocks("python")) == 3
    namespace: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)  # noqa: S102
    assert namespace["model"].similarity(namespace["queries"], namespace["documents"]).shape == (1, 2)
    assert len(namespace["mined"][0]["label"]) == 3
    assert Path("my-embedder/modules.json").exists()


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "saha-st"], ids=lambda c: c[1])
def test_the_commands_exist_with_these_flags(command):
    from saha_st.cli import build_parser

    args, extra = build_parser().parse_known_args(command[1:])
    assert args.command == command[1]
    assert not extra or args.takes_extra


def test_the_two_commands_of_the_newcomer_are_there():
    assert ["saha-st", "quickstart"] in commands() and ["pytest"] in commands()
    assert README.count("pip install uv && uv run --all-extras") == 2
