"""MMEB-V2 as mteb tasks: the 36 image tasks of MMEB, 18 of videos, and 24 of visual documents.

Scored as VLM2Vec's V2 script does: documents are told apart by name, ranked by cosine, and of those that tie the first
in the list stands first. Videos and answers are ranked in a list of each query's own, or as all others are; pages in
the whole corpus. Main scores are hit@1 and, for pages, which may be right to a degree and several at once,
ndcg_linear@5; all other metrics of the leaderboard follow from the rankings.

One thing is done otherwise: a list that names a candidate twice (answers in NExTQA) ranks it once. hit@1 is the same,
the metrics of more places are not: VLM2Vec counts such a candidate twice in map and ndcg.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mteb.benchmarks.benchmark import Benchmark
from mteb.types import PromptType

from saha_st.data.mmeb.subsets import pick_subsets
from saha_st.data.mmeb_v2 import (
    PAGE_SUBSETS,
    VIDEO_SUBSETS,
    MMEBV2Place,
    PageSubset,
    RankingSplit,
    VideoSubset,
    load_mmeb_v2_eval,
    open_mmeb_v2,
)
from saha_st.data.mmeb_v2.frames import folder_states
from saha_st.data.mmeb_v2.places import MEDIA_REPO
from saha_st.data.scenes.subsets_v2 import MINI_PAGE_SUBSETS, MINI_VIDEO_SUBSETS
from saha_st.evaluation.exact_search import ExactSearch
from saha_st.evaluation.metrics import METRICS, Judged, ndcg_linear
from saha_st.evaluation.mmeb import UNDEFINED, MMEBMetadata, MMEBTask, as_benchmark, mmeb_tasks
from saha_st.evaluation.rankings import Ranking, judge
from saha_st.evaluation.revisions import digest_of_states, states_of
from saha_st.evaluation.specs import (
    IMAGE,
    LABELS,
    NDCG_AT_5,
    VIDEO,
    VISDOC,
    TaskSpec,
    mini_mmeb_v2_specs,
    mmeb_v2_specs,
)

_SUBSETS = VIDEO_SUBSETS | PAGE_SUBSETS
_REFERENCE = "https://arxiv.org/abs/2507.04590"
_CITATION = """@article{meng2025vlm2vecv2,
  title = {VLM2Vec-V2: Advancing Multimodal Embedding for Videos, Images, and Visual Documents},
  author = {Meng, Rui and Jiang, Ziyan and Liu, Ye and Su, Mingyi and Yang, Xinyi and Fu, Yuepeng and others},
  journal = {arXiv preprint arXiv:2507.04590},
  year = {2025},
}"""


class MMEBV2Metadata(MMEBMetadata):
    """mteb's metadata, for queries of which some have a picture beside the text and others a video."""

    def get_modalities(self, prompt_type: PromptType | None = None) -> list[str]:
        """Return the modalities of a side: those of the category, and for queries what the category cannot say."""
        found = super().get_modalities(prompt_type)
        mixed = prompt_type is PromptType.query and "image" in self.modalities and "video" in self.modalities
        return [*found, "image"] if mixed else found


