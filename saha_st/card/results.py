"""Bring the results of an evaluation into a checkpoint's folder, as plain files: those of its weights, no others."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import yaml

from saha_st.card.hub_results import hub_results
from saha_st.card.run_folders import find_run
from saha_st.card.sidecars import REPORTS_DIR, read_report, read_result, remove_results

logger = logging.getLogger(__name__)


def copy_results(
    results_dir: str | Path, folder: str | Path, *, model_name: str | None = None, revision: str | None = None
) -> list[str]:
    """Copy the results of one model, replacing those that the folder had.

    Args:
        results_dir: The output folder of `saha-st evaluate`.
        folder: The folder of the checkpoint. It gets ``results/<task>.json`` (mteb's files as they are),
            ``results/reports/<benchmark>.json``, and ``.eval_results/<task>.yaml``, which the Hub reads, for tasks
            whose data are on the Hub.
        model_name: The model, if there are results of several; as in results, `organisation/name` or `local/<folder>`.
        revision: The revision, if there are results of several.

    Returns:
        The files that were written, relative to ``folder``.

    Raises:
        FileNotFoundError: There are no results, or none of this model and revision.
        ValueError: There are results of several models or revisions, only quick looks, or a file that is no
            result or report.
    """
    run, target = find_run(results_dir, model_name=model_name, revision=revision), Path(folder)
    results = {file: read_result(file) for file in run.result_files}
    reports = {file: read_report(file) for file in run.report_files}
    if not reports:
        logger.warning(
            "%s holds no report (%s/*.json), so that the card gets no table. Run the same `saha-st evaluate` again: "
            "what is done is not done again.", results_dir, run.reports.relative_to(results_dir),
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


def _copy(file: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(file, target))
