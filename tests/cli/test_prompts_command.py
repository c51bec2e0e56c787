"""`saha-st prompts`: the string that a model reads, and the table of a sweep on a user's own pairs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from saha_st.cli import main
from saha_st.evaluation import prompt_sweep
from saha_st.evaluation.prompt_presets import PRESETS
from saha_st.modules import load_embedder
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
    assert "Nothing was scored: give PAIRS to compare the prompts of prompts.yaml" in printed
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
        ("- {name: as loaded, system: x}", "'prompts.yaml', prompt 1: the name 'as loaded' is kept"),
        ("- {name: a,\n   name: b}", "'name' of the prompt 'b' stands there twice (line 1"),
        ("- {name: a", "is not valid YAML"),
        ("- {name: a, suffix: x}", "prompt 'a': unknown field 'suffix'"),
        ("- {name: both, system: x}", "another one than the preset 'both'"),
    ],
)
def test_a_wrong_file_is_refused_in_a_line(files, capsys, text, named):
    (files / "prompts.yaml").write_text(text)
    assert main(["prompts", "dev.jsonl", "--model", "saha-tiny-base", "--sweep", "prompts.yaml"]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def sweep(*arguments):
    return main(["prompts", "dev.jsonl", "--output_dir", "out", *arguments, "--quiet"])


def results(files):
    return json.loads((files / "out" / "prompts.json").read_text())


def test_the_page_and_the_results_name_all_options_that_were_given(files):
    (files / "dev.jsonl").write_text((files / "dev.jsonl").read_text().replace("anchor", "question"))
    of_model = [
        "--model",
        "saha-tiny-base",
        "--truncate_dim",
        "32",
        "--max_seq_length",
        "64",
        "--image_tokens",
        "4",
        "8",
    ]
    of_pairs = ["--anchor", "question", "--max_rows", "6", "--split", "train", "--seed", "3"]
    assert sweep(*of_model, *of_pairs, "--presets", "user") == 0
    options = {"truncate_dim": 32, "max_seq_length": 64, "image_tokens": [4, 8]}
    found, page = results(files), (files / "out" / "prompts.md").read_text()
    assert found["model_options"] == options and found["pairs"] == "dev.jsonl"
    pairs_options = {"format": "pairs", "subset": None, "split": "train", "anchor": "question", "positive": "positive"}
    assert found["pairs_options"] == pairs_options | {"image_root": None, "max_rows": 6, "seed": 3}
    title = page.splitlines()[0]
    for word in ("truncate_dim=32", "max_seq_length=64", "anchor='question'", "split='train'", "max_rows=6", "seed=3"):
        assert word in title
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    namespace: dict = {}
    exec(block, namespace)  # noqa: S102
    model = namespace["model"]
    assert model.truncate_dim == 32 and model.max_seq_length == 64
    (config,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    config = yaml.safe_load(config)
    assert config.pop("max_seq_length") == 64 and config.pop("image_tokens") == [4, 8]  # what `train` knows
    assert HierarchicalPrompt(**config.pop("prompt")) == model[0].prompt and not config


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Two embedders: one with a prompt that is none of ours, and one whose template drops the system level."""
    folder = tmp_path_factory.mktemp("others")
    turns = (
        "{% for m in messages if m.role == 'user' %}{% for p in m.content %}{{ p.text if p.text is defined else "
        "'<|vision_start|><|image_pad|><|vision_end|>' }}{% endfor %}{% endfor %}"
    )
    for name, prompts in {"foreign": {"query": "Instruct: find", "document": ""}, "deaf": {}}.items():
        model = load_embedder("saha-tiny-base", device="cpu")
        for owner in (model[0].processor, model[0].tokenizer):
            owner.chat_template = HierarchicalPrompt.strip(owner.chat_template) if name == "foreign" else turns
        model.prompts = prompts
        model.save_pretrained(str(folder / name))
    return folder


def test_an_embedder_of_others_is_shown_and_scored_as_it_is_loaded(files, others, capsys):
    name = str(others / "foreign")
    assert main(["prompts", "--model", name, "--presets", "none", "--text", "two stars", "--quiet"]) == 0
    first, second = capsys.readouterr().out.split("# none\n")
    assert first.startswith("# as loaded\n## query") and "system\nInstruct: find<|im_end|>" in first
    assert "Instruct" not in second
    assert sweep("--model", name, "--presets", "user") == 0
    assert sorted(each["name"] for each in results(files)["prompts"]) == ["as loaded", "user"]
    model = load_embedder(name, device="cpu")
    rows = [json.loads(line) for line in (files / "dev.jsonl").read_text().splitlines()]
    queries, documents = (model.encode_query, "anchor"), (model.encode_document, "positive")
    queries, documents = (encode([row[column] for row in rows]) for encode, column in (queries, documents))
    ranks = [1 + sum(scores > scores[row] + 1e-6) for row, scores in enumerate(queries @ documents.T)]
    (as_loaded,) = [each for each in results(files)["prompts"] if each["name"] == "as loaded"]
    assert as_loaded["as_loaded"] is True and as_loaded["ranks"] == ranks


