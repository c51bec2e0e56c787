"""What batches of whole clusters leave out is said once."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset

from saha_st import quickstart
from saha_st.samplers import ClusterBatchSampler
from saha_st.training.batches import RunBatchSampler, warn_of_leftovers
from saha_st.training.config import RunConfig

EMBEDDED = Path(quickstart.__file__).parent


def mined(clusters: int, size: int) -> Dataset:
    labels = [[cluster, row, row] for cluster in range(clusters) for row in range(size)]
    dataset = Dataset.from_dict({"anchor": ["a"] * len(labels), "positive": ["b"] * len(labels), "label": labels})
    dataset.info.description = json.dumps({"cluster_sizes": {str(size): clusters}})
    return dataset


def test_one_warning_names_the_datasets_that_are_left_out_of_and_no_others(caplog):
    datasets = {"poor": mined(5, 4), "whole": mined(4, 4), "poorer": mined(7, 4)}
    for dataset in datasets.values():
        RunBatchSampler(dataset, batch_size=16)
    assert caplog.text == ""
    warn_of_leftovers(datasets, 16)
    (record,) = caplog.records
    assert "4 of 20 rows of poor, 12 of 28 rows of poorer." in record.message and "whole" not in record.message
    assert record.message.endswith("More rows would help.")


def test_no_batch_size_is_recommended_that_leaves_out_more(caplog):
    warn_of_leftovers({"small": mined(3, 4)}, 8)
    assert "leaves out 4 of 12 rows of small. It would be fewer with per_device_train_batch_size=12." in caplog.text
    caplog.clear()
    warn_of_leftovers({"small": mined(3, 4), "pairs": mined(4, 2)}, 8)
    assert caplog.text.rstrip().endswith("More rows would help.")


def test_the_recipe_of_the_quickstart_has_nothing_to_warn_of(caplog):
    counts = json.loads((EMBEDDED / "saha-tiny" / "mining.json").read_text())
    datasets = {}
    for name, mining in counts.items():
        datasets[name] = Dataset.from_dict({})
        datasets[name].info.description = json.dumps(mining)
    warn_of_leftovers(datasets, RunConfig.from_file("mini-mmeb").training["per_device_train_batch_size"])
    assert len(datasets) == 9 and caplog.text == ""


def test_the_plain_sampler_says_it_itself(caplog):
    ClusterBatchSampler(mined(5, 4), batch_size=16)
    assert "leaves out 4 of 20 rows" in caplog.text
    warn_of_leftovers({"whole": mined(4, 4)}, 16)
    assert len(caplog.records) == 1
