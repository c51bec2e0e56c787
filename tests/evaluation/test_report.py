"""Table and chart show what was measured, mark what others published, and give no number that is no score."""

from __future__ import annotations

import io
import json
from pathlib import Path

import mteb
import pytest
from PIL import Image

from saha_st.data.scenes import write_mini_mmeb
from saha_st.evaluation.mmeb import mini_mmeb_tasks
from saha_st.evaluation.report import Report, published_for
from saha_st.evaluation.scores import NO_SCORE, Scores, TaskScore
from saha_st.evaluation.task_sources import TaskSource, task_sources


def scores(*, limit: int | None = None, **changes) -> Scores:
    common = {"metric": "hit@1", "num_queries": 100, "chance": 0.01}
    tasks = {
        "A": TaskScore(**(common | {"score": 0.5, "meta_task": "Classification", "in_distribution": True} | changes)),
        "B": TaskScore(**(common | {"score": 0.25, "meta_task": "Grounding", "in_distribution": False})),
    }
    return Scores(tasks, limit=limit)


def test_the_papers_figures_stand_beside_ours_and_say_whose_they_are():
    published = published_for("MMEB(v1)")
    assert [each.scores["Overall"] for each in published] == [43.3, 67.1, 72.4]
    report = Report("MMEB(v1)", {"org/m": scores()}, published, revision="abc")
    header, _, *rows = report.table.splitlines()
    assert header.count("the paper's, not measured here") == 3
    assert rows[0].startswith("| A | 50.0 | – | – | – |")
    assert "| **Overall** | **37.5** | **43.3** | **67.1** | **72.4** |" in rows
    assert "| Grounding | 25.0 | 52.6 | – | – |" in rows
    assert sum("arXiv 2508.00955, not measured here" in note for note in report.notes) == 3
    assert not published_for("mini-mmeb")


@pytest.mark.parametrize(
    "changes", [{"undefined": 0.01}, {"all_tied": 1.0}, {"collapsed": True}, {"score": float("nan")}]
)
def test_a_degenerate_task_spoils_every_mean_that_it_is_in(changes: dict, tmp_path: Path):
    report = Report("mini", {"org/m": scores(**changes)})
    cells = dict(line.strip("| ").split(" | ") for line in report.table.splitlines()[2:])
    assert {name for name, cell in cells.items() if NO_SCORE in cell} == {"A", "Classification", "IND", "**Overall**"}
    assert cells["OOD"] == "25.0"
    assert any(note.startswith("org/m: A: ") for note in report.notes)
    report.draw(io.BytesIO())


def test_a_negative_score_is_drawn_to_the_left(monkeypatch):
    from matplotlib.figure import Figure

    bounds = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: bounds.append(self.axes[0].get_xlim()))
    for score in (0.5, -0.5):
        Report("STS", {"org/m": scores(score=score)}).draw(io.BytesIO())
    assert bounds == [(0, 108), (-108, 108)]


def test_a_score_at_chance_is_marked():
    table = Report("mini", {"org/m": scores(score=0.02)}).table
    assert "| A | 2.0† |" in table and "| Classification | 2.0† |" in table and "| B | 25.0 |" in table
    assert "† within two standard deviations of guessing." in table


def test_page_and_chart_are_written_and_a_quick_look_says_so(tmp_path: Path):
    columns = {"org/m": scores(limit=7), "org/other": scores(limit=7)}
    page, chart = Report("MMEB(v1)", columns, revision="abc").write(tmp_path)
    assert page == tmp_path / "reports" / "org__m" / "abc" / "MMEB-v1.limit-7.md"
    text = page.read_text()
    assert "A quick look at 7 queries" in text and f"]({chart.name})" in text and "`abc`" in text
    with Image.open(chart) as picture:
        assert picture.format == "PNG" and picture.width > 800
        assert len(set(picture.convert("L").resize((200, 200)).tobytes())) > 10  # something is drawn
    whole = Report("MMEB(v1)", {"org/m": scores()}, revision="abc").write(tmp_path)[0]
    assert whole == page.with_name("MMEB-v1.md") and "quick look" not in whole.read_text()
    assert sorted(file.name for file in page.parent.iterdir()) == sorted(
        f"MMEB-v1{limit}.{kind}" for limit in ("", ".limit-7") for kind in ("md", "png", "json")
    )


def test_the_plain_values_hold_what_the_table_shows_and_the_numbers_behind_it():
    columns = {"org/m": scores(score=float("nan")), "org/other": scores(score=0.02)}
    sources = {"A": TaskSource("MMEB_A", "org/data")}
    values = Report("MMEB(v1)", columns, published_for("MMEB(v1)"), "abc", sources).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["benchmark"], values["metric"], values["revision"], values["limit"]) == (
        "MMEB(v1)",
        "hit@1",
        "abc",
        None,
    )
    assert set(values["versions"]) == {"saha_st", "mteb", "sentence-transformers", "transformers", "torch"}
    broken, other = values["columns"]
    assert broken["means"]["Overall"] == {"shown": NO_SCORE, "percent": None}
    assert broken["tasks"]["A"] == {
        "shown": NO_SCORE, "percent": None, "is_score": False, "task": "MMEB_A", "dataset": "org/data",
    }  # fmt: skip
    assert other["tasks"]["A"]["shown"] == "2.0†" and other["tasks"]["A"]["percent"] == 2.0
    assert broken["tasks"]["B"]["task"] == "B" and broken["tasks"]["B"]["dataset"] is None
    assert values["published"][1]["scores"]["Overall"] == 67.1 and "2508.00955" in values["published"][1]["source"]
    assert any("A: " in note for note in values["notes"])


def test_tasks_are_of_the_hub_unless_their_data_are_a_folder(tmp_path: Path):
    write_mini_mmeb(tmp_path, subsets=["Digits"], train_rows=1, eval_rows=2)
    assert set(task_sources(mini_mmeb_tasks(tmp_path, ["Digits"])).items()) == {
        ("Digits", TaskSource("MiniMMEB_Digits"))
    }
    (found,) = task_sources(mteb.get_tasks(tasks=["STS12"])).values()
    assert found == TaskSource("STS12", "mteb/sts12-sts")


def test_the_chart_says_what_the_table_says(monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[str] = []

    def save(figure, file, **options):
        axes = figure.axes[0]
        drawn.extend([text.get_text() for text in axes.texts] + [axes.get_xlabel()])

    monkeypatch.setattr(Figure, "savefig", save)
    Report("mini", {"org/m": scores(score=0.02)}).draw(io.BytesIO())
    assert "2.0†" in drawn and any("of guessing" in text for text in drawn)
    drawn.clear()
    Report("mini", {"org/m": scores(collapsed=True)}).draw(io.BytesIO())
    assert drawn.count(NO_SCORE) == 3 and "25.0" in drawn and not any("guessing" in text for text in drawn)
