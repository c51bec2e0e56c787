"""The newcomer's run, small and whole."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from saha_st.modules import load_embedder
from saha_st.quickstart.run import IN_BATCH, PLAIN, PROMPTED, TUNED, quickstart

SEARCH_WITHOUT_US = """
import sys
sys.modules["saha_st"] = None
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
queries, documents = model.encode_query(["a red circle"]), model.encode_document(["red circle", "two blue stars"])
scores = model.similarity(queries, documents)
assert scores[0, 0] > scores[0, 1], scores
"""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    lines: list[str] = []
    options = {"train_rows": 48, "eval_rows": 4, "max_steps": 3, "report": lines.append}
    return quickstart(folder, compare=True, **options), lines, folder


def test_every_stage_is_reported_and_scored(small_run):
    result, lines, _ = small_run
    assert list(result.scores) == [PLAIN, PROMPTED, IN_BATCH, TUNED]
    assert [line for line in lines if "…" in line] and len(lines) == 2 * 8
    assert all(0 <= value <= 1 for scores in result.scores.values() for value in scores.by_task.values())
    assert len({len(scores.tasks) for scores in result.scores.values()}) == 1
    assert "| **Overall** |" in result.table


def test_the_page_is_self_contained_and_shows_searches(small_run):
    result, _, _ = small_run
    page = result.page.read_text(encoding="utf8")
    assert page.count('<section class="search">') >= 5
    assert page.count("data:image/png;base64,") > 20
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert f"{100 * result.scores[TUNED].overall:.1f}" in page
    assert all(f"{term} is the " in page for term in ("hit@1", "IND (in distribution)"))


def test_the_card_of_the_model_shows_the_numbers_of_the_page_and_whose_data_they_were(small_run):
    result, _, folder = small_run
    card = (result.model_dir / "README.md").read_text(encoding="utf8")
    tuned, prompted = result.scores[TUNED], result.scores[PROMPTED]
    assert f"| **Overall** | **{100 * tuned.overall:.1f}** | **{100 * prompted.overall:.1f}** |" in card
    assert "### mini-mmeb (seed 0, 4 queries a task)" in card and "Not evaluated" not in card
    assert "`mini-MMEB-train` (a local copy)" in card and "- loss:SaHaLoss" in card
    assert len(list((result.model_dir / "results").glob("MiniMMEB_*.json"))) == len(tuned.tasks) == 14
    (report,) = load_embedder(str(result.model_dir), device="cpu").model_card_data.reports
    assert report["columns"][0]["name"] == "local/saha"
    shown = {name: task["percent"] for name, task in report["columns"][0]["tasks"].items()}
    assert shown == pytest.approx({name: 100 * score for name, score in tuned.by_task.items()})
    assert (folder / "evaluation" / "results" / "local__saha" / report["revision"]).is_dir()


def test_a_folder_that_is_not_empty_is_refused(small_run):
    _, _, folder = small_run
    with pytest.raises(FileExistsError, match="not empty"):
        quickstart(folder)


@pytest.mark.slow
def test_the_newcomers_command_gains_twenty_points_and_plain_sentence_transformers_searches(tmp_path):
    command = [sys.executable, "-m", "saha_st.cli", "quickstart", "--output_dir", str(tmp_path / "run")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    (overall,) = [line for line in finished.stdout.splitlines() if "Overall" in line]
    plain, prompted, tuned = (float(number) for number in re.findall(r"[\d.]+", overall))
    assert tuned >= max(plain, prompted) + 20, finished.stdout
    model = str(tmp_path / "run" / "saha" / "final")
    searched = subprocess.run([sys.executable, "-c", SEARCH_WITHOUT_US, model], capture_output=True, text=True)
    assert searched.returncode == 0, searched.stderr
