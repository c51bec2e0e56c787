from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PIL

from saha_st.data import check_images
from saha_st.data.cells import CELL_FEATURE
from saha_st.data.check import Problem, check_pairs, format_problems, format_summary
from saha_st.data.pairs import load_pairs


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    PIL.new("RGB", (32, 24), "red").save(path)
    return path


def check(anchors: list[Any], positives: list[Any] | None = None, **options: Any) -> Any:
    """Check pairs whose cells are strings or (image, text)."""
    positives = positives if positives is not None else [f"positive {i}" for i in range(len(anchors))]
    columns, features = {}, {}
    for name, cells in (("anchor", anchors), ("positive", positives)):
        struct = any(isinstance(cell, tuple) for cell in cells)
        features[name] = CELL_FEATURE if struct else Value("string")
        columns[name] = [
            {"image": cell[0] and str(cell[0]), "text": cell[1]} if isinstance(cell, tuple) else cell for cell in cells
        ]
    dataset = Dataset.from_dict(columns, Features(features))
    return check_pairs(dataset, show_progress_bar=False, **options)


def found(result: Any) -> list[tuple[int | None, str | None, str]]:
    return [(p.row, p.column, p.problem) for p in result.problems]


def test_good_pairs_have_no_problems(red: Path):
    result = check([(red, "a question"), (None, "text only"), (red, None)], ["one", "two", "three"])
    assert result.problems == [] and result.summary.errors == result.summary.warnings == 0
    assert result.summary.modalities["anchor"] == {"text": 1, "image": 1, "image + text": 1, "empty": 0}
    assert result.summary.distinct == {"anchor": 3, "positive": 3}
    assert format_problems(result.problems) == "No problems found."


@pytest.mark.parametrize(("count", "problem"), [(0, (None, None, "no rows")), (1, (0, None, "only one row"))])
def test_an_empty_and_a_one_row_dataset_are_errors(count: int, problem: tuple):
    result = check(["a"] * count)
    assert found(result) == [problem] and result.summary.errors == 1


def test_a_missing_column_and_one_that_holds_no_cells_are_errors():
    dataset = Dataset.from_dict({"anchor": [1, 2], "caption": ["a", "b"]})
    result = check_pairs(dataset, show_progress_bar=False)
    assert found(result) == [(None, "positive", "missing column"), (None, "anchor", "column of another kind")]
    assert "caption" in result.problems[0].value


def test_undeclared_images_are_a_column_of_another_kind_which_load_pairs_mends(red: Path):
    cells = [{"image": {"bytes": red.read_bytes(), "path": None}, "text": text} for text in ("a", "b")]
    rows = Dataset.from_dict({"anchor": cells, "positive": ["c", "d"]})
    assert found(check_pairs(rows, show_progress_bar=False)) == [(None, "anchor", "column of another kind")]
    assert check_pairs(load_pairs(rows), show_progress_bar=False).problems == []


def test_empty_cells_and_empty_texts_are_errors(red: Path):
    result = check(["a", None, "", " \n"], [(None, None), (None, "b"), (None, " "), (red, "")])
    assert found(result) == [
        (0, "positive", "empty cell"),
        (1, "anchor", "empty cell"),
        (2, "anchor", "empty text"),
        (2, "positive", "empty text"),
        (3, "anchor", "empty text"),
    ]
    assert {p.severity for p in result.problems} == {"error"}
    assert result.summary.modalities["positive"] == {"text": 2, "image": 0, "image + text": 1, "empty": 1}


def test_a_missing_image_file_is_an_error_with_its_path(tmp_path: Path, red: Path):
    result = check([(red, "a"), (tmp_path / "gone.png", "b")])
    assert found(result) == [(1, "anchor", "missing image file")]
    assert "gone.png" in result.problems[0].value and "image_root=" in result.problems[0].remedy


def test_unreadable_and_truncated_images_are_errors(tmp_path: Path, red: Path):
    broken, cut = tmp_path / "broken.png", tmp_path / "cut.png"
    broken.write_bytes(b"no picture")
    PIL.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:1000])
    anchors = [(broken, "a"), (red, "b"), (cut, "c"), (broken, "d")]
    result = check(anchors)
    assert found(result) == [(row, "anchor", "unreadable image") for row in (0, 2, 3)]
    assert found(check(anchors, decode_images=False)) == [(row, "anchor", "unreadable image") for row in (0, 3)]


def test_images_given_as_bytes_are_decoded_too(red: Path):
    data = red.read_bytes()
    column = [{"bytes": data, "path": None}, {"bytes": data[:40], "path": "nowhere.png"}]
    rows = Dataset.from_dict({"anchor": ["a", "b"], "positive": column}).cast_column("positive", Image())
    assert found(check_pairs(rows, show_progress_bar=False)) == [(1, "positive", "unreadable image")]


