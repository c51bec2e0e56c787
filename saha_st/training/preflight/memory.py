"""What a training step needs in memory: counted where it can be, measured where it must be."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psutil
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

_ADAM_STATES = 2  # averages of a gradient and of its square


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a training step, by what they are for.

    Attributes:
        device: Where the model is.
        weights: Of all parameters and buffers, counted.
        gradients: Of the trained parameters, counted.
        optimizer: AdamW's two averages a trained parameter, counted.
        activations: Of the largest mini-batch, by a rule of thumb from the shape of the language model.
        available: What the device has; on a CPU what is free now.
    """

    device: str
    weights: int
    gradients: int
    optimizer: int
    activations: int
    available: int

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @classmethod
    def of(
        cls, model: SentenceTransformer, *, tokens: int, half_precision: bool, checkpointing: bool
    ) -> MemoryEstimate:
        """Estimate for a model as it is trained.

        Args:
            model: With its adapter, and frozen what is frozen.
            tokens: Of the largest mini-batch, padding included.
            half_precision: Whether matrix products are computed in 16 bits.
            checkpointing: Whether activations are computed anew in the backward pass.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = sum(map(_bytes, trained))
        shape = text_shape(model[0].model.config)
        activations = tokens * activation_bytes(shape, 2 if half_precision else 4, checkpointing)
        device = torch.device(model.device)
        return cls(
            device=str(device),
            weights=sum(map(_bytes, model.parameters())) + sum(map(_bytes, model.buffers())),
            gradients=gradients,
            optimizer=_ADAM_STATES * gradients,
            activations=activations,
            available=_available(device),
        )


@dataclass(frozen=True)
class TextShape:
    """The shape of a language model: sizes of a token's vectors, and number of blocks."""

    hidden: int
    intermediate: int
    layers: int


def text_shape(config: Any) -> TextShape:
    """Read the shape of a model's language part from its config."""
    config = config.get_text_config()
    return TextShape(config.hidden_size, config.intermediate_size, config.num_hidden_layers)


def activation_bytes(shape: TextShape, bytes_of_number: int, checkpointing: bool) -> int:
    """Bytes that a token leaves behind for the backward pass, by a rule of thumb.

    A block keeps about ten vectors of the hidden size (inputs of the norms, of attention and of its output; queries,
    keys, values) and four of the intermediate size (gate, up, their activation and product). With checkpointing each
    block keeps its input only, and one block at a time is computed anew.
    """
    block = 10 * shape.hidden + 4 * shape.intermediate
    kept = shape.layers * shape.hidden + block if checkpointing else shape.layers * block
    return bytes_of_number * kept


class PeakMemory:
    """The most memory that is taken within a block, in bytes.

    On a GPU what torch allocates there. On a CPU the growth of this process's resident memory, read every 5 ms; what
    was freed before and not given back to the system is not seen.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self.growth = 0

    def __enter__(self) -> PeakMemory:
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        self._process, self._done = psutil.Process(), threading.Event()
        self._before = self._resident()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._on_gpu:
            self.growth = torch.cuda.max_memory_allocated() - self._before
            return
        self._done.set()
        self._watcher.join()
        self.growth = max(self.growth, self._resident() - self._before)

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.growth = max(self.growth, self._resident() - self._before)

    def _resident(self) -> int:
        return self._process.memory_info().rss


def sixteen_bit_parameters(model: nn.Module) -> int:
    """How many trained numbers are kept in 16 bits, where small steps are rounded away."""
    halves = (torch.bfloat16, torch.float16)
    return sum(p.numel() for p in model.parameters() if p.requires_grad and p.dtype in halves)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return psutil.virtual_memory().available
