"""What an error of memory names, and what it says to lower."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, Features, Value
from video_clips import clip, write_folder

from saha_st.data.cells import VIDEO_CELL_FEATURE
from saha_st.losses.mini_batches import FailedMiniBatch
from saha_st.mining.miner import label_pairs
from saha_st.training.config import RunConfig
from saha_st.training.out_of_memory import explain_out_of_memory

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def test_outside_of_a_mini_batch_its_size_is_not_what_to_lower(run_dict):
    run_dict["training"] |= {"per_device_train_batch_size": 16}
    with_adapter = explain_out_of_memory(FULL, RunConfig.from_dict(run_dict), {}, {})
    assert with_adapter.startswith("Out of memory in a step, outside of the mini-batches.")
    assert "lower training.per_device_train_batch_size (now 16), or" in with_adapter
    assert (
        "mini_batch_" not in with_adapter and "image_tokens" not in with_adapter and "an adapter" not in with_adapter
    )
    whole = explain_out_of_memory(FULL, RunConfig.from_dict(run_dict | {"adapter": None}), {}, {})
    assert "train fewer weights (an adapter)" in whole and "\n" not in whole


@pytest.fixture
def failed() -> torch.OutOfMemoryError:
    """An error of a mini-batch of rows 2 and 0 of a batch of rows 5, 6 and 7."""
    error = torch.OutOfMemoryError("CUDA out of memory.")
    error.mini_batch = FailedMiniBatch(0, (2, 0), (30, 90), [[row, row, row] for row in (5, 6, 7)])
    return error


def pairs(name: str, rows: int) -> Dataset:
    return label_pairs(Dataset.from_dict({side: [f"{name} {side} {row}" for row in range(rows)] for side in SIDES}))


SIDES = ("anchor", "positive")


def test_the_rows_of_the_mini_batch_are_named_the_longest_first(run_dict, failed):
    datasets = {"short": pairs("short", 6), "long": pairs("long", 8)}
    row_ids = {"short": range(6), "long": [f"id-{row}" for row in range(8)]}
    message = explain_out_of_memory(failed, RunConfig.from_dict(run_dict), datasets, row_ids)
    assert "2 rows of up to 90 tokens, column 'anchor' of long: rows id-5; id-7." in message


def test_rows_that_two_datasets_may_have_are_not_guessed(run_dict, failed):
    datasets = {"first": pairs("first", 9), "second": pairs("second", 8)}
    message = explain_out_of_memory(failed, RunConfig.from_dict(run_dict), datasets, dict.fromkeys(datasets, range(9)))
    assert "2 rows of up to 90 tokens of one of first, second." in message and "rows 7" not in message


def test_a_video_that_cannot_be_read_any_more_does_not_hide_the_error(run_dict, failed, tmp_path):
    write_folder(tmp_path / "film", clip(frames=1))
    frame = tmp_path / "film" / "frame_0.png"
    cells = [{"image": None, "video": [{"path": str(frame), "bytes": None}], "text": str(row)} for row in range(8)]
    features = Features({"anchor": VIDEO_CELL_FEATURE, "positive": Value("string")})
    dataset = label_pairs(Dataset.from_dict({"anchor": cells, "positive": list("abcdefgh")}, features=features))
    frame.unlink()
    message = explain_out_of_memory(failed, RunConfig.from_dict(run_dict), {"films": dataset}, {"films": range(8)})
    assert "column 'anchor' of films: rows 5; 7. Lower loss.mini_batch" in message and "CUDA out of memory" in message


def test_whatever_goes_wrong_in_the_explanation_the_error_is_told(run_dict, failed, caplog):
    class Full:
        def __getitem__(self, row: int) -> int:
            raise torch.OutOfMemoryError("again")

    message = explain_out_of_memory(failed, RunConfig.from_dict(run_dict), {"a": pairs("a", 8)}, {"a": Full()})
    assert message.startswith("Out of memory in a mini-batch of 2 rows of up to 90 tokens. Lower loss.mini_batch")
    assert message.endswith("(CUDA out of memory)") and "OutOfMemoryError: again" in caplog.text
