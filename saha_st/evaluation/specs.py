"""The tasks as a table: what each is called, how it is averaged, and which modalities its two sides have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from saha_st.data.mmeb import MMEB_SUBSETS
from saha_st.data.mmeb.subsets import MetaTask

Category = Literal["it2t", "t2it", "it2it", "t2i", "t2t"]

META_TASKS: tuple[MetaTask, ...] = ("Classification", "VQA", "Retrieval", "Grounding")
"""In the order in which papers list them."""

_TEXT_QUERIES = {"VisDial", "WebQA", "EDIS", "Wiki-SS-NQ"}  # and all whose name ends in _t2i


@dataclass(frozen=True)
class TaskSpec:
    """One task of a benchmark.

    Args:
        name: Its name in mteb, and so the name of its result file.
        subset: Its name in the data.
        meta_task: The group it is averaged in.
        in_distribution: Whether there is training data for it; `None` if the benchmark does not ask.
        category: Modalities of query and document as mteb writes them, such as `it2t`. Parts that a side lacks
            according to this are never encoded, so the data are checked against it.
        targets_as_queries: Whether its candidates are encoded as queries are.
    """

    name: str
    subset: str
    meta_task: str
    in_distribution: bool | None
    category: Category
    targets_as_queries: bool = False


def category_of(subset: str, meta_task: MetaTask) -> Category:
    """Return the modalities of a subset's two sides, which follow from its meta-task and the suffix of its name."""
    if meta_task in ("Classification", "VQA") or subset.endswith("_i2t"):
        return "it2t"
    return "t2it" if subset.endswith("_t2i") or subset in _TEXT_QUERIES else "it2it"


def mmeb_specs() -> dict[str, TaskSpec]:
    """Return the 36 tasks of MMEB by subset."""
    return _by_subset(
        TaskSpec(
            f"MMEB_{each.name}",
            each.name,
            each.meta_task,
            each.in_distribution,
            category_of(each.name, each.meta_task),
            each.targets_as_queries,
        )
        for each in MMEB_SUBSETS.values()
    )


def mini_mmeb_specs() -> dict[str, TaskSpec]:
    """Return the tasks of the generated mini-MMEB by subset."""
    from saha_st.data.scenes.subsets import SUBSETS

    meta_tasks: Mapping[str, MetaTask] = {name.lower(): name for name in META_TASKS}
    return _by_subset(
        TaskSpec(
            f"MiniMMEB_{each.name}",
            each.name,
            meta_tasks[each.meta_task],
            each.ind,
            category_of(each.name, meta_tasks[each.meta_task]),
        )
        for each in SUBSETS.values()
    )


def _by_subset(specs: Iterable[TaskSpec]) -> dict[str, TaskSpec]:
    return {spec.subset: spec for spec in specs}
