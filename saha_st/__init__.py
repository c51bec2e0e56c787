"""Turn a generative multimodal LLM into a universal embedder, in the Sentence Transformers ecosystem.

Names are imported when first used: ``import saha_st`` imports no torch.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from saha_st.lazy import lazy_names

try:
    __version__ = version("saha-st")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

_HOMES = {
    "ClusterBatchSampler": "samplers",
    "HierarchicalPrompt": "prompts",
    "HierarchicalPromptTransformer": "modules",
    "RunConfig": "training",
    "SaHaLoss": "losses",
    "SaHaModelCardData": "card",
    "SameTaskBatchSampler": "samplers",
    "load_embedder": "modules",
    "load_mmeb": "data",
    "load_pairs": "data",
    "mine_saha_clusters": "mining",
    "publish": "hub",
    "train": "training",
    "verify": "hub",
}

__all__ = [
    "ClusterBatchSampler",
    "HierarchicalPrompt",
    "HierarchicalPromptTransformer",
    "RunConfig",
    "SaHaLoss",
    "SaHaModelCardData",
    "SameTaskBatchSampler",
    "load_embedder",
    "load_mmeb",
    "load_pairs",
    "mine_saha_clusters",
    "publish",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from saha_st.card import SaHaModelCardData
    from saha_st.data import load_mmeb, load_pairs
    from saha_st.hub import publish, verify
    from saha_st.losses import SaHaLoss
    from saha_st.mining import mine_saha_clusters
    from saha_st.modules import HierarchicalPromptTransformer, load_embedder
    from saha_st.prompts import HierarchicalPrompt
    from saha_st.samplers import ClusterBatchSampler, SameTaskBatchSampler
    from saha_st.training import RunConfig, train

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
