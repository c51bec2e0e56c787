"""What tells whether a score is one: the vectors it was computed from, and what guessing would get.

mteb's results have no place for it, so it lies beside them, a file a task. It is written before the result is, and
subset by subset like it, so that a run that was killed and goes on knows what was seen before.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from saha_st.encoding import write_whole

_SAME = 1e-6  # what batches of other lengths make of equal inputs in float32 is smaller


@dataclass
class VectorCheck:
    """What the vectors of a subset say about its score: whatever is computed from equal vectors is none.

    Attributes:
        inputs: Number of distinct inputs.
        undefined: How many of their vectors hold something that is not a number.
        collapsed: Whether one side of the task has several inputs, all with the same vector.
    """

    inputs: int = 0
    undefined: int = 0
    collapsed: bool = False

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
        chance: The score of guessing, `None` where it is not known.
        rows: Number of queries or rows that are scored.
        vectors: By split and subset.
    """

    chance: float | None = None
    rows: int | None = None
    vectors: dict[str, VectorCheck] = field(default_factory=dict)

    @property
    def undefined(self) -> float:
        """Share of inputs whose vectors hold something that is not a number."""
        inputs = sum(each.inputs for each in self.vectors.values())
        return sum(each.undefined for each in self.vectors.values()) / max(inputs, 1)

    @property
    def collapsed(self) -> bool:
        """Whether all inputs of a side got the same vector, in any subset."""
        return any(each.collapsed for each in self.vectors.values())

    @classmethod
    def together(cls, members: Iterable[Checks]) -> Checks:
        """Return what is known of an aggregate of tasks: for its score there is no chance."""
        members = list(members)
        if len(members) == 1:
            return members[0]
        named = [
            (f"{number} {name}", each) for number, one in enumerate(members) for name, each in one.vectors.items()
        ]
        return cls(vectors=dict(named))

    @classmethod
    def read(cls, file: Path) -> Checks | None:
        """Read what `write` has written, `None` if there is nothing."""
        if not file.is_file():
            return None
        stored = json.loads(file.read_text(encoding="utf8"))
        vectors = {name: VectorCheck(**each) for name, each in stored.pop("vectors").items()}
        return cls(**stored, vectors=vectors)

    def write(self, file: Path) -> None:
        """Write a file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        blob = json.dumps(dataclasses.asdict(self), indent=1).encode()
        write_whole(file, lambda handle: handle.write(blob))


def checks_file(folder: Path, task_name: str) -> Path:
    """Return the file of a task in a folder of checks."""
    return folder / f"{task_name}.json"
