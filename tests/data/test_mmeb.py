from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PIL

from saha_st.data.keys import column_keys
from saha_st.data.mmeb import (
    MMEB_SUBSETS,
    MMEB_TRAIN_SUBSETS,
    load_mmeb,
    load_mmeb_eval,
    remove_placeholder,
    split_candidates,
)
from saha_st.data.mmeb import files as mmeb_files

M = "<|image_1|>"
TRAIN = {
    "qry": [f"{M}\nRepresent the given image with the following question: how many?\n", "Which city?\n", f"{M}"],
    "qry_image_path": ["images/OK-VQA/Train/a.png", "", "images/OK-VQA/Train/b.png"],
    "pos_text": ["two", f"{M}\nRepresent the given image.\n", "three"],
    "pos_image_path": ["", "images/OK-VQA/Train/b.png", None],
}
TEST = {
    "qry_text": [f"{M}\nIdentify the object.\n", "Find me an image: a cat.\n"],
    "qry_img_path": ["CIRR/a.png", ""],
    "tgt_text": [["cat", "dog", "cat"], [f"{M}\nRepresent the image.\n", f"{M}\nRepresent the image.\n"]],
    "tgt_img_path": [["", "", ""], ["CIRR/b.png", "CIRR/a.png"]],
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a subset in MMEB's layout; pictures a.png and b.png lie below every folder given."""

    def write(subset: str, columns: dict[str, Any], split: str, *pictures: str) -> Path:
        folder = tmp_path / "MMEB" / subset
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")
        for place in pictures:
            (tmp_path / "MMEB" / place).mkdir(parents=True, exist_ok=True)
            for name, colour in (("a.png", "red"), ("b.png", "blue")):
                PIL.new("RGB", (8, 6), colour).save(tmp_path / "MMEB" / place / name)
        return tmp_path / "MMEB"

    return write


@pytest.fixture
def train(write: Write) -> Path:
    return write("OK-VQA", TRAIN, "original", "images/OK-VQA/Train")


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_has_the_36_subsets_in_their_groups():
    subsets = MMEB_SUBSETS.values()
    groups = [(s.meta_task, s.in_distribution) for s in subsets]
    counts = {group: groups.count(group) for group in set(groups)}
    assert len(MMEB_SUBSETS) == 36 and sum(s.in_distribution for s in subsets) == 20
    assert counts == {
        ("Classification", True): 5,
        ("Classification", False): 5,
        ("VQA", True): 6,
        ("VQA", False): 4,
        ("Retrieval", True): 8,
        ("Retrieval", False): 4,
        ("Grounding", True): 1,
        ("Grounding", False): 3,
    }
    assert [s.name for s in subsets if s.targets_as_queries] == ["RefCOCO-Matching"]


def test_training_subsets_are_the_in_distribution_ones_under_their_training_names():
    assert len(MMEB_TRAIN_SUBSETS) == 20 and "ImageNet_1K" in MMEB_TRAIN_SUBSETS
    assert MMEB_SUBSETS["ImageNet-1K"].train_name == "ImageNet_1K" and MMEB_SUBSETS["RefCOCO"].train_name is None


# -- placeholders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"{M}\nRepresent the given image.\n", "Represent the given image.\n"),
        (f"{M} Represent the given image: how many? ", "Represent the given image: how many? "),
        (f"{M}Represent it.", "Represent it."),
        (f"{M}\nwhat is this", "what is this"),
        (f"\n{M} \n  Represent it.\n\n", "  Represent it.\n\n"),
        (M, ""),
        (f"{M}\n", ""),
        (f"{M}\n<|image_2|>\nCompare.", "Compare."),
        (f"What is this?\n{M}", "What is this?"),
        (f"What is this?\n{M}\n", "What is this?\n"),
        (f"What is this? {M}", "What is this?"),
        (f"One line\n{M}\nanother", "One line\nanother"),
        (f"Represent {M} for classification.", "Represent the image for classification."),
        (f"For classification, represent {M}.", "For classification, represent the image."),
        (f"{M} is represented by the given question: Who?", "The image is represented by the given question: Who?"),
        (f"Using the given {M}, retrieve", "Using the given image, retrieve"),
        (f"In the provided {M}, identify", "In the provided image, identify"),
        (f"Use the image {M} to classify", "Use the image to classify"),
        (f"Represent the given image, {M}, for domains", "Represent the given image for domains"),
        (f"Given {M}, identify", "Given the image, identify"),
        (f"in the everyday image {M}.", "in the everyday image."),
    ],
)
def test_beside_an_image_the_placeholder_goes_or_becomes_a_noun(text: str, wanted: str):
    assert remove_placeholder(text, has_image=True) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            f"{M}\nFind a Wikipedia image that answers this question: Who?\n",
            "Find a Wikipedia image that answers this question: Who?\n",
        ),
        (f"answers the question based on {M}: Who?", "answers the question based on: Who?"),
        (f"Using {M}, locate", "Using, locate"),
        (f"{M} is represented", "is represented"),
        (f"a line\n{M}\nanother", "a line\nanother"),
        (M, ""),
    ],
)
def test_without_an_image_a_stray_placeholder_goes(text: str, wanted: str):
    assert remove_placeholder(text, has_image=False) == wanted


