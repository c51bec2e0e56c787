"""`builder="communities"` from pairs to a step of training, on the generated benchmark."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from saha_st import ClusterBatchSampler, SaHaLoss, load_embedder, mine_saha_clusters
from saha_st.cli import main
from saha_st.data import load_mmeb
from saha_st.data.scenes import write_mini_mmeb
from saha_st.mining import MinedClusters, find_saha_clusters
from saha_st.mining.build import build_clusters, find_clusters
from saha_st.training import RunConfig

COMMUNITIES = {"num_negatives": 3, "builder": "communities", "show_progress_bar": False}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """The training side of the benchmark, with 42 pairs of captions and pictures."""
    root = tmp_path_factory.mktemp("communities") / "mini"
    return write_mini_mmeb(root, train_rows=42, eval_rows=4, subsets=["Scenes_t2i"]) / "mini-MMEB-train"


@pytest.fixture(scope="module")
def scenes(train):
    return dict(load_mmeb(train, ["Scenes_t2i"], split="original"))["Scenes_t2i"]


@pytest.fixture(scope="module")
def tiny_base():
    return load_embedder("saha-tiny-base", device="cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


def test_pairs_become_communities_that_a_trainer_takes(scenes, tiny_base, cache, tmp_path):
    mined = mine_saha_clusters(scenes, tiny_base, cache_folder=cache, output_dir=tmp_path / "mined", **COMMUNITIES)
    statistics = json.loads(mined.info.description)
    settings = statistics["settings"]
    assert settings["builder"] == "communities" and settings["partitioner"] == "greedy"
    assert (settings["range_min"], settings["range_max"]) == (0, 18)
    assert statistics["edges"] > statistics["edges_in_clusters"] > 0 and statistics["rows_left_out"] == 0
    labels = np.array(mined["label"])
    assert statistics["members"] == len(labels) == 42
    again = MinedClusters.load(tmp_path / "mined")
    assert again.statistics == statistics and np.array(again.of(scenes)["label"]).tolist() == labels.tolist()

    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=8,
        max_steps=1,
        learning_rate=1e-3,
        batch_sampler=ClusterBatchSampler,
        router_mapping={"anchor": "query", "positive": "document"},
        report_to=[],
        save_strategy="no",
        use_cpu=True,
    )
    model = load_embedder("saha-tiny-base", device="cpu")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=mined, loss=SaHaLoss(model))
    batch = next(iter(trainer.get_train_dataloader()))
    assert np.unique(np.array(batch["label"])[:, 0], return_counts=True)[1].tolist() == [4, 4]
    trainer.train()
    assert any((weight != before[name]).any() for name, weight in model.named_parameters())


def test_the_recipe_is_the_builder_on_the_models_vectors(scenes, tiny_base, cache):
    mined = find_saha_clusters(scenes, tiny_base, cache_folder=cache, range_min=2, **COMMUNITIES)
    again = find_saha_clusters(scenes, tiny_base, cache_folder=cache, range_min=2, **COMMUNITIES)
    assert mined.rows.tolist() == again.rows.tolist() and mined.statistics == again.statistics
    anchors = tiny_base.encode_query([cell["text"] for cell in scenes["anchor"]], batch_size=1)
    documents = tiny_base.encode_document(list(scenes["positive"]), batch_size=1)
    keys = mined.labels[np.argsort(mined.rows)][:, 1:]
    order = np.unique(keys[:, 1], return_index=True)[1]
    expected = find_clusters(
        anchors,
        documents[order],
        keys[:, 1],
        num_negatives=3,
        anchor_key=keys[:, 0],
        builder="communities",
        range_min=2,
    )
    found = np.split(mined.rows, np.flatnonzero(np.diff(mined.labels[:, 0])) + 1)
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in expected.clusters]


def test_the_paper_s_rule_is_the_default_and_says_so(scenes, tiny_base, cache):
    plain = find_saha_clusters(scenes, tiny_base, num_negatives=3, cache_folder=cache, show_progress_bar=False)
    assert plain.statistics["settings"]["builder"] == "owners" and "edges" not in plain.statistics
    named = find_saha_clusters(scenes, tiny_base, cache_folder=cache, **COMMUNITIES | {"builder": "owners"})
    assert named.rows.tolist() == plain.rows.tolist() and named.statistics == plain.statistics


def test_the_command_has_the_same_options(train, cache, tmp_path, capsys):
    source = [
        str(train),
        "--format",
        "mmeb",
        "--subset",
        "Scenes_t2i",
        "--split",
        "original",
        "--model",
        "saha-tiny-base",
    ]
    options = ["--num_negatives", "3", "--device", "cpu", "--cache_folder", str(cache), "--quiet"]
    command = ["mine", *source, *options, "--output_dir", str(tmp_path / "mined")]
    assert main([*command, "--range_min", "2"]) == 2
    assert "of builder='communities' alone" in capsys.readouterr().err
    assert main([*command, "--builder", "communities", "--range_min", "2", "--no_owner_filter"]) == 0
    settings = MinedClusters.load(tmp_path / "mined").statistics["settings"]
    assert settings["builder"] == "communities" and not settings["owner_filter"]
    assert (settings["range_min"], settings["range_max"]) == (2, 20)


def test_what_cannot_work_is_refused_before_anything_is_encoded(scenes, embedder, monkeypatch):
    monkeypatch.setattr(embedder, "preprocess", None)
    for options, message in (
        ({"builder": "groups"}, "builder must be 'owners' or 'communities', got 'groups'"),
        ({"range_max": 9}, "of builder='communities' alone"),
        ({"builder": "communities", "range_min": 9, "range_max": 9}, "the window is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            mine_saha_clusters(scenes, embedder, num_negatives=3, **options)
    monkeypatch.setitem(__import__("sys").modules, "pymetis", None)
    with pytest.raises(ImportError, match=r"saha-st\[metis\]"):
        mine_saha_clusters(scenes, embedder, num_negatives=3, builder="communities", partitioner="metis")


def test_a_run_s_config_names_the_builder_and_older_ones_stay_as_they_were():
    values = {"model": "m", "output_dir": "o", "data": [{"path": "p"}]}
    mining = RunConfig.from_dict(values).to_dict()["mining"]
    assert "builder" not in mining and "range_min" not in mining
    chosen = {"builder": "communities", "range_min": 30, "range_max": 130, "partitioner": "metis"}
    config = RunConfig.from_dict(values | {"mining": chosen})
    assert chosen.items() <= config.to_dict()["mining"].items() and RunConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="range_min is a rank and must be at least 0, got -3"):
        RunConfig.from_dict(values | {"mining": {"builder": "communities", "range_min": -3}})


def test_clusters_of_embeddings_come_by_either_builder():
    rng = np.random.default_rng(0)
    anchors, documents = rng.standard_normal((2, 60, 8)).astype(np.float32)
    options = {"num_negatives": 4, "anchor_key": np.arange(60) // 2}
    owners, communities = (
        build_clusters(anchors, documents, np.arange(60), builder=builder, **options)
        for builder in ("owners", "communities")
    )
    assert [len(rows) for rows in communities] == [5] * 12
    assert [rows.tolist() for rows in owners] != [rows.tolist() for rows in communities]
