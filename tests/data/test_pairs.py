from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PIL

from saha_st.data.cells import CELL_FEATURE
from saha_st.data.pairs import load_pairs

TEXT = Value("string")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the pictures red.png and blue.png."""
    for colour in ("red", "blue"):
        PIL.new("RGB", (8, 6), colour).save(tmp_path / f"{colour}.png")
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def stored(dataset: Dataset, column: str) -> list[Any]:
    return dataset.with_format("arrow")[:].column(column).to_pylist()


def paths(*names: Path | None) -> list[Any]:
    return [None if name is None else {"bytes": None, "path": str(name)} for name in names]


# -- columns ----------------------------------------------------------------------------------------------------------


def test_text_pairs_pass_through_and_other_columns_are_dropped_unless_kept():
    rows = Dataset.from_dict({"x": [1, 2], "positive": ["c", "d"], "anchor": ["a", "b"], "label": [[0, 1], [0, 2]]})
    assert load_pairs(rows)[:] == {"anchor": ["a", "b"], "positive": ["c", "d"]}
    assert load_pairs(rows, keep=["label"])[:]["label"] == [[0, 1], [0, 2]]


def test_a_string_column_stays_text_whatever_it_looks_like(folder: Path):
    texts = [str(folder / "red.png"), "https://example.com/a.png"]
    dataset = load_pairs(Dataset.from_dict({"anchor": texts, "positive": ["a", "b"]}), image_root=folder)
    assert dataset.features["anchor"] == TEXT and dataset["anchor"][:] == texts


def test_image_columns_stay_images_and_are_not_copied(folder: Path):
    rows = Dataset.from_dict(
        {"photo": [str(folder / "red.png"), str(folder / "blue.png")], "caption": ["red", "blue"]},
        Features({"photo": Image(), "caption": TEXT}),
    )
    dataset = load_pairs(rows, anchor="caption", positive="photo")
    assert dataset.features == Features({"anchor": TEXT, "positive": Image()})
    assert stored(dataset, "positive") == paths(folder / "red.png", folder / "blue.png")
    assert dataset[1]["positive"].getpixel((0, 0)) == (0, 0, 255)


def test_image_columns_beside_text_make_cells_and_alone_make_images(folder: Path):
    rows = Dataset.from_dict(
        {
            "anchor": ["which colour?", "and this?"],
            "anchor_image": ["red.png", ""],
            "positive_image": ["blue.png", str(folder / "red.png")],
        }
    )
    dataset = load_pairs(rows, image_root=folder)
    assert dataset.features == Features({"anchor": CELL_FEATURE, "positive": Image()})
    assert stored(dataset, "anchor") == [
        {"image": paths(folder / "red.png")[0], "text": "which colour?"},
        {"image": None, "text": "and this?"},
    ]
    assert stored(dataset, "positive") == paths(folder / "blue.png", folder / "red.png")
    assert dataset[0]["anchor"]["image"].size == (8, 6)


def test_structs_become_cells_with_the_image_first_whether_or_not_it_was_declared(folder: Path):
    red = folder / "red.png"
    cells = [{"text": "a", "image": str(red)}, {"text": "b", "image": None}]
    undeclared = [{"text": "a", "image": {"bytes": red.read_bytes(), "path": None}}, {"text": "b", "image": None}]
    for column in (cells, undeclared):
        dataset = load_pairs(Dataset.from_dict({"anchor": column, "positive": ["x", "y"]}))
        assert list(dataset.features["anchor"]) == ["image", "text"]
        assert dataset[0]["anchor"]["image"].getpixel((0, 0)) == (255, 0, 0)
        assert dataset[1]["anchor"] == {"image": None, "text": "b"}
    declared = Dataset.from_dict({"anchor": cells, "positive": ["x", "y"]}).cast_column("anchor", CELL_FEATURE)
    assert load_pairs(declared)[1]["anchor"] == {"image": None, "text": "b"}


def test_parts_can_be_mapped_by_hand_and_embedded_bytes_are_kept(folder: Path):
    data = (folder / "red.png").read_bytes()
    rows = Dataset.from_dict({"file": [data, None], "question": ["q1", "q2"], "answer": ["a1", "a2"]})
    dataset = load_pairs(rows, anchor={"text": "question", "image": "file"}, positive={"text": "answer"})
    assert stored(dataset, "anchor")[0]["image"] == {"bytes": data, "path": None}
    assert dataset[1] == {"anchor": {"image": None, "text": "q2"}, "positive": "a2"}


def test_class_labels_become_their_names(folder: Path):
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    rows = Dataset.from_dict({"image": [str(folder / "red.png")] * 3, "label": [1, 0, None]}, features)
    assert load_pairs(rows, anchor="image", positive="label")["positive"][:] == ["dog", "cat", None]


def test_rows_in_another_order_and_a_sample_keep_their_pairs_together(folder: Path):
    n = 20
    rows = Dataset.from_dict({"anchor": [f"a{i}" for i in range(n)], "positive": [f"p{i}" for i in range(n)]})
    rows = rows.add_column("anchor_image", ["red.png"] * n).select(range(n - 1, -1, -1))
    dataset = load_pairs(rows, image_root=folder, max_rows=7, seed=3)
    numbers = [int(cell["text"][1:]) for cell in dataset["anchor"]]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == 7
    assert dataset["positive"][:] == [f"p{i}" for i in numbers]


# -- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_files_are_read_with_images_relative_to_their_folder(folder: Path, cache: str, suffix: str):
    columns = {"anchor": ["007", "NA"], "positive_image": ["red.png", "blue.png"]}
    file = folder / f"pairs.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(columns), file)
    elif suffix == "jsonl":
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        separator = {"csv": ",", "tsv": "\t"}[suffix]
        lines = [list(columns), *zip(*columns.values(), strict=True)]
        file.write_text("\n".join(separator.join(line) for line in lines))
    dataset = load_pairs(file, cache_dir=cache)
    assert dataset["anchor"][:] == ["007", "NA"]
    assert stored(dataset, "positive") == paths(folder / "red.png", folder / "blue.png")


def test_json_lines_hold_cells_of_any_form(folder: Path, cache: str):
    rows = [
        {"anchor": "plain", "positive": {"image": "red.png"}},
        {"anchor": {"text": "both", "image": "blue.png"}, "positive": {"image": "blue.png", "text": "t"}},
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = load_pairs(folder / "pairs.jsonl", cache_dir=cache)
    assert dataset[0]["anchor"] == {"image": None, "text": "plain"}
    assert dataset[1]["anchor"]["image"].getpixel((0, 0)) == (0, 0, 255)
    assert stored(dataset, "positive")[0] == {"image": paths(folder / "red.png")[0], "text": None}


@pytest.mark.parametrize("place", [".", "train"])
def test_a_folder_of_images_is_read_by_its_metadata(folder: Path, cache: str, place: str):
    (folder / place).mkdir(exist_ok=True)
    for name in ("red.png", "blue.png"):
        (folder / name).rename(folder / place / name)
    (folder / place / "metadata.csv").write_text("file_name,caption\nred.png,a red one\nblue.png,a blue one\n")
    dataset = load_pairs(folder, anchor="caption", positive="image", cache_dir=cache)
    assert dataset["anchor"][:] == ["a red one", "a blue one"] and dataset[0]["positive"].size == (8, 6)
    (folder / place / "metadata.csv").write_text("anchor,positive_file_name\nx,red.png\ny,blue.png\n")
    assert load_pairs(folder, cache_dir=cache).features["positive"] == Image()


def test_a_split_is_picked_by_file_name_dict_or_folder(tmp_path: Path, cache: str):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test"):
        pq.write_table(pa.table({"anchor": [name, "b"], "positive": ["c", "d"]}), tmp_path / f"{name}.parquet")
    assert len(load_pairs(tmp_path, cache_dir=cache)) == 4
    assert load_pairs(tmp_path, split="test", cache_dir=cache)["anchor"][0] == "test"
    with pytest.raises(ValueError, match=r"no files of the split 'dev'.*test\.parquet"):
        load_pairs(tmp_path, split="dev", cache_dir=cache)
    splits = DatasetDict(train=Dataset.from_dict({"anchor": ["a", "b"], "positive": ["c", "d"]}))
    splits.save_to_disk(tmp_path / "saved")
    for source in (splits, tmp_path / "saved"):
        assert load_pairs(source)["positive"][:] == ["c", "d"]
        with pytest.raises(ValueError, match=r"no split 'test'; it has \['train'\]"):
            load_pairs(source, split="test")


def test_the_columns_of_vlm2vec_are_recognised(folder: Path, cache: str):
    columns = {"qry": ["<|image_1|>\nWhich colour?\n"] * 2, "qry_image_path": ["red.png"] * 2}
    pq.write_table(pa.table(columns | {"pos_text": ["red", "r"], "pos_image_path": ["", ""]}), folder / "own.parquet")
    dataset = load_pairs(folder / "own.parquet", cache_dir=cache)
    assert dataset[0]["anchor"]["text"] == "Which colour?\n" and dataset[0]["anchor"]["image"].size == (8, 6)
    assert dataset[1]["positive"] == {"image": None, "text": "r"}


def test_vlm2vecs_rows_keep_columns_and_take_urls_as_other_rows_do():
    url = "https://example.com/a.png"
    columns = {"qry": ["a", "b", "c"], "qry_image_path": [""] * 3, "pos_text": ["<|image_1|>"] * 3}
    rows = Dataset.from_dict(columns | {"pos_image_path": [url] * 3, "label": [[1], [2], [3]]}).select([2, 0, 1])
    with pytest.raises(ValueError, match="behind a URL"):
        load_pairs(rows, keep=["label"])
    dataset = load_pairs(rows, keep=["label"], allow_urls=True)
    assert list(dataset.features) == dataset.column_names == ["anchor", "positive", "label"]
    assert dataset["label"][:] == [[3], [1], [2]]
    assert [cell["text"] for cell in stored(dataset, "anchor")] == ["c", "a", "b"]
    assert stored(dataset, "positive")[0]["image"]["path"] == url
    with pytest.raises(ValueError, match=r"keep: .*no columns \['score'\]"):
        load_pairs(rows, keep=["score"], allow_urls=True)


def test_images_of_vlm2vec_are_looked_for_where_most_of_them_are(tmp_path: Path, cache: str):
    (tmp_path / "own").mkdir()
    for place, names in (("own", ["a.png"]), (".", ["a.png", "b.png", "c.png"])):
        for name in names:
            PIL.new("RGB", (8, 6), "red").save(tmp_path / place / name)
    columns = {"qry": ["<|image_1|>"] * 3, "qry_image_path": ["a.png", "b.png", "c.png"]}
    columns |= {"pos_text": ["x", "y", "z"], "pos_image_path": [""] * 3}
    pq.write_table(pa.table(columns), tmp_path / "own" / "own.parquet")
    dataset = load_pairs(tmp_path / "own", cache_dir=cache)
    assert [cell["image"]["path"] for cell in stored(dataset, "anchor")] == [
        str(tmp_path / name) for name in ("a.png", "b.png", "c.png")
    ]


@pytest.mark.parametrize("order", [["anchor", "positive"], ["positive", "anchor"]])
def test_features_are_in_the_order_of_the_columns(folder: Path, order: list[str]):
    columns = {"anchor": ["a", "b"], "positive": ["c", "d"], "label": [1, 2]}
    rows = Dataset.from_dict({name: columns[name] for name in [*order, "label"]})
    mixed = rows.remove_columns(order[0]).add_column(f"{order[0]}_image", ["red.png", "blue.png"])
    for given in (rows, mixed):
        dataset = load_pairs(given, keep=["label"], image_root=folder)
        assert list(dataset.features) == dataset.column_names == ["anchor", "positive", "label"]
        assert dataset.with_format("arrow")[:].column_names == dataset.column_names


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "message"), [(0, "has no rows"), (1, "has one row.*at least two")])
def test_an_empty_and_a_one_row_dataset_are_refused(count: int, message: str):
    rows = Dataset.from_dict({"anchor": ["a"] * count, "positive": ["b"] * count})
    with pytest.raises(ValueError, match=message):
        load_pairs(rows)


def test_a_sample_of_one_row_is_refused_as_what_it_is():
    rows = Dataset.from_dict({"anchor": ["a", "b", "c"], "positive": ["d", "e", "f"]})
    with pytest.raises(ValueError, match="has 3 rows, of which max_rows=1 leaves one"):
        load_pairs(rows, max_rows=1)


def test_a_missing_column_is_refused_with_what_there_is_and_how_to_map_it():
    rows = Dataset.from_dict({"caption": ["a", "b"], "score": [1, 2]})
    with pytest.raises(
        ValueError, match=r"no column 'anchor'. It has: caption \(string\), score \(int64\).*positive="
    ):
        load_pairs(rows)
    with pytest.raises(ValueError, match="positive: .*no column 'photo'"):
        load_pairs(rows, anchor="caption", positive={"image": "photo"})


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"anchor": [1, 2]}, {}, "'anchor'.*int64, here neither"),
        ({"anchor": [["a", "b"], ["c"]]}, {}, "'anchor'.*List, here neither.*several rows"),
        ({"anchor": [b"a", b"b"]}, {}, "'anchor'.*binary, here neither"),
        ({"anchor": [{"url": "a"}, {"url": "b"}]}, {}, "struct of url, here neither"),
        ({"anchor": ["a", "b"], "anchor_text": ["c", "d"]}, {}, "'anchor', 'anchor_text'; say which"),
        ({"anchor": ["a", "b"], "anchor_image": [1, 2]}, {}, "'anchor_image'.*int64, here neither"),
        ({"anchor": ["a", "b"]}, {"anchor": {"picture": "anchor"}}, "parts are 'image', 'video' and 'text'"),
        ({"anchor": ["a", "b"]}, {"anchor": "positive"}, "both 'positive'; a pair has two sides"),
        ({"anchor": ["a", "b"]}, {"keep": ["label"]}, r"keep: .*no columns \['label'\]"),
        ({"anchor": ["a", "b"]}, {"keep": ["anchor"]}, r"keep: \['anchor'\]"),
        ({"anchor": ["a", "b"]}, {"max_rows": 0}, "max_rows must be at least 1"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(columns: dict, options: dict, message: str):
    rows = Dataset.from_dict(columns | {"positive": ["x", "y"]})
    with pytest.raises(ValueError, match=message):
        load_pairs(rows, **options)


def test_a_missing_image_file_is_named_with_its_row_unless_unchecked(folder: Path):
    rows = Dataset.from_dict({"anchor": ["a", "b"], "positive_image": ["red.png", "gone.png"]})
    with pytest.raises(FileNotFoundError, match=r"Row 1, column 'positive_image'.*gone\.png.*image_root="):
        load_pairs(rows, image_root=folder)
    assert len(load_pairs(rows, image_root=folder, check_files=False)) == 2


def test_images_behind_urls_are_refused_unless_asked_for():
    rows = Dataset.from_dict({"anchor": ["a", "b"], "positive_image": ["https://example.com/a.png"] * 2})
    with pytest.raises(ValueError, match=r"Row 0, column 'positive_image': the image is behind a URL"):
        load_pairs(rows)
    assert stored(load_pairs(rows, allow_urls=True), "positive")[0]["path"] == "https://example.com/a.png"


def test_a_file_address_is_refused_for_the_plain_path(folder: Path):
    rows = Dataset.from_dict({"anchor": ["a", "b"], "positive_image": ["red.png", f"file://{folder}/gone.png"]})
    with pytest.raises(ValueError, match=r"Row 1, column 'positive_image'.*plain path: '/.*gone\.png'"):
        load_pairs(rows, image_root=folder)


def test_sources_that_are_not_there_or_cannot_be_walked_twice_are_refused(tmp_path: Path):
    for source in (tmp_path / "gone", "./gone.csv", "gone.parquet", "gone.CSV", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no file or folder"):
            load_pairs(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no files of the split 'train'"):
        load_pairs(tmp_path / "empty")
    with pytest.raises(TypeError, match="received list_iterator.*streaming"):
        load_pairs(iter([{"anchor": "a", "positive": "b"}]))
