"""Score a model on tasks of mteb, through `mteb.evaluate`: the one scorer of this project.

Each finished task is on disk before the next begins, and inside a task each shard of vectors: a run that was killed
and is started again goes on there, and ends with the same numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import mteb
from mteb.abstasks.abstask import AbsTask
from mteb.benchmarks.benchmark import Benchmark, BenchmarkAggregation
from mteb.cache import ResultCache
from mteb.results import TaskResult
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from saha_st.encoding import write_whole
from saha_st.evaluation.chance import chance_of
from saha_st.evaluation.encoder import Embedder, VectorCheck
from saha_st.evaluation.folders import RunFolder
from saha_st.evaluation.limits import keep_rows
from saha_st.evaluation.mmeb import HIT_AT_1, MMEBTask
from saha_st.evaluation.rankings import rankings_file
from saha_st.evaluation.scores import MEAN_TASK, MEAN_TASK_TYPE, OVERALL, Scores, TaskScore
from saha_st.ranks import Ranks

logger = logging.getLogger(__name__)


def evaluate(
    model: SentenceTransformer | Embedder,
    tasks: Sequence[AbsTask] | Benchmark,
    *,
    output_dir: str | Path | None = None,
    batch_size: int = 32,
    limit: int | None = None,
    num_proc: int | None = None,
    show_progress_bar: bool = True,
    model_name: str | None = None,
    revision: str | None = None,
    cache_folder: str | Path | None = None,
) -> Scores:
    """Score a model.

    Under `accelerate launch` or `torchrun` every process calls this: they share the encoding, the first one writes.

    Args:
        model: The model, or an encoder that has encoded some of the inputs already.
        tasks: Tasks of mteb, a benchmark of mteb, or what `find_benchmark` returns for a name. To score several
            models, call `load_data` of each task first: data that were loaded before are kept.
        output_dir: Where to write results, in mteb's layout: `results/<model>/<revision>/<task>.json`. A task whose
            result is there, of the same model and data, is not run again.
        batch_size: Inputs per forward.
        limit: For a quick look, score so many queries or rows of each task. Kept apart from results, and never one.
        num_proc: Processes that load and prepare data.
        show_progress_bar: Show bars for tasks and inputs.
        model_name: As `name` of `Embedder`.
        revision: As `Embedder`.
        cache_folder: As `Embedder`; by default `<output_dir>/vectors`, if there is an `output_dir`.

    Returns:
        The scores; `warnings` of them tells what is no score.

    Raises:
        ValueError: No tasks, a task twice, a limit below 1, a task with a modality that the model does not take, only
            tasks with private data, or whatever a task stumbles over, with its name.
    """
    members = list(tasks.tasks if isinstance(tasks, Benchmark) else tasks)
    _validate(members, limit)
    if cache_folder is None and output_dir is not None:
        cache_folder = Path(output_dir) / "vectors"
    encoder = model
    if not isinstance(model, Embedder):
        options = {"name": model_name, "revision": revision, "cache_folder": cache_folder}
        encoder = Embedder(model, show_progress_bar=show_progress_bar, **options)
    _require_modalities(encoder, members)
    run = _Run(_limited(encoder, limit), output_dir, batch_size, limit, num_proc)
    bar = tqdm(members, desc="Tasks", unit="task", disable=not (show_progress_bar and run.ranks.is_main))
    with without_bars():
        found = {name_of(task): run.score(task) for task in bar}
    private = tuple(name for name, score in found.items() if score is None)
    scored = {name: score for name, score in found.items() if score is not None}
    if not scored:
        raise ValueError(f"tasks: the data of {', '.join(private)} are not public, and there are no others.")
    scores = Scores(scored, totals=_totals(tasks), left_out=private)
    for warning in scores.warnings if run.ranks.is_main else ():
        logger.warning("%s", warning)
    return scores


def name_of(task: AbsTask) -> str:
    """Return what a task is called in tables: MMEB's by the name of the subset."""
    return task.spec.subset if isinstance(task, MMEBTask) else task.metadata.name


