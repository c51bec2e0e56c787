"""The tasks of MMEB: which exist, to which meta-task they belong, and which have training data.

Scores are averaged over these names (unweighted: per meta-task, over the 20 in-distribution and the 16
out-of-distribution subsets, and over all 36), so the table is what makes a figure comparable with a published one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MetaTask = Literal["Classification", "VQA", "Retrieval", "Grounding"]


@dataclass(frozen=True)
class MMEBSubset:
    """One task of MMEB.

    Args:
        name: Its name in TIGER-Lab/MMEB-eval.
        meta_task: The group it is averaged in.
        in_distribution: Whether TIGER-Lab/MMEB-train has training data for it.
        targets_as_queries: Whether its candidates are encoded as queries are, prompt suffix included: in
            RefCOCO-Matching both sides are an image with an expression, and neither is a document.
    """

    name: str
    meta_task: MetaTask
    in_distribution: bool
    targets_as_queries: bool = False

    @property
    def train_name(self) -> str | None:
        """Its name in TIGER-Lab/MMEB-train, or `None` if it has no training data."""
        if not self.in_distribution:
            return None
        return "ImageNet_1K" if self.name == "ImageNet-1K" else self.name


_NAMES: tuple[tuple[MetaTask, bool, str], ...] = (
    ("Classification", True, "ImageNet-1K N24News HatefulMemes VOC2007 SUN397"),
    ("Classification", False, "Place365 ImageNet-A ImageNet-R ObjectNet Country211"),
    ("VQA", True, "OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W"),
    ("VQA", False, "ScienceQA VizWiz GQA TextVQA"),
    ("Retrieval", True, "VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA"),
    ("Retrieval", False, "OVEN FashionIQ EDIS Wiki-SS-NQ"),
    ("Grounding", True, "MSCOCO"),
    ("Grounding", False, "RefCOCO RefCOCO-Matching Visual7W-Pointing"),
)

MMEB_SUBSETS: dict[str, MMEBSubset] = {
    name: MMEBSubset(name, meta_task, in_distribution, targets_as_queries=name == "RefCOCO-Matching")
    for meta_task, in_distribution, names in _NAMES
    for name in names.split()
}
"""The 36 subsets of TIGER-Lab/MMEB-eval by name."""

MMEB_TRAIN_SUBSETS: tuple[str, ...] = tuple(s.train_name for s in MMEB_SUBSETS.values() if s.train_name is not None)
"""The 20 subsets of TIGER-Lab/MMEB-train."""


def pick_subsets(wanted: str | Sequence[str] | None, available: Sequence[str], *, source: str) -> list[str]:
    """Return the wanted subsets, or all, and refuse an unknown name with those that come close.

    Args:
        wanted: One name, several, or `None` for all.
        available: The names there are.
        source: Where they are, for the error.

    Raises:
        ValueError: A name is unknown, given twice, or no name is given.
    """
    names = list(available) if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    if not names:
        raise ValueError(f"subsets: nothing to load from {source}; it has {sorted(available)}.")
    if len(set(names)) < len(names):
        raise ValueError(f"subsets: {names} names a subset twice.")
    for name in names:
        if name not in available:
            close = difflib.get_close_matches(name, available, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"It has {sorted(available)}."
            raise ValueError(f"subsets: {source} has no subset {name!r}. {hint}")
    return names
