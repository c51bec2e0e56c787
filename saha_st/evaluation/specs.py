"""The tasks as a table: what each is called, how it is averaged, and which modalities its two sides have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from saha_st.data.mmeb import MMEB_SUBSETS
from saha_st.data.mmeb.subsets import MetaTask
from saha_st.data.mmeb_v2 import PAGE_SUBSETS, VIDEO_SUBSETS, PageSubset, VideoSubset

Category = Literal["it2t", "t2it", "it2it", "t2i", "t2t", "vt2t", "t2vt", "vt2vt"]

META_TASKS: tuple[MetaTask, ...] = ("Classification", "VQA", "Retrieval", "Grounding")
"""In the order in which papers list them."""

IMAGE, VIDEO, VISDOC = "Image", "Video", "VisDoc"
"""The modalities of MMEB-V2, of each of which it quotes the mean."""

HIT_AT_1 = "hit_at_1_ties_count"
"""Main score of MMEB: the truth is the first candidate, and no other scores higher. mteb's `hit_rate_at_1` breaks ties
by document id."""

HIT_AT_1_IN_ORDER = "hit_at_1_ties_in_order"
"""Main score of MMEB-V2's video tasks: of candidates that tie, the first in the list is ranked first."""

NDCG_AT_5 = "ndcg_linear_at_5"
"""Main score of MMEB-V2's visual document tasks; of pages that tie, the first in the corpus is ranked first."""

LABELS = {HIT_AT_1: "hit@1", HIT_AT_1_IN_ORDER: "hit@1", NDCG_AT_5: "ndcg_linear@5"}
"""What the main scores are called in tables and by the leaderboard."""

MMEB_ROWS = 1000
"""Queries of each subset of TIGER-Lab/MMEB-eval."""

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
        modality: The modality whose mean it is part of, if the benchmark has several.
        main_score: Its main score's name in mteb.
        num_queries: How many queries published results are of, if that is known.
        leaderboard_name: Its name in the files of the leaderboard, `None` if that is `subset`.
    """

    name: str
    subset: str
    meta_task: str
    in_distribution: bool | None
    category: Category
    targets_as_queries: bool = False
    modality: str | None = None
    main_score: str = HIT_AT_1
    num_queries: int | None = None
    leaderboard_name: str | None = None


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
            IMAGE,
            num_queries=MMEB_ROWS,
        )
        for each in MMEB_SUBSETS.values()
    )


def video_specs() -> dict[str, TaskSpec]:
    """Return the 18 video tasks of MMEB-V2 by subset."""
    return _by_subset(_video_spec(each, "MMEB") for each in VIDEO_SUBSETS.values())


def visdoc_specs() -> dict[str, TaskSpec]:
    """Return the 24 visual document tasks of MMEB-V2 by subset."""
    return _by_subset(_visdoc_spec(each, "MMEB") for each in PAGE_SUBSETS.values())


def mmeb_v2_specs() -> dict[str, TaskSpec]:
    """Return the 78 tasks of MMEB-V2 by subset, in the order of its modalities."""
    return mmeb_specs() | video_specs() | visdoc_specs()


def _video_category(subset: VideoSubset) -> Category:
    if not subset.target_is_video:
        return "vt2t"
    return "vt2vt" if subset.has_own_candidates else "t2vt"


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


def mini_mmeb_v2_specs() -> dict[str, TaskSpec]:
    """Return the tasks of the generated mini-MMEB-V2 by subset."""
    from saha_st.data.scenes.subsets_v2 import MINI_PAGE_SUBSETS, MINI_VIDEO_SUBSETS

    options = {"benchmark": "MiniMMEBV2", "in_distribution": True}
    videos = [_video_spec(each, **options) for each in MINI_VIDEO_SUBSETS.values()]
    return _by_subset([*videos, *(_visdoc_spec(each, **options) for each in MINI_PAGE_SUBSETS.values())])


def _video_spec(subset: VideoSubset, benchmark: str, *, in_distribution: bool | None = None) -> TaskSpec:
    return TaskSpec(
        f"{benchmark}_{subset.name}",
        subset.name,
        subset.meta_task,
        in_distribution,
        _video_category(subset),
        modality=VIDEO,
        main_score=HIT_AT_1_IN_ORDER,
        num_queries=subset.num_queries,
    )


def _visdoc_spec(subset: PageSubset, benchmark: str, *, in_distribution: bool | None = None) -> TaskSpec:
    return TaskSpec(
        f"{benchmark}_{subset.name}",
        subset.name,
        subset.meta_task,
        in_distribution,
        "t2it",
        modality=VISDOC,
        main_score=NDCG_AT_5,
        num_queries=subset.num_queries,
        leaderboard_name=subset.leaderboard_name,
    )


def _by_subset(specs: Iterable[TaskSpec]) -> dict[str, TaskSpec]:
    return {spec.subset: spec for spec in specs}
