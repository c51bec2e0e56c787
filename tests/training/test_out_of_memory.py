"""What an error of memory names, and what it says to lower."""

from __future__ import annotations

import torch

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
