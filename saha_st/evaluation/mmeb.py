"""MMEB as mteb tasks: every query ranks its own list of candidates, and the score is hit@1.

The rule is that of MMEB's own evaluator: the truth is the first candidate, and the query is a hit if no other
candidate scores higher, so that a tie counts. mteb breaks ties by document id instead; hence a score of our own, on
mteb's ranking. Anything in MMEB's schema runs through the same class, so the generated mini-MMEB tests every line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, Value
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.benchmarks.benchmark import Benchmark, BenchmarkAggregation, CustomGroup, CustomGrouping

from saha_st.data.hub import commit_of
from saha_st.data.image_files import join_root
from saha_st.data.mmeb import MMEB_SUBSETS, load_mmeb_eval, split_candidates
from saha_st.data.mmeb.files import LocalFiles, open_mmeb
from saha_st.data.mmeb.subsets import pick_subsets
from saha_st.evaluation.rankings import Ranking, RankingsSource, make_rankings, rank_list, write_rankings
from saha_st.evaluation.revisions import revision_of_files, revision_on_hub, states_in
from saha_st.evaluation.specs import HIT_AT_1, TaskSpec, mini_mmeb_specs, mmeb_specs

UNDEFINED = -1e30
"""Stands for a similarity that is not a number. Below all others, and finite: mteb's statistics need that."""

_MMEB_REPO = "TIGER-Lab/MMEB-eval"
_CITATION = """@article{jiang2024vlm2vec,
  title = {VLM2Vec: Training Vision-Language Models for Massive Multimodal Embedding Tasks},
  author = {Jiang, Ziyan and Meng, Rui and Yang, Xinyi and Yavuz, Semih and Zhou, Yingbo and Chen, Wenhu},
  journal = {arXiv preprint arXiv:2410.05160},
  year = {2024},
}"""


class MMEBMetadata(TaskMetadata):
    """mteb's metadata and the one thing about MMEB that an encoder must know."""

    targets_as_queries: bool = False


class MMEBTask(AbsTaskRetrieval):
    """A task in MMEB's schema. Made by `mmeb_tasks` and `mini_mmeb_tasks`, a class for each, as mteb expects.

    Data are loaded when the task runs, and unloaded after; call `load_data` before to keep them for several models.
    Images stay paths until the moment they are encoded.
    """

    spec: TaskSpec
    load: Callable[[], Dataset]
    metadata: MMEBMetadata
    k_values = (1, 10)

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Load the queries, the distinct documents, and each query's candidates.

        Raises:
            ValueError: A query or a document has an image although the task's category says that side has none.
        """
        if self.data_loaded:
            return
        split = as_retrieval_split(type(self).load(), self.spec)
        # mteb keeps the k best of every list: keep all, or a truth that ties with more than k others is lost.
        self._top_k = max(*self.k_values, *map(len, split["top_ranked"].values()))
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

    def task_specific_scores(
        self,
        scores: Mapping[str, Mapping[str, float]],
        qrels: Mapping[str, Mapping[str, int]],
        results: Mapping[str, Mapping[str, float]],
        hf_split: str,
        hf_subset: str,
    ) -> dict[str, float]:
        """Return hit@1 by MMEB's rule, and what tells whether it means anything.

        Returns:
            The main score; `all_tied`, the share of queries that like all of their several candidates equally;
            `undefined`, the share with a similarity that is not a number; `chance`, the score of guessing; and
            `num_queries`.
        """
        truths = np.array([results[query][next(iter(relevant))] for query, relevant in qrels.items()])
        lists = [np.fromiter(results[query].values(), dtype=np.float64) for query in qrels]
        best = np.array([each.max() for each in lists])
        worst = np.array([each.min() for each in lists])
        counts = np.array([len(each) for each in lists])
        return {
            HIT_AT_1: float(np.mean((truths >= best) & (truths > UNDEFINED))),
            "all_tied": float(np.mean((worst == best) & (counts > 1))),
            "undefined": float(np.mean(worst <= UNDEFINED)),
            "chance": float(np.mean(1 / counts)),
            "num_queries": len(counts),
        }

    def _save_task_predictions(
        self,
        predictions: Mapping[str, Mapping[str, float]],
        model: Any,
        prediction_folder: Path,
        hf_split: str,
        hf_subset: str,
    ) -> None:
        """Write `<prediction_folder>/<task>.parquet`, see `rankings`, and not mteb's file of all similarities."""
        lists = self.dataset[hf_subset][hf_split]["top_ranked"]

        def similarities(query: str) -> np.ndarray:
            found = np.array([predictions[query][document] for document in lists[query]])
            return np.where(found > UNDEFINED, found, np.nan)

        rankings = (rank_list(query, lists[query], similarities(query)) for query in predictions)
        self._write_rankings(model, rankings, prediction_folder)

    def _write_rankings(self, model: Any, rankings: Iterable[Ranking], folder: Path) -> None:
        """Write `<folder>/<task>.parquet`, with what the rankings are of."""
        meta = model.mteb_model_meta
        source = RankingsSource(meta.name, meta.revision, self.metadata.name, self.metadata.revision)
        write_rankings(make_rankings(source, rankings), folder)


