"""Vectors by content key, in shards on disk that a later run takes up again."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np

from saha_st.data.keys import KEY_DTYPE
from saha_st.files import is_left_behind, map_new_array, name_of_own, write_whole

IN_MEMORY = 2**31
"""Bytes of vectors beyond which they are read from the disk."""


class VectorStore:
    """Vectors by content key, in a folder of shards; without a folder, in memory.

    A shard is two files, ``NAME.vectors.npy`` (inputs, dim) float32 and ``NAME.keys.npy`` (inputs,). Each is written
    under a temporary name and renamed when it is complete, the keys last: a shard without keys does not exist. In
    memory are the keys alone, 40 bytes a vector.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, fingerprint: str) -> None:
        self.folder = Path(folder) / fingerprint if folder is not None else None
        self._index = _KeyIndex()
        self._shards: list[Path | np.ndarray] = []
        self._starts: list[int] = []
        self._known: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Take up the shards that other processes have written into the folder since."""
        for keys_file in sorted(self.folder.glob("*.keys.npy")) if self.folder else ():
            if keys_file.name not in self._known:
                vectors_file = keys_file.with_name(keys_file.name.replace(".keys.", ".vectors."))
                self._append(np.load(keys_file, allow_pickle=False), vectors_file)
                self._known.add(keys_file.name)

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Tell for each key whether its vector is here, shape (keys,)."""
        return self._index.find(keys) >= 0

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors of shape (keys, dim); on disk before this returns, if the store has a folder."""
        if self.folder is None:
            return self._append(keys, vectors)
        self.folder.mkdir(parents=True, exist_ok=True)
        name = blake2b(keys.tobytes(), digest_size=8).hexdigest()
        vectors_file = self.folder / f"{name}.vectors.npy"
        write_whole(vectors_file, lambda file: np.save(file, vectors, allow_pickle=False))
        write_whole(self.folder / f"{name}.keys.npy", lambda file: np.save(file, keys, allow_pickle=False))
        self._known.add(f"{name}.keys.npy")
        return self._append(keys, vectors_file)

    def get(self, keys: np.ndarray) -> np.ndarray:
        """Return the vectors of ``keys``, shape (keys, dim), float32.

        In a folder, more than `IN_MEMORY` bytes of them are joined in a file and returned as a memory map: they may
        exceed the memory, and the processes of a machine share its pages.

        Raises:
            KeyError: A key whose vector is not here.
        """
        if not len(keys):
            return np.empty((0, 0), dtype=np.float32)
        places = self._index.find(keys)
        if (places < 0).any():
            raise KeyError(f"{int((places < 0).sum())} of {len(keys)} inputs have no vector in the store.")
        shape = (len(keys), self._vectors(0).shape[1])
        if self.folder is None or 4 * shape[0] * shape[1] <= IN_MEMORY:
            return self._fill(np.empty(shape, dtype=np.float32), places)
        joined = self.folder / f"{blake2b(keys.tobytes(), digest_size=8).hexdigest()}.joined.npy"
        if not joined.exists():
            self._join(joined, shape, places)
        return np.load(joined, mmap_mode="r", allow_pickle=False)

    def _join(self, joined: Path, shape: tuple[int, int], places: np.ndarray) -> None:
        """Write vectors into a file, which is there entirely or not at all."""
        for part in filter(lambda part: is_left_behind(part.name), self.folder.glob("*.part")):
            part.unlink(missing_ok=True)
        part = self.folder / f"{name_of_own(joined.stem)}.part"
        try:
            self._fill(map_new_array(part, np.float32, shape), places).flush()
            part.rename(joined)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _fill(self, vectors: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Copy vectors shard by shard, each opened when it is its turn: a process may open a thousand files."""
        shard_of = np.searchsorted(self._starts, places, side="right") - 1
        order = np.argsort(shard_of, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(shard_of[order])) + 1):
            shard = int(shard_of[rows[0]])
            vectors[rows] = self._vectors(shard)[places[rows] - self._starts[shard]]
        return vectors

    def _vectors(self, shard: int) -> np.ndarray:
        found = self._shards[shard]
        return np.load(found, mmap_mode="r", allow_pickle=False) if isinstance(found, Path) else found

    def _append(self, keys: np.ndarray, vectors: Path | np.ndarray) -> None:
        self._starts.append(self._index.count)
        self._index.add(keys)
        self._shards.append(vectors)


class _KeyIndex:
    """The place of each key in the order of adding: sorted runs, each at least twice as long as the next.

    So a million small additions sort each key about twenty times, not a million times.
    """

    def __init__(self) -> None:
        self.count = 0
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # keys, ascending, and their places

    def add(self, keys: np.ndarray) -> None:
        """Give the next places to keys."""
        run = _sorted_run(keys.astype(KEY_DTYPE, copy=False), np.arange(self.count, self.count + len(keys)))
        self.count += len(keys)
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            before = self._runs.pop()
            run = _sorted_run(*(np.concatenate(pair) for pair in zip(before, run, strict=True)))
        self._runs.append(run)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The place of each key, -1 for those that are not here; shape (keys,)."""
        places = np.full(len(keys), -1)
        for known, places_of_known in self._runs:
            if len(known):
                nearest = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                hit = known[nearest] == keys
                places[hit] = places_of_known[nearest[hit]]
        return places


def _sorted_run(keys: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    return keys[order], places[order]
