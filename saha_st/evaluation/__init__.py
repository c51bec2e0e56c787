"""Evaluation through mteb: MMEB as mteb tasks, an encoder that loses nothing on the way, and the table people quote.

Names are imported when first used: mteb takes seconds to import, and is an extra.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

_HOMES = {
    "BENCHMARKS": "catalogue",
    "Embedder": "encoder",
    "MMEBTask": "mmeb",
    "Report": "report",
    "Scores": "scores",
    "TaskScore": "scores",
    "comparison_table": "scores",
    "evaluate": "run",
    "find_benchmark": "catalogue",
    "mini_mmeb_tasks": "mmeb",
    "mmeb_benchmark": "mmeb",
    "mmeb_submission": "submission.mmeb",
    "mmeb_submission_steps": "submission.mmeb",
    "mmeb_tasks": "mmeb",
    "mteb_submission": "submission.mteb",
    "published_for": "report",
    "sugarcrepe_benchmark": "sugarcrepe",
    "sugarcrepe_pp_benchmark": "sugarcrepe",
    "sugarcrepe_pp_tasks": "sugarcrepe",
    "sugarcrepe_tasks": "sugarcrepe",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    if home != "scores" and find_spec("mteb") is None:
        raise ImportError(f'{name} needs mteb, which is not installed. Run: pip install "saha-st[eval]"')
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
