from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from datasets import Dataset, Features, Image, List, Value
from sentence_transformers import SentenceTransformerTrainingArguments

from saha_st.samplers import ClusterBatchSampler, cluster


def labels_of(sizes: list[int]) -> list[list[int]]:
    clusters = [index for index, size in enumerate(sizes) for _ in range(size)]
    return [[name, row, row + 1000] for row, name in enumerate(clusters)]


def mined(sizes: list[int]) -> Dataset:
    return Dataset.from_dict({"label": labels_of(sizes)})


SIZES = np.random.default_rng(0).permutation([8] * 60 + [7] * 9 + [5] * 14 + [3] * 11 + [2] * 20).tolist()


def batches(sampler: ClusterBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_batch_is_whole_clusters_of_exactly_batch_size_rows(epoch: int):
    sampler = ClusterBatchSampler(mined(SIZES), batch_size=32)
    cluster_of = [label[0] for label in labels_of(SIZES)]
    drawn = batches(sampler, epoch)
    assert len(drawn) == len(sampler) == sampler.plan.num_batches >= 18
    assert all(type(row) is int for row in drawn[0])
    for batch in drawn:
        assert len(batch) == len(set(batch)) == 32
        assert all(count == SIZES[name] for name, count in Counter(cluster_of[row] for row in batch).items())


def test_no_row_comes_twice_in_an_epoch_and_the_rest_is_counted():
    sampler = ClusterBatchSampler(mined(SIZES), batch_size=32)
    for epoch in range(5):
        rows = [row for batch in batches(sampler, epoch) for row in batch]
        assert len(rows) == len(set(rows)) == sum(SIZES) - sampler.dropped_rows


def test_each_row_has_the_share_of_its_cluster_size():
    sizes = [8] * 21 + [4] * 7 + [3] * 4
    sampler = ClusterBatchSampler(mined(sizes), batch_size=32)
    share = sampler.plan.share_of_size
    assert sampler.dropped_rows > 0
    epochs = 400
    seen = np.zeros(sum(sizes))
    for epoch in range(epochs):
        for batch in batches(sampler, epoch):
            seen[batch] += 1
    size_of_row = np.repeat(sizes, sizes)
    expected = np.array([share[size] for size in size_of_row])
    assert seen.sum() == pytest.approx(epochs * expected.sum())  # exactly, over all rows
    deviation = np.sqrt(expected * (1 - expected) / epochs)
    assert (np.abs(seen / epochs - expected) <= 4.5 * deviation).all()  # and for each row, by chance


def test_the_order_depends_on_seed_plus_epoch_alone():
    dataset = mined(SIZES)
    first = batches(ClusterBatchSampler(dataset, batch_size=32, seed=3), epoch=2)
    again = ClusterBatchSampler(dataset, batch_size=32, seed=3)
    batches(again, epoch=0)
    assert batches(again, epoch=2) == first
    assert batches(ClusterBatchSampler(dataset, batch_size=32, seed=4), epoch=1) == first
    assert batches(again, epoch=3) != first


def test_iterating_twice_gives_the_same_batches_so_that_skipping_resumes():
    sampler = ClusterBatchSampler(mined(SIZES), batch_size=32)
    whole = batches(sampler, epoch=1)
    assert list(SkipBatchSampler(sampler, skip_batches=5)) == whole[5:]


@pytest.mark.parametrize("processes", [2, 4, 5])
def test_every_process_gets_the_same_number_of_full_batches(processes: int):
    sampler = ClusterBatchSampler(mined(SIZES), batch_size=32, drop_last=False)
    shards = [
        BatchSamplerShard(sampler, num_processes=processes, process_index=rank, even_batches=False)
        for rank in range(processes)
    ]
    drawn = [list(shard) for shard in shards]
    assert {len(shard) for shard in shards} == {len(part) for part in drawn} == {len(sampler) // processes}
    assert all(len(batch) == 32 for part in drawn for batch in part)
    rows = [row for part in drawn for batch in part for row in batch]
    assert len(rows) == len(set(rows))


def test_images_are_not_decoded():
    labels = labels_of([4, 4, 4, 4])
    broken = [{"bytes": b"not an image", "path": None}] * 16
    dataset = Dataset.from_dict(
        {"anchor": broken, "label": labels}, features=Features({"anchor": Image(), "label": List(Value("int64"))})
    )
    with pytest.raises(OSError):
        dataset[0]
    assert len(ClusterBatchSampler(dataset, batch_size=8)) == 2


def test_the_column_name_formats_and_transforms_of_the_dataset_do_not_matter():
    labels = labels_of([4, 4, 4, 4])
    fixed = Features({"score": List(Value("int32"), length=3)})
    expected = list(ClusterBatchSampler(Dataset.from_dict({"label": labels}), batch_size=8))
    dataset = Dataset.from_dict({"score": labels}, features=fixed)
    dataset.set_transform(lambda rows: {**rows, "dataset_name": "x"})
    assert list(ClusterBatchSampler(dataset, 8, True, ["label", "score"])) == expected
    selected = Dataset.from_dict({"label": labels * 2}).select(range(16)).with_format("torch")
    assert list(ClusterBatchSampler(selected, batch_size=8)) == expected


def test_filtering_rows_out_of_clusters_keeps_the_rest_of_them_together():
    dataset = mined([4, 4, 4, 4]).filter(lambda row: row["label"][1] not in (1, 6, 7))
    sampler = ClusterBatchSampler(dataset, batch_size=9)
    assert dict(zip(sampler.plan.sizes.tolist(), sampler.plan.counts.tolist(), strict=True)) == {2: 1, 3: 1, 4: 2}
    assert len(sampler) == 1


@pytest.mark.parametrize("spoil", ["shuffle", "concatenate"])
def test_a_cluster_in_several_places_is_refused(spoil: str):
    from datasets import concatenate_datasets

    dataset = mined([4, 4, 4, 4])
    spoilt = dataset.shuffle(seed=0) if spoil == "shuffle" else concatenate_datasets([dataset, dataset])
    with pytest.raises(ValueError, match=r"Cluster \d is in several places \(rows \d+ and \d+.*DatasetDict"):
        ClusterBatchSampler(spoilt, batch_size=8)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"anchor": ["a"], "positive": ["b"]},
            r"needs a column 'label' .* \['anchor', 'positive'\].*mine_saha_clusters",
        ),
        ({"label": [0, 1]}, "its type is int64"),
        ({"label": [[0.5, 1.0, 2.0]]}, r"its type is list<.*double>"),
        ({"label": [[0, 1, 2], [0, 1], [0, 1, 2, 3]]}, r"row 1 has \[0, 1\]"),
        ({"label": [[0, 1, 2], None]}, "row 1 has None"),
    ],
)
def test_labels_of_another_form_are_refused_with_the_row(columns: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ClusterBatchSampler(Dataset.from_dict(columns), batch_size=2)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="has 0 rows"):
        ClusterBatchSampler(mined([4]).select([]), batch_size=2)


def test_impossible_sizes_are_refused_with_the_counts():
    with pytest.raises(ValueError, match=r"exactly batch_size=10 rows \(clusters: 6 of 4 rows\)"):
        ClusterBatchSampler(mined([4] * 6), batch_size=10)


def test_fewer_batches_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(cluster, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match=r"gives 3 batches .* for 4 processes"):
        ClusterBatchSampler(mined([4] * 6), batch_size=8)


def test_leaving_many_rows_out_is_said_with_a_better_batch_size(caplog):
    ClusterBatchSampler(mined([16] * 40 + [2] * 5), batch_size=26)
    assert "leaves out" in caplog.text and "batch_size=16 or 32" in caplog.text
    caplog.clear()
    ClusterBatchSampler(mined([16] * 40), batch_size=32)
    assert caplog.text == ""


def test_the_training_arguments_take_the_class(tmp_path):
    args = SentenceTransformerTrainingArguments(output_dir=str(tmp_path), batch_sampler=ClusterBatchSampler)
    assert args.batch_sampler is ClusterBatchSampler
