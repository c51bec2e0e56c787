"""What `benchmarks/prompts.py` and `benchmarks/real_text.py` compare: their cells, intervals, and pairs."""

from __future__ import annotations

import ast
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from saha_st.evaluation.prompt_presets import PRESETS
from saha_st.modules import load_embedder

SETTINGS = {"model": "saha-tiny-base", "max_steps": 2, "train_rows": 20, "eval_rows": 5}


@pytest.fixture(autouse=True)
def benchmarks_folder(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def write_cell(folder, form, stage, seed, overall, settings=SETTINGS):
    from prompts import MEANS

    tasks = {"a": overall, "b": overall}
    cell = {"means": dict.fromkeys(MEANS, overall), "tasks": tasks, "queries": {"a": 100, "b": 100}, "ind": ["a"]}
    cell |= {"settings": settings, "modality_gap": 0.5, "spread": 0.8}
    file = folder / "cells" / f"{form}.{stage}{'' if seed is None else f'.{seed}'}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(cell))


def test_a_cell_that_is_there_is_not_measured_again_and_one_of_other_settings_is_refused(tmp_path):
    from prompts import ZERO_SHOT, Cells

    cells = Cells(Namespace(output_dir=tmp_path, **SETTINGS), tmp_path / "missing")
    write_cell(tmp_path, "none", ZERO_SHOT, None, 0.5)
    cells.fill("none", ZERO_SHOT, None)  # would need the data
    write_cell(tmp_path, "both", ZERO_SHOT, None, 0.5, settings=SETTINGS | {"eval_rows": 6})
    with pytest.raises(ValueError, match="Choose another --output_dir"):
        cells.fill("both", ZERO_SHOT, None)


def test_the_tables_show_the_interval_over_queries_and_over_seeds(tmp_path):
    from prompts import TUNED, ZERO_SHOT, Cells, render

    options = Namespace(output_dir=tmp_path, forms=["none", "both"], seeds=[0, 1, 2], **SETTINGS)
    for form, scores in {"none": (0.4, 0.5, 0.6), "both": (0.5, 0.6, 0.7)}.items():
        write_cell(tmp_path, form, ZERO_SHOT, None, 0.5)
        for seed, score in enumerate(scores):
            write_cell(tmp_path, form, TUNED, seed, score)
    page = render(Cells(options, tmp_path), options)
    overall = 100 * 1.96 * np.sqrt(2 * 0.25 / 100) / 2
    assert f"| 50.0 ± {overall:.1f} | 0.50 | 0.80 |" in page and "50.0 ± 9.8" in page  # both tasks, and one
    assert f"| 60.0 ± {100 * 4.303 * 0.1 / np.sqrt(3):.1f} |" in page
    assert "| `none` | -10.0, -10.0, -10.0 | -10.0 ± 0.0 |" in page


@pytest.mark.slow
def test_a_cell_is_trained_with_its_prompt_and_what_is_killed_goes_on(tmp_path, capsys, monkeypatch):
    import prompts

    arguments = ["prompts.py", "--output_dir", str(tmp_path), "--forms", "user-turn", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", [*arguments, "--max_steps", "2", "--train_rows", "40", "--eval_rows", "5"])
    trained = []
    train = prompts.train
    monkeypatch.setattr(prompts, "train", lambda config, **kwargs: trained.append(config) or train(config, **kwargs))
    prompts.main()
    assert [config.prompt for config in trained] == [PRESETS["user-turn"]]
    tables = (tmp_path / "PROMPTS.md").read_text()
    assert tables in capsys.readouterr().out and tables.count("| `user-turn` |") == 2
    (tmp_path / "cells" / "user-turn.zero-shot.json").unlink()
    prompts.main()
    assert len(trained) == 1 and (tmp_path / "PROMPTS.md").read_text() == tables


def test_pairs_whose_answer_stands_in_the_question_are_left_out():
    from real_pairs import without_hints

    pairs = [
        ("Set the payload.", "set_payload"),  # not in these letters
        ("Set payload to a value.", "set_payload"),
        ("a small boat", "dinghy"),
        ("a small boat", "skiff"),
    ]
    assert without_hints(pairs) == {"Set the payload.": "set_payload", "a small boat": "dinghy"}


def test_functions_are_taken_with_the_first_line_of_their_docstring():
    from real_pairs import documented

    source = '''
class Pool:
    def submit_all(self):
        """Hand every task to a worker.

        More.
        """
    def _hidden(self):
        """Hand every task to a worker."""
def shorty():
    """Too short."""
async def unfinished():
    """This sentence goes on in the
    next line."""
'''
    assert list(documented(ast.parse(source))) == [("Hand every task to a worker.", "submit_all")]


def test_each_function_of_a_library_is_asked_for_once():
    from real_pairs import functions

    pairs = functions(Path(json.__file__).parents[1] / "email")
    assert len(pairs) > 20 and len(set(pairs.values())) == len(pairs)


def test_what_is_left_shares_no_answer_with_what_is_drawn():
    from real_pairs import draw

    pairs = {f"question {number}": f"answer {number % 30}" for number in range(60)}
    drawn, left = draw(pairs, 20, seed=0)
    assert len(drawn) == 20 and left and not set(drawn["positive"]) & set(left.values())
    assert all(pairs[row["anchor"]] == row["positive"] for row in drawn)
    assert drawn[:] == draw(pairs, 20, seed=0)[0][:] != draw(pairs, 20, seed=1)[0][:]


def test_raw_text_is_the_text_alone(tiny_mllm):
    from real_text import RAW

    from saha_st.modules.loading import set_prompt

    model = load_embedder(str(tiny_mllm), device="cpu")
    for owner in (model[0].processor, model[0].tokenizer):
        owner.chat_template = RAW.replace("message['content']", "message['content'][0]['text']")  # structured here
    set_prompt(model, PRESETS["none"], "raw")
    ids = model.preprocess(["a red circle"], prompt=model.prompts["query"], task="query")["input_ids"][0]
    assert model.tokenizer.decode(ids) == "a red circle"