def as_retrieval_split(rows: Dataset, spec: TaskSpec) -> dict[str, Any]:
    """Turn what `load_mmeb_eval` returns for a subset into what mteb's retrieval tasks hold for a split.

    Raises:
        ValueError: A side has images that the category of the task denies.
    """
    query_side, document_side = spec.category.split("2")
    documents, candidates = split_candidates(rows)
    names = np.array([f"d{number:06d}" for number in range(len(documents))])
    top_ranked = {f"q{row:06d}": names[_distinct(found)].tolist() for row, found in enumerate(candidates)}
    return {
        "queries": _side(rows, "query", list(top_ranked), spec, with_images="i" in query_side),
        "corpus": _side(documents, "document", names.tolist(), spec, with_images="i" in document_side),
        "relevant_docs": {query: {ranked[0]: 1} for query, ranked in top_ranked.items()},
        "top_ranked": top_ranked,
    }


def mmeb_tasks(
    name_or_path: str | Path = _MMEB_REPO,
    subsets: str | Sequence[str] | None = None,
    *,
    image_root: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> list[MMEBTask]:
    """Return the tasks of MMEB, from the Hub or a local folder; no data are downloaded before a task runs.

    Args:
        name_or_path: As `load_mmeb_eval`.
        subsets: One subset, several, or `None` for all 36.
        image_root: As `load_mmeb_eval`.
        revision: As `load_mmeb_eval`.
        cache_dir: As `load_mmeb_eval`.

    Raises:
        FileNotFoundError: A path that is no folder.
        ValueError: An unknown subset, or a folder without MMEB's files.
    """
    place = {"image_root": image_root, "revision": revision, "cache_dir": cache_dir}
    return _tasks(mmeb_specs(), name_or_path, subsets, place)


def mini_mmeb_tasks(
    root: str | Path, subsets: str | Sequence[str] | None = None, *, cache_dir: str | None = None
) -> list[MMEBTask]:
    """Return the tasks of a mini-MMEB that `write_mini_mmeb` wrote.

    Args:
        root: The folder given to `write_mini_mmeb`.
        subsets: One subset, several, or `None` for those that are there.
        cache_dir: Folder for converted rows. Default: that of datasets.

    Raises:
        FileNotFoundError: There is no mini-MMEB in `root`.
        ValueError: A subset that is not there.
    """
    folder = Path(root) / "MMEB-eval"
    there = {path.parent.name for path in folder.glob("*/*.parquet")}
    if not there:
        raise FileNotFoundError(f"root: {str(root)!r} holds no mini-MMEB. Write one there with write_mini_mmeb(root).")
    specs = {subset: spec for subset, spec in mini_mmeb_specs().items() if subset in there}
    return _tasks(specs, folder, subsets, {"cache_dir": cache_dir})


def mmeb_benchmark(name_or_path: str | Path = _MMEB_REPO, **options: Any) -> Benchmark:
    """Return MMEB as a benchmark of mteb, with the means that papers quote.

    Args:
        name_or_path: As `mmeb_tasks`.
        **options: As `mmeb_tasks`.
    """
    return as_benchmark("MMEB(v1)", mmeb_tasks(name_or_path, **options))


def as_benchmark(
    name: str,
    tasks: Sequence[MMEBTask],
    *,
    description: str = "Massive Multimodal Embedding Benchmark: hit@1 over a candidate list of each query's own.",
    reference: str = "https://arxiv.org/abs/2410.05160",
    citation: str = _CITATION,
) -> Benchmark:
    """Group tasks by meta-task, and by modality or by whether they are in distribution; overall is the mean of all.

    Args:
        name: What the benchmark is called.
        tasks: Its tasks.
        description: What it is.
        reference: Where it was published.
        citation: How to cite it, in BibTeX.
    """

    def grouping(name: str, label_of: Callable[[TaskSpec], str | None]) -> CustomGrouping:
        labels = dict.fromkeys(label for task in tasks if (label := label_of(task.spec)) is not None)
        groups = {label: [task for task in tasks if label_of(task.spec) == label] for label in labels}
        return CustomGrouping(name, tuple(CustomGroup(label, found) for label, found in groups.items()))

    domains = {True: "IND", False: "OOD", None: None}
    modalities = grouping("Modality", lambda spec: spec.modality)
    domain = grouping("Domain", lambda spec: domains[spec.in_distribution])
    # With several modalities, only some of the tasks have training data, or are known to have none.
    groupings = (
        grouping("Meta-task", lambda spec: spec.meta_task),
        modalities if len(modalities.groups) > 1 else domain,
    )
    return Benchmark(
        name=name,
        tasks=tuple(tasks),
        aggregations=(BenchmarkAggregation.MEAN_TASK, *(each for each in groupings if each.groups)),
        description=description,
        reference=reference,
        citation=citation,
    )


def _tasks(
    specs: Mapping[str, TaskSpec],
    name_or_path: str | Path,
    subsets: str | Sequence[str] | None,
    place: Mapping[str, Any],
) -> list[MMEBTask]:
    names = pick_subsets(subsets, list(specs), source=str(name_or_path))
    place, states, image_root = dict(place), [], place.get("image_root")
    files = open_mmeb(name_or_path, known_subsets=list(MMEB_SUBSETS), archive="images.zip")
    if isinstance(files, LocalFiles):
        if missing := [name for name in names if name not in files.subsets()]:
            raise ValueError(f"subsets: {files} has no data of {', '.join(missing)}; it has {files.subsets()}.")
    else:  # all tasks are of one commit, whatever is pushed meanwhile
        commit = commit_of(str(name_or_path), place.get("revision"), cache_dir=place.get("cache_dir"))
        place["revision"] = commit or place.get("revision")
        states = [] if image_root is None else states_in(Path(image_root).expanduser())
    return [_task_class(specs[name], name_or_path, place, states)() for name in names]


def _task_class(
    spec: TaskSpec, name_or_path: str | Path, place: Mapping[str, Any], states: Sequence[str]
) -> type[MMEBTask]:
    """Make the class of a task: mteb keeps metadata on classes, and drops an instance's when it unloads the data."""
    metadata = MMEBMetadata(
        name=spec.name,
        description=f"{spec.subset} of MMEB ({spec.meta_task}): the right one of a query's own candidates.",
        type="Any2AnyRetrieval",
        category=spec.category,
        modalities=["image", "text"],
        dataset={"path": str(name_or_path), "revision": _revision(spec.subset, name_or_path, place, states)},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=HIT_AT_1,
        reference="https://arxiv.org/abs/2410.05160",
        bibtex_citation=_CITATION,
        targets_as_queries=spec.targets_as_queries,
    )

    def load() -> Dataset:
        return load_mmeb_eval(name_or_path, spec.subset, **place)

    members = {"spec": spec, "metadata": metadata, "load": staticmethod(load), "__module__": __name__}
    return type(spec.name, (MMEBTask,), members)


def _revision(subset: str, name_or_path: str | Path, place: Mapping[str, Any], states: Sequence[str]) -> str:
    """Name the version of the data: the revision on the Hub, or a digest of local rows and images."""
    image_root = place.get("image_root")
    folder = Path(name_or_path).expanduser()
    if not (folder / subset).is_dir():
        return revision_on_hub(place.get("revision"), states, image_root=image_root)
    files = sorted((folder / subset).glob("*.parquet"))
    roots = LocalFiles(folder).image_roots(subset) if image_root is None else [Path(image_root).expanduser()]
    # which of the roots is taken is the loader's choice
    images = (join_root(root, path) for path in _image_paths(files) for root in roots)
    return revision_of_files(files, images, image_root=image_root)


def _image_paths(files: Sequence[Path]) -> list[str]:
    """Return the distinct image paths in Parquet files with MMEB's evaluation columns, in order of appearance."""
    found: dict[str, None] = {}
    for file in files:
        try:
            found |= dict.fromkeys(_paths_in(pq.ParquetFile(file)))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} is not an intact Parquet file ({error}). Get it again.") from error
    return [path for path in found if path]


