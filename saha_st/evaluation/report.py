"""What people look at after an evaluation: a table and a chart, which show no number as a score that is none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from saha_st.card.run_folders import RunFolder
from saha_st.card.sidecars import report_name
from saha_st.card.tables import CHANCE_MARK, CHANCE_NOTE
from saha_st.evaluation.scores import NO_SCORE, Scores, comparison_table
from saha_st.evaluation.task_sources import TaskSource
from saha_st.files import write_text_whole, write_whole

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # told apart by the colour-blind, too
_BAR = 0.24  # inches


@dataclass(frozen=True)
class Published:
    """Figures that others published.

    Args:
        label: What they are of.
        source: Where they were published.
        scores: Percent, by the names of means.
    """

    label: str
    source: str
    scores: Mapping[str, float]


def published_for(benchmark: str) -> tuple[Published, ...]:
    """Return what was published on a benchmark, `()` if we know of nothing."""
    text = (resources.files("saha_st.evaluation") / "published.yaml").read_text(encoding="utf8")
    return tuple(Published(**each) for each in yaml.safe_load(text).get(benchmark, ()))


@dataclass(frozen=True)
class Report:
    """The results of one or several models on a benchmark.

    Args:
        benchmark: Its name.
        columns: Scores by model; the first is the one that the report is about.
        published: Figures to show beside them.
        revision: The revision under which the results of the first model are kept.
        sources: What the tasks are called in mteb's files and where their data are on the Hub, by the names in tables.
    """

    benchmark: str
    columns: Mapping[str, Scores]
    published: Sequence[Published] = ()
    revision: str = ""
    sources: Mapping[str, TaskSource] = field(default_factory=dict)

    @property
    def limit(self) -> int | None:
        """The limit of the run, if it was a quick look."""
        return next(iter(self.columns.values())).limit

    @property
    def table(self) -> str:
        """The means, and every task, in percent."""
        others = {f"{each.label} (the paper's, not measured here)": each.scores for each in self.published}
        return comparison_table(self.columns, published=others, tasks=True)

    @property
    def notes(self) -> list[str]:
        """What has to be known before a number is quoted."""
        found = [
            f"{name}: {note}"
            for name, scores in self.columns.items()
            for note in (scores.limit_notice, *scores.warnings)
            if note is not None
        ]
        found += [f"{each.label}: figures of {each.source}, not measured here." for each in self.published]
        return found

    def to_markdown(self, chart: str | None = None) -> str:
        """Return the report as a page.

        Args:
            chart: Path of the chart, relative to the page.
        """
        model = next(iter(self.columns))
        versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
        lines = [f"# {self.benchmark}: {model}", ""]
        lines += [f"> {note}\n" for note in self.notes]
        lines += [self.table, ""]
        if chart is not None:
            lines += [f"![{self.benchmark}, percent]({chart})", ""]
        tasks = len(next(iter(self.columns.values())).tasks)
        lines += [f"{tasks} tasks, scored through mteb. Revision of the results: `{self.revision}`. {versions}.", ""]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values: what tables show, and the numbers behind it, in percent."""
        return {
            "benchmark": self.benchmark,
            "metric": next(iter(self.columns.values())).metric,
            "revision": self.revision,
            "limit": self.limit,
            "versions": {"saha_st": metadata.version("saha-st"), **_versions()},
            "columns": [_column(name, scores, self.sources) for name, scores in self.columns.items()],
            "published": [asdict(each) for each in self.published],
            "notes": self.notes,
        }

    def write(self, output_dir: str | Path) -> tuple[Path, Path]:
        """Write page, chart and plain values to `<output_dir>/reports/<model>/<revision>`.

        Returns:
            The paths of page and chart.
        """
        folder = RunFolder(Path(output_dir), next(iter(self.columns)), self.revision).reports
        folder.mkdir(parents=True, exist_ok=True)
        name = report_name(self.benchmark) + ("" if self.limit is None else f".limit-{self.limit}")
        page, chart = folder / f"{name}.md", folder / f"{name}.png"
        write_whole(chart, self.draw)
        write_text_whole(page, self.to_markdown(chart.name))
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_text_whole(folder / f"{name}.json", text)
        return page, chart

    def draw(self, file: BinaryIO) -> None:
        """Draw the means as bars, a group for each mean, and write them as PNG to an open file."""
        from matplotlib.figure import Figure

        scores = next(iter(self.columns.values()))
        means = list(scores.groups)
        series = [_measured(name, each, means) for name, each in self.columns.items()]
        series += [_published(each, means) for each in self.published]
        figure = Figure(figsize=(8, 1.2 + _BAR * len(means) * (len(series) + 1)), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        for index, bars in enumerate(series):
            bars.draw(axes, index, len(series))
        axes.set_yticks(range(len(means)), means)
        axes.invert_yaxis()
        lowest = min(value for bars in series for value in bars.widths)
        axes.set_xlim(-108 if lowest < 0 else 0, 108)
        marked = any(CHANCE_MARK in text for bars in series for text in bars.texts)
        axes.set_xlabel(f"{scores.metric} (%){f'   {CHANCE_NOTE}' if marked else ''}")
        quick = "" if self.limit is None else f" — quick look, {self.limit} rows a task"
        axes.set_title(f"{self.benchmark}{quick}", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            figure.legend(loc="outside lower left", frameon=False, fontsize=8)
        figure.savefig(file, format="png")


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("mteb", "sentence-transformers", "transformers", "torch")}


def _column(name: str, scores: Scores, sources: Mapping[str, TaskSource]) -> dict[str, Any]:
    """Return what is known of a model; a number that is no score is kept, and said to be none."""
    cells, values = scores.cells(tasks=True), scores.means | scores.by_task
    found = {name: {"shown": cell, "percent": _percent(values[name])} for name, cell in cells.items()}
    return {
        "name": name,
        "means": {mean: found[mean] for mean in scores.groups},
        "tasks": {
            task: found[task] | {"is_score": not score.is_degenerate} | asdict(sources.get(task, TaskSource(task)))
            for task, score in scores.tasks.items()
        },
    }


def _percent(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(100 * value, 5)


@dataclass(frozen=True)
class _Bars:
    """One column of the table as bars, each with the text of its cell."""

    label: str
    widths: Sequence[float]
    texts: Sequence[str]
    is_published: bool = False

    def draw(self, axes: Any, index: int, count: int) -> None:
        height = 1 / (count + 1)
        places = [place + (index - (count - 1) / 2) * height for place in range(len(self.widths))]
        colour = _COLOURS[index % len(_COLOURS)]
        style = {"hatch": "///", "fill": False, "edgecolor": colour} if self.is_published else {"color": colour}
        bars = axes.barh(places, self.widths, height=height * 0.9, label=self.label, **style)
        axes.bar_label(bars, self.texts, padding=3, fontsize=8)


def _measured(label: str, scores: Scores, means: Sequence[str]) -> _Bars:
    """A number that is no score, or is not there, has no bar."""
    cells, values = scores.cells(), scores.means
    widths = [0.0 if cells[mean] == NO_SCORE or values[mean] is None else 100 * values[mean] for mean in means]
    return _Bars(label, widths, [cells[mean] for mean in means])


def _published(each: Published, means: Sequence[str]) -> _Bars:
    values = [each.scores.get(mean) for mean in means]
    texts = ["" if value is None else f"{value:.1f}" for value in values]
    return _Bars(f"{each.label} (the paper's)", [value or 0.0 for value in values], texts, is_published=True)
