"""Bring the results of an evaluation into a checkpoint's folder, as plain files: those of its weights, no others."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from saha_st.card.hub_results import hub_results
from saha_st.card.sidecars import REPORTS_DIR, read_report, remove_results

logger = logging.getLogger(__name__)

_META = "model_meta.json"


def copy_results(
    results_dir: str | Path,
    folder: str | Path,
    *,
    model_name: str | None = None,
    revision: str | None = None,
    prefer: Sequence[str] = (),
) -> list[str]:
    """Copy the results of one model, replacing those that the folder had.

    Args:
        results_dir: The output folder of `saha-st evaluate`.
        folder: The folder of the checkpoint. It gets ``results/<task>.json`` (mteb's files as they are),
            ``results/reports/<benchmark>.json``, and ``.eval_results/<task>.yaml``, which the Hub reads, for tasks
            whose data are on the Hub.
        model_name: The model, if there are results of several; as in results, `organisation/name` or `local/<folder>`.
        revision: The revision, if there are results of several.
        prefer: Names that the model may have there; if no name is given, it must have one of them.

    Returns:
        The files that were written, relative to ``folder``.

    Raises:
        FileNotFoundError: There are no results, or none of this model and revision.
        ValueError: There are results of several models or revisions, only quick looks, or a file that is no
            result or report.
    """
    source, target = Path(results_dir), Path(folder)
    run = _find_run(source, model_name, revision, prefer)
    results = {file: _read_result(file) for file in _tasks_of(run)}
    reports = {file: read_report(file) for file in _reports_of(source, run) if ".limit-" not in file.name}
    if not reports:
        logger.warning(
            "%s holds no report (reports/%s/*.json), so that the card gets no table. Run the same `saha-st evaluate` "
            "again: what is done is not done again.", source, run.relative_to(source / "results"),
        )  # fmt: skip
    remove_results(target)
    written = [_copy(file, target / "results" / file.name) for file in results]
    written += [_copy(file, target / REPORTS_DIR / file.name) for file in reports]
    for task, entries in hub_results(list(results.values()), list(reports.values())).items():
        file = target / ".eval_results" / f"{task}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf8")
        written.append(file)
    return [str(file.relative_to(target)) for file in written]


def _find_run(source: Path, model_name: str | None, revision: str | None, prefer: Sequence[str]) -> Path:
    """Find the results of the one model and revision that is meant, `<results_dir>/results/<model>/<revision>`."""
    found = {run: _model_of(run) for run in sorted((source / "results").glob("*/*/"))}
    found = {run: name for run, name in found.items() if _tasks_of(run) or (run / "experiments").is_dir()}
    there = ", ".join(f"{name} @ {run.name}" for run, name in found.items())
    if not found:
        raise FileNotFoundError(
            f"results_dir: {str(source)!r} holds no results (results/<model>/<revision>/<task>.json). Run "
            f"`saha-st evaluate` with --output_dir {source} first."
        )
    matching = [
        run
        for run, name in found.items()
        if (model_name is None or model_name.replace("/", "__") in (name.replace("/", "__"), run.parent.name))
        and (revision is None or run.name == revision)
    ]
    if not matching:
        raise FileNotFoundError(
            f"results_dir: {str(source)!r} holds no results of {model_name or 'any model'} @ "
            f"{revision or 'any revision'}; it holds those of {there}."
        )
    if prefer and model_name is None:
        likely = [run for run in matching if found[run] in prefer]
        if not likely:
            raise ValueError(
                f"results_dir: {str(source)!r} holds results of {there}, not of a model called {' or '.join(prefer)}. "
                "If they are of these very weights, say so with model_name (--results_model)."
            )
        matching = likely
    if len(matching) > 1:
        raise ValueError(
            f"results_dir: {str(source)!r} holds results of several models or revisions: {there}. Name one of them "
            "with model_name and revision."
        )
    (run,) = matching
    if not _tasks_of(run):
        limits = ", ".join(sorted(place.name for place in (run / "experiments").iterdir()))
        raise ValueError(
            f"results_dir: {str(source)!r} holds only quick looks of {found[run]} ({limits}), which are no results. "
            "Evaluate without --limit."
        )
    return run


def _model_of(run: Path) -> str:
    file = run / _META
    return json.loads(file.read_text("utf8"))["name"] if file.is_file() else run.parent.name.replace("__", "/")


def _tasks_of(run: Path) -> list[Path]:
    return sorted(file for file in run.glob("*.json") if file.name != _META)


def _reports_of(source: Path, run: Path) -> list[Path]:
    return sorted((source / "reports" / run.parent.name / run.name).glob("*.json"))


def _read_result(file: Path) -> dict[str, Any]:
    try:
        result = json.loads(file.read_text("utf8"))
        if {"task_name", "scores", "mteb_version", "dataset_revision"} <= set(result):
            return result
        problem = f"it has only {', '.join(sorted(result))}"
    except (ValueError, TypeError) as error:
        problem = str(error)
    raise ValueError(f"{file} is not a result of mteb ({problem}). Delete it and evaluate again.")


def _copy(file: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(file, target))