@pytest.mark.parametrize("has_image", [True, False])
def test_text_without_a_placeholder_stays_to_the_letter(has_image: bool):
    for text in ["", "\n", " a |image_1| b\n", "<image> x", "  <|image_pad|>  "]:
        assert remove_placeholder(text, has_image=has_image) == text


# -- training data ----------------------------------------------------------------------------------------------------


def test_training_rows_become_pairs_with_lazy_images(train: Path, cache: str):
    dataset = load_mmeb(train, "OK-VQA", split="original", cache_dir=cache)
    assert dataset.column_names == ["anchor", "positive"]
    assert list(dataset.features["anchor"]) == ["image", "text"], "the image comes first"
    stored = dataset.with_format("arrow")[:].to_pylist()
    a, b = (str(train / "images/OK-VQA/Train" / name) for name in ("a.png", "b.png"))
    assert [row["anchor"] for row in stored] == [
        {
            "image": {"bytes": None, "path": a},
            "text": "Represent the given image with the following question: how many?\n",
        },
        {"image": None, "text": "Which city?\n"},
        {"image": {"bytes": None, "path": b}, "text": None},
    ]
    assert [row["positive"] for row in stored] == [
        {"image": None, "text": "two"},
        {"image": {"bytes": None, "path": b}, "text": "Represent the given image.\n"},
        {"image": None, "text": "three"},
    ]
    assert dataset[0]["anchor"]["image"].getpixel((0, 0)) == (255, 0, 0)


def test_nothing_is_opened_while_loading(train: Path, cache: str):
    (train / "images/OK-VQA/Train/a.png").write_bytes(b"not a picture")
    dataset = load_mmeb(train, "OK-VQA", split="original", cache_dir=cache)
    assert len(column_keys(dataset, "anchor")) == 3
    with pytest.raises(Exception, match="cannot identify"):
        dataset[0]


def test_several_subsets_come_as_a_dict_and_none_means_all(train: Path, write: Write, cache: str):
    write("MSCOCO", TRAIN, "original")
    by_name = load_mmeb(train, ["OK-VQA"], split="original", cache_dir=cache)
    everything = load_mmeb(train, split="original", cache_dir=cache)
    assert list(by_name) == ["OK-VQA"] and list(everything) == ["MSCOCO", "OK-VQA"]


def test_a_missing_image_is_named_with_row_column_path_and_way_out(train: Path, cache: str):
    (train / "images/OK-VQA/Train/b.png").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_mmeb(train, "OK-VQA", split="original", cache_dir=cache)
    for part in ["Row 2", "'qry_image_path'", str(train / "images/OK-VQA/Train/b.png"), "image_root="]:
        assert part in str(error.value)
    assert len(load_mmeb(train, "OK-VQA", split="original", cache_dir=cache, check_files=False)) == 3


