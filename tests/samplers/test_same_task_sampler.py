from __future__ import annotations

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import ConcatDataset

from saha_st.samplers import ClusterBatchSampler, SameTaskBatchSampler


def mined(clusters: int) -> Dataset:
    return Dataset.from_dict({"label": [[row // 4, row, row] for row in range(4 * clusters)]})


def sampler_over(*clusters: int, world_size: int = 1, seed: int = 0) -> SameTaskBatchSampler:
    """Datasets with so many clusters of four, batches of two clusters."""
    datasets = [mined(number) for number in clusters]
    samplers = [ClusterBatchSampler(dataset, batch_size=8, seed=seed) for dataset in datasets]
    return SameTaskBatchSampler(ConcatDataset(datasets), samplers, seed=seed, world_size=world_size)


def dataset_of(sampler: SameTaskBatchSampler, batch: list[int]) -> int:
    edges = sampler.dataset.cumulative_sizes
    (index,) = {next(i for i, edge in enumerate(edges) if row < edge) for row in batch}
    return index


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_at_every_step_all_ranks_draw_from_the_same_dataset(world_size: int):
    sampler = sampler_over(30, 14, 51, world_size=world_size)
    ranks = [
        list(BatchSamplerShard(sampler, num_processes=world_size, process_index=rank, even_batches=False))
        for rank in range(world_size)
    ]
    steps = list(zip(*ranks, strict=True))
    assert len(steps) * world_size == len(sampler)
    tasks = [{dataset_of(sampler, batch) for batch in step} for step in steps]
    assert all(len(task) == 1 for task in tasks)
    assert len({next(iter(task)) for task in tasks[:6]}) > 1  # they take turns, not one after the other
    assert all(len(batch) == 8 for step in steps for batch in step)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_each_dataset_has_as_many_steps_as_its_batches_allow_and_no_row_comes_twice(world_size: int):
    sampler = sampler_over(30, 14, 51, world_size=world_size)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    counts = Counter(dataset_of(sampler, batch) for batch in drawn)
    assert counts == {i: n // world_size * world_size for i, n in enumerate([15, 7, 25])}
    rows = [row for batch in drawn for row in batch]
    assert len(rows) == len(set(rows))


def test_the_batches_left_over_are_others_in_every_epoch():
    sampler = sampler_over(10, 10, world_size=2)
    left_over = []
    for epoch in range(12):
        sampler.set_epoch(epoch)
        left_over.append(frozenset(range(80)) - {row for batch in sampler for row in batch})
    assert {len(rows) for rows in left_over} == {16}
    assert len(set(left_over)) > 6
    assert frozenset.union(*left_over) == frozenset(range(80))


def test_batches_keep_their_clusters_whole():
    sampler = sampler_over(6, 8)
    for batch in sampler:
        assert sorted(Counter(row // 4 for row in batch).values()) == [4, 4]


def test_the_order_depends_on_seed_plus_epoch_alone():
    first = sampler_over(6, 8, seed=1)
    first.set_epoch(2)
    expected = list(first)
    assert list(first) == expected
    other = sampler_over(6, 8, seed=2)
    other.set_epoch(1)
    assert list(other) == expected
    other.set_epoch(2)
    assert list(other) != expected


def test_a_dataset_with_fewer_batches_than_processes_is_refused():
    with pytest.raises(ValueError, match=r"Dataset 1 has 2 batches \(16 rows, batch_size=8\) for 3 processes"):
        sampler_over(30, 4, world_size=3)


def test_a_sampler_that_may_end_on_a_smaller_batch_is_refused_with_several_processes():
    dataset = mined(5)
    samplers = [DefaultBatchSampler(range(20), batch_size=8, drop_last=False)]
    with pytest.raises(ValueError, match=r"dataset 0, DefaultBatchSampler, has drop_last=False.*dataloader_drop_last"):
        SameTaskBatchSampler(ConcatDataset([dataset]), samplers, world_size=2)
    alone = SameTaskBatchSampler(ConcatDataset([dataset]), samplers, world_size=1)
    assert [len(batch) for batch in alone] == [8, 8, 4]


def test_a_sampler_that_ends_early_does_not_leave_some_ranks_without_a_batch(caplog):
    class Short(DefaultBatchSampler):
        def __len__(self) -> int:
            return 4

    dataset = mined(6)
    short = Short(range(24), batch_size=8, drop_last=True)  # three batches, four announced
    sampler = SameTaskBatchSampler(ConcatDataset([dataset]), [short], world_size=2)
    assert len(list(sampler)) == 2
    assert "Dataset 0 ended before the 4 batches" in caplog.text
