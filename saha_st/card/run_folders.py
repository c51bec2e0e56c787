"""Where `saha-st evaluate` keeps what it found, and how to find it again.

    <output_dir>/results/<org>__<model>/<revision>/<task>.json        mteb's layout, for mteb's own tools
    <output_dir>/rankings/<org>__<model>/<revision>/<task>.parquet    the best candidates of every query of MMEB
    <output_dir>/checks/<org>__<model>/<revision>/<task>.json         what tells whether a score is one
    <output_dir>/reports/<org>__<model>/<revision>/<benchmark>.json   the table that was printed

A run with a limit lies below `experiments/limit_<N>` in the first three, where mteb keeps what is no regular result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mteb.results import TaskResult

_META = "model_meta.json"


@dataclass(frozen=True)
class RunFolder:
    """The files of one model, in one revision, evaluated into one folder.

    Args:
        output_dir: The folder given to `evaluate`.
        model_name: `organisation/name`.
        revision: The revision that its results are kept under.
        limit: The limit of the run, if it was a quick look.
    """

    output_dir: Path
    model_name: str
    revision: str
    limit: int | None = None

    @property
    def results(self) -> Path:
        """Folder of mteb's files."""
        return self._part("results")

    @property
    def rankings(self) -> Path:
        """Folder of the rankings."""
        return self._part("rankings")

    @property
    def checks(self) -> Path:
        """Folder of what tells whether a score is one."""
        return self._part("checks")

    @property
    def reports(self) -> Path:
        """Folder of the reports, those with a limit among them."""
        return self.output_dir / "reports" / as_folder_name(self.model_name) / self.revision

    @property
    def result_files(self) -> list[Path]:
        """The results that there are, by task's name."""
        return sorted(file for file in self.results.glob("*.json") if file.name != _META)

    @property
    def report_files(self) -> list[Path]:
        """The reports that there are, without those of quick looks."""
        return sorted(file for file in self.reports.glob("*.json") if ".limit-" not in file.name)

    def result(self, task_name: str) -> TaskResult | None:
        """Return what is stored of a task, or `None`.

        Raises:
            ValueError: A file that is no result, such as one that a killed process was writing.
        """
        from mteb.results import TaskResult

        file = self.results / f"{task_name}.json"
        if not file.is_file():
            return None
        try:
            return TaskResult.from_disk(file)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} is not a result of mteb ({error}). Delete it and evaluate again.") from error

    def _part(self, name: str) -> Path:
        folder = self.output_dir / name / as_folder_name(self.model_name) / self.revision
        return folder if self.limit is None else folder / "experiments" / f"limit_{self.limit}"


def as_folder_name(model_name: str) -> str:
    """Return a model's name as mteb writes it in paths."""
    return model_name.replace("/", "__").replace(" ", "_")


def find_runs(output_dir: str | Path) -> list[RunFolder]:
    """Find all runs in a folder.

    Raises:
        FileNotFoundError: There are none.
    """
    root = Path(output_dir)
    folders = sorted((root / "results").glob("*/*/"))
    found = [RunFolder(root, _model_name_in(folder), folder.name) for folder in folders]
    found = [run for run in found if run.result_files or (run.results / "experiments").is_dir()]
    if not found:
        raise FileNotFoundError(
            f"{str(root)!r} holds no results (results/<model>/<revision>/<task>.json). Run `saha-st evaluate` with "
            f"--output_dir {root} first."
        )
    return found


def find_run(output_dir: str | Path, *, model_name: str | None = None, revision: str | None = None) -> RunFolder:
    """Find the one complete run that is meant; results of two models or revisions are never mixed.

    Args:
        output_dir: The folder given to `evaluate`.
        model_name: The model, if the folder holds results of several.
        revision: The revision, if it holds results of several.

    Raises:
        FileNotFoundError: There are no results, or none of this model and revision.
        ValueError: There are results of several models or revisions, or only of runs with a limit.
    """
    found = find_runs(output_dir)
    root = Path(output_dir)
    matching = [
        run
        for run in found
        if (model_name is None or as_folder_name(run.model_name) == as_folder_name(model_name))
        and (revision is None or run.revision == revision)
    ]
    if not matching:
        wanted = f"{model_name or 'any model'} @ {revision or 'any revision'}"
        raise FileNotFoundError(f"{str(root)!r} holds no results of {wanted}; it holds those of {names_of(found)}.")
    if len(matching) > 1:
        raise ValueError(
            f"{str(root)!r} holds results of several models or revisions, which do not belong together: "
            f"{names_of(found)}. Name one of them."
        )
    (run,) = matching
    if not run.result_files:
        limits = sorted(folder.name for folder in (run.results / "experiments").iterdir())
        raise ValueError(
            f"{str(root)!r} holds only quick looks of {run.model_name} ({', '.join(limits)}), which are no results. "
            "Evaluate without --limit."
        )
    return run


def find_run_of(output_dir: str | Path, revision: str, *, model_name: str) -> RunFolder:
    """Find the run of a revision: under a model's name or, if there is none, under another.

    A model is mostly evaluated as a local folder, and gets its name when it is pushed. Under several other names it is
    the one with the most results; a revision names the vectors, so all are of the same.

    Raises:
        FileNotFoundError, ValueError: As `find_run`.
    """
    of_revision = [run for run in find_runs(output_dir) if run.revision == revision and run.result_files]
    if not of_revision:
        return find_run(output_dir, revision=revision)  # which says what there is
    named = [run for run in of_revision if as_folder_name(run.model_name) == as_folder_name(model_name)]
    return max(named or of_revision, key=lambda run: len(run.result_files))


def names_of(runs: Iterable[RunFolder]) -> str:
    """Name runs in a message."""
    return ", ".join(f"{run.model_name} @ {run.revision}" for run in runs)


def _model_name_in(folder: Path) -> str:
    """Return the name of the model as its metadata have it, or as the folder spells it."""
    for file in (folder / _META, *folder.glob(f"experiments/*/{_META}")):
        if file.is_file():
            return json.loads(file.read_text(encoding="utf8"))["name"]
    return folder.parent.name.replace("__", "/", 1)