def test_image_root_says_where_the_pictures_are(train: Path, tmp_path: Path, cache: str):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (train / "images").rename(elsewhere / "images")
    with pytest.raises(FileNotFoundError, match=r"Row 0, column 'qry_image_path'.*and 2 more"):
        load_mmeb(train, "OK-VQA", split="original", cache_dir=cache)
    dataset = load_mmeb(train, "OK-VQA", split="original", cache_dir=cache, image_root=elsewhere)
    assert dataset[0]["anchor"]["image"].size == (8, 6)


def test_a_sample_is_seeded_keeps_the_order_and_names_rows_of_the_source(write: Write, cache: str):
    n = 50
    columns = {"qry": [str(i) for i in range(n)], "qry_image_path": [""] * n, "pos_text": ["x"] * n}
    root = write(
        "CIRR", columns | {"pos_image_path": ["images/a.png"] * 49 + ["images/gone.png"]}, "original", "images"
    )

    def sample(seed: int, rows: int = 10) -> list[int]:
        dataset = load_mmeb(root, "CIRR", split="original", cache_dir=cache, max_rows=rows, seed=seed)
        return [int(cell["text"]) for cell in dataset["anchor"]]

    seed = next(s for s in range(100) if 49 not in np.random.default_rng(s).choice(n, 10, replace=False))
    assert sample(seed) == sample(seed) == sorted(sample(seed)) and len(sample(seed)) == 10
    with pytest.raises(FileNotFoundError, match=r"Row 49, column 'pos_image_path'"):
        sample(0, rows=49) and sample(1, rows=49) and sample(2, rows=49)
    with pytest.raises(ValueError, match="max_rows must be at least 1.*received 0"):
        sample(0, rows=0)


def test_negatives_come_on_request_and_only_if_every_row_has_one(write: Write, cache: str):
    some = TRAIN | {"neg_text": ["one", "", ""], "neg_image_path": ["", "images/OK-VQA/Train/a.png", ""]}
    root = write("OK-VQA", some, "original", "images/OK-VQA/Train")
    write("MSCOCO", some | {"neg_text": ["one", "", "four"]}, "original")
    options = {"split": "original", "cache_dir": cache}
    assert load_mmeb(root, "MSCOCO", **options).column_names == ["anchor", "positive"]
    assert load_mmeb(root, "OK-VQA", negatives=True, **options).column_names == ["anchor", "positive"]
    dataset = load_mmeb(root, "MSCOCO", negatives=True, **options)
    assert dataset[0]["negative"] == {"image": None, "text": "one"} and dataset[1]["negative"]["image"].size == (8, 6)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["OK-VQE"], {}, r"no subset 'OK-VQE'. Did you mean 'OK-VQA'"),
        ([["OK-VQA", "OK-VQA"]], {}, "twice"),
        ([[]], {}, "nothing to load"),
        (["OK-VQA"], {"split": "diverse_instruction"}, r"no split 'diverse_instruction'; it has \['original'\]"),
    ],
)
def test_unknown_names_are_refused_with_what_there_is(
    train: Path, cache: str, arguments: list, options: dict, message: str
):
    with pytest.raises(ValueError, match=message):
        load_mmeb(train, *arguments, **({"split": "original", "cache_dir": cache} | options))


def test_an_unknown_subset_of_the_hub_is_refused_offline():
    with pytest.raises(ValueError, match="Did you mean 'ImageNet_1K'"):
        load_mmeb("TIGER-Lab/MMEB-train", "ImageNet-1K")


def test_what_is_not_mmeb_is_refused(train: Path, tmp_path: Path, write: Write, cache: str):
    with pytest.raises(FileNotFoundError, match="neither a folder nor a dataset"):
        load_mmeb(tmp_path / "nowhere", "OK-VQA")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="does not hold MMEB"):
        load_mmeb(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"lacks the columns .*try load_mmeb\."):
        load_mmeb_eval(train, "OK-VQA", split="original", cache_dir=cache)
    write("CIRR", TEST, "test")
    with pytest.raises(ValueError, match="lacks the columns .*try load_mmeb_eval"):
        load_mmeb(train, "CIRR", split="test", cache_dir=cache)
    write("MSCOCO", {name: values[:0] for name, values in TEST.items()}, "test")
    with pytest.raises(ValueError, match="no rows"):
        load_mmeb_eval(train, "MSCOCO", cache_dir=cache)


