"""The figure of what was mined: how large clusters became, and what the owner filter threw out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PALE, _DARK, _DROPPED = "#cfe3f1", "#0072b2", "#d55e00"  # told apart by the colour-blind, too


def draw_mining(mining: Mapping[str, Mapping[str, Any]], path: Path) -> bool:
    """Draw what was mined, a row for each dataset, as PNG.

    Args:
        mining: Statistics by dataset, as in ``mining.json``.
        path: The file; its folder is made.

    Returns:
        Whether it was drawn: matplotlib comes with the extra ``eval``.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not mining:
        return False
    names = list(mining)
    figure = Figure(figsize=(8, 1.3 + 0.28 * len(names)), layout="constrained", dpi=100)
    sizes, dropped = figure.subplots(1, 2, sharey=True)
    _draw_sizes(sizes, mining)
    dropped.barh(names, [each.get("owners_filtered", 0) for each in mining.values()], color=_DROPPED)
    dropped.set_title("Candidates dropped by the owner filter", fontsize=9)
    sizes.set_title("Clusters, by number of pairs", fontsize=9)
    sizes.invert_yaxis()
    for axes in (sizes, dropped):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
    return True


def _draw_sizes(axes: Any, mining: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw a bar for each dataset, of parts from the largest clusters, dark, to the smallest."""
    from matplotlib.colors import LinearSegmentedColormap

    found = [{int(size): count for size, count in each["cluster_sizes"].items()} for each in mining.values()]
    every = sorted({size for sizes in found for size in sizes}, reverse=True)
    colours = LinearSegmentedColormap.from_list("sizes", [_PALE, _DARK])
    left = [0] * len(found)
    for index, size in enumerate(every):
        counts = [sizes.get(size, 0) for sizes in found]
        share = 1 - index / max(len(every) - 1, 1)
        axes.barh(list(mining), counts, left=left, color=colours(share), label=str(size))
        left = [start + count for start, count in zip(left, counts, strict=True)]
    if len(every) <= 16:
        axes.legend(frameon=False, fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
