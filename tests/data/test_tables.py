from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Value

from saha_st.data.tables import read_table

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Dataset]:
    return lambda *files: read_table(files, cache_dir=str(tmp_path / "cache"))


def test_every_cell_of_a_csv_file_is_text_to_the_letter(write: Write, read: Callable):
    rows = read(write("a.csv", '\ufeffanchor,positive\n007,None\n"a, ""b""",\nNA,2020-01-01\n1.50,true\n'))
    assert rows[:] == {
        "anchor": ["007", 'a, "b"', "NA", "1.50"],
        "positive": ["None", "", "2020-01-01", "true"],
    }
    assert read(write("a.tsv", "anchor\tpositive\na,b\t1\n"))[:] == {"anchor": ["a,b"], "positive": ["1"]}


def test_strings_of_json_lines_stay_text_and_mixed_columns_become_cells(write: Write, read: Callable):
    lines = [
        {"anchor": "2020-01-01", "positive": "plain", "size": 1, "score": 1},
        {"anchor": "2020-01-02T00:00:00", "positive": {"image": "a.png"}, "size": 2, "score": 0.5},
        {"anchor": None, "positive": {"text": "t", "image": "b.png"}},
    ]
    rows = read(write("a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n"))
    assert rows["anchor"][:] == ["2020-01-01", "2020-01-02T00:00:00", None]
    assert rows["positive"][:] == [
        {"image": None, "text": "plain"},
        {"image": "a.png", "text": None},
        {"image": "b.png", "text": "t"},
    ]
    assert rows.features["size"] == Value("int64") and rows.features["score"] == Value("float64")


def test_an_array_of_objects_reads_as_lines_do(write: Write, read: Callable):
    assert read(write("a.json", '[\n{"anchor": "a"},\n{"anchor": "b"}]'))["anchor"][:] == ["a", "b"]


def test_columns_that_are_no_cells_are_left_out_with_a_word(
    write: Write, read: Callable, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        rows = read(write("a.jsonl", '{"anchor": "a", "tags": ["x"]}\n{"anchor": "b", "tags": {"url": "x"}}\n'))
    assert rows.column_names == ["anchor"]
    assert "'tags' holds lists of strings and objects with the keys ['url']" in caplog.text


def test_a_changed_file_is_read_again(write: Write, read: Callable):
    assert read(write("a.jsonl", '{"anchor": "a"}\n'))["anchor"][:] == ["a"]
    assert read(write("a.jsonl", '{"anchor": "bb"}\n'))["anchor"][:] == ["bb"]


def test_several_files_are_one_table(tmp_path: Path, read: Callable):
    for name in ("1", "2"):
        pq.write_table(pa.table({"anchor": [name]}), tmp_path / f"{name}.parquet")
    assert read(tmp_path / "1.parquet", tmp_path / "2.parquet")["anchor"][:] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"a": 1}\nnonsense\n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"line 2: expected an object, found lists"),
        ("a.json", '[{"a": 1},\n\n[1]]', r"a\.json, element 2: expected an object, found lists"),
        ("a.json", '[{"a": 1},\nnonsense]', r"a\.json, line 2: not JSON"),
        ("a.csv", "a,b\n1,2\n3,4,5,6,7\n", r"a\.csv cannot be read as csv"),
        ("a.txt", "a", r"expected files of one format, \.parquet"),
        ("a.jsonl", "\n", "no rows"),
        ("a.json", "[]", "no rows"),
        ("a.csv", "", "no rows"),
        ("a.csv", "anchor,positive\n", "no rows"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_place(
    write: Write, read: Callable, name: str, text: str, message: str
):
    with pytest.raises(ValueError, match=message):
        read(write(name, text))


@pytest.mark.parametrize("lines_before", [0, 30_000])
@pytest.mark.parametrize(("name", "line"), [("a.jsonl", '{"a": "caf\xe9"}\n'), ("a.csv", "caf\xe9,x\n")])
def test_text_that_is_not_utf8_is_refused_with_the_file_wherever_it_starts(
    tmp_path: Path, read: Callable, name: str, line: str, lines_before: int
):
    head = "a,b\n" if name == "a.csv" else ""
    text = head + line.replace("\xe9", "e") * lines_before + line
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}.* UTF-8 text.*save it as UTF-8"):
        read(tmp_path / name)


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path, read: Callable):
    pq.write_table(pa.table({"anchor": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no rows"):
        read(tmp_path / "a.parquet")