# -- evaluation data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pictures", ["images/CIRR", "eval_images/CIRR", "CIRR"])
def test_evaluation_rows_become_queries_with_candidates_the_truth_first(write: Write, cache: str, pictures: str):
    root = write("CIRR", TEST, "test", pictures)
    dataset = load_mmeb_eval(root, "CIRR", cache_dir=cache)
    a, b = str(root / pictures / "a.png"), str(root / pictures / "b.png")
    assert dataset.column_names == ["query", "candidates"]
    assert dataset[0]["query"]["text"] == "Identify the object.\n" and dataset[0]["query"]["image"].size == (8, 6)
    assert dataset[1]["query"] == {"image": None, "text": "Find me an image: a cat.\n"}
    assert dataset[0]["candidates"] == [{"image": None, "text": text} for text in ("cat", "dog", "cat")]
    assert dataset[1]["candidates"] == [{"image": path, "text": "Represent the image.\n"} for path in (b, a)]


def test_candidates_split_into_distinct_documents_and_indices(write: Write, cache: str):
    root = write("CIRR", TEST, "test", "images/CIRR")
    dataset = load_mmeb_eval(root, "CIRR", cache_dir=cache)
    documents, rows = split_candidates(dataset)
    assert [row.tolist() for row in rows] == [[0, 1, 0], [2, 3]]
    assert documents[0]["document"] == {"image": None, "text": "cat"}
    assert documents[2]["document"]["image"].getpixel((0, 0)) == (0, 0, 255)
    assert len(set(column_keys(documents, "document").tolist())) == 4


def test_a_row_without_or_with_ill_matched_candidates_is_refused(write: Write, cache: str):
    broken = TEST | {"tgt_img_path": [["", "", ""], ["CIRR/b.png"]]}
    root = write("CIRR", broken, "test", "images/CIRR")
    with pytest.raises(ValueError, match="row 1: 2 texts and 1 image paths"):
        load_mmeb_eval(root, "CIRR", cache_dir=cache)
    write("NIGHTS", TEST | {"tgt_text": [[], ["a"]], "tgt_img_path": [[], [""]]}, "test")
    with pytest.raises(ValueError, match="row 0: 0 texts"):
        load_mmeb_eval(root, "NIGHTS", cache_dir=cache)
    write("WebQA", TEST | {"qry_inst": ["Find it."] * 2}, "test")
    with pytest.raises(ValueError, match="qry_inst"):
        load_mmeb_eval(root, "WebQA", cache_dir=cache)


def test_a_missing_candidate_image_is_named(write: Write, cache: str):
    root = write("CIRR", TEST, "test", "images/CIRR")
    (root / "images/CIRR/b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"Row 1, column 'tgt_img_path'.*b\.png"):
        load_mmeb_eval(root, "CIRR", cache_dir=cache)


# -- the Hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "images/"])
def test_images_of_the_hub_are_fetched_once_and_found_however_the_archive_is_laid_out(
    train: Path, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch, prefix: str
):
    archive = tmp_path / "OK-VQA.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for name in ("a.png", "b.png"):
            opened.write(train / "images/OK-VQA/Train" / name, f"{prefix}OK-VQA/Train/{name}")
    rows = mmeb_files.LocalFiles(train, cache).rows("OK-VQA", "original")
    asked = []

    def fetch(repo_id: str, name: str, **options: Any) -> str:
        asked.append((repo_id, name, options["revision"]))
        return str(archive)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr(mmeb_files, "load_dataset", lambda *_, **__: rows)
    for _ in range(2):
        dataset = load_mmeb(subsets="OK-VQA", split="original", revision="abc", cache_dir=cache)
        assert dataset[0]["anchor"]["image"].size == (8, 6)
    assert asked == [("TIGER-Lab/MMEB-train", "images_zip/OK-VQA.zip", "abc")] * 2
    assert str(dataset.with_format("arrow")[0].to_pylist()[0]["anchor"]["image"]["path"]).startswith(cache)
