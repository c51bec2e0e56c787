"""Nothing is imported that is not used: help at once, and each command without the libraries of the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HELP = """
import sys
import saha_st
from saha_st.cli import COMMANDS, main
heavy = {"torch", "transformers", "sentence_transformers", "datasets", "numpy", "PIL", "mteb", "gradio", "matplotlib"}
assert not heavy & set(sys.modules), ("import saha_st", heavy & set(sys.modules))
for command in ["", *(command.NAME for command in COMMANDS)]:
    try:
        main([*command.split(), "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0
    assert not heavy & set(sys.modules), (command, heavy & set(sys.modules))
"""

RUN = """
import json, sys
from saha_st.cli import main
for command, forbidden in json.loads(sys.argv[1]):
    assert main(command) == 0, command
    assert not set(forbidden) & set(sys.modules), (command, set(forbidden) & set(sys.modules))
"""

OF_OTHERS = ["mteb", "gradio", "matplotlib", "faiss"]  # of evaluate, demo and an index that nobody asked for


def run(code: str, *arguments: str, cwd: Path | None = None) -> str:
    finished = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_help_of_no_command_imports_a_library():
    output = run(HELP)
    assert output.count("usage: saha-st") > 10 and "usage: saha-st preflight" in output


def test_no_command_imports_what_others_use(tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps({"anchor": f"query {i}", "positive": f"document {i}"}) for i in range(12)))
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    (tmp_path / "run.yaml").write_text(
        f"model: saha-tiny-base\noutput_dir: out\ndata: {{path: {pairs}}}\n"
        "mining: {num_negatives: 3}\ntraining: {per_device_train_batch_size: 4, max_steps: 1, use_cpu: true}\n"
    )
    model = ["--model", "saha-tiny", "--quiet"]
    commands = [
        (["data", "check", str(pairs), "--quiet"], ["torch", "transformers", "sentence_transformers", *OF_OTHERS]),
        (["encode", "texts.txt", *model, "--output", "v.parquet"], OF_OTHERS),
        (["mine", str(pairs), *model, "--output_dir", "mined", "--num_negatives", "3"], OF_OTHERS),
        (["preflight", "--config", "run.yaml", "--estimate_only", "--quiet"], OF_OTHERS),
        (["train", "--config", "run.yaml", "--quiet"], ["mteb", "gradio", "faiss"]),  # its card has a figure
    ]
    run(RUN, json.dumps(commands), cwd=tmp_path)
    assert (tmp_path / "out" / "final" / "modules.json").exists()