def _paths_in(file: pq.ParquetFile) -> Iterator[str | None]:
    columns = [name for name in ("qry_img_path", "tgt_img_path") if name in file.schema_arrow.names]
    for batch in file.iter_batches(256, columns=columns):
        for paths in batch.columns:
            flat = pc.list_flatten(paths) if pa.types.is_list(paths.type) else paths
            yield from pc.unique(flat).to_pylist()


def _side(cells: Dataset, column: str, ids: list[str], spec: TaskSpec, *, with_images: bool) -> Dataset:
    """Return one side as mteb wants it: an id, a text that is never null, and the image, in the order of the parts."""
    stored = cells.select_columns(column).with_format("arrow")[:].column(column).combine_chunks()
    images, texts = stored.field("image"), pc.fill_null(stored.field("text"), "")
    columns, features = {"id": pa.array(ids)}, {"id": Value("string")}
    if with_images:
        columns, features = columns | {"image": images}, features | {"image": Image()}
    elif rows := np.flatnonzero(_has_path(images)).tolist():
        raise ValueError(
            f"{spec.name}: {column} {rows[0]} has an image (as have {len(rows)} of {len(cells)}), but the task is "
            f"declared {spec.category!r}, and mteb would drop it. Correct the category in saha_st.evaluation.specs."
        )
    columns, features = columns | {"text": texts}, features | {"text": Value("string")}
    return Dataset(pa.table(columns).cast(Features(features).arrow_schema))


def _has_path(images: pa.StructArray) -> np.ndarray:
    there = pc.or_(pc.is_valid(images.field("path")), pc.is_valid(images.field("bytes")))
    return np.asarray(pc.and_(pc.is_valid(images), there))


def _distinct(found: np.ndarray) -> np.ndarray:
    """Return the documents of a list without repetitions, in order: the truth stays first."""
    return found[np.sort(np.unique(found, return_index=True)[1])]
