"""Which rows meet in a batch: whole clusters, and one task at a time."""

from __future__ import annotations

from saha_st.samplers.cluster import ClusterBatchSampler
from saha_st.samplers.same_task import SameTaskBatchSampler
from saha_st.samplers.set_epoch import SetEpochCallback

__all__ = ["ClusterBatchSampler", "SameTaskBatchSampler", "SetEpochCallback"]
