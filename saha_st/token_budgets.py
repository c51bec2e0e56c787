"""How many tokens go through a model at a time, and which inputs that makes: for encoding and for training alike."""

from __future__ import annotations

from collections.abc import Sequence

BATCH_TOKENS = 4096
"""Of a forward that encodes, padding included: some 10 TFLOP for a model of 2B, so enough to keep a GPU busy; on a CPU
more are slower, as they do not fit into its caches."""

MINI_BATCH_NUM_TOKENS = 4096
"""Of a mini-batch in training: what the paper's four rows of 1,024 tokens take at most, so as much memory, in fewer
forward passes where rows are shorter."""


def deal_out(lengths: Sequence[int], num_tokens: int, *, most_rows: int | None = None) -> list[list[int]]:
    """Deal rows out to batches, the longest first: what does not fit into the memory fails at once.

    Args:
        lengths: Tokens of each row.
        num_tokens: Most tokens of a batch, padding included; a longer row has a batch of its own.
        most_rows: Most rows of a batch.

    Returns:
        The rows of each batch, the longest first, equals in their order.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])  # stable
    batches, begin = [], 0
    while begin < len(order):
        rows = max(1, num_tokens // max(lengths[order[begin]], 1))
        batches.append(order[begin : begin + min(rows, most_rows or rows)])
        begin += len(batches[-1])
    return batches
