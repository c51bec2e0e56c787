"""Lists of different lengths in one array, and what NumPy needs to work on many of them at once.

A document has any number of owners and an anchor any number of positives. Kept as one array with starts, a million of
such lists cost two integers each, and all owners of a pool come out in one go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """List g is `values[starts[g]:starts[g + 1]]`."""

    starts: np.ndarray  # (lists + 1,) int64
    values: np.ndarray

    @classmethod
    def group(cls, values: np.ndarray, by: np.ndarray, lists: int) -> Ragged:
        """Puts each value into the list that `by` names, in the order of the values."""
        starts = np.zeros(lists + 1, dtype=np.int64)
        np.cumsum(np.bincount(by, minlength=lists), out=starts[1:])
        return cls(starts, values[np.argsort(by, kind="stable")])

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.starts[index] : self.starts[index + 1]]

    def joined(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the values of several lists one after another, and for each the place of its list in `indices`."""
        first = self.starts[indices]
        lengths = self.starts[indices + 1] - first
        place = np.repeat(np.arange(len(indices)), lengths)
        shift = first - (np.cumsum(lengths) - lengths)  # from an index into the result to one into `values`
        return self.values[np.arange(len(place)) + shift[place]], place


def is_in(values: np.ndarray, group: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Which values occur in the group, at the cost of these two only; `marks` is all False before and after."""
    marks[group] = True
    inside = marks[values]
    marks[group] = False
    return inside


def starts_of_runs(values: np.ndarray) -> np.ndarray:
    """Where a new value begins in an array in which equal values stand together."""
    begins = np.ones(len(values), dtype=bool)
    begins[1:] = values[1:] != values[:-1]
    return np.flatnonzero(begins)


def first_maxima(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The index of the first greatest value in each of the runs that begin at `starts`."""
    if len(starts) == len(values):
        return starts
    run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    greatest = np.flatnonzero(values == np.maximum.reduceat(values, starts)[run])
    return greatest[starts_of_runs(run[greatest])]
