"""Single inputs to encode, each with an id; `tests/cli` encodes them."""

from __future__ import annotations

import pytest
from PIL import Image

from saha_st.data.inputs import load_inputs


def test_ids_come_from_paths_lines_columns_or_row_numbers(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.JPG", format="JPEG")
    assert list(load_inputs(tmp_path)["id"]) == ["a.JPG", "b.png"]
    assert list(load_inputs(tmp_path / "b.png")["id"]) == ["b.png"]
    (tmp_path / "t.txt").write_text("x\n\ny\n")
    lines = load_inputs(tmp_path / "t.txt")
    assert (list(lines["id"]), list(lines["input"])) == (["1", "3"], ["x", "y"])
    (tmp_path / "t.csv").write_text("id,key,text,other\n007,k1,None,o1\n8,k2,two,o2\n")
    assert list(load_inputs(tmp_path / "t.csv")["id"]) == ["007", "8"]
    assert list(load_inputs(tmp_path / "t.csv")["input"]) == ["None", "two"]
    chosen = load_inputs(tmp_path / "t.csv", text="other", id_column="key")
    assert (list(chosen["id"]), list(chosen["input"])) == (["k1", "k2"], ["o1", "o2"])
    (tmp_path / "n.csv").write_text("text\none\ntwo\n")
    assert list(load_inputs(tmp_path / "n.csv")["id"]) == ["0", "1"]


def test_lines_of_text_end_only_where_lines_end(tmp_path):
    (tmp_path / "t.txt").write_bytes("\ufeffone\u2028still one\r\n\r\nthree\x0cstill\x85 three\nfour".encode())
    lines = load_inputs(tmp_path / "t.txt")
    assert list(lines["id"]) == ["1", "3", "4"]
    assert list(lines["input"]) == ["one\u2028still one", "three\x0cstill\x85 three", "four"]


def test_text_that_is_not_utf8_is_refused_by_name(tmp_path):
    (tmp_path / "t.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.txt is not UTF-8 text.*save it as UTF-8"):
        load_inputs(tmp_path / "t.txt")


def test_images_are_paths_until_they_are_read(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("image,text\na.png,words\n")
    cell = load_inputs(tmp_path / "rows.csv")[0]["input"]
    assert cell["text"] == "words" and cell["image"].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("empty.txt", " \n", {}, "no text in it"),
        ("a.csv", "title\nx\n", {}, "no column 'text', 'image' or 'video', only title"),
        ("a.csv", "text\nx\n", {"text": "body"}, "body"),
        ("a.csv", "text\nx\n", {"id_column": "key"}, "no column 'key' for ids"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content, arguments, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_inputs(tmp_path / name, **arguments)


def test_missing_files_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither pictures"):
        load_inputs(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        load_inputs(tmp_path / "nowhere.txt")
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        load_inputs(tmp_path / "nowhere.png")
    (tmp_path / "rows.csv").write_text("image\nmissing.png\n")
    with pytest.raises(FileNotFoundError, match="missing.png"):
        load_inputs(tmp_path / "rows.csv")
