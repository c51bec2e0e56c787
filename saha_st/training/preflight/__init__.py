"""Before a long run: how long the rows are, and whether the worst batch fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saha_st.lazy import lazy_names

if TYPE_CHECKING:
    from saha_st.training.preflight.report import PreflightReport
    from saha_st.training.preflight.run import preflight

__all__ = ["PreflightReport", "preflight"]

__getattr__, __dir__ = lazy_names(__name__, {"PreflightReport": "report", "preflight": "run"})