class _Run:
    """One model, the tasks one after the other."""

    def __init__(
        self,
        encoder: Embedder,
        output_dir: str | Path | None,
        batch_size: int,
        limit: int | None,
        num_proc: int | None,
    ) -> None:
        meta = encoder.mteb_model_meta
        self.encoder, self.limit, self.num_proc = encoder, limit, num_proc
        self.encode_kwargs = {"batch_size": batch_size, "show_progress_bar": False}
        self.ranks = Ranks.current()
        self.folder = None if output_dir is None else RunFolder(Path(output_dir), meta.name, meta.revision, limit)
        self.cache = None if output_dir is None else _Cache(output_dir, writes=self.ranks.is_main)

    def score(self, task: AbsTask) -> TaskScore | None:
        """Return the score of a task, from disk if it is there; `None` if its data are not public."""
        strategy = self.ranks.gather(self._strategy(task))[0]  # the first process decides: it alone writes
        checks = None
        if strategy != _DONE:
            logger.info("Evaluating %s", task.metadata.name)
            result, checks = self._run(task, strategy)
            if result is None:
                return None
            if self.folder is not None and self.ranks.is_main:
                self.folder.checks.mkdir(parents=True, exist_ok=True)
                blob = json.dumps(dataclasses.asdict(checks), indent=1).encode()
                write_whole(self._checks_file(task), lambda file: file.write(blob))
        else:
            result, checks = self.folder.result(task.metadata.name), self._stored_checks(task)
        return _task_score(task, result, checks)

    def _strategy(self, task: AbsTask) -> str:
        """Tell whether a task is done, begun, or to be run anew, in the words of mteb's overwrite strategies."""
        if self.folder is None:
            return _ANEW
        try:
            result = self.folder.result(task.metadata.name)
        except ValueError as error:  # of a process that was killed while it wrote
            logger.warning("%s It is run again.", error)
            return _ANEW
        if result is None:
            return _GO_ON
        if result.dataset_revision != task.metadata.revision:
            logger.info("%s: the data have changed since the result was written; it is run again", result.task_name)
            return _ANEW
        if not task.is_aggregate and result.get_missing_evaluations(task):
            return _GO_ON
        files = [self._checks_file(task)]
        if isinstance(task, MMEBTask):
            files.append(rankings_file(self.folder.rankings, task.metadata.name))
        return _DONE if all(file.exists() for file in files) else _ANEW

    def _run(self, task: AbsTask, strategy: str) -> tuple[TaskResult | None, _Checks]:
        writes_rankings = isinstance(task, MMEBTask) and self.folder is not None and self.ranks.is_main
        if writes_rankings:
            self.folder.rankings.mkdir(parents=True, exist_ok=True)
        leaves = _leaves(task)
        self.encoder.vectors_of = {}
        with _after_loading(leaves, self.limit) as chances, self._explained(task):
            results = mteb.evaluate(
                self.encoder,
                task,
                cache=self.cache,
                overwrite_strategy=strategy,
                co2_tracker=False,
                encode_kwargs=dict(self.encode_kwargs),
                prediction_folder=self.folder.rankings if writes_rankings else None,
                show_progress_bar=False,
                num_proc=self.num_proc,
            )
        chance, rows = chances.get(task.metadata.name, (None, None))
        vectors = list(self.encoder.vectors_of.values())
        # mteb raises what goes wrong, but for private data that it is not given: that it leaves out.
        result = results.task_results[0] if results.task_results else None
        return result, _Checks(chance, rows, **_together(vectors))

    @contextmanager
    def _explained(self, task: AbsTask) -> Iterator[None]:
        """Say what mteb's metrics stumble over, each in words of its own."""
        try:
            yield
        except ValueError as error:
            found = _together(list(self.encoder.vectors_of.values()))
            if not found["undefined"]:
                if task.metadata.name in str(error):
                    raise
                raise ValueError(f"{task.metadata.name}: {error}") from error
            raise ValueError(
                f"{task.metadata.name}: {found['undefined']} of {found['inputs']} vectors are not numbers, so that "
                "there is no score. Half precision may overflow here: load the model in bfloat16 or float32."
            ) from error

    def _checks_file(self, task: AbsTask) -> Path:
        return self.folder.checks / f"{task.metadata.name}.json"

    def _stored_checks(self, task: AbsTask) -> _Checks:
        return _Checks(**json.loads(self._checks_file(task).read_text(encoding="utf8")))


_DONE, _GO_ON, _ANEW = "done", "only-missing", "always"


@dataclasses.dataclass(frozen=True)
class _Checks:
    """What tells whether a score is one; stored beside mteb's result, which has no place for it."""

    chance: float | None
    rows: int | None
    inputs: int
    undefined: int
    collapsed: bool


class _Cache(ResultCache):
    """mteb's folder of results, which all processes read and the first one writes."""

    def __init__(self, path: str | Path, *, writes: bool) -> None:
        super().__init__(path)
        self._writes = writes

    def save_to_cache(self, *args: Any, **kwargs: Any) -> None:
        """Write a result, in the first process."""
        if self._writes:
            super().save_to_cache(*args, **kwargs)


def _validate(tasks: Sequence[AbsTask], limit: int | None) -> None:
    if not tasks:
        raise ValueError("tasks: there is nothing to evaluate; give one task at least.")
    names = [name_of(task) for task in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"tasks: {twice} is given more than once.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; leave it out to score all rows.")


