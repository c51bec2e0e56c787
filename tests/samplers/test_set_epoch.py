from __future__ import annotations

import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainerState

from saha_st.samplers import ClusterBatchSampler, SetEpochCallback


def prepared(processes: int) -> DataLoader:
    """Rank 0's part of a dataset of 24 clusters, as the trainer prepares it."""
    dataset = Dataset.from_dict({"label": [[row // 4, row, row] for row in range(96)]})
    loader = DataLoader(dataset, batch_sampler=ClusterBatchSampler(dataset, batch_size=8), collate_fn=list)
    return prepare_data_loader(
        loader, num_processes=processes, process_index=0, put_on_device=False, even_batches=False
    )


def rows(loader: DataLoader) -> list[list[int]]:
    return [[row["label"][1] for row in batch] for batch in loader]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_resumed_epoch_goes_on_with_its_own_order_however_the_sampler_is_wrapped(processes: int):
    unbroken = prepared(processes)
    SetEpochCallback().on_epoch_begin(None, TrainerState(epoch=1.0), None, train_dataloader=unbroken)
    unbroken.set_epoch(1)
    expected = rows(unbroken)
    assert expected != rows(prepared(processes))

    resumed = prepared(processes)
    SetEpochCallback().on_epoch_begin(None, TrainerState(epoch=1.25), None, train_dataloader=resumed)
    skipping = skip_first_batches(resumed, 2)  # as the trainer does after the callback
    skipping.set_epoch(1)
    assert rows(skipping) == expected[2:]


def test_two_wrappers_are_unwrapped():
    loader = skip_first_batches(prepared(2), 2)
    SetEpochCallback().on_epoch_begin(None, TrainerState(epoch=3.5), None, train_dataloader=loader)
    assert loader.batch_sampler.batch_sampler.batch_sampler.epoch == 3


def test_a_run_that_has_just_begun_is_in_epoch_zero():
    loader = prepared(2)
    loader.batch_sampler.batch_sampler.set_epoch(5)
    SetEpochCallback().on_epoch_begin(None, TrainerState(epoch=None), None, train_dataloader=loader)
    assert loader.batch_sampler.batch_sampler.epoch == 0


def test_other_data_loaders_are_left_alone():
    SetEpochCallback().on_epoch_begin(None, TrainerState(epoch=1.0), None, train_dataloader=DataLoader([1, 2]))
    SetEpochCallback().on_epoch_begin(None, TrainerState(epoch=1.0), None)
