"""Mining a dataset of pairs: deduplication, references instead of copies, and labels the loss can rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from socket import gethostname

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from saha_st.mining import MinedClusters, build_clusters, find_saha_clusters, mine_saha_clusters, miner

QUIET = {"show_progress_bar": False}


def captions(rows: int = 24) -> Dataset:
    words = ["red", "green", "blue", "black", "white", "pink"]
    anchors = [f"{words[i % 6]} number {i}" for i in range(rows)]
    return Dataset.from_dict({"anchor": anchors, "positive": [f"a picture of {text}" for text in anchors]})


@pytest.fixture
def pictures(tmp_path) -> Dataset:
    """Pairs in MMEB's shape; rows 0 and 1 have the same anchor, rows 2 and 3 the same positive."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        path = tmp_path / f"{0 if i == 1 else i}.png"
        if not path.exists():
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
        anchor = {"image": str(path), "text": "Which word?"}
        rows.append({"anchor": anchor, "positive": {"image": None, "text": f"word {2 if i == 3 else i}"}})
    cell = {"image": ImageFeature(), "text": Value("string")}
    return Dataset.from_list(rows, features=Features({"anchor": cell, "positive": cell}))


def test_labels_name_cluster_anchor_and_positive(embedder):
    dataset = captions()
    mined = mine_saha_clusters(dataset, embedder, num_negatives=3, **QUIET)
    labels = np.array(mined["label"])
    assert labels.shape == (len(mined), 3) and len(mined) >= len(dataset) - 1
    assert (np.diff(labels[:, 0]) >= 0).all() and np.diff(labels[:, 0]).max() == 1
    for column, position in (("anchor", 1), ("positive", 2)):
        code_of = {}
        for cell, code in zip(mined[column], labels[:, position], strict=True):
            assert code_of.setdefault(cell, code) == code
        assert len(set(code_of.values())) == len(code_of)
    sizes = np.bincount(labels[:, 0])
    assert sizes.max() == 4 and sizes.min() >= 2


def test_the_recipe_is_the_rule_on_the_models_vectors(embedder):
    dataset = captions()
    mined = find_saha_clusters(dataset, embedder, num_negatives=3, **QUIET)
    anchors = embedder.encode_query(list(dataset["anchor"]))
    documents = embedder.encode_document(list(dataset["positive"]))
    expected = build_clusters(anchors, documents, np.arange(len(dataset)), num_negatives=3)
    found = np.split(mined.rows, np.flatnonzero(np.diff(mined.labels[:, 0])) + 1)
    assert [cluster.tolist() for cluster in found] == [cluster.tolist() for cluster in expected]


def test_pairs_with_pictures_keep_every_row_and_never_oppose_their_own_positives(embedder, pictures):
    mined = mine_saha_clusters(pictures, embedder, num_negatives=3, **QUIET)
    texts, labels = [cell["text"] for cell in mined["positive"]], np.array(mined["label"])
    assert {text for text in texts} == {f"word {i}" for i in range(12) if i != 3}
    for cluster in np.unique(labels[:, 0]):
        members = labels[labels[:, 0] == cluster]
        assert len(set(members[:, 1])) == len(set(members[:, 2])) == len(members)
    statistics = json.loads(mined.info.description)
    assert (statistics["anchors"], statistics["documents"], statistics["rows"]) == (11, 11, 12)


def test_the_anchor_comes_first_whatever_the_columns_of_the_source(embedder, pictures):
    pictures.info.features = Features({name: pictures.features[name] for name in ("positive", "anchor")})
    source = pictures.add_column("id", list(range(12))).add_column("label", ["x"] * 12)
    source = source.rename_columns({"anchor": "query", "positive": "answer"}).select_columns(
        ["id", "label", "answer", "query"]
    )
    names = {"anchor_column_name": "query", "positive_column_name": "answer"}
    mined = mine_saha_clusters(source, embedder, num_negatives=3, **names, **QUIET)
    assert mined.column_names == list(mined[0]) == ["anchor", "positive", "label"]
    assert mined[0]["anchor"]["text"] == "Which word?" and len(mined[0]["label"]) == 3


