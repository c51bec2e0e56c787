"""Score a model on tasks of mteb, through `mteb.evaluate`: the one scorer of this project.

Each finished task is on disk before the next begins, and inside a task each shard of vectors: a run that was killed
and is started again goes on there, and ends with the same numbers.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import mteb
from mteb.abstasks import AbsTaskBitextMining
from mteb.abstasks.abstask import AbsTask
from mteb.benchmarks.benchmark import Benchmark, BenchmarkAggregation
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from saha_st.card.run_folders import RunFolder
from saha_st.evaluation.chance import chances_of
from saha_st.evaluation.checks import Checks, checks_file, subset_key
from saha_st.evaluation.encoder import Embedder
from saha_st.evaluation.limits import keep_rows
from saha_st.evaluation.mmeb import MMEBTask
from saha_st.evaluation.rankings import rankings_file
from saha_st.evaluation.scores import MEAN_TASK, MEAN_TASK_TYPE, OVERALL, Scores, TaskScore
from saha_st.evaluation.specs import LABELS, NDCG_AT_5
from saha_st.evaluation.store import ResultStore
from saha_st.ranks import Ranks

logger = logging.getLogger(__name__)


def evaluate(
    model: SentenceTransformer | Embedder,
    tasks: Sequence[AbsTask] | Benchmark,
    *,
    output_dir: str | Path | None = None,
    batch_size: int | None = None,
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
        batch_size: Most inputs per forward; by default by tokens, and 32 for models without a hierarchical prompt.
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
    validate(members, limit)
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
        found = dict(zip(names_of(members), map(run.score, bar), strict=True))
    private = tuple(name for name, score in found.items() if score is None)
    scored = {name: score for name, score in found.items() if score is not None}
    if not scored:
        raise ValueError(f"tasks: the data of {', '.join(private)} are not public, and there are no others.")
    scores = Scores(scored, totals=_totals(tasks), left_out=private, limit=limit)
    for warning in scores.warnings if run.ranks.is_main else ():
        logger.warning("%s", warning)
    return scores


def names_of(tasks: Sequence[AbsTask]) -> list[str]:
    """Return what tasks are called in tables: those of MMEB by their subsets, unless mteb has tasks of such names."""
    short = [task.spec.subset if isinstance(task, MMEBTask) else task.metadata.name for task in tasks]
    return short if len(set(short)) == len(short) else [task.metadata.name for task in tasks]


class _Run:
    """One model, the tasks one after the other."""

    def __init__(
        self,
        encoder: Embedder,
        output_dir: str | Path | None,
        batch_size: int | None,
        limit: int | None,
        num_proc: int | None,
    ) -> None:
        meta = encoder.mteb_model_meta
        self.encoder, self.limit, self.num_proc = encoder, limit, num_proc
        self.encode_kwargs = {"batch_size": batch_size, "show_progress_bar": False}
        self.ranks = Ranks.current()
        self.chances: dict[str, dict[str, tuple[float | None, int | None]]] = {}
        self.folder, self.cache = None, None
        if output_dir is not None:
            self.folder = RunFolder(Path(output_dir), meta.name, meta.revision, limit)
            self.cache = ResultStore(output_dir, writes=self.ranks.is_main, before_saving=self._write_checks)
        encoder.vectors_of = {}

    def score(self, task: AbsTask) -> TaskScore | None:
        """Return the score of a task, from disk if it is there; `None` if its data are not public."""
        if task.is_aggregate and self.cache is not None:
            return self._score_aggregate(task)
        strategy = self.ranks.gather(self._strategy(task))[0]  # the first process decides: it alone writes
        if strategy == _DONE:
            result = self.folder.result(task.metadata.name)
        else:
            logger.debug("Evaluating %s", task.metadata.name)
            result = self._run(task, strategy)
        return None if result is None else _task_score(task, result, self._checks_of(task))

    def _score_aggregate(self, task: AbsTask) -> TaskScore | None:
        """Score the members, each by itself, and combine them anew: that costs nothing, and is never out of date."""
        for member in task.metadata.tasks:
            self.score(member)
        self.cache.not_read.add(task.metadata.name)
        self.ranks.gather(None)  # until the first process has written the last member, which the others read
        result = self._run(task, _GO_ON)
        return None if result is None else _task_score(task, result, self._checks_of(task))

    def _strategy(self, task: AbsTask) -> str:
        """Tell whether a task is done, begun, or to be run anew, in the words of mteb's overwrite strategies."""
        name = task.metadata.name
        result = None if self.cache is None else self.cache.load_task_result(name, self._meta)
        if result is None:
            return _GO_ON
        if result.dataset_revision != task.metadata.revision:
            logger.info("%s: the data have changed since the result was written; it is run again", name)
            return _ANEW
        if isinstance(task, MMEBTask) and not rankings_file(self.folder.rankings, name).exists():
            return _ANEW
        checks = Checks.read(checks_file(self.folder.checks, name)) or Checks()
        scored = {subset_key(split, each["hf_subset"]) for split, found in result.scores.items() for each in found}
        # Tasks that encode all subsets at once do so under a name of their own.
        known = scored & set(_keys(task)) <= set(checks.subsets) or isinstance(task, AbsTaskBitextMining)
        if not checks.subsets or not known:
            return _ANEW
        return _GO_ON if result.get_missing_evaluations(task) else _DONE

    @property
    def _meta(self) -> ModelMeta:
        return self.encoder.mteb_model_meta

    def _run(self, task: AbsTask, strategy: str) -> TaskResult | None:
        writes_rankings = isinstance(task, MMEBTask) and self.folder is not None and self.ranks.is_main
        if writes_rankings:
            self.folder.rankings.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for leaf in _leaves(task):
                stack.enter_context(self._watching(leaf))
            stack.enter_context(self._explained(task))
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
        # mteb raises what goes wrong, but for private data that it is not given: that it leaves out.
        return results.task_results[0] if results.task_results else None

    def _checks_of(self, task: AbsTask) -> Checks:
        """Return what is known of a task, of earlier runs as of this one; of an aggregate, of its members."""
        if not task.is_aggregate:
            return self._all_checks(task.metadata.name).of(_keys(task))
        found = {leaf.metadata.name: self._checks_of(leaf) for leaf in _leaves(task)}
        return Checks(
            {f"{name} {key}": each for name, checks in found.items() for key, each in checks.subsets.items()}
        )

    def _all_checks(self, name: str) -> Checks:
        stored = None if self.folder is None else Checks.read(checks_file(self.folder.checks, name))
        found = dict(stored.subsets) if stored is not None else {}
        chances = self.chances.get(name, {})
        for key, seen in self.encoder.vectors_of.get(name, {}).items():
            chance, rows = chances.get(key, (None, None))
            found[key] = replace(seen, chance=chance, rows=rows)
        return Checks(found)

    def _write_checks(self, name: str) -> None:
        if name in self.chances:  # an aggregate has none of its own
            self._all_checks(name).write(checks_file(self.folder.checks, name))

    @contextmanager
    def _watching(self, task: AbsTask) -> Iterator[None]:
        """Look at the data of a task as soon as mteb has loaded them, and cut them for a quick look."""
        if task.data_loaded and self.limit is None:
            self._look(task)
            yield
            return
        if task.data_loaded:
            raise ValueError(f"limit: the data of {task.metadata.name} are loaded already and would stay cut.")
        load, own = task.load_data, task.__dict__.get("load_data")

        def load_and_look(*args: Any, **kwargs: Any) -> None:
            load(*args, **kwargs)
            self._look(task)

        task.load_data = load_and_look
        try:
            yield
        finally:
            del task.load_data  # what the class has shows again
            if own is not None:
                task.load_data = own
            if task.data_loaded:  # mteb unloads data when all went well: what is cut must not stay
                task.unload_data()

    def _look(self, task: AbsTask) -> None:
        if self.limit is not None:
            keep_rows(task, self.limit)
        self.chances[task.metadata.name] = chances_of(task)

    @contextmanager
    def _explained(self, task: AbsTask) -> Iterator[None]:
        """Say what mteb's metrics stumble over, each in words of its own."""
        try:
            yield
        except (ValueError, TypeError, IndexError) as error:
            name, seen = task.metadata.name, self._checks_of(task)
            names = {name, *(leaf.metadata.name for leaf in _leaves(task))}
            # Others wait no longer for what they have been told; what names the task knows better, as of a row.
            if getattr(error, "is_told", False) or any(each in str(error) for each in names):
                raise
            if seen.undefined:
                raise ValueError(
                    f"{name}: {seen.undefined:.1%} of the vectors are not numbers, so that there is no score. Half "
                    "precision may overflow here: load the model in bfloat16 or float32."
                ) from error
            if self.limit is not None:
                raise ValueError(f"{name}: {error}. With --limit {self.limit} it may have too few rows.") from error
            if not isinstance(error, ValueError):
                raise
            raise ValueError(f"{name}: {error}") from error


