"""Mining mutually hard clusters: neighbours, the cluster rule, and the recipe that joins them.

Names resolve on first use, so that importing the pure cluster rule never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "build_clusters": "saha_st.mining.build",
    "MinedClusters": "saha_st.mining.miner",
    "find_saha_clusters": "saha_st.mining.miner",
    "mine_saha_clusters": "saha_st.mining.miner",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
