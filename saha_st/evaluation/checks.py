"""What tells whether a score is one: the vectors it was computed from, and what guessing would get.

mteb's results have no place for it, so it lies beside them, a file a task. It is written before the result is, and
subset by subset like it, so that a run that was killed and goes on knows what was seen before.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from saha_st.files import write_whole

_SAME = 1e-6  # what batches of other lengths make of equal inputs in float32 is smaller


@dataclass
class SubsetCheck:
    """What is known of a subset in a split: whatever is computed from equal vectors is no score.

    Attributes:
        inputs: Number of distinct inputs.
        undefined: How many of their vectors hold something that is not a number.
        collapsed: Whether one side of the task has several inputs, all with the same vector.
        chance: The score of guessing, `None` where it is not known.
        rows: Number of queries or rows that are scored.
    """

    inputs: int = 0
    undefined: int = 0
    collapsed: bool = False
    chance: float | None = None
    rows: int | None = None

    def add(self, vectors: np.ndarray) -> None:
        """Look at the vectors of distinct inputs, shape (inputs, dim)."""
        self.inputs += len(vectors)
        self.undefined += int((~np.isfinite(vectors).all(axis=1)).sum())
        if len(vectors) > 1:
            spread = (vectors.max(axis=0) - vectors.min(axis=0)).max()
            self.collapsed |= bool(spread <= _SAME)  # false for what is not a number


@dataclass(frozen=True)
class Checks:
    """What is known of a task.

    Attributes:
        subsets: By split and subset, under the names that `subset_key` gives.
    """

    subsets: Mapping[str, SubsetCheck] = field(default_factory=dict)

    @property
    def undefined(self) -> float:
        """Share of inputs whose vectors hold something that is not a number."""
        inputs = sum(each.inputs for each in self.subsets.values())
        return sum(each.undefined for each in self.subsets.values()) / max(inputs, 1)

    @property
    def collapsed(self) -> bool:
        """Whether all inputs of a side got the same vector, in any subset."""
        return any(each.collapsed for each in self.subsets.values())

    @property
    def chance(self) -> float | None:
        """The score of guessing: the mean over the subsets, as the score is."""
        chances = [each.chance for each in self.subsets.values()]
        return None if not chances or None in chances else sum(chances) / len(chances)

    @property
    def rows(self) -> int | None:
        """Number of queries or rows in all subsets, `None` if it is not known of all."""
        rows = [each.rows for each in self.subsets.values()]
        return None if None in rows else sum(rows)

    def of(self, keys: Iterable[str]) -> Checks:
        """Return what is known of some subsets; of a task that encodes all at once under other names, everything."""
        found = {key: self.subsets[key] for key in keys if key in self.subsets}
        return Checks(found or self.subsets)

    @classmethod
    def read(cls, file: Path) -> Checks | None:
        """Read what `write` has written, `None` if there is nothing."""
        if not file.is_file():
            return None
        return cls({key: SubsetCheck(**each) for key, each in json.loads(file.read_text(encoding="utf8")).items()})

    def write(self, file: Path) -> None:
        """Write a file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        blob = json.dumps({key: dataclasses.asdict(each) for key, each in self.subsets.items()}, indent=1).encode()
        write_whole(file, lambda handle: handle.write(blob))


def subset_key(split: str, subset: str) -> str:
    """Return the name of a subset in a split."""
    return f"{split} {subset}"


def checks_file(folder: Path, task_name: str) -> Path:
    """Return the file of a task in a folder of checks."""
    return folder / f"{task_name}.json"
