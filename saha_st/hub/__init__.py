"""The Hub: publish an embedder, and verify that an engine gives the vectors it was published with."""

from __future__ import annotations

from saha_st.lazy import lazy_names

_HOMES = {
    "Published": "publishing",
    "Verification": "verification",
    "publish": "publishing",
    "verify": "verification",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
