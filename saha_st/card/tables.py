"""The tables of a card, in Markdown. They show cells of reports as they are: what was no score there is none here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

THIS_MODEL = "this model"
_TOTALS = ("Overall", "Mean (Task)", "Mean (TaskType)")
CHANCE_MARK = "†"
CHANCE_NOTE = f"{CHANCE_MARK} within two standard deviations of guessing."
_NONE = "–"


def results_table(report: Mapping[str, Any], part: str) -> str:
    """Return a part of a report as a table: a column for each model, and for what others published.

    Args:
        report: As ``results/reports/<benchmark>.json``.
        part: ``"means"`` or ``"tasks"``.
    """
    columns = {
        column["name"].removeprefix("local/") if index else THIS_MODEL: {
            name: cell["shown"] for name, cell in column[part].items()
        }
        for index, column in enumerate(report["columns"])
    }
    for each in report.get("published", ()) if part == "means" else ():
        columns[f"{each['label']} (published, not measured here)"] = {
            name: f"{value:.1f}" for name, value in each["scores"].items()
        }
    rows = {name: [cells.get(name, _NONE) for cells in columns.values()] for name in next(iter(columns.values()))}
    return _table([f"{report['metric']} (%)", *columns], rows)


def shows_chance(report: Mapping[str, Any]) -> bool:
    """Whether a cell carries the mark of guessing."""
    cells = [
        cell["shown"] for column in report["columns"] for part in ("means", "tasks") for cell in column[part].values()
    ]
    return any(CHANCE_MARK in cell for cell in cells)


def mining_table(mining: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what was mined as a table, a row for each dataset."""
    header = ["dataset", "pairs", "clusters", "pairs in a cluster", "dropped by the owner filter", "pairs left out"]
    return _table(header, {name: _mined(statistics) for name, statistics in mining.items()})


def has_owner_filter(statistics: Mapping[str, Any]) -> bool:
    """Whether the owner filter was on when a dataset was mined."""
    return statistics.get("settings", {}).get("owner_filter", True)


def is_of_communities(statistics: Mapping[str, Any]) -> bool:
    """Whether clusters are communities, so that what the owner filter dropped are pairs of rows."""
    return statistics.get("settings", {}).get("builder") == "communities"


def dropped_by_owner_filter(statistics: Mapping[str, Any]) -> int | None:
    """Candidates, or pairs of rows, that the owner filter dropped; None if nobody counted them."""
    return statistics.get("owners_filtered", statistics.get("pairs_kept_apart"))


def _mined(statistics: Mapping[str, Any]) -> list[str]:
    sizes = [int(size) for size in statistics["cluster_sizes"]]
    return [
        _count(statistics["rows"]),
        _count(statistics["clusters"]),
        f"{min(sizes)}–{max(sizes)}" if sizes else _NONE,
        _count(dropped_by_owner_filter(statistics)) if has_owner_filter(statistics) else "off",
        _count(statistics.get("rows_left_out")),
    ]


def _count(number: int | None) -> str:
    return _NONE if number is None else f"{number:,}"


def _table(header: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [_line(header), f"|{'|'.join([':--', *['--:'] * (len(header) - 1)])}|"]
    for name, cells in rows.items():
        bold = "**" if name in _TOTALS else ""
        lines.append(_line([f"{bold}{cell}{bold}" for cell in (name, *cells)]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