def test_where_the_model_s_own_is_best_the_page_loads_it_without_another(files, others, monkeypatch):
    def unlucky(queries, documents, right, ranks_of=prompt_sweep.ranks_of, asked=[]):  # noqa: B006
        asked.append(ranks_of(queries, documents, right))
        return asked[-1] * 0 + len(asked)  # the first prompt that is asked hits always

    monkeypatch.setattr(prompt_sweep, "ranks_of", unlucky)
    assert sweep("--model", str(others / "foreign"), "--presets", "user") == 0
    page = (files / "out" / "prompts.md").read_text()
    assert "The model with `as loaded`" in page and "prompt: null" in page
    assert f"model = load_embedder({str(others / 'foreign')!r})\n" in page


def test_presets_that_the_template_drops_are_left_out_and_a_user_s_own_is_refused(files, others, capsys):
    name = str(others / "deaf")
    assert main(["prompts", "--model", name, "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert re.findall("^# (.*)$", printed, flags=re.MULTILINE) == ["as loaded", *PRESETS]
    assert printed.count("drops the system text") == 2 and "HierarchicalPrompt(" not in printed
    assert "# user\n## query" in printed  # what comes after one that is refused
    assert sweep("--model", name) == 0
    found, page = results(files), (files / "out" / "prompts.md").read_text()
    assert sorted(each["name"] for each in found["prompts"]) == ["as loaded", "none", "user", "user-turn"]
    assert list(found["left_out"]) == ["system", "both"]
    assert f"* `both` is left out: The chat template of {name!r} drops the system text" in page
    capsys.readouterr()
    assert sweep("--model", name, "--sweep", "prompts.yaml") == 2
    error = capsys.readouterr().err
    assert "'prompts.yaml', prompt 'ask': The chat template" in error and "drops the system text 'Name it.'" in error
    assert "Leave that level out of this prompt" in error and "HierarchicalPrompt" not in error


def test_results_of_another_model_or_of_other_pairs_are_not_written_over(files, capsys):
    command = ["--model", "saha-tiny-base", "--presets", "user"]
    assert sweep(*command) == 0
    before = results(files)
    for arguments, named in (
        (["--model", "saha-tiny", "--presets", "user"], 'model is "saha-tiny-base" there and "saha-tiny" here'),
        ([*command, "--max_rows", "5"], "pairs_options is "),
        ([*command, "--truncate_dim", "16"], 'model_options is {} there and {"truncate_dim": 16} here'),
    ):
        capsys.readouterr()
        assert sweep(*arguments) == 2 and named in capsys.readouterr().err
    (files / "dev.jsonl").write_text((files / "dev.jsonl").read_text() + '\n{"anchor": "x", "positive": "y"}')
    assert sweep(*command) == 2 and "the pairs of this name were others" in capsys.readouterr().err
    assert results(files) == before
    (files / "dev.jsonl").write_text("\n".join((files / "dev.jsonl").read_text().splitlines()[:-1]))
    assert sweep(*command, "none") == 0  # the same, and one prompt more
    assert len(results(files)["prompts"]) == len(before["prompts"]) + 1
    (files / "out" / "prompts.json").write_text("[1]")
    assert sweep(*command) == 2


def test_pairs_with_nothing_to_choose_among_are_refused(files, capsys):
    (files / "dev.jsonl").write_text('{"anchor": "a", "positive": "b"}')
    assert sweep("--model", "saha-tiny-base") == 2
    error = capsys.readouterr().err
    assert "one row" in error and "a sweep needs at least two" in error and "contrastive" not in error
    (files / "dev.jsonl").write_text('{"anchor": "a", "positive": "b"}\n{"anchor": "c", "positive": "b"}')
    assert sweep("--model", "saha-tiny-base") == 2
    assert "1 distinct document in 2 rows" in capsys.readouterr().err


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
        "dev.jsonl --model saha-tiny --output_dir wrong.yaml",
        "dev.jsonl --model saha-tiny --output_dir wrong.yaml/below",
        "dev.jsonl --model saha-tiny --presets",
        "--model saha-tiny --presets",
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
