"""Results of a run that may be handed in: whole benchmarks, on the data that mteb has today, each score a number."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mteb
from mteb.abstasks import AbsTask
from mteb.benchmarks.benchmark import Benchmark
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult

from saha_st.card.run_folders import RunFolder
from saha_st.evaluation.catalogue import close_names
from saha_st.evaluation.checks import Checks, checks_file

_SETTINGS = "run_settings.jsonl"
_META = "model_meta.json"
_NAMED = 3  # benchmarks that are named when none is complete


@dataclass(frozen=True)
class WholeBenchmarks:
    """What of a run goes into mteb's repository of results.

    Attributes:
        run: The run.
        benchmarks: Names of the benchmarks that are complete.
        results: Their results, by task.
        private: Their tasks whose data are not public; the maintainers of mteb run those.
        left_out: Tasks that were run and belong to none of the benchmarks, or are not mteb's.
    """

    run: RunFolder
    benchmarks: tuple[str, ...]
    results: Mapping[str, TaskResult]
    private: tuple[str, ...]
    left_out: tuple[str, ...]


def whole_benchmarks(run: RunFolder, names: str | Sequence[str] | None = None) -> WholeBenchmarks:
    """Pick the results that may be handed in.

    Args:
        run: The run.
        names: Benchmarks of mteb that must be complete. `None`: all that are.

    Raises:
        ValueError: An unknown or incomplete benchmark, none that is complete, results on data that mteb has replaced
            since, a score that is not a number, or results without the settings they were computed with.
    """
    there = _read(run)
    if names is None:
        benchmarks = _complete(there)
    else:
        names = [names] if isinstance(names, str) else names
        benchmarks = [_benchmark(name) for name in dict.fromkeys(names)]
        for benchmark in benchmarks:
            if not _public(benchmark):
                raise ValueError(
                    f"benchmarks: no task of {benchmark.name} is public; mteb's maintainers run them all."
                )
            if missing := _missing(benchmark, there):
                raise ValueError(
                    f"benchmarks: {_incomplete(benchmark, missing)} Run `saha-st evaluate` on it into the same folder."
                )
    wanted = {task.metadata.name: task for benchmark in benchmarks for task in _tasks(benchmark)}
    results = {name: result for name, result in there.items() if name in wanted}
    for name, result in results.items():
        _check(result, wanted[name])
        _check_vectors(run, wanted[name])
    _check_settings(run, results)
    private = {name for name, task in wanted.items() if not task.metadata.is_public and name not in results}
    return WholeBenchmarks(
        run,
        benchmarks=tuple(benchmark.name for benchmark in benchmarks),
        results=results,
        private=tuple(sorted(private)),
        left_out=tuple(sorted(set(there) - set(results))),
    )


def write_results(found: WholeBenchmarks, root: Path, meta: ModelMeta) -> Path:
    """Write the results as those of a commit on the Hub; returns the folder.

    Args:
        found: The results.
        root: Folder that will stand for mteb's repository of results.
        meta: The metadata that the module defines: name and revision are those of the folder.
    """
    folder = root / "results" / meta.model_name_as_path() / meta.revision
    folder.mkdir(parents=True)
    for name in found.results:
        shutil.copyfile(found.run.results / f"{name}.json", folder / f"{name}.json")
    (folder / _META).write_text(json.dumps(meta.to_dict(), default=str, indent=4), encoding="utf8")
    lines = [json.dumps(entry) + "\n" for entry in _settings(found.run) if entry["task"] in found.results]
    (folder / _SETTINGS).write_text("".join(lines), encoding="utf8")
    return folder


def _read(run: RunFolder) -> dict[str, TaskResult]:
    """Read the results of a run, by task."""
    names = sorted(file.stem for file in run.results.glob("*.json") if file.name != _META)
    found = {name: run.result(name) for name in names}
    for name, result in found.items():
        if result.task_name != name:
            raise ValueError(
                f"{run.results / name}.json holds the result of {result.task_name!r}. Rename or delete the file."
            )
    return found


def _benchmark(name: str) -> Benchmark:
    try:
        return mteb.get_benchmark(name)
    except KeyError:
        close = close_names(name, [each.name for each in mteb.get_benchmarks()])
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"benchmarks: mteb {mteb.__version__} has no {name!r}.{hint}") from None


def _complete(there: Mapping[str, TaskResult]) -> list[Benchmark]:
    """Return the benchmarks that are complete.

    Raises:
        ValueError: There is none; the message names those that lack least.
    """
    missing = {each.name: (each, _missing(each, there)) for each in mteb.get_benchmarks() if _public(each)}
    if complete := [benchmark for benchmark, lacks in missing.values() if not lacks]:
        return complete
    shares = {name: 1 - len(lacks) / len(_public(each)) for name, (each, lacks) in missing.items()}
    best = max(shares.values(), default=0)
    if best == 0:
        raise ValueError(
            "The run has no results of any benchmark of mteb's leaderboards, but of these tasks: "
            f"{', '.join(sorted(there))}. Run `saha-st evaluate` on one of them."
        )
    nearest = [name for name, share in shares.items() if share == best][:_NAMED]
    raise ValueError(
        "No benchmark of mteb is complete. Evaluate what the nearest lacks: "
        + " ".join(_incomplete(*missing[name]) for name in nearest)
    )


def _incomplete(benchmark: Benchmark, missing: Sequence[str]) -> str:
    total = len(_public(benchmark))
    counted = " (the parts of tasks counted)" if total > len(benchmark.tasks) else ""
    return f"{benchmark.name} lacks {len(missing)} of {total} tasks{counted}: {', '.join(missing)}."


def _missing(benchmark: Benchmark, there: Mapping[str, TaskResult]) -> list[str]:
    """Name the tasks that are missing, and the splits and subsets of those that are there in part."""
    found = []
    for task in _public(benchmark):
        name = task.metadata.name
        if name not in there:
            found.append(name)
        elif lacks := _missing_parts(task, there[name]):
            parts = "; ".join(f"{split}: {', '.join(sorted(subsets))}" for split, subsets in lacks.items())
            found.append(f"{name} ({parts})")
    return found


def _missing_parts(task: AbsTask, result: TaskResult) -> dict[str, list[str]]:
    if task.is_aggregate:  # it has scores without subsets, whatever the subsets of its parts
        return {split: ["default"] for split in task.eval_splits if not result.scores.get(split)}
    return result.get_missing_evaluations(task)


def _public(benchmark: Benchmark) -> list[AbsTask]:
    return [task for task in _tasks(benchmark) if task.metadata.is_public]


def _tasks(benchmark: Benchmark) -> list[AbsTask]:
    """Return the tasks of a benchmark, and those that its aggregates are made of."""
    return list(_with_parts(benchmark.tasks))


def _with_parts(tasks: Iterable[AbsTask]) -> Iterator[AbsTask]:
    for task in tasks:
        yield task
        if task.is_aggregate:
            yield from _with_parts(task.tasks)


def _check(result: TaskResult, task: AbsTask) -> None:
    if result.dataset_revision != task.metadata.revision:
        raise ValueError(
            f"{result.task_name} was evaluated on revision {result.dataset_revision!r} of its data, but mteb "
            f"{mteb.__version__} has {task.metadata.revision!r}. Delete the result and evaluate the task again."
        )
    for split, subset, score in _scores(result):
        if score is None or not math.isfinite(score):
            raise ValueError(
                f"{result.task_name} ({split}: {subset}) has the score {score}, which is not a number. Find out why "
                "before handing anything in."
            )


def _check_vectors(run: RunFolder, task: AbsTask) -> None:
    """Refuse a score that `evaluate` found to be none: of equal vectors, or of some that are not numbers."""
    if task.is_aggregate:  # its members are checked
        return
    name, file = task.metadata.name, checks_file(run.checks, task.metadata.name)
    checks = Checks.read(file)
    if checks is None:
        raise ValueError(
            f"{name}: {file} is missing, which tells whether the score is one. Run `saha-st evaluate` on it again."
        )
    if checks.undefined or checks.collapsed:
        what = "not numbers" if checks.undefined else "all the same"
        raise ValueError(f"{name}: vectors of the run are {what}, so its score is none ({file}). Repair the model.")


def _check_settings(run: RunFolder, results: Mapping[str, TaskResult]) -> None:
    """Make sure that all scores have their settings: the results repository checks that."""
    known = {
        (entry["task"], split, subset)
        for entry in _settings(run)
        for split in entry["splits"]
        for subset in entry["subsets"]
    }
    present = {(name, split, subset) for name, result in results.items() for split, subset, _ in _scores(result)}
    if lacking := sorted(present - known):
        named = ", ".join(f"{task} ({split}: {subset})" for task, split, subset in lacking)
        raise ValueError(
            f"{run.results / _SETTINGS} does not tell how these were evaluated: {named}. Delete their results and "
            "evaluate again."
        )


def _settings(run: RunFolder) -> list[dict]:
    """Read the settings, a mapping for each line."""
    file = run.results / _SETTINGS
    lines = file.read_text("utf8").splitlines() if file.is_file() else []
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} holds a line that is not JSON ({error}). Delete the line.") from error


def _scores(result: TaskResult) -> Iterator[tuple[str, str, float | None]]:
    for split, scores in result.scores.items():
        for each in scores:
            yield split, each["hf_subset"], each["main_score"]
