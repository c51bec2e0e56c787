"""Score a model on tasks in MMEB's schema, through `mteb.evaluate`: the one scorer of this project."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import mteb
from mteb.cache import ResultCache
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult
from sentence_transformers import SentenceTransformer

from saha_st.evaluation.encoder import Embedder
from saha_st.evaluation.mmeb import HIT_AT_1, MMEBTask
from saha_st.evaluation.scores import Scores, TaskScore

logger = logging.getLogger(__name__)


def evaluate(
    model: SentenceTransformer | Embedder,
    tasks: Sequence[MMEBTask],
    *,
    output_dir: str | Path | None = None,
    batch_size: int = 32,
    show_progress_bar: bool = True,
    model_name: str | None = None,
    revision: str | None = None,
    cache_folder: str | Path | None = None,
) -> Scores:
    """Score a model.

    Args:
        model: The model, or an encoder that has encoded some of the inputs already.
        tasks: What `mmeb_tasks` or `mini_mmeb_tasks` returns. To score several models, call `load_data` of each task
            first: data that were loaded before are kept.
        output_dir: Where to write results, in mteb's layout: `results/<model>/<revision>/<task>.json`. A task whose
            result is there, of the same model and data, is not run again.
        batch_size: Inputs per forward.
        show_progress_bar: Show bars for tasks and inputs.
        model_name: As `name` of `Embedder`.
        revision: As `Embedder`.
        cache_folder: As `Embedder`.

    Returns:
        The scores; `warnings` of them tells what is no score.

    Raises:
        ValueError: No tasks, a task twice, or a task with a modality that the model does not take.
    """
    _validate(tasks)
    encoder = model
    if not isinstance(model, Embedder):
        options = {"name": model_name, "revision": revision, "cache_folder": cache_folder}
        encoder = Embedder(model, show_progress_bar=show_progress_bar, **options)
    _require_modalities(encoder.mteb_model_meta, tasks)
    cache = None if output_dir is None else ResultCache(output_dir)
    with _quiet():
        results = mteb.evaluate(
            encoder,
            list(tasks),
            cache=_without_stale(cache, encoder.mteb_model_meta, tasks),
            co2_tracker=False,
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
            show_progress_bar=show_progress_bar,
        )
    by_name = {result.task_name: result for result in results.task_results}
    scores = Scores({task.spec.subset: _task_score(task, by_name[task.metadata.name]) for task in tasks})
    for warning in scores.warnings:
        logger.warning("%s", warning)
    return scores


def _validate(tasks: Sequence[MMEBTask]) -> None:
    if not tasks:
        raise ValueError("tasks: there is nothing to evaluate; give one task at least.")
    names = [task.spec.subset for task in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"tasks: {twice} is given more than once.")


def _require_modalities(meta: ModelMeta, tasks: Sequence[MMEBTask]) -> None:
    """Refuse what mteb only warns of: it would score a task on the parts that the model happens to take."""
    for task in tasks:
        if missing := sorted(set(task.metadata.modalities) - set(meta.modalities)):
            raise ValueError(
                f"{task.metadata.name} has {' and '.join(missing)} inputs, but {meta.name} takes only "
                f"{' and '.join(meta.modalities)}. Use a multimodal model, or leave the task out."
            )


def _without_stale(cache: ResultCache | None, meta: ModelMeta, tasks: Sequence[MMEBTask]) -> ResultCache | None:
    """Delete results that were computed on other data: mteb would take them for results on these."""
    for task in tasks if cache is not None else ():
        found = cache.load_task_result(task.metadata.name, meta)
        if found is not None and found.dataset_revision != task.metadata.revision:
            logger.info("%s: the data have changed since the result was written; it is run again", found.task_name)
            cache.get_task_result_path(task.metadata.name, meta).unlink()
    return cache


def _task_score(task: MMEBTask, result: TaskResult) -> TaskScore:
    (found,) = result.scores["test"]
    queries = int(found["num_queries"])

    def share(name: str) -> float:
        return round(found[name] * queries) / queries  # mteb's files keep five digits: enough to count the queries

    return TaskScore(
        hit_at_1=share(HIT_AT_1),
        meta_task=task.spec.meta_task,
        in_distribution=task.spec.in_distribution,
        num_queries=queries,
        chance=round(found["chance"], 5),
        all_tied=share("all_tied"),
        undefined=share("undefined"),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the bars of `datasets`, of which mteb shows two for every task."""
    was_silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not was_silent:
            datasets.enable_progress_bars()
