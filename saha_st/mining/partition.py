"""A graph of rows divided into clusters of one size, so that much of the weight of its edges lies inside them.

Clusters grow from rows with few edges, each by the row that adds the most weight (or METIS draws the first version).
Those that stay small are dissolved into the others, and then rows change places, two at a time, while weight is won.
A weight far below zero keeps two rows apart, and `Rivals` never meet; whoever finds no place at last founds a small
cluster with a row from a large one, or stays out. Every step is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from saha_st.mining.ragged import starts_of_runs
from saha_st.mining.rank_windows import Graph, Rivals

_FREE = -1
_SWEEPS = 12
_TARGETS = 3  # clusters that a row may want to go to
_TRIES = 32  # clusters that are looked at for a row that fits into none of its neighbours'

Initial = Callable[[Graph, int], np.ndarray]
"""A partitioner: edges and the number of parts in, the part of each row out."""


def partition(graph: Graph, rivals: Rivals, *, size: int, initial: Initial | None = None, seed: int = 0) -> list:
    """Divides rows into clusters of `size` rows where that is possible.

    Args:
        graph: edges, and pairs to be kept apart.
        rivals: pairs that must never share a cluster.
        size: rows of a full cluster, at least 2.
        initial: what draws the first version. None: clusters grow greedily.
        seed: seed of the clusters that are tried for rows without a place.

    Returns:
        Clusters of 2 to `size` rows, each an array of rows, largest first; a row is in one at most.
    """
    clusters = Clusters(graph, rivals, size, np.random.default_rng(seed))
    if initial is None:
        clusters.grow()
    else:
        clusters.adopt(initial(graph.edges(), -(-graph.rows // size)))
    clusters.dissolve_small()
    clusters.settle(np.flatnonzero(clusters.of_row == _FREE))
    clusters.fill_up()
    clusters.exchange()
    clusters.found(clusters.part())
    return clusters.as_list()


class Clusters:
    """Which row is in which cluster; the steps of `partition` as methods."""

    def __init__(self, graph: Graph, rivals: Rivals, size: int, rng: np.random.Generator) -> None:
        self.graph, self.rivals, self.size, self._rng = graph, rivals, size, rng
        self.of_row = np.full(graph.rows, _FREE)
        self.members: list[list[int]] = []
        self._gain = np.zeros(graph.rows, dtype=np.float32)  # scratch: weight towards the cluster that grows
        self._sums = np.zeros(-(-graph.rows // size) + 1, dtype=np.float32)  # scratch: weight towards each cluster
        self._change = np.zeros(graph.rows, dtype=np.float32)  # scratch: weight towards one row

    def grow(self) -> None:
        """Forms clusters along edges, from the rows with the fewest: they have the least choice."""
        edges = np.diff(self.graph.edges().starts)
        for row in np.argsort(edges, kind="stable").tolist():
            if self.of_row[row] == _FREE:
                self.members.append([])
                self._add(row, len(self.members) - 1)
                self._extend(len(self.members) - 1)

    def adopt(self, parts: np.ndarray) -> None:
        """Takes over parts of any size; of those that are too large, the rows with the least weight inside leave."""
        inside = self._weight_inside(parts)
        order = np.lexsort((-inside, parts))
        for rows in np.split(order, starts_of_runs(parts[order])[1:]):
            self.members.append([])
            for row in rows.tolist():
                if len(self.members[-1]) < self.size and not self.rivals(row, np.array(self.members[-1], int)).any():
                    self._add(row, len(self.members) - 1)

    def dissolve_small(self) -> None:
        """Keeps as many clusters as the rows fill, the largest; rows of the others go where they have edges."""
        count = -(-self.graph.rows // self.size)
        order = sorted(range(len(self.members)), key=lambda cluster: -len(self.members[cluster]))
        kept, self.of_row[:] = [self.members[cluster] for cluster in order[:count]], _FREE
        self.members = [[] for _ in range(count)]
        for cluster, rows in enumerate(kept):
            for row in rows:
                self._add(row, cluster)
        for cluster in range(count):
            self._extend(cluster)

    def _add(self, row: int, cluster: int) -> None:
        self.members[cluster].append(row)
        self.of_row[row] = cluster

    def _remove(self, row: int) -> None:
        self.members[self.of_row[row]].remove(row)
        self.of_row[row] = _FREE

    def _neighbours(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        span = slice(self.graph.starts[row], self.graph.starts[row + 1])
        return self.graph.others[span], self.graph.weights[span]

    def _extend(self, cluster: int) -> None:
        """Adds free rows to a cluster, each time the one with the most weight towards it, while that is positive."""
        members, gain = self.members[cluster], self._gain
        if not members or len(members) >= self.size:
            return
        near = np.empty(0, dtype=np.int64)
        added = list(members)
        while True:
            for row in added:
                others, weights = self._neighbours(row)
                gain[others] += weights
                near = np.concatenate((near, others[self.of_row[others] == _FREE]))
            row = self._best(near, members) if len(members) < self.size else None
            if row is None:
                break
            self._add(row, cluster)
            added = [row]
        for row in members:
            gain[self._neighbours(row)[0]] = 0
        gain[near] = 0

    def _best(self, near: np.ndarray, members: list[int]) -> int | None:
        while len(near):
            place = int(self._gain[near].argmax())
            row = int(near[place])
            if self._gain[row] <= 0:
                return None
            if self.of_row[row] == _FREE and not self.rivals(row, np.array(members)).any():
                return row
            self._gain[row] = -np.inf  # until the cluster is done
        return None

    def settle(self, rows: Iterable[int]) -> None:
        """Puts free rows into clusters that have room, whether they have edges there or not."""
        room = [cluster for cluster, members in enumerate(self.members) if len(members) < self.size]
        for row in rows:
            homes = self._homes(row, room[:_TRIES])
            if not homes:
                room = room[_TRIES:] + room[:_TRIES]
                continue
            self._add(row, homes[0])
            if len(self.members[homes[0]]) == self.size:
                room.remove(homes[0])

    def fill_up(self) -> None:
        """Moves rows of the smaller among the clusters with room into the larger ones, so that more of them are full.

        Nobody is left behind alone.
        """
        room = [cluster for cluster, members in enumerate(self.members) if 0 < len(members) < self.size]
        room.sort(key=lambda cluster: -len(self.members[cluster]))
        for place in range(len(room) - 1, -1, -1):
            for row in list(self.members[room[place]]):
                larger = [each for each in room[: min(place, _TRIES)] if len(self.members[each]) < self.size]
                if len(self.members[room[place]]) != 2 and (homes := self._homes(row, larger)):
                    self._remove(row)
                    self._add(row, homes[0])

    def _homes(self, row: int, clusters: list[int]) -> list[int]:
        """Those of some clusters in which a row meets nobody that it must not."""
        return [cluster for cluster, bad in zip(clusters, self._clashes(row, clusters), strict=True) if not len(bad)]

    def _clashes(self, row: int, clusters: list[int]) -> list[np.ndarray]:
        """For each cluster, the members that a row must not meet."""
        if not clusters:
            return []
        members = np.array([member for cluster in clusters for member in self.members[cluster]], dtype=np.int64)
        wrong = self._must_not_meet(row, members)
        ends = np.cumsum([len(self.members[cluster]) for cluster in clusters])[:-1]
        return [part[bad] for part, bad in zip(np.split(members, ends), np.split(wrong, ends), strict=True)]

    def _must_not_meet(self, row: int, rows: np.ndarray) -> np.ndarray:
        """Marks the rows that are a row's rivals or are kept apart from it."""
        others, weights = self._neighbours(row)
        return self.rivals(row, rows) | np.isin(rows, others[weights < 0])

    def exchange(self) -> None:
        """Lets two rows change places while the weight inside clusters grows."""
        waiting = np.ones(self.graph.rows, dtype=bool)
        for _ in range(_SWEEPS):
            rows = np.flatnonzero(waiting & (self.of_row != _FREE))
            waiting[:] = False
            for row in rows.tolist():
                if (other := self._partner(row)) is not None:
                    touched = (*self.members[self.of_row[row]], *self.members[self.of_row[other]])
                    self._swap(row, other)
                    waiting[list(touched)] = True
                    waiting[self._neighbours(row)[0]] = True
                    waiting[self._neighbours(other)[0]] = True
            if not waiting.any():
                return

    def _partner(self, row: int) -> int | None:
        """The row that a row best changes places with: one of a cluster that it has more weight towards."""
        others, weights = self._neighbours(row)
        own = self.of_row[row]
        for target, more in self._better_clusters(others, weights, own):
            members = np.array(self.members[target])
            self._change[others] = weights
            gains = more + self._shifts(members, own) - 2 * self._change[members]
            self._change[others] = 0
            for place in np.argsort(-gains, kind="stable").tolist():
                if gains[place] <= 0:
                    break
                if self._may_swap(row, int(members[place])):
                    return int(members[place])
        return None

    def _better_clusters(self, others: np.ndarray, weights: np.ndarray, own: int) -> list[tuple[int, float]]:
        """The clusters with more weight than a row's own, and how much more, the best first; a few at most."""
        there = self.of_row[others]
        np.add.at(self._sums, there, weights)
        sums = self._sums[there]
        here = self._sums[own]
        self._sums[there] = 0
        better = (sums > here) & (there != _FREE)
        if here < 0:  # anywhere is better
            better |= (sums == here) & (there != own) & (there != _FREE)
        if not better.any():
            return []
        there, more = there[better], sums[better] - here
        clusters, first = np.unique(there, return_index=True)
        more = more[first]
        return [(int(clusters[place]), float(more[place])) for place in np.argsort(-more, kind="stable")[:_TARGETS]]

    def _shifts(self, members: np.ndarray, target: int) -> np.ndarray:
        """What each member's move from its own cluster to another one adds. Shape (members,)."""
        starts = self.graph.starts[members]
        lengths = self.graph.starts[members + 1] - starts
        place = np.repeat(np.arange(len(members)), lengths)
        entries = np.arange(len(place)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        there, weights = self.of_row[self.graph.others[entries]], self.graph.weights[entries]
        signed = weights * ((there == target).astype(np.float32) - (there == self.of_row[members[0]]))
        return np.bincount(place, signed, minlength=len(members))

    def _may_swap(self, row: int, other: int) -> bool:
        """Whether no rivals meet when two rows change places."""
        for stays, comes in ((row, other), (other, row)):
            mates = np.array([mate for mate in self.members[self.of_row[stays]] if mate != stays], dtype=np.int64)
            if self.rivals(comes, mates).any():
                return False
        return True

    def _swap(self, row: int, other: int) -> None:
        here, there = self.of_row[row], self.of_row[other]
        self._remove(row)
        self._remove(other)
        self._add(row, there)
        self._add(other, here)

    def part(self) -> list[int]:
        """Takes rows out of clusters until nobody is with a row that it is kept apart from, and moves them elsewhere.

        Returns:
            Rows that fit nowhere.
        """
        ends = self.graph.ends()
        wrong = (self.graph.weights < 0) & (self.of_row[ends] == self.of_row[self.graph.others])
        wrong &= self.of_row[ends] != _FREE
        for row, other in zip(ends[wrong].tolist(), self.graph.others[wrong].tolist(), strict=True):
            if self.of_row[row] == self.of_row[other] != _FREE:
                self._remove(max(row, other))
        rows = np.flatnonzero(self.of_row == _FREE).tolist()
        self.settle(rows)
        room = [cluster for cluster, members in enumerate(self.members) if 0 < len(members) < self.size]
        return [row for row in rows if self.of_row[row] == _FREE and not self._moved_in(row, room)]

    def _moved_in(self, row: int, room: list[int]) -> bool:
        """Gives a row the place of another, the only one that it clashes with in a cluster, if that fits elsewhere."""
        while room and len(self.members[room[0]]) == self.size:
            room.pop(0)
        if not room:
            return False
        open_ones = [cluster for cluster in room[:_TRIES] if len(self.members[cluster]) < self.size]
        some = np.unique(self._rng.integers(len(self.members), size=_TRIES)).tolist()
        clashes = zip(some, self._clashes(row, some), strict=True)
        for cluster, other in [(cluster, int(bad[0])) for cluster, bad in clashes if len(bad) == 1][:_TARGETS]:
            if homes := self._homes(other, [each for each in open_ones if each != cluster]):
                self._remove(other)
                self._add(other, homes[0])
                self._add(row, cluster)
                return True
        return False

    def found(self, rows: list[int]) -> None:
        """Forms clusters of rows that found no place; rows alone get a mate from a larger cluster.

        Who gives keeps half of a full cluster; when all who can have given, any cluster of three or more gives.
        """
        alone = [members[0] for members in self.members if len(members) == 1]
        for row in alone:
            self._remove(row)
        first_new = len(self.members)
        for row in (*alone, *rows):
            newest = range(max(first_new, len(self.members) - _TRIES), len(self.members))
            homes = self._homes(row, [each for each in newest if len(self.members[each]) < self.size])
            if not homes:
                homes = [len(self.members)]
                self.members.append([])
            self._add(row, homes[0])
        lonely = [cluster for cluster in range(first_new, len(self.members)) if len(self.members[cluster]) == 1]
        for least in (max(3, -(-self.size // 2) + 1), 3):
            donors = [cluster for cluster, members in enumerate(self.members) if len(members) >= least]
            donors.sort(key=lambda cluster: len(self.members[cluster]))  # from the end
            lonely = [cluster for cluster in lonely if not self._given_mate(cluster, donors, least)]
        for cluster in lonely:
            self._remove(self.members[cluster][0])

    def _given_mate(self, cluster: int, donors: list[int], least: int) -> bool:
        """Gives the one row of a cluster a mate from another, if there is one to spare."""
        mate = self._donated(self.members[cluster][0], donors, least)
        if mate is not None:
            self._remove(mate)
            self._add(mate, cluster)
        return mate is not None

    def _donated(self, row: int, donors: list[int], least: int) -> int | None:
        """A row that may stand beside another, from one of a few clusters that can spare one."""
        while donors and len(self.members[donors[-1]]) < least:
            donors.pop()
        for cluster in donors[: -_TRIES - 1 : -1]:
            members = np.array(self.members[cluster])
            fitting = members[~self._must_not_meet(row, members)]
            if len(members) >= least and len(fitting):
                return int(fitting[-1])
        return None

    def _weight_inside(self, parts: np.ndarray) -> np.ndarray:
        """The weight of each row's edges within its part. Shape (rows,)."""
        ends = self.graph.ends()
        inside = parts[ends] == parts[self.graph.others]
        return np.bincount(ends[inside], self.graph.weights[inside], minlength=self.graph.rows)

    def as_list(self) -> list[np.ndarray]:
        """The clusters, largest first and then by their first row; rows in ascending order."""
        clusters = [np.sort(np.array(members)) for members in self.members if len(members) > 1]
        return sorted(clusters, key=lambda cluster: (-len(cluster), int(cluster[0])))
