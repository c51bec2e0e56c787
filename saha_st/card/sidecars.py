"""The files beside the weights that a card is rendered from, all plain data.

recipe.yaml               the run's config, `RunConfig.from_file` reads it
mining.json               what was mined, by dataset
results/<task>.json       mteb's results
results/reports/*.json    the tables of `saha-st evaluate`, each the results on a benchmark
assets/mining.png         the figure of what was mined
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RECIPE_FILE, MINING_FILE, REPORTS_DIR, FIGURE_FILE = (
    "recipe.yaml",
    "mining.json",
    "results/reports",
    "assets/mining.png",
)

ADAPTER_FOLDER = "adapter"
"""Where an adapter that was merged is kept beside the weights; no loader looks there by itself."""

_OF_RESULTS = {"task_name", "scores", "mteb_version", "dataset_revision"}


@dataclass(frozen=True)
class Sidecars:
    """What the files say.

    Attributes:
        recipe: The run's config, if there is one.
        mining: Statistics of what was mined, by dataset.
        reports: The reports of evaluations, in the order of their files' names.
    """

    recipe: Mapping[str, Any] | None = None
    mining: Mapping[str, Mapping[str, Any]] | None = None
    reports: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, folder: Path) -> Sidecars:
        """Read the files in a folder; those that are missing are not missed.

        Raises:
            ValueError: A file that does not hold what its name says; names it.
        """
        reports = [read_report(file) for file in sorted((folder / REPORTS_DIR).glob("*.json"))]
        return cls(_read_recipe(folder), _read_mining(folder), reports)

    def write(self, folder: Path) -> None:
        """Write the files that there is something to write to."""
        if self.recipe is not None:
            text = yaml.safe_dump(_plain(self.recipe), sort_keys=False, allow_unicode=True, width=119)
            (folder / RECIPE_FILE).write_text(text, encoding="utf8")
        if self.mining is not None:
            (folder / MINING_FILE).write_text(json.dumps(self.mining, indent=2) + "\n", encoding="utf8")
        for report in self.reports:
            (folder / REPORTS_DIR).mkdir(parents=True, exist_ok=True)
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
            (folder / REPORTS_DIR / f"{report_name(report['benchmark'])}.json").write_text(text, encoding="utf8")


def kept_adapter(folder: Path) -> dict[str, str | None] | None:
    """Read which model a kept adapter belongs on; None if there is no adapter."""
    file = folder / ADAPTER_FOLDER / "adapter_config.json"
    config = _read(file, ())
    return config and {"base": config.get("base_model_name_or_path"), "revision": config.get("revision")}


def remove_results(folder: Path) -> None:
    """Remove the results in a folder, as they are of another model; no other file that lies with them."""
    for file in folder.glob("results/*.json"):
        with suppress(ValueError):
            read_result(file)
            file.unlink()
            (folder / ".eval_results" / f"{file.stem}.yaml").unlink(missing_ok=True)
    for file in (folder / REPORTS_DIR).glob("*.json"):
        with suppress(ValueError):
            read_report(file)
            file.unlink()
    for name in (REPORTS_DIR, "results", ".eval_results"):
        with suppress(OSError):  # it is not there, or not empty
            (folder / name).rmdir()


def remove_of_training(folder: Path) -> None:
    """Remove recipe and mining statistics in a folder, as they are of another training; no file that is neither."""
    with suppress(ValueError):
        if _read_recipe(folder) is not None:
            (folder / RECIPE_FILE).unlink()
    with suppress(ValueError):
        if _read_mining(folder) is not None:
            (folder / MINING_FILE).unlink()
            (folder / FIGURE_FILE).unlink(missing_ok=True)


def read_result(file: Path) -> dict[str, Any]:
    """Read one of mteb's files of results.

    Raises:
        ValueError: It is none.
    """
    try:
        result = json.loads(file.read_text("utf8"))
        if _OF_RESULTS <= set(result):
            return result
        problem = f"it has only {', '.join(sorted(result))}"
    except (ValueError, TypeError) as error:
        problem = str(error)
    raise ValueError(f"{file} is not a result of mteb ({problem}). Delete it and evaluate again.")


def read_report(file: Path) -> dict[str, Any]:
    """Read the report of an evaluation.

    Raises:
        ValueError: Not a report, or one of a quick look, which is no result.
    """
    report = _read(file, ("benchmark", "metric", "columns", "versions", "limit"))
    if report["limit"] is not None:
        raise ValueError(f"{file} is of a quick look (limit {report['limit']}), which is no result. Delete it.")
    for column in report["columns"]:
        _require(file, column, ("name", "means", "tasks"), " in columns")
    return report


def report_name(benchmark: str) -> str:
    """Return a benchmark's name as the name of a file."""
    return re.sub(r"[^\w+.-]+", "-", benchmark).strip("-")[:80]


def _read_recipe(folder: Path) -> dict[str, Any] | None:
    return _read(folder / RECIPE_FILE, ("model", "data"))


def _read_mining(folder: Path) -> dict[str, Any] | None:
    file = folder / MINING_FILE
    mining = _read(file, ())
    for name, statistics in (mining or {}).items():
        _require(file, statistics, ("rows", "clusters", "cluster_sizes"), f" of {name!r}")
    return mining


def _read(file: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf8")
    try:
        values = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}). Restore it, or delete it and do without.") from error
    _require(file, values, keys)
    return values


def _require(file: Path, values: Any, keys: Sequence[str], where: str = "") -> None:
    missing = [key for key in keys if not isinstance(values, dict) or key not in values]
    if missing or not isinstance(values, dict):
        lack = f"has no {', '.join(missing)}{where}" if missing else f"holds no mapping{where}"
        raise ValueError(f"{file} {lack}. Restore it, or delete it and do without.")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
