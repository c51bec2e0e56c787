"""What training minimises."""

from __future__ import annotations

from saha_st.losses.saha import SaHaLoss

__all__ = ["SaHaLoss"]
