"""Turn a generative multimodal LLM into a universal embedder, in the Sentence Transformers ecosystem.

Names are imported when first used: ``import saha_st`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("saha-st")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

_MODULE_OF = {
    "ClusterBatchSampler": "saha_st.samplers",
    "HierarchicalPrompt": "saha_st.prompts",
    "HierarchicalPromptTransformer": "saha_st.modules",
    "RunConfig": "saha_st.training",
    "SaHaLoss": "saha_st.losses",
    "SameTaskBatchSampler": "saha_st.samplers",
    "load_embedder": "saha_st.modules",
    "load_mmeb": "saha_st.data",
    "load_pairs": "saha_st.data",
    "mine_saha_clusters": "saha_st.mining",
    "train": "saha_st.training",
}

__all__ = [
    "ClusterBatchSampler",
    "HierarchicalPrompt",
    "HierarchicalPromptTransformer",
    "RunConfig",
    "SaHaLoss",
    "SameTaskBatchSampler",
    "load_embedder",
    "load_mmeb",
    "load_pairs",
    "mine_saha_clusters",
    "train",
]

if TYPE_CHECKING:
    from saha_st.data import load_mmeb, load_pairs
    from saha_st.losses import SaHaLoss
    from saha_st.mining import mine_saha_clusters
    from saha_st.modules import HierarchicalPromptTransformer, load_embedder
    from saha_st.prompts import HierarchicalPrompt
    from saha_st.samplers import ClusterBatchSampler, SameTaskBatchSampler
    from saha_st.training import RunConfig, train


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_MODULE_OF))
