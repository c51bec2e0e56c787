"""The figure of what was mined: how large clusters became, and what the owner filter threw out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saha_st.card.tables import dropped_by_owner_filter, has_owner_filter, is_of_communities

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
    figure = Figure(figsize=(8, 1.3 + 0.28 * len(mining)), layout="constrained", dpi=100)
    panels = [_draw_sizes, _draw_dropped] if any(map(has_owner_filter, mining.values())) else [_draw_sizes]
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for draw, axes in zip(panels, every, strict=True):
        draw(axes, mining)
    every[0].invert_yaxis()
    for axes in every:
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
    return True


def _draw_dropped(axes: Any, mining: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw a bar for each dataset, or say that its filter was off, which is not the same as a bar of length 0."""
    what = "Pairs kept apart" if any(map(is_of_communities, mining.values())) else "Candidates dropped"
    axes.set_title(f"{what} by the owner filter", fontsize=9)
    bars = axes.barh(list(mining), [dropped_by_owner_filter(each) or 0 for each in mining.values()], color=_DROPPED)
    axes.bar_label(bars, ["" if has_owner_filter(each) else "off" for each in mining.values()], padding=3, fontsize=8)


def _draw_sizes(axes: Any, mining: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw a bar for each dataset, of parts from the largest clusters, dark, to the smallest."""
    from matplotlib.colors import LinearSegmentedColormap

    axes.set_title("Clusters, by number of pairs", fontsize=9)
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
