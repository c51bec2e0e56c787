"""Training runs: a config, the stock trainer, and what makes a run safe to kill and to trust."""

from __future__ import annotations

from saha_st.training.config import AdapterConfig, DataConfig, LossConfig, MiningConfig, RunConfig
from saha_st.training.run import train

__all__ = ["AdapterConfig", "DataConfig", "LossConfig", "MiningConfig", "RunConfig", "train"]
