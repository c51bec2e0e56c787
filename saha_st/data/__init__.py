"""Data: MMEB and your own pairs as `anchor`/`positive` datasets, what is wrong with them, and content keys.

Names are imported when first used, so that this package costs nothing until then.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CELL_FEATURE": "cells",
    "MMEB_SUBSETS": "mmeb",
    "MMEB_TRAIN_SUBSETS": "mmeb",
    "MMEBSubset": "mmeb",
    "PairCheck": "check",
    "PairSummary": "check",
    "Problem": "check",
    "cell_key": "keys",
    "cell_keys": "keys",
    "check_pairs": "check",
    "column_keys": "keys",
    "format_problems": "check",
    "format_summary": "check",
    "load_mmeb": "mmeb",
    "load_mmeb_eval": "mmeb",
    "load_pairs": "pairs",
    "load_sugarcrepe": "sugarcrepe",
    "load_sugarcrepe_pp": "sugarcrepe",
    "split_candidates": "mmeb",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
