"""The truth of rows is read apart from the pairs, and row for row like them."""

from __future__ import annotations

import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from saha_st.data import load_mmeb, load_pairs
from saha_st.data.scenes import concepts_of, write_mini_mmeb, write_mini_mmeb_v2
from saha_st.data.truth import load_truth, truth_values


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """The training side of a mini-MMEB of two subsets."""
    root = tmp_path_factory.mktemp("truth") / "mini"
    write_mini_mmeb(root, train_rows=12, eval_rows=1, candidates=2, subsets=["Digits", "Scenes_i2t"])
    return root / "mini-MMEB-train"


def test_concepts_are_those_of_the_positives_row_by_row(train):
    digits = load_mmeb(train, "Digits", split="original")
    assert concepts_of(train, "Digits") == [cell["text"] for cell in digits["positive"]]
    stored = json.loads((train.parent / "concepts.json").read_text())
    assert concepts_of(str(train), "Scenes_i2t") == stored["train"]["Scenes_i2t"]["positive"]


def test_concepts_of_what_was_not_generated_are_not_known(train, tmp_path):
    with pytest.raises(FileNotFoundError, match="generated benchmarks only"):
        concepts_of(tmp_path / "mini-MMEB-train", "Digits")
    with pytest.raises(ValueError, match="no training subset 'Words'; it has Digits, Scenes_i2t"):
        concepts_of(train, "Words")


@pytest.mark.parametrize("max_rows", [None, 5])
def test_the_truth_of_mini_mmeb_is_of_the_rows_that_are_loaded(train, max_rows):
    pairs = load_mmeb(train, "Digits", max_rows=max_rows, seed=3)
    truth = load_truth("concept", train, format="mmeb", subset="Digits", max_rows=max_rows, seed=3)
    assert truth == [cell["text"] for cell in pairs["positive"]] and len(truth) == (max_rows or 12)


@pytest.mark.parametrize("max_rows", [None, 4])
def test_a_column_of_ones_own_is_of_the_rows_that_are_loaded(tmp_path, max_rows):
    rows = [{"anchor": f"a{row}", "positive": f"p{row}", "topic": None if row == 2 else f"t{row}"} for row in range(9)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    pairs = load_pairs(path, max_rows=max_rows, seed=1)
    expected = [None if anchor == "a2" else f"t{anchor[1:]}" for anchor in pairs["anchor"]]
    assert load_truth("topic", path, max_rows=max_rows, seed=1) == expected
    with pytest.raises(ValueError, match="no column 'kind'; it has anchor, positive, topic"):
        load_truth("kind", path)


def test_mmeb_without_the_column_says_where_it_looked(train, tmp_path):
    with pytest.raises(ValueError, match="no column 'topic'; it has qry"):
        load_truth("topic", train, format="mmeb", subset="Digits")
    with pytest.raises(ValueError, match="2 subsets; choose one"):
        load_truth("concept", train, format="mmeb")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "Digits").symlink_to(train / "Digits")
    with pytest.raises(ValueError, match="'Digits', has no column 'concept'; it has qry.*generated benchmarks only"):
        load_truth("concept", alone, format="mmeb", subset="Digits")


def test_concepts_of_generated_videos_are_known_too(tmp_path):
    root = write_mini_mmeb_v2(tmp_path / "v2", train_rows=3, eval_rows=1)
    pairs = load_pairs(root / "mini-MMEB-V2-train" / "Motions.jsonl")
    assert load_truth("concept", root / "mini-MMEB-V2-train" / "Motions.jsonl") == list(pairs["positive"])


def test_the_label_that_says_none_is_no_truth(tmp_path):
    features = Features({"anchor": Value("string"), "positive": Value("string"), "kind": ClassLabel(names=["a", "b"])})
    rows = {"anchor": ["x", "y", "z"], "positive": ["p", "q", "r"], "kind": [1, -1, 0]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "pairs.parquet")
    assert load_truth("kind", tmp_path / "pairs.parquet") == [1, None, 0]
    plain = Dataset.from_dict(rows)
    assert truth_values(plain, "kind") == [1, -1, 0], "a number of one's own may be any"