_DONE, _GO_ON, _ANEW = "done", "only-missing", "always"


def validate(tasks: Sequence[AbsTask], limit: int | None = None) -> None:
    """Refuse what `evaluate` would, before a model is loaded.

    Raises:
        ValueError: No tasks, a task twice, or a limit below 1.
    """
    if not tasks:
        raise ValueError("tasks: there is nothing to evaluate; give one task at least.")
    names = [task.metadata.name for task in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"tasks: {twice} is given more than once.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; leave it out to score all rows.")


def _require_modalities(encoder: Embedder, tasks: Sequence[AbsTask]) -> None:
    """Refuse what mteb only warns of: it would score a task on the parts that the model happens to take."""
    meta = encoder.mteb_model_meta
    for task in tasks:
        if "video" in task.metadata.modalities and not isinstance(task, MMEBTask):
            raise ValueError(
                f"{task.metadata.name} has videos as mteb decodes them, which are not taken here; of videos, those of "
                "MMEB(v2) are. Leave the task out."
            )
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


def _keys(task: AbsTask) -> list[str]:
    """Return the names, in checks, of the subsets that the task asks for."""
    return [subset_key(split, subset) for split in task.eval_splits for subset in task.hf_subsets or ["default"]]


def _task_score(task: AbsTask, result: TaskResult, checks: Checks) -> TaskScore:
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
        undefined=checks.undefined,
        collapsed=checks.collapsed,
    )


def _own_score(task: AbsTask, found: dict[str, Any]) -> TaskScore:
    queries = int(found["num_queries"])

    def share(name: str) -> float:
        return round(found[name] * queries) / queries  # mteb's files keep five digits: enough to count the queries

    metric = task.metadata.main_score
    return TaskScore(
        score=round(found[metric], 5) if metric == NDCG_AT_5 else share(metric),
        metric=LABELS.get(metric, metric),
        meta_task=task.spec.meta_task,
        in_distribution=task.spec.in_distribution,
        modality=task.spec.modality,
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
