"""Mining mutually hard clusters: neighbours, the cluster rule, and the recipe that joins them.

Names resolve on first use, so that importing the pure cluster rule never imports torch.
"""

from __future__ import annotations

from saha_st.lazy import lazy_names

_HOMES = {
    "MinedClusters": "miner",
    "build_clusters": "build",
    "find_saha_clusters": "miner",
    "mine_saha_clusters": "miner",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
