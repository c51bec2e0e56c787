"""Load the datasets that a config names, each as pairs of one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from saha_st.data import load_mmeb, load_pairs
from saha_st.data.cells import with_closed_videos
from saha_st.training.config import DataConfig

COLUMNS = ["anchor", "positive"]


@dataclass(frozen=True)
class PairSource:
    """Pairs of one task.

    Attributes:
        name: Short name for logs and folders.
        dataset: Columns ``anchor`` and ``positive``.
        owner_filter: Whether mining drops candidates whose owner asks nearly the same thing.
    """

    name: str
    dataset: Dataset
    owner_filter: bool


def load_sources(configs: Sequence[DataConfig], *, seed: int) -> list[PairSource]:
    """Load every dataset of a config.

    Raises:
        ValueError: What the loaders refuse, or two datasets of one name.
        FileNotFoundError: A dataset or an image that is not there.
    """
    sources = []
    for config in configs:
        for name, dataset in _load(config, seed).items():
            dataset = with_closed_videos(dataset.select_columns(COLUMNS))
            sources.append(PairSource(name, dataset, config.owner_filter))
    names = [source.name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"data: more than one dataset is named {', '.join(sorted(twice))}; give each its own with the key name."
        )
    return sources


def _load(config: DataConfig, seed: int) -> dict[str, Dataset]:
    options = {"image_root": config.image_root, "max_rows": config.max_rows, "seed": seed}
    if config.format == "mmeb":
        subsets = [config.subset] if isinstance(config.subset, str) else config.subset
        return dict(load_mmeb(config.path, subsets, split=config.split or "diverse_instruction", **options))
    columns = {"anchor": config.anchor, "positive": config.positive}
    dataset = load_pairs(config.path, split=config.split or "train", subset=config.subset, **columns, **options)
    return {config.name or config.subset or Path(config.path).stem: dataset}
