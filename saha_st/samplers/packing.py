"""Plan batches of exactly ``batch_size`` rows out of whole clusters.

Only the number of clusters of each size matters for that, not which clusters they are. So the plan is made once from
these numbers and holds for every epoch: it fixes the number of batches, how many clusters of each size a batch takes
and how many are left over. An epoch merely draws which cluster of a size takes which place.

Each recipe is the exact fill nearest to the average composition of what is left: batches are alike, and the scarce
sizes that close a batch last until the end. Where that leaves batches unfilled, a second plan takes large clusters
first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# How far from the average composition a fill is looked for, in clusters of one size, before all fills are looked at.
_NEIGHBOURHOOD = 8

_MANY = 0.1  # of the rows; in every epoch it is others that are left out


@dataclass(frozen=True)
class PackingPlan:
    """How many clusters of each size every batch takes.

    Attributes:
        batch_size: Rows of every batch.
        sizes: The cluster sizes that occur, ascending, shape (sizes,).
        counts: How many clusters of each size there are, shape (sizes,).
        recipes: Clusters of each size in a batch, one row a recipe, shape (recipes, sizes); ``recipes @ sizes`` is
            ``batch_size`` everywhere.
        repeats: How many batches follow each recipe, shape (recipes,).
    """

    batch_size: int
    sizes: np.ndarray
    counts: np.ndarray
    recipes: np.ndarray
    repeats: np.ndarray

    @property
    def num_batches(self) -> int:
        """Batches in every epoch."""
        return int(self.repeats.sum())

    @property
    def used(self) -> np.ndarray:
        """Clusters of each size that an epoch uses, shape (sizes,)."""
        return self.repeats @ self.recipes

    @property
    def num_rows(self) -> int:
        """Rows there are, used or not."""
        return int(self.counts @ self.sizes)

    @property
    def dropped_rows(self) -> int:
        """Rows that an epoch leaves out."""
        return self.num_rows - self.num_batches * self.batch_size

    @property
    def leaves_out_many(self) -> bool:
        """Whether an epoch leaves out so many rows that one should know."""
        return self.dropped_rows > _MANY * self.num_rows

    @property
    def share_of_size(self) -> dict[int, float]:
        """For each cluster size, the share of its clusters that an epoch uses."""
        return {int(size): float(share) for size, share in zip(self.sizes, self.used / self.counts, strict=True)}


def plan_batches(count_of_size: Mapping[int, int], batch_size: int) -> PackingPlan:
    """Plan as many batches of whole clusters as the clusters allow.

    Args:
        count_of_size: How many clusters there are of each size (rows of a cluster).
        batch_size: Rows of every batch.

    Returns:
        The plan; the same for the same arguments, whatever their order.

    Raises:
        ValueError: There are fewer rows than ``batch_size``, a cluster is larger than that, or no set of whole
            clusters has exactly so many rows. The message holds the counts.
    """
    _refuse_impossible_sizes(count_of_size, batch_size)
    sizes = np.array(sorted(count_of_size), dtype=np.int64)
    counts = np.array([count_of_size[size] for size in sizes.tolist()], dtype=np.int64)
    plan = _plan_with(_most_average_fill, sizes, counts, batch_size)
    if plan.num_batches < plan.num_rows // batch_size:
        # Where few sizes can close a batch, keeping batches alike may waste them; then the number of batches decides.
        plan = max(plan, _plan_with(_largest_clusters_fill, sizes, counts, batch_size), key=lambda p: p.num_batches)
    if plan.num_batches == 0:
        raise ValueError(_no_exact_fill(count_of_size, batch_size))
    return plan


def describe_counts(count_of_size: Mapping[int, int]) -> str:
    """The counts for a message, e.g. ``"40 of 2 rows, 310 of 16 rows"``."""
    return ", ".join(f"{count_of_size[size]} of {size} rows" for size in sorted(count_of_size))


def suggested_batch_sizes(count_of_size: Mapping[int, int], batch_size: int) -> str:
    """The multiples of the most frequent cluster size (in rows) around ``batch_size``, e.g. ``"240 or 256"``."""
    return " or ".join(map(str, _multiples(count_of_size, batch_size)))


def better_batch_sizes(datasets: Sequence[Mapping[int, int]], batch_size: int) -> list[int]:
    """Of the suggested batch sizes, return those that leave out fewer rows than ``batch_size``.

    Args:
        datasets: How many clusters there are of each size (rows of a cluster), for each dataset of a run.
        batch_size: Rows of a batch.
    """
    clusters = sum(map(Counter, datasets), Counter())
    now = _dropped_rows(datasets, batch_size)
    return [size for size in _multiples(clusters, batch_size) if _dropped_rows(datasets, size) < now]


def _multiples(count_of_size: Mapping[int, int], batch_size: int) -> list[int]:
    size = max(count_of_size, key=lambda size: (size * count_of_size[size], size))
    multiples = sorted({max(1, batch_size // size) * size, -(-batch_size // size) * size} - {batch_size})
    return multiples or [batch_size + size]


def _dropped_rows(datasets: Sequence[Mapping[int, int]], batch_size: int) -> float:
    """Rows that an epoch leaves out of all datasets; infinity if one of them cannot be packed."""
    try:
        return sum(plan_batches(count_of_size, batch_size).dropped_rows for count_of_size in datasets)
    except ValueError:
        return float("inf")


def _refuse_impossible_sizes(count_of_size: Mapping[int, int], batch_size: int) -> None:
    rows = sum(size * count for size, count in count_of_size.items())
    if rows < batch_size:
        raise ValueError(
            f"batch_size={batch_size} needs at least as many rows, but the dataset has {rows} rows "
            f"(clusters: {describe_counts(count_of_size) or 'none'}). Use a smaller batch_size or mine more rows."
        )
    if (largest := max(count_of_size)) > batch_size:
        raise ValueError(
            f"batch_size={batch_size} is smaller than the largest cluster, which has {largest} rows, and a cluster is "
            f"never split (clusters: {describe_counts(count_of_size)}). Use a batch_size of at least {largest}, or "
            f"mine with num_negatives={batch_size - 1} or less."
        )


def _no_exact_fill(count_of_size: Mapping[int, int], batch_size: int) -> str:
    return (
        f"No set of whole clusters has exactly batch_size={batch_size} rows (clusters: "
        f"{describe_counts(count_of_size)}). Use a multiple of a frequent size, such as "
        f"{suggested_batch_sizes(count_of_size, batch_size)}."
    )


def _plan_with(
    find_fill: Callable[[np.ndarray, np.ndarray, int], np.ndarray | None],
    sizes: np.ndarray,
    counts: np.ndarray,
    batch_size: int,
) -> PackingPlan:
    """Fill batches by ``find_fill`` until no set of the clusters left has exactly ``batch_size`` rows."""
    recipes: list[np.ndarray] = []
    repeats: list[int] = []
    available = counts.copy()
    while (rows := int(sizes @ available)) >= batch_size:
        fill = find_fill(sizes, available, batch_size)
        if fill is None:
            break
        taken = fill > 0
        most = int((available[taken] // fill[taken]).min())
        # Half of what is left: the next recipe then makes up for the rounding of this one, and a plan of any length
        # needs only a few dozen searches.
        repeat = min(most, max(1, rows // batch_size // 2))
        recipes.append(fill)
        repeats.append(repeat)
        available -= repeat * fill
    shape = (len(recipes), len(sizes))
    return PackingPlan(
        batch_size, sizes, counts, np.array(recipes, dtype=np.int64).reshape(shape), np.array(repeats, dtype=np.int64)
    )


def _most_average_fill(sizes: np.ndarray, available: np.ndarray, batch_size: int) -> np.ndarray | None:
    """The exact fill with the least squared distance to the average batch; a row counts the same in every size."""
    average = available * (batch_size / (sizes @ available))  # (sizes,)

    def price(index: int, number: int) -> float:
        return float(sizes[index] * (number - average[index]) ** 2)

    lowest = np.maximum(np.floor(average).astype(np.int64) - _NEIGHBOURHOOD, 0)
    highest = np.minimum(np.ceil(average).astype(np.int64) + _NEIGHBOURHOOD, available)
    fill = _cheapest_fill(sizes, lowest, highest, price, batch_size)
    if fill is None:
        fill = _cheapest_fill(sizes, np.zeros_like(available), available, price, batch_size)
    return fill


def _largest_clusters_fill(sizes: np.ndarray, available: np.ndarray, batch_size: int) -> np.ndarray | None:
    """The exact fill with the fewest, hence largest, clusters."""
    return _cheapest_fill(sizes, np.zeros_like(available), available, lambda _, number: float(number), batch_size)


def _cheapest_fill(
    sizes: np.ndarray,
    lowest: np.ndarray,
    highest: np.ndarray,
    price: Callable[[int, int], float],
    batch_size: int,
) -> np.ndarray | None:
    """Clusters of each size with ``batch_size`` rows together at the least price; None if there is no such set.

    A subset sum with bounded numbers, size after size; ``price(index, number)`` is what that many clusters of a size
    cost. Every size stays within its ``lowest`` and ``highest`` number. Arrays have shape (sizes,).
    """
    cost = np.full(batch_size + 1, np.inf)  # (rows so far + 1,): the least price of having so many rows
    cost[0] = 0.0
    choice = np.zeros((len(sizes), batch_size + 1), dtype=np.int64)  # the number of this size in that way
    for index, size in enumerate(sizes.tolist()):
        cheapest = np.full(batch_size + 1, np.inf)
        for number in range(int(lowest[index]), min(int(highest[index]), batch_size // size) + 1):
            candidate = cost[: batch_size + 1 - number * size] + price(index, number)
            target = cheapest[number * size :]
            better = candidate < target
            target[better] = candidate[better]
            choice[index, number * size :][better] = number
        cost = cheapest
    if not np.isfinite(cost[batch_size]):
        return None
    fill = np.zeros(len(sizes), dtype=np.int64)
    rows = batch_size
    for index in reversed(range(len(sizes))):
        fill[index] = choice[index, rows]
        rows -= int(fill[index] * sizes[index])
    return fill