def _require_modalities(encoder: Embedder, tasks: Sequence[AbsTask]) -> None:
    """Refuse what mteb only warns of: it would score a task on the parts that the model happens to take."""
    meta = encoder.mteb_model_meta
    for task in tasks:
        if missing := sorted(set(task.metadata.modalities) - set(meta.modalities)):
            raise ValueError(
                f"{task.metadata.name} has {' and '.join(missing)} inputs, but {meta.name} takes only "
                f"{' and '.join(meta.modalities)}. Use a multimodal model, or leave the task out."
            )


def _limited(encoder: Embedder, limit: int | None) -> Embedder:
    """Return an encoder whose results mteb keeps apart, as those of an experiment."""
    if limit is None:
        return encoder
    limited = copy.copy(encoder)
    limited.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"experiment_kwargs": {"limit": limit}})
    return limited


def _leaves(task: AbsTask) -> list[AbsTask]:
    """Return the tasks that have data: an aggregate's members, or the task itself."""
    return [leaf for each in task.metadata.tasks for leaf in _leaves(each)] if task.is_aggregate else [task]


@contextmanager
def _after_loading(
    tasks: Sequence[AbsTask], limit: int | None
) -> Iterator[dict[str, tuple[float | None, int | None]]]:
    """Look at the data of each task as soon as mteb has loaded them, and cut them; yields what guessing scores."""
    found: dict[str, tuple[float | None, int | None]] = {}

    def look(task: AbsTask) -> None:
        if limit is not None:
            keep_rows(task, limit)
        found[task.metadata.name] = chance_of(task)

    hooked: list[tuple[AbsTask, Any]] = []

    def hook(task: AbsTask) -> None:
        load = task.load_data
        hooked.append((task, task.__dict__.get("load_data")))

        def load_and_look(*args: Any, **kwargs: Any) -> None:
            load(*args, **kwargs)
            look(task)

        task.load_data = load_and_look

    for task in tasks:
        if task.data_loaded:
            if limit is not None:
                raise ValueError(f"limit: the data of {task.metadata.name} are loaded already and would stay cut.")
            look(task)
        else:
            hook(task)
    try:
        yield found
    finally:
        for task, own in hooked:
            del task.load_data  # what the class has shows again
            if own is not None:
                task.load_data = own


def _together(vectors: Sequence[VectorCheck]) -> dict[str, Any]:
    return {
        "inputs": sum(each.inputs for each in vectors),
        "undefined": sum(each.undefined for each in vectors),
        "collapsed": any(each.collapsed for each in vectors),
    }


def _task_score(task: AbsTask, result: TaskResult, checks: _Checks) -> TaskScore:
    scored = [each for split in task.eval_splits for each in result.scores.get(split, [])]
    if "num_queries" in scored[0]:  # a task of ours, which looks at its similarities itself
        return _own_score(task, scored[0])
    wanted = [each for each in scored if task.is_aggregate or each["hf_subset"] in task.hf_subsets]
    values = [math.nan if each["main_score"] is None else float(each["main_score"]) for each in wanted]
    return TaskScore(
        score=round(sum(values) / len(values), 6),  # as mteb writes it
        metric=task.metadata.main_score,
        meta_task=task.metadata.type,
        num_queries=checks.rows,
        chance=checks.chance,
        undefined=checks.undefined / max(checks.inputs, 1),
        collapsed=checks.collapsed,
    )


def _own_score(task: AbsTask, found: dict[str, Any]) -> TaskScore:
    queries = int(found["num_queries"])

    def share(name: str) -> float:
        return round(found[name] * queries) / queries  # mteb's files keep five digits: enough to count the queries

    metric = task.metadata.main_score
    return TaskScore(
        score=share(metric),
        metric="hit@1" if metric == HIT_AT_1 else metric,
        meta_task=task.spec.meta_task,
        in_distribution=task.spec.in_distribution,
        num_queries=queries,
        chance=round(found["chance"], 5),
        all_tied=share("all_tied"),
        undefined=share("undefined"),
    )


def _totals(tasks: Sequence[AbsTask] | Benchmark) -> tuple[str, ...]:
    """Return the means over all tasks that a benchmark quotes."""
    if not isinstance(tasks, Benchmark):
        return (OVERALL,)
    if all(hasattr(task, "spec") for task in tasks.tasks):
        return (OVERALL,) if BenchmarkAggregation.MEAN_TASK in tasks.aggregations else ()
    names = {BenchmarkAggregation.MEAN_TASK: MEAN_TASK, BenchmarkAggregation.MEAN_TASK_TYPE: MEAN_TASK_TYPE}
    return tuple(label for flag, label in names.items() if flag in tasks.aggregations)


@contextmanager
def without_bars() -> Iterator[None]:
    """Silence the bars of `datasets`, of which mteb shows two for every task."""
    was_silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not was_silent:
            datasets.enable_progress_bars()
