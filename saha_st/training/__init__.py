"""Training runs: a config, the stock trainer, and what makes a run safe to kill and to trust.

Names are imported when first used, so that a config is read and refused without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saha_st.lazy import lazy_names

if TYPE_CHECKING:
    from saha_st.training.config import AdapterConfig, DataConfig, LossConfig, MiningConfig, RunConfig
    from saha_st.training.run import train

__all__ = ["AdapterConfig", "DataConfig", "LossConfig", "MiningConfig", "RunConfig", "train"]

__getattr__, __dir__ = lazy_names(__name__, {name: "run" if name == "train" else "config" for name in __all__})