class MMEBV2Task(MMEBTask):
    """A video or visual document task of MMEB-V2. Made by `mmeb_v2_tasks`, a class for each."""

    load: Callable[[], RankingSplit]
    metadata: MMEBV2Metadata
    k_values = (1, 5, 10)
    _search: ExactSearch

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Load queries and documents; their pictures and frames stay paths."""
        if self.data_loaded:
            return
        data = type(self).load()
        split = {"queries": data.queries, "corpus": data.documents}
        split |= {"relevant_docs": data.relevant, "top_ranked": data.candidates}
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

    def _evaluate_subset(self, model: Any, data_split: Any, **options: Any) -> Any:
        self._search = ExactSearch(model)
        try:
            return super()._evaluate_subset(self._search, data_split, **options)
        finally:
            del self._search  # tasks outlive their evaluation: it holds the model and the vectors of the corpus

    def task_specific_scores(
        self,
        scores: Mapping[str, Mapping[str, float]],
        qrels: Mapping[str, Mapping[str, int]],
        results: Mapping[str, Mapping[str, float]],
        hf_split: str,
        hf_subset: str,
    ) -> dict[str, float]:
        """Return the main score, and what tells whether it means anything; see `MMEBTask`."""
        seen, main_score = self._search.seen, self.metadata.main_score
        name, _, k = LABELS[main_score].partition("@")
        judged = judge(self._rankings(qrels, results))
        return {
            main_score: float(METRICS[name](judged, int(k)).mean()),
            "all_tied": float(np.mean(seen.all_tied)),
            "undefined": float(np.mean(seen.undefined)),
            "chance": float(np.mean(_chances(main_score, judged, np.array(seen.candidates)))),
            "num_queries": len(judged),
        }

    def _save_task_predictions(
        self,
        predictions: Mapping[str, Mapping[str, float]],
        model: Any,
        prediction_folder: Path,
        hf_split: str,
        hf_subset: str,
    ) -> None:
        """Write `<prediction_folder>/<task>.parquet`, see `rankings`."""
        qrels = self.dataset[hf_subset][hf_split]["relevant_docs"]
        self._write_rankings(model, self._rankings(qrels, predictions), prediction_folder)

    def _rankings(
        self, qrels: Mapping[str, Mapping[str, int]], results: Mapping[str, Mapping[str, float]]
    ) -> Iterable[Ranking]:
        for (query, found), candidates in zip(results.items(), self._search.seen.candidates, strict=True):
            values = np.array(list(found.values()))
            similarities = np.where(values > UNDEFINED, values, np.nan).tolist()
            yield Ranking(query, qrels[query], candidates, list(found), similarities)


def _chances(main_score: str, judged: Judged, candidates: np.ndarray) -> np.ndarray:
    """Return what guessing scores for each query: every place holds every candidate with the same probability."""
    if main_score != NDCG_AT_5:
        return np.minimum(judged.num_relevant / candidates, 1)
    mean_gain = judged.total_grade / candidates
    places = np.arange(judged.gains.shape[1]) < candidates[:, None]
    return ndcg_linear(replace(judged, gains=places * mean_gain[:, None]), 5)


def mmeb_v2_tasks(
    name_or_path: str | Path | None = None,
    subsets: str | Sequence[str] | None = None,
    *,
    modalities: Sequence[str] = (IMAGE, VIDEO, VISDOC),
    cache_dir: str | None = None,
) -> list[MMEBTask]:
    """Return the tasks of MMEB-V2, from the Hub or a local folder; no data are downloaded before a task runs.

    Args:
        name_or_path: A folder with `image-tasks`, `video-tasks` and `visdoc-tasks`, as `saha_st.data.mmeb_v2.places`
            describes them, or `None` for the Hub. Rows that it lacks come from the Hub. Pictures of the image tasks
            are in `image-tasks/MMEB`, or in `image-tasks`; so may be their rows, as in TIGER-Lab/MMEB-eval.
        subsets: One subset, several, or `None` for all of the modalities.
        modalities: "Image", "Video" or "VisDoc", several or all.
        cache_dir: Folder for downloads. Default: that of datasets.

    Raises:
        FileNotFoundError: A path that is no folder, or has no folder for a modality.
        ValueError: An unknown subset, or a folder that holds nothing of MMEB-V2.
    """
    place = open_mmeb_v2(name_or_path, cache_dir=cache_dir)
    specs = {name: spec for name, spec in mmeb_v2_specs().items() if spec.modality in modalities}
    names = pick_subsets(subsets, list(specs), source="MMEB-V2")
    images = [name for name in names if specs[name].modality == IMAGE]
    tasks = {task.spec.subset: task for task in (_image_tasks(place, images) if images else ())}
    return [tasks.get(name) or _task_class(specs[name], _SUBSETS[name], place)() for name in names]


def mini_mmeb_v2_tasks(
    root: str | Path, subsets: str | Sequence[str] | None = None, *, cache_dir: str | None = None
) -> list[MMEBTask]:
    """Return the tasks of a mini-MMEB-V2 that `write_mini_mmeb_v2` wrote.

    Args:
        root: The folder given to `write_mini_mmeb_v2`.
        subsets: One subset, several, or `None` for all.
        cache_dir: Folder for converted rows. Default: that of datasets.

    Raises:
        FileNotFoundError: There is no mini-MMEB-V2 in `root`.
        ValueError: A subset that there is not.
    """
    place = MMEBV2Place(Path(root).expanduser().absolute(), cache_dir)
    table, specs = MINI_VIDEO_SUBSETS | MINI_PAGE_SUBSETS, mini_mmeb_v2_specs()
    names = pick_subsets(subsets, list(specs), source="mini-MMEB-V2")
    if missing := [name for name in names if place.local_rows(table[name]) is None]:
        raise FileNotFoundError(
            f"root: {str(root)!r} holds no {', '.join(missing)} of mini-MMEB-V2. Write it to a new folder with "
            "write_mini_mmeb_v2(root)."
        )
    return [_task_class(specs[name], table[name], place, benchmark="mini-MMEB-V2")() for name in names]


def mmeb_v2_benchmark(name_or_path: str | Path | None = None, *, name: str = "MMEB(v2)", **options: Any) -> Benchmark:
    """Return MMEB-V2, or some of its modalities, as a benchmark of mteb, with the means that are quoted.

    Args:
        name_or_path: As `mmeb_v2_tasks`.
        name: What the benchmark is called.
        **options: As `mmeb_v2_tasks`.
    """
    tasks = mmeb_v2_tasks(name_or_path, **options)
    description = "Massive Multimodal Embedding Benchmark, version 2: images, videos and visual documents."
    texts = {"description": description, "reference": _REFERENCE, "citation": _CITATION}
    return as_benchmark(name, tasks, **texts)


def _image_tasks(place: MMEBV2Place, names: Sequence[str]) -> list[MMEBTask]:
    if place.folder is None:
        return mmeb_tasks(subsets=names, cache_dir=place.cache_dir)
    folder = place.folder / "image-tasks"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"name_or_path: {place.folder} has no image-tasks, the pictures of {len(names)} of the tasks. Unpack "
            f"mmeb_v1.tar.gz of {MEDIA_REPO} in it, or name other tasks."
        )
    pictures = folder / "MMEB" if (folder / "MMEB").is_dir() else folder  # what the archive unpacks to
    for rows in dict.fromkeys((pictures, folder)):
        if any(rows.glob("*/*.parquet")):
            elsewhere = pictures if rows != pictures else None
            return mmeb_tasks(rows, names, image_root=elsewhere, cache_dir=place.cache_dir)
    return mmeb_tasks(subsets=names, image_root=pictures, cache_dir=place.cache_dir)


def _task_class(
    spec: TaskSpec, subset: VideoSubset | PageSubset, place: MMEBV2Place, *, benchmark: str = "MMEB-V2"
) -> type[MMEBV2Task]:
    metadata = MMEBV2Metadata(
        name=spec.name,
        description=f"{spec.subset} of {benchmark} ({spec.meta_task}).",
        type="Any2AnyRetrieval",
        category=spec.category,
        modalities=_modalities(subset),
        dataset={"path": str(place.local_rows(subset) or subset.repo), "revision": _revision(subset, place)},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=spec.main_score,
        reference=_REFERENCE,
        bibtex_citation=_CITATION,
    )

    def load() -> RankingSplit:
        return load_mmeb_v2_eval(subset, place)

    members = {"spec": spec, "metadata": metadata, "load": staticmethod(load), "__module__": __name__}
    return type(spec.name, (MMEBV2Task,), members)


def _modalities(subset: VideoSubset | PageSubset) -> list[str]:
    if isinstance(subset, PageSubset):
        return ["image", "text"]
    return ["image", "video", "text"] if subset.has_image_queries else ["video", "text"]


def _revision(subset: VideoSubset | PageSubset, place: MMEBV2Place) -> str:
    """Name the version of the data: the commits on the Hub, or a digest of what is known of local files."""
    rows = place.local_rows(subset)
    name = (place.commit(subset.repo) or "main") if rows is None else None
    if place.folder is None:
        return name if isinstance(subset, PageSubset) else f"{name}-{(place.commit(MEDIA_REPO) or 'main')[:16]}"
    states = [] if rows is None else states_of(rows)
    if isinstance(subset, VideoSubset):
        states += folder_states(frames) if (frames := place.local_frames(subset)) is not None else []
    digest = digest_of_states(states)
    return digest if name is None else f"{name}-{digest}" if states else name
