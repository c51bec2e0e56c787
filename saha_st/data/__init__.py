"""Data: MMEB and your own pairs as `anchor`/`positive` datasets, what is wrong with them, and content keys.

Names are imported when first used, so that this package costs nothing until then.
"""

from __future__ import annotations

from saha_st.lazy import lazy_names

_HOMES = {
    "CELL_FEATURE": "cells",
    "MMEB_SUBSETS": "mmeb",
    "MMEB_TRAIN_SUBSETS": "mmeb",
    "MMEBSubset": "mmeb",
    "PairCheck": "check",
    "PairSummary": "check",
    "Problem": "check",
    "VIDEO_CELL_FEATURE": "cells",
    "cell_key": "keys",
    "cell_keys": "keys",
    "check_pairs": "check",
    "column_keys": "keys",
    "format_problems": "check",
    "format_summary": "check",
    "load_mmeb": "mmeb",
    "load_mmeb_eval": "mmeb",
    "load_mmeb_v2_eval": "mmeb_v2",
    "load_pairs": "pairs",
    "load_sugarcrepe": "sugarcrepe",
    "load_sugarcrepe_pp": "sugarcrepe",
    "split_candidates": "mmeb",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