def test_options_that_cannot_work_are_refused_before_anything_is_encoded(embedder, monkeypatch):
    monkeypatch.setattr(embedder, "preprocess", None)
    for options in ({"pool_multiplier": 0}, {"num_negatives": 0}, {"relative_margin": 2.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            mine_saha_clusters(captions(), embedder, **{"num_negatives": 3} | options, **QUIET)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"saha-st\[faiss\]"):
        mine_saha_clusters(captions(), embedder, num_negatives=3, faiss_index="Flat", **QUIET)


def test_rows_are_referred_to_and_not_copied(embedder, pictures):
    mined = mine_saha_clusters(pictures, embedder, num_negatives=3, **QUIET)
    source = pictures._data.column("anchor").chunk(0).field("image").buffers()
    for chunk in mined._data.column("anchor").chunks:
        assert [buffer.address for buffer in chunk.field("image").buffers() if buffer] == [
            buffer.address for buffer in source if buffer
        ]


def test_a_row_in_several_clusters_appears_in_each(pictures):
    rows = np.array([3, 0, 1, 3, 2, 3])
    labels = np.stack([np.array([0, 0, 1, 1, 2, 2]), rows, rows], axis=1)
    mined = MinedClusters(rows, labels, {"rows": len(pictures)})._joined_to(pictures, "anchor", "positive")
    assert np.array(mined["label"]).tolist() == labels.tolist()
    assert [cell["text"] for cell in mined["positive"]] == [pictures[int(row)]["positive"]["text"] for row in rows]


def test_what_was_mined_is_stored_beside_the_data_and_joined_again(embedder, tmp_path):
    dataset = captions()
    mined = mine_saha_clusters(dataset, embedder, num_negatives=3, output_dir=tmp_path / "mined", **QUIET)
    again = MinedClusters.load(tmp_path / "mined")
    joined = again.of(dataset)
    assert list(joined["anchor"]) == list(mined["anchor"])
    assert np.array(joined["label"]).tolist() == np.array(mined["label"]).tolist()
    assert again.statistics["settings"]["num_negatives"] == 3
    with pytest.raises(ValueError, match="24 rows that were mined, this dataset has 5"):
        again.of(dataset.select(range(5)))
    with pytest.raises(ValueError, match="not the same ones"):
        again.of(dataset.select([1, 0, *range(2, 24)]))
    with pytest.raises(FileNotFoundError, match="no mining.json"):
        MinedClusters.load(tmp_path)


def test_mining_twice_gives_the_same(embedder, tmp_path):
    first = find_saha_clusters(captions(), embedder, num_negatives=3, cache_folder=tmp_path, **QUIET)
    second = find_saha_clusters(captions(), embedder, num_negatives=3, cache_folder=tmp_path, **QUIET)
    assert first.rows.tolist() == second.rows.tolist() and first.statistics == second.statistics


def test_lists_beyond_the_memory_are_on_the_disk_while_they_are_needed(embedder, tmp_path, monkeypatch):
    expected = find_saha_clusters(captions(), embedder, num_negatives=3, **QUIET)
    found, folders = miner.find_clusters, []

    def watched(*args, output_folder, **options):
        folders.append(output_folder)
        return found(*args, output_folder=output_folder, **options)

    monkeypatch.setattr(miner, "IN_MEMORY", 100)
    monkeypatch.setattr(miner, "find_clusters", watched)
    mined = find_saha_clusters(captions(), embedder, num_negatives=3, cache_folder=tmp_path, **QUIET)
    np.testing.assert_array_equal(mined.labels, expected.labels)
    assert folders[0].startswith(str(tmp_path)) and not list(tmp_path.glob("neighbours-*"))


def test_lists_that_a_killed_process_has_left_are_removed_and_those_of_others_are_not(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, beside = f"@{gethostname()}~", f"@x-{gethostname()}~"
    theirs = [f"neighbours-{os.getppid()}{here}a", f"neighbours-{dead.pid}{beside}b", "neighbours-7", "vectors"]
    for name in [*theirs, f"neighbours-{dead.pid}{here}c"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "neighbours.npy").touch()
    with miner._room_for_lists(tmp_path, rows=10, pool=2):
        assert len(list(tmp_path.iterdir())) == 5  # nothing is made or looked for if there is room
    monkeypatch.setattr(miner, "IN_MEMORY", 100)
    with miner._room_for_lists(tmp_path, rows=10, pool=2) as room:
        assert {path.name for path in tmp_path.iterdir()} == {*theirs, Path(room).name}
        assert Path(room).name.startswith(f"neighbours-{os.getpid()}{here}")
    assert {path.name for path in tmp_path.iterdir()} == set(theirs)


def test_faiss_finds_the_same_clusters(embedder):
    pytest.importorskip("faiss")
    exact = find_saha_clusters(captions(), embedder, num_negatives=3, **QUIET)
    faiss = find_saha_clusters(captions(), embedder, num_negatives=3, use_faiss=True, **QUIET)
    assert exact.rows.tolist() == faiss.rows.tolist()


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda: captions(0), "0 rows"),
        (lambda: captions(1), "1 row;"),
        (lambda: captions().rename_column("anchor", "query"), "no column 'anchor'; it has query, positive"),
        (lambda: captions(3), "num_negatives"),
        (lambda: Dataset.from_dict({"anchor": ["a", None], "positive": ["b", "c"]}), "Row 1, column 'anchor'"),
    ],
)
def test_data_that_cannot_be_mined_is_refused_before_anything_is_encoded(embedder, monkeypatch, dataset, message):
    calls = []
    monkeypatch.setattr(embedder, "preprocess", lambda *args, **kwargs: calls.append(args))
    with pytest.raises(ValueError, match=message):
        mine_saha_clusters(dataset(), embedder, num_negatives=3, **QUIET)
    assert not calls
