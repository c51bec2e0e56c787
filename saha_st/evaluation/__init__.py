"""Evaluation through mteb: MMEB as mteb tasks, an encoder that loses nothing on the way, and the table people quote.

Names are imported when first used: mteb takes seconds to import, and is an extra.
"""

from __future__ import annotations

from importlib.util import find_spec

from saha_st.lazy import lazy_names

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
    "mini_mmeb_v2_tasks": "mmeb_v2",
    "mmeb_benchmark": "mmeb",
    "mmeb_submission": "submission.mmeb",
    "mmeb_submission_steps": "submission.mmeb",
    "mmeb_tasks": "mmeb",
    "mmeb_v2_benchmark": "mmeb_v2",
    "mmeb_v2_tasks": "mmeb_v2",
    "mteb_submission": "submission.mteb",
    "published_for": "report",
    "sugarcrepe_benchmark": "sugarcrepe",
    "sugarcrepe_pp_benchmark": "sugarcrepe",
    "sugarcrepe_pp_tasks": "sugarcrepe",
    "sugarcrepe_tasks": "sugarcrepe",
}

__all__ = list(_HOMES)


def _require_mteb(name: str, home: str) -> None:
    if home != "scores" and find_spec("mteb") is None:
        raise ImportError(f'{name} needs mteb, which is not installed. Run: pip install "saha-st[eval]"')


__getattr__, __dir__ = lazy_names(__name__, _HOMES, before=_require_mteb)
