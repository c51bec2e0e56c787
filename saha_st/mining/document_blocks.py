"""The documents of a search, block by block on the device, and single ones by their number.

Documents that fit stay on the device in their own type; others are streamed: while a block is worked on, a thread
brings the next one through pinned memory and over a stream of its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from saha_st.mining.grid import GRID


class Scratch:
    """Memory that is asked for once and used again: on a CPU fresh memory takes longer than the product."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory of a shape; what was taken before under the same name and type is overwritten."""
        size, held = math.prod(shape), self._held.get((name, dtype))
        if held is None or held.numel() < size:
            held = self._held[name, dtype] = torch.empty(size, dtype=dtype, device=self._device)
        return held[:size].view(shape)


class DocumentBlocks:
    """Unit vectors of documents, counted in steps of the grid.

    Args:
        documents: shape (documents, dim), any float type; a memory map is read as it is needed.
        inverse_norms: 1 / length of each. Shape (documents,), float64.
        device: where they are wanted.
        block_size: documents in a block.
        streamed: whether to bring them block by block. None: if they take more than half of a GPU's free memory.
    """

    def __init__(
        self,
        documents: np.ndarray,
        inverse_norms: np.ndarray,
        *,
        device: torch.device,
        block_size: int,
        streamed: bool | None = None,
    ) -> None:
        self.device, self.block_size = device, block_size
        self.count, self.dim = documents.shape
        self._raw = _without_copy(documents)
        self._scale = torch.tensor(inverse_norms * GRID, device=device)
        self._scratch = Scratch(device)
        if streamed is None:
            streamed = device.type == "cuda" and documents.nbytes > torch.cuda.mem_get_info(device)[0] // 2
        self._stream = _Stream(self._raw, device, min(block_size, self.count)) if streamed and self.count else None
        if self._stream is None:
            self._raw = self._raw.to(device)

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        """All documents in their order, each block overwriting the last.

        Args:
            dtype: float64 for vectors on the grid, float32 for vectors near it.

        Yields:
            The first document's number, and the block of shape (block, dim).
        """
        for start, raw in self._stream or self._resident():
            yield start, self._scaled("block", raw, self._scale[start : start + len(raw)], dtype)

    def on_grid(self, numbers: torch.Tensor) -> torch.Tensor:
        """Some documents on the grid; the next call overwrites them.

        Args:
            numbers: shape (n,), int64, on the device.

        Returns:
            Shape (n, dim), float64.
        """
        if self._stream is None:
            raw = self._scratch.take("raw", (len(numbers), self.dim), self._raw.dtype)
            torch.index_select(self._raw, 0, numbers, out=raw)
        else:
            raw = self._raw[numbers.cpu()].to(self.device)
        return self._scaled("some", raw, self._scale[numbers], torch.float64)

    def _resident(self) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, self.count, self.block_size):
            yield start, self._raw[start : start + self.block_size]

    def _scaled(self, name: str, raw: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        vectors = self._scratch.take(name, tuple(raw.shape), dtype).copy_(raw).mul_(scale.to(dtype)[:, None])
        return vectors.round_() if dtype == torch.float64 else vectors


class _Stream:
    """Rows of the host on the device: two lanes in turns, one under work while a thread fills the other."""

    def __init__(self, source: torch.Tensor, device: torch.device, block_size: int) -> None:
        self._source, self._block_size = source, block_size
        self._transfers = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._lanes = [_Lane(source, block_size, device) for _ in range(2)]

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        starts = range(0, len(self._source), self._block_size)
        with ThreadPoolExecutor(1) as thread:

            def bring(number: int) -> Future[torch.Tensor]:
                lane, start = self._lanes[number % 2], starts[number]
                lane.leave()  # whoever asks for the next block is done with the one before the last
                return thread.submit(lane.bring, self._source[start : start + self._block_size], self._transfers)

            coming = bring(0)
            for number, start in enumerate(starts):
                block = coming.result()
                self._lanes[number % 2].arrive()
                if number + 1 < len(starts):
                    coming = bring(number + 1)
                yield start, block


class _Lane:
    """A block's way to a GPU: pinned memory of the host, then the GPU's own. To the CPU the first is enough."""

    def __init__(self, like: torch.Tensor, block_size: int, device: torch.device) -> None:
        self._on_gpu, self._device = device.type == "cuda", device
        shape = (block_size, like.shape[1])
        self._host = self._there = torch.empty(shape, dtype=like.dtype, pin_memory=self._on_gpu)
        if self._on_gpu:
            self._there = torch.empty(shape, dtype=like.dtype, device=device)
            self._arrived, self._left = torch.cuda.Event(), torch.cuda.Event()

    def bring(self, rows: torch.Tensor, transfers: torch.cuda.Stream | None) -> torch.Tensor:
        """Start the way of some rows; runs in the thread."""
        host, there = self._host[: len(rows)], self._there[: len(rows)]
        if transfers is None:
            return host.copy_(rows)
        self._arrived.synchronize()  # the last transfer has read the host's memory
        host.copy_(rows)
        with torch.cuda.stream(transfers):
            transfers.wait_event(self._left)
            there.copy_(host, non_blocking=True)
            self._arrived.record(transfers)
        return there

    def arrive(self) -> None:
        """Let what is computed from now on wait for the rows."""
        if self._on_gpu:
            torch.cuda.current_stream(self._device).wait_event(self._arrived)

    def leave(self) -> None:
        """Let the next rows wait for what has been computed so far."""
        if self._on_gpu:
            self._left.record(torch.cuda.current_stream(self._device))


def _without_copy(array: np.ndarray) -> torch.Tensor:
    """A tensor that shares the memory of an array; it is only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
