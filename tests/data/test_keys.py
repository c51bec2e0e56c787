from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PIL

from saha_st.data.keys import KEY_DTYPE, cell_key, cell_keys, column_keys


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    PIL.new("RGB", (4, 3), "red").save(path)
    return path


def test_a_key_is_32_hexadecimal_digits_and_the_same_in_every_process():
    assert cell_key("a red square") == b"7a1b64f184c6774822aa75f6eb20f434"


def test_equal_text_has_equal_keys_however_it_is_wrapped():
    keys = {cell_key(c) for c in ["a", {"text": "a"}, {"image": None, "text": "a"}, {"text": "a", "image": []}]}
    assert len(keys) == 1


def test_text_is_taken_to_the_letter():
    texts = ["a", "A", "a ", " a", "a\n", "", "á", "a\u0301", "\0", "\ud800"]
    assert len({cell_key(text) for text in texts}) == len(texts)


def test_the_order_of_a_dicts_keys_does_not_matter(red: Path):
    assert cell_key({"text": "a", "image": str(red)}) == cell_key({"image": str(red), "text": "a"})


def test_text_and_image_never_collide(red: Path):
    address = os.fspath(red)
    cells = [address, {"image": address}, red.read_bytes(), {"image": address, "text": address}]
    assert len({cell_key(cell) for cell in cells}) == len(cells)


def test_parts_cannot_be_shifted_into_one_another():
    assert cell_key({"image": b"ab", "text": "c"}) != cell_key({"image": b"a", "text": "bc"})
    assert cell_key({"image": [b"ab", b"c"]}) != cell_key({"image": [b"a", b"bc"]})
    assert cell_key({"image": [b"a", b"b"]}) != cell_key({"image": [b"b", b"a"]})


def test_a_file_is_known_by_path_and_state_and_bytes_by_themselves(red: Path):
    before = cell_key({"image": red})
    assert before == cell_key({"bytes": None, "path": str(red)})
    assert cell_key({"bytes": b"x", "path": str(red)}) == cell_key(b"x"), "beside bytes, the path is only a name"
    os.utime(red, ns=(1, 1))
    assert cell_key({"image": red}) != before, "a rewritten file is another content"


def test_an_image_behind_a_url_is_known_by_its_address_and_not_fetched():
    url = "https://example.invalid/a.png"
    assert cell_key({"image": url}) != cell_key(url)


def test_decoded_images_differ_by_mode_size_pixels_and_palette():
    one = PIL.new("P", (2, 2))
    one.putpalette([255, 0, 0] * 256)
    two = PIL.new("P", (2, 2))
    two.putpalette([0, 255, 0] * 256)
    assert one.tobytes() == two.tobytes()
    images = [one, two, PIL.new("L", (2, 2)), PIL.new("L", (4, 1)), PIL.new("L", (1, 4)), PIL.new("RGB", (2, 2))]
    images += [PIL.new("RGB", (2, 2), "red"), np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint16)]
    assert len({cell_key(image) for image in images}) == len(images)
    assert cell_key(PIL.new("RGB", (2, 2))) == cell_key({"image": PIL.new("RGB", (2, 2))})


def test_cell_keys_work_on_a_plain_list_and_name_the_row_of_a_bad_cell():
    keys = cell_keys(["a", PIL.new("RGB", (2, 2)), "a"])
    assert keys.dtype == KEY_DTYPE and keys.shape == (3,)
    assert keys[0] == keys[2] == cell_key("a") and keys[0] != keys[1]
    with pytest.raises(ValueError, match=r"Row 1, captions: .*neither a text nor an image"):
        cell_keys(["a", None], name="captions")


@pytest.mark.parametrize("cell", [None, {}, {"image": None, "text": None}, {"bytes": None, "path": None}])
def test_an_empty_cell_has_no_key(cell: object):
    with pytest.raises(ValueError, match="empty"):
        cell_key(cell)


@pytest.mark.parametrize(
    "cell", [3, float("nan"), {"text": 3}, {"image": 3}, {"video": 3}, {"audio": "a"}, [{"role": "user"}]]
)
def test_a_cell_of_no_known_kind_is_refused(cell: object):
    with pytest.raises(TypeError):
        cell_key(cell)


def test_a_column_gives_the_keys_of_its_cells_for_text_images_and_structs(red: Path):
    blue = red.with_name("blue.png")
    PIL.new("RGB", (4, 3), "blue").save(blue)
    struct = {"image": Image(), "text": Value("string")}
    rows = {
        "text": ["a", "b", "a"],
        "image": [str(red), str(blue), str(red)],
        "both": [{"image": str(red), "text": "a"}, {"image": None, "text": "a"}, {"image": str(red), "text": None}],
    }
    dataset = Dataset.from_dict(rows, Features({"text": Value("string"), "image": Image(), "both": struct}))
    for column, cells in rows.items():
        wanted = [cell_key({"image": cell} if column == "image" else cell) for cell in cells]
        assert column_keys(dataset, column).tolist() == wanted
    assert column_keys(dataset.select([2, 1]), "text").tolist() == [cell_key("a"), cell_key("b")]
    assert len(column_keys(dataset.select([]), "text")) == 0


def test_a_column_is_read_without_decoding_its_images(tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    dataset = Dataset.from_dict({"image": [str(broken)]}, Features({"image": Image()}))
    with pytest.raises(Exception, match="cannot identify"):
        dataset[0]
    assert column_keys(dataset, "image")[0] == cell_key({"image": broken})


def test_a_missing_file_is_named_with_row_column_and_path(tmp_path: Path, red: Path):
    gone = str(tmp_path / "gone.png")
    dataset = Dataset.from_dict({"positive": [str(red), gone]}, Features({"positive": Image()}))
    with pytest.raises(FileNotFoundError, match=r"Row 1, column 'positive'.*gone\.png"):
        column_keys(dataset, "positive")
    with pytest.raises(KeyError, match="it has \\['positive'\\]"):
        column_keys(dataset, "anchor")
