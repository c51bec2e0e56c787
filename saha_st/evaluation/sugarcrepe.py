"""SugarCrepe and SugarCrepe++ as mteb tasks: which of a few captions fits the picture, or the other caption.

A row is a hit if one similarity exceeds another, strictly: that of a picture and a true caption that with the wrong
one (SugarCrepe; for both true captions in the image-text task of SugarCrepe++, ITT), or that of the two true captions
that of each with the wrong one (the text-only task, TOT). As in the paper, captions are queries with a prefix, and
pictures are documents. mteb has a "SugarCrepe" of its own, which pools the subsets and counts ties as hits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.benchmarks.benchmark import Benchmark, BenchmarkAggregation, CustomGroup, CustomGrouping
from mteb.types import PromptType

from saha_st.data.image_files import join_root
from saha_st.data.mmeb.subsets import pick_subsets
from saha_st.data.sugarcrepe import (
    SUGARCREPE,
    SUGARCREPE_PP,
    CaptionBenchmark,
    Captions,
    HubCaptions,
    image_roots,
    open_captions,
    read_captions,
    require_image_root,
)
from saha_st.evaluation.revisions import revision_of_files, revision_on_hub, states_in
from saha_st.evaluation.specs import TaskSpec

ACCURACY = "accuracy"
"""Name of the main score: the share of hits."""

CAPTION_PREFIX = "Find me an image that matches the given caption: "
"""What stands before every caption."""

Pair = tuple[str, str]
"""Two columns whose cells are compared, row by row."""

COMPARISONS: Mapping[str, tuple[tuple[Pair, Pair], ...]] = {
    "SugarCrepe": ((("image", "caption"), ("image", "negative_caption")),),
    "ITT": (
        (("image", "caption"), ("image", "negative_caption")),
        (("image", "caption2"), ("image", "negative_caption")),
    ),
    "TOT": (
        (("caption", "caption2"), ("caption", "negative_caption")),
        (("caption", "caption2"), ("caption2", "negative_caption")),
    ),
}
"""By meta-task: in a hit, the first pair of each is more similar than the second."""

PP_META_TASKS = ("ITT", "TOT")

_REFERENCES = {"SugarCrepe": "https://arxiv.org/abs/2306.14610", "SugarCrepe++": "https://arxiv.org/abs/2406.11171"}
_CITATIONS = {
    "SugarCrepe": """@article{hsieh2023sugarcrepe,
  title = {SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality},
  author = {Hsieh, Cheng-Yu and Zhang, Jieyu and Ma, Zixian and Kembhavi, Aniruddha and Krishna, Ranjay},
  journal = {arXiv preprint arXiv:2306.14610},
  year = {2023},
}""",
    "SugarCrepe++": """@article{dumpala2024sugarcrepepp,
  title = {SUGARCREPE++ Dataset: Vision-Language Model Sensitivity to Semantic and Lexical Alterations},
  author = {Dumpala, Sri Harsha and Jaiswal, Aman and Sastry, Chandramouli and Milios, Evangelos and Oore, Sageev and
    Sajjad, Hassan},
  journal = {arXiv preprint arXiv:2406.11171},
  year = {2024},
}""",
}


class SugarCrepeTask(AbsTask):
    """A subset of one of the benchmarks. Made by `sugarcrepe_tasks` and `sugarcrepe_pp_tasks`, a class for each.

    Data are loaded when the task runs, and unloaded after; call `load_data` before to keep them for several models.
    """

    spec: TaskSpec
    load: Callable[[], Dataset]
    metadata: TaskMetadata
    abstask_prompt = ""

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Load the rows, and see that there is an image and a text for each."""
        if not self.data_loaded:
            self.dataset = {"default": {"test": type(self).load()}}
            self.data_loaded = True

    def _evaluate_subset(
        self,
        model: Any,
        data_split: Dataset,
        *,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        prediction_folder: Path | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Encode both sides and compare; returns what `score_rows` does."""
        place = {"task_metadata": self.metadata, "hf_split": hf_split, "hf_subset": hf_subset}
        vectors = encode_columns(model, data_split, encode_kwargs, **place)
        comparisons = COMPARISONS[self.spec.meta_task]
        pairs = dict.fromkeys(pair for comparison in comparisons for pair in comparison)
        similarities = {(first, second): paired_cosines(vectors[first], vectors[second]) for first, second in pairs}
        if prediction_folder is not None:
            found = {" ~ ".join(pair): _as_json(values) for pair, values in similarities.items()}
            self._save_task_predictions(found, model, prediction_folder, hf_split=hf_split, hf_subset=hf_subset)
        return score_rows(similarities, comparisons)

    def _calculate_descriptive_statistics_from_split(
        self, split: str, *, hf_subset: str | None = None, **kwargs: Any
    ) -> dict[str, int]:
        return {"num_samples": len(self.dataset[hf_subset or "default"][split])}


def encode_columns(model: Any, rows: Dataset, encode_kwargs: Mapping[str, Any], **place: Any) -> dict[str, np.ndarray]:
    """Encode every column: captions as queries, with their prefix and all in one call, and images as documents.

    Args:
        model: An encoder of mteb.
        rows: Columns of captions, and maybe `image`.
        encode_kwargs: Passed on to the encoder.
        **place: What else an encoder of mteb is told.

    Returns:
        Arrays of shape (rows, dim), in float64, by column.
    """
    import torch
    from torch.utils.data import DataLoader

    captions = [name for name in rows.column_names if name != "image"]
    texts = Dataset.from_dict({"text": [CAPTION_PREFIX + text for name in captions for text in rows[name]]})

    def encode(dataset: Dataset, side: PromptType) -> np.ndarray:
        inputs = DataLoader(dataset, batch_size=encode_kwargs.get("batch_size", 32), collate_fn=_as_lists)
        vectors = model.encode(inputs, **place, prompt_type=side, **encode_kwargs)
        return torch.as_tensor(vectors).to("cpu", torch.float64).numpy()

    found = dict(zip(captions, np.split(encode(texts, PromptType.query), len(captions)), strict=True))
    if "image" in rows.column_names:
        found["image"] = encode(rows.select_columns("image"), PromptType.document)
    return found


def paired_cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of `first` with the same row of `second`; shape (rows,), float64.

    Each row is summed on its own and in the same order, so that equal pairs give equal cosines to the last bit, the
    other way round, too. A row of zeros gives NaN.
    """
    first, second = (np.ascontiguousarray(each, dtype=np.float64) for each in (first, second))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norms = [np.sqrt(np.einsum("nd,nd->n", each, each)) for each in (first, second)]
        return np.einsum("nd,nd->n", first, second) / (norms[0] * norms[1])


def score_rows(similarities: Mapping[Pair, np.ndarray], comparisons: Sequence[tuple[Pair, Pair]]) -> dict[str, float]:
    """Return the share of hits, and what tells whether it means anything.

    Args:
        similarities: By pair of columns, the similarity in each row, shape (rows,).
        comparisons: In a hit, the first pair of each is more similar than the second. What is equal or is not a number
            is no hit.

    Returns:
        The main score; `all_tied`, the share of rows in which all similarities are equal; `undefined`, the share with
        a similarity that is not a number; `chance`, the score of guessing; and `num_queries`.
    """
    hits = np.all([similarities[better] > similarities[worse] for better, worse in comparisons], axis=0)
    compared = np.stack(list(similarities.values()))  # (pairs, rows)
    # In a hit, one of the two or three similarities of a row is the highest (SugarCrepe, TOT) or the lowest (ITT) of
    # all. If the vectors of the captions are drawn alike and know nothing of each other, nothing sets one caption
    # apart from another, and so no similarity from the others: each is as likely to be that one. This needs the cosine
    # to be symmetric, but not its values to be independent; in TOT, of three captions, they are not. So chance is 1/2,
    # 1/3 and 1/3, and not 1/4, as if the two comparisons of a row were independent.
    return {
        ACCURACY: float(hits.mean()),
        "all_tied": float((compared == compared[0]).all(axis=0).mean()),
        "undefined": float((~np.isfinite(compared)).any(axis=0).mean()),
        "chance": 1 / len(compared),
        "num_queries": len(hits),
    }


def sugarcrepe_specs(subsets: Sequence[str] = SUGARCREPE.subsets) -> list[TaskSpec]:
    """Return what the tasks of SugarCrepe are, one for each subset."""
    return _specs(subsets, ["SugarCrepe"])


def sugarcrepe_pp_specs(
    subsets: Sequence[str] = SUGARCREPE_PP.subsets, meta_tasks: Sequence[str] = PP_META_TASKS
) -> list[TaskSpec]:
    """Return what the tasks of SugarCrepe++ are, one for each meta-task and subset."""
    return _specs(subsets, meta_tasks)


def sugarcrepe_tasks(
    name_or_path: str | Path | None = None,
    subsets: str | Sequence[str] | None = None,
    *,
    image_root: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> list[SugarCrepeTask]:
    """Return the tasks of SugarCrepe, from the Hub or a local folder; no data are downloaded before a task runs.

    Args:
        name_or_path: As `load_sugarcrepe`. Default: HuggingFaceM4/SugarCrepe_{subset}, which has the images.
        subsets: One subset, several, or `None` for all seven.
        image_root: As `load_sugarcrepe`.
        revision: As `load_sugarcrepe`.
        cache_dir: As `load_sugarcrepe`.

    Raises:
        ValueError: An unknown subset, or local rows that are none, empty, or lack a part.
        FileNotFoundError: There is no such folder, or the file of a subset is not in it.
    """
    place = open_captions(SUGARCREPE, name_or_path or SUGARCREPE.repo, revision=revision, cache_dir=cache_dir)
    return _tasks(SUGARCREPE, place, subsets, ["SugarCrepe"], image_root)


def sugarcrepe_pp_tasks(
    name_or_path: str | Path | None = None,
    subsets: str | Sequence[str] | None = None,
    *,
    meta_tasks: Sequence[str] = PP_META_TASKS,
    image_root: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> list[SugarCrepeTask]:
    """Return the tasks of SugarCrepe++, two for each subset; no data are downloaded before a task runs.

    Args:
        name_or_path: As `load_sugarcrepe_pp`. Default: Aman-J/SugarCrepe_pp, for which ITT needs an `image_root`.
        subsets: One subset, several, or `None` for all five.
        meta_tasks: "ITT", which compares captions with the image, "TOT", which compares captions with each other and
            needs no images, or both.
        image_root: As `load_sugarcrepe_pp`.
        revision: As `load_sugarcrepe_pp`.
        cache_dir: As `load_sugarcrepe_pp`.

    Raises:
        ValueError: As `sugarcrepe_tasks`; an unknown meta-task; or ITT of rows without images, and no `image_root`.
        FileNotFoundError: As `sugarcrepe_tasks`.
    """
    wanted = [meta_tasks] if isinstance(meta_tasks, str) else list(meta_tasks)
    if not wanted or not set(wanted) <= set(PP_META_TASKS):
        raise ValueError(f"meta_tasks: expected some of {list(PP_META_TASKS)}, received {wanted}.")
    place = open_captions(SUGARCREPE_PP, name_or_path or SUGARCREPE_PP.repo, revision=revision, cache_dir=cache_dir)
    return _tasks(SUGARCREPE_PP, place, subsets, wanted, image_root)


def sugarcrepe_benchmark(name_or_path: str | Path | None = None, **options: Any) -> Benchmark:
    """Return SugarCrepe as a benchmark of mteb, with the mean over its subsets that papers quote.

    Args:
        name_or_path: As `sugarcrepe_tasks`.
        **options: As `sugarcrepe_tasks`.
    """
    tasks = sugarcrepe_tasks(name_or_path, **options)
    description = "Is a picture more similar to its caption than to one that is almost the same, and wrong?"
    return _benchmark("SugarCrepe(v1)", SUGARCREPE, tasks, [BenchmarkAggregation.MEAN_TASK], description)


def sugarcrepe_pp_benchmark(name_or_path: str | Path | None = None, **options: Any) -> Benchmark:
    """Return SugarCrepe++ as a benchmark of mteb, with a mean for ITT and one for TOT, but none over both.

    Args:
        name_or_path: As `sugarcrepe_pp_tasks`.
        **options: As `sugarcrepe_pp_tasks`.
    """
    tasks = sugarcrepe_pp_tasks(name_or_path, **options)
    groups = {name: [task for task in tasks if task.spec.meta_task == name] for name in PP_META_TASKS}
    grouping = CustomGrouping("Meta-task", tuple(CustomGroup(name, found) for name, found in groups.items() if found))
    description = (
        "Are two captions that say the same told from one that differs in a word, with and without a picture?"
    )
    return _benchmark("SugarCrepe++", SUGARCREPE_PP, tasks, [grouping], description)


def _benchmark(
    name: str,
    benchmark: CaptionBenchmark,
    tasks: Sequence[SugarCrepeTask],
    aggregations: Sequence[BenchmarkAggregation | CustomGrouping],
    description: str,
) -> Benchmark:
    return Benchmark(
        name=name,
        tasks=tuple(tasks),
        aggregations=tuple(aggregations),
        description=description,
        reference=_REFERENCES[benchmark.title],
        citation=_CITATIONS[benchmark.title],
    )


def _tasks(
    benchmark: CaptionBenchmark,
    place: Captions,
    subsets: str | Sequence[str] | None,
    meta_tasks: Sequence[str],
    image_root: str | Path | None,
) -> list[SugarCrepeTask]:
    names = pick_subsets(subsets, benchmark.subsets, source=benchmark.title)
    specs = _specs(names, meta_tasks)
    states: list[str] = []
    if any(_has_images(meta_task) for meta_task in meta_tasks):
        require_image_root(place, image_root)
        if image_root is not None and isinstance(place, HubCaptions):  # only the Hub knows which are used: all count
            states = states_in(Path(image_root).expanduser())
    return [_task_class(benchmark, place, spec, image_root, states)() for spec in specs]


def _has_images(meta_task: str) -> bool:
    return any("image" in pair for comparison in COMPARISONS[meta_task] for pair in comparison)


def _specs(subsets: Sequence[str], meta_tasks: Sequence[str]) -> list[TaskSpec]:
    return [_spec(subset, meta_task) for meta_task in meta_tasks for subset in subsets]


def _spec(subset: str, meta_task: str) -> TaskSpec:
    name = f"SugarCrepePP_{subset}_{meta_task}" if meta_task in PP_META_TASKS else f"SugarCrepe_{subset}"
    category = "t2i" if _has_images(meta_task) else "t2t"
    return TaskSpec(name, subset, meta_task, in_distribution=None, category=category)


def _task_class(
    benchmark: CaptionBenchmark, place: Captions, spec: TaskSpec, image_root: str | Path | None, states: Sequence[str]
) -> type[SugarCrepeTask]:
    """Make the class of a task: mteb keeps metadata on classes, and drops an instance's when it unloads the data."""
    with_images = _has_images(spec.meta_task)
    metadata = TaskMetadata(
        name=spec.name,
        description=f"{spec.subset} of {benchmark.title} ({spec.meta_task}): the wrong caption is less similar.",
        type="Compositionality",
        category=spec.category,
        modalities=["image", "text"] if with_images else ["text"],
        dataset={"path": place.name_of(spec.subset), "revision": _revision(place, spec, image_root, states)},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=ACCURACY,
        reference=_REFERENCES[benchmark.title],
        bibtex_citation=_CITATIONS[benchmark.title],
    )

    def load() -> Dataset:
        return read_captions(place, spec.subset, image_root=image_root, with_images=with_images)

    members = {"spec": spec, "metadata": metadata, "load": staticmethod(load), "__module__": __name__}
    return type(spec.name, (SugarCrepeTask,), members)


def _revision(place: Captions, spec: TaskSpec, image_root: str | Path | None, states: Sequence[str]) -> str:
    """Name the version of the data of a task; images count only where they are looked at."""
    with_images = _has_images(spec.meta_task)
    root = image_root if with_images else None
    if isinstance(place, HubCaptions):
        return revision_on_hub(place.commit(spec.subset) or place.revision, states, image_root=root)
    rows, _ = place.rows(spec.subset)
    folders = image_roots(place, root) if with_images else []
    images = (join_root(folder, name) for name in dict.fromkeys(rows["filename"]) for folder in folders)
    return revision_of_files([place.file(spec.subset)], images, image_root=root)


def _as_lists(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Make a batch: images and texts as they are, in lists."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _as_json(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