def test_extreme_side_ratios_and_tiny_images_are_found(tmp_path: Path):
    anchors = []
    for width, height in [(200, 1), (199, 1), (1, 400), (7, 7), (8, 8), (1600, 8)]:
        anchors.append((tmp_path / f"{width}x{height}.png", None))
        PIL.new("L", (width, height)).save(anchors[-1][0])
    result = check(anchors)
    assert found(result) == [(row, "anchor", "extreme side ratio") for row in (0, 2, 5)] + [
        (row, "anchor", "tiny image") for row in (1, 3)
    ]
    assert [p.severity for p in result.problems] == ["error"] * 3 + ["warning"] * 2
    assert "200 × 1" in result.problems[0].value
    assert "extreme side ratio" not in check(anchors, max_side_ratio=401).summary.counts


def test_every_distinct_image_is_opened_once_and_none_behind_a_url(red: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    lock, real = threading.Lock(), PIL.open

    def count(path: Any) -> Any:
        with lock:
            opened.append(str(path))
        return real(path)

    monkeypatch.setattr(check_images.PIL, "open", count)
    url = "https://example.invalid/a.png"
    result = check([(red, str(i)) for i in range(600)] + [(url, "x")], num_workers=2)
    assert opened == [str(red)]
    assert found(result) == [(600, "anchor", "image behind a URL")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("https://example.com/cat.jpg", "text that reads like a URL"),
        ("data:image/png;base64,AAAA", "text that reads like a URL"),
        ("images/cat.jpg", "text that reads like an image path"),
        ("a cat at https://example.com", None),
        ("the file cat.jpg", None),
        ("cat", None),
        ("<|image_1|>\nRepresent it.", "image placeholder in a text"),
        ("<|image_pad|>", "image placeholder in a text"),
        ("<image>what is it?", "image placeholder in a text"),
    ],
)
def test_texts_that_are_not_what_they_seem_get_a_warning(text: str, problem: str | None):
    result = check(["a", text], [(None, "b"), (None, "c")])
    assert found(result) == ([(1, "anchor", problem)] if problem else [])
    assert result.summary.warnings == (problem is not None) and result.summary.errors == 0


def test_the_path_of_an_existing_image_as_text_gets_a_warning_even_with_spaces(tmp_path: Path, red: Path):
    path = tmp_path / "a red one.png"
    red.rename(path)
    assert found(check(["x", str(path)])) == [(1, "anchor", "text that reads like an image path")]


def test_texts_are_measured_in_tokens_or_characters():
    def tokenizer(texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[0] * len(text.split()) for text in texts]}

    texts = ["one two three four", "onetwothreefour", "one two"]
    assert found(check(texts, tokenizer=tokenizer, max_length=3)) == [(0, "anchor", "text too long")]
    result = check(texts, max_length=17)
    assert found(result) == [(0, "anchor", "text too long")] and "18 characters" in result.problems[0].value
    assert check(texts, [(None, "é" * 17), (None, "é"), (None, "e")], max_length=18).problems == []
    with pytest.raises(ValueError, match="without max_length"):
        check(texts, tokenizer=tokenizer)


def test_relations_between_rows_are_counted_and_copies_named(red: Path):
    anchors = [(red, "q"), (None, "r"), (red, "q"), (red, "q"), (None, "same"), (None, "s")]
    result = check(anchors, ["a", "a", "a", "b", "same", "c"])
    assert found(result) == [(4, None, "anchor equals positive"), (2, None, "duplicate pair")]
    assert result.problems[1].value == "the same as row 0"
    assert result.summary.duplicate_pairs == 1
    assert result.summary.anchors_with_several_positives == 1
    assert result.summary.positives_with_several_anchors == 1
    assert result.summary.distinct == {"anchor": 4, "positive": 4}


def test_of_each_kind_the_first_are_listed_and_all_are_counted():
    result = check([""] * 30 + ["a", "b"], max_listed=5)
    assert [p.row for p in result.problems] == [0, 1, 2, 3, 4]
    assert result.summary.counts == {"empty text": 30} and result.summary.errors == 30


def test_problems_print_as_a_table_by_kind_errors_first():
    problems = [Problem(i, "anchor", "empty text", "''", "Remove it.", "error") for i in (3, 12)]
    problems.append(Problem(0, None, "duplicate pair", "the same as row 1", "Remove the copy.", "warning"))
    assert format_problems(problems, limit=1) == (
        "error: empty text (2)\n"
        "  Remove it.\n"
        "  row 3  anchor  ''\n"
        "  … and 1 more\n"
        "\n"
        "warning: duplicate pair (1)\n"
        "  Remove the copy.\n"
        "  row 0    the same as row 1"
    )


def test_the_summary_prints_the_counts(red: Path):
    text = format_summary(check([(red, "q"), (None, "r")]).summary)
    assert text.splitlines() == [
        "2 rows, 0 errors, 0 warnings",
        "anchor: 1 text, 1 image + text; 2 distinct",
        "positive: 2 text; 2 distinct",
        "0 duplicate pairs, 0 anchors with several positives, 0 positives with several anchors",
    ]


def test_long_values_are_shortened_in_the_middle():
    result = check(["a", "https://example.com/" + "x" * 500 + "/cat.png"])
    value = result.problems[0].value
    assert len(value) <= 100 and value.startswith("https://") and value.endswith("/cat.png")
