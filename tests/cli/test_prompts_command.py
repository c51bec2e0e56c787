"""`saha-st prompts`: the string that a model reads, and the table of a sweep on a user's own pairs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from saha_st.cli import main
from saha_st.prompts import QUERY_SUFFIX, SYSTEM, HierarchicalPrompt

SWEEP = "- {name: ask, system: Name it., query_suffix: '\n\n  One word:'}\n- {name: bare}\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"anchor": f"a question about {word}", "positive": f"{word} is the answer"} for word in "abcdefgh"]
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "prompts.yaml").write_text(SWEEP)
    return tmp_path


def test_without_pairs_every_prompt_is_shown_to_the_letter(files, capsys):
    arguments = ["--presets", "none", "both", "--sweep", "prompts.yaml", "--text", "two stars", "--quiet"]
    assert main(["prompts", "--model", "saha-tiny-base", *arguments]) == 0
    printed = capsys.readouterr().out
    both = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    assert f"tokens\n{both}two stars{QUERY_SUFFIX['text']}<|im_end|>\n<|im_start|>assistant\n" in printed
    assert f"tokens\n{both}two stars<|im_end|>\n<|im_start|>assistant\n" in printed  # the document
    assert f"<|image_pad|>×16<|vision_end|>two stars{QUERY_SUFFIX['image']}<|im_end|>" in printed
    assert "<|im_start|>system\nName it.<|im_end|>\n<|im_start|>user\ntwo stars\nOne word:<|im_end|>" in printed
    assert re.findall("^# (.*)$", printed, flags=re.MULTILINE) == [
        "none",
        "both, what it has as it is loaded",
        "ask",
        "bare",
    ]
    assert not (files / "prompt-sweep").exists()


def test_a_sweep_writes_its_table_and_how_to_load_the_winner(files, capsys):
    command = ["prompts", "dev.jsonl", "--model", "saha-tiny-base", "--sweep", "prompts.yaml", "--presets", "user"]
    assert main([*command, "--max_rows", "6", "--output_dir", "out", "--quiet"]) == 0
    printed, page = capsys.readouterr().out, (files / "out" / "prompts.md").read_text()
    assert page in printed and "6 queries, 6 documents" in page
    found = json.loads((files / "out" / "prompts.json").read_text())
    assert found["rows"] == 6 and found["model"] == "saha-tiny-base"
    names = [each["name"] for each in found["prompts"]]
    assert sorted(names) == ["as loaded", "ask", "bare", "user"]
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == names
    assert all(len(each["ranks"]) == 6 and min(each["ranks"]) >= 1 for each in found["prompts"])
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    namespace: dict = {}
    exec(block, namespace)  # noqa: S102
    best = {name: found["prompts"][0].get(name) for name in ("system", "query_suffix", "document_suffix")}
    assert namespace["model"][0].prompt == HierarchicalPrompt(**best)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- {name: a, suffix: x}", "prompt 'a': unknown field 'suffix'"),
        ("- {name: both, system: x}", "another one than the preset 'both'"),
    ],
)
def test_a_wrong_file_is_refused_in_a_line(files, capsys, text, named):
    (files / "prompts.yaml").write_text(text)
    assert main(["prompts", "dev.jsonl", "--model", "saha-tiny-base", "--sweep", "prompts.yaml"]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


BEFORE_TORCH = """
import sys
from pathlib import Path
from saha_st.cli import main
for command in sys.argv[1:]:
    assert main(["prompts", *command.split(), "--quiet"]) == 2, command
    assert not {"torch", "sentence_transformers", "mteb"} & set(sys.modules), command
"""


def test_what_can_be_known_at_once_is_refused_before_torch_is_imported(files):
    (files / "wrong.yaml").write_text("- {name: a, suffix: x}")
    commands = [
        "dev.jsonl --model saha-tiny --sweep missing.yaml",
        "dev.jsonl --model saha-tiny --sweep wrong.yaml",
        "dev.jsonl --model ./missing",
        "missing.jsonl --model saha-tiny",
    ]
    finished = subprocess.run([sys.executable, "-c", BEFORE_TORCH, *commands], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("error: ") == len(commands)


def test_the_readme_s_commands_run_with_its_prompts(files, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf8")
    (prompts,) = re.findall(r"^```yaml\n(- \{name: .*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    (files / "prompts.yaml").write_text(prompts)
    (files / "dev.jsonl").rename("pairs.jsonl")
    commands = re.findall(r"^saha-st (prompts .*)$", readme, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main([*shlex.split(command, comments=True), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "# user-turn" in printed and "| `task` |" in printed and "| `short` |" in printed
