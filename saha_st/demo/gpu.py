"""Where models compute: here, or on a ZeroGPU that Hugging Face lends a Space for the length of a call.

A call on a ZeroGPU runs in a forked process, so only names, inputs and arrays go in and out; models stay here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from saha_st.encoding import Encoder, Task

ON_ZERO_GPU = bool(os.environ.get("SPACES_ZERO_GPU"))
"""Whether this is a Space with a ZeroGPU: a GPU is there only while `encode` runs, and only for a visitor."""

_MODELS: dict[str, SentenceTransformer] = {}
_LOCK = threading.Lock()  # tokenizers keep state during a call and may not be shared


def _borrow_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate with `spaces.GPU`, on a ZeroGPU; the package is optional elsewhere."""
    if not ON_ZERO_GPU:
        return function
    import spaces

    return spaces.GPU(duration=30)(function)


def keep(name: str, model: SentenceTransformer) -> None:
    """Make a model known to `encode`."""
    _MODELS[name] = model


@_borrow_gpu
def encode(name: str, inputs: list[Any], task: Task) -> np.ndarray:
    """Encode inputs with a model that was kept; shape (inputs, dim), float32."""
    with _LOCK:
        return Encoder(_MODELS[name], task=task)(inputs)
