"""Vectors by content key, in shards on disk that a later run takes up again."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np

from saha_st.data.keys import KEY_DTYPE
from saha_st.files import write_whole

IN_MEMORY = 2**31
"""Bytes of vectors beyond which they are read from the disk."""


class VectorStore:
    """Vectors by content key, in a folder of shards; without a folder, in memory.

    A shard is two files, ``NAME.vectors.npy`` (inputs, dim) float32 and ``NAME.keys.npy`` (inputs,). Each is written
    under a temporary name and renamed when it is complete, the keys last: a shard without keys does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, fingerprint: str) -> None:
        self.folder = Path(folder) / fingerprint if folder is not None else None
        self._keys = np.empty(0, dtype=KEY_DTYPE)
        self._shards: list[np.ndarray] = []
        self._known: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Take up the shards that other processes have written into the folder since."""
        for keys_file in sorted(self.folder.glob("*.keys.npy")) if self.folder else ():
            if keys_file.name in self._known:
                continue
            self._known.add(keys_file.name)
            vectors_file = keys_file.with_name(keys_file.name.replace(".keys.", ".vectors."))
            keys = np.load(keys_file, allow_pickle=False)
            vectors = np.load(vectors_file, allow_pickle=False, mmap_mode="r")
            self._append(keys, vectors)

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Tell for each key whether its vector is here, shape (keys,)."""
        return np.isin(keys, self._keys)

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors of shape (keys, dim); on disk before this returns, if the store has a folder."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = blake2b(keys.tobytes(), digest_size=8).hexdigest()
            write_whole(self.folder / f"{name}.vectors.npy", lambda file: np.save(file, vectors, allow_pickle=False))
            write_whole(self.folder / f"{name}.keys.npy", lambda file: np.save(file, keys, allow_pickle=False))
            self._known.add(f"{name}.keys.npy")
        self._append(keys, vectors)

    def get(self, keys: np.ndarray) -> np.ndarray:
        """Return the vectors of ``keys``, shape (keys, dim), float32.

        In a folder, more than `IN_MEMORY` bytes of them are joined in a file and returned as a memory map: they may
        exceed the memory, and the processes of a machine share its pages.

        Raises:
            KeyError: A key whose vector is not here.
        """
        if not len(keys):
            return np.empty((0, 0), dtype=np.float32)
        if not self.contains(keys).all():
            raise KeyError(f"{int((~self.contains(keys)).sum())} of {len(keys)} inputs have no vector in the store.")
        shape = (len(keys), self._shards[0].shape[1])
        if self.folder is None or 4 * shape[0] * shape[1] <= IN_MEMORY:
            return self._fill(np.empty(shape, dtype=np.float32), keys)
        joined = self.folder / f"{blake2b(keys.tobytes(), digest_size=8).hexdigest()}.joined.npy"
        if not joined.exists():
            part = joined.with_suffix(f".{os.getpid()}.part")
            self._fill(np.lib.format.open_memmap(part, "w+", np.float32, shape), keys).flush()
            part.rename(joined)
        return np.load(joined, mmap_mode="r", allow_pickle=False)

    def _fill(self, vectors: np.ndarray, keys: np.ndarray) -> np.ndarray:
        order = np.argsort(self._keys, kind="stable")
        position = order[np.searchsorted(self._keys, keys, sorter=order)]
        offsets = np.cumsum([0] + [len(shard) for shard in self._shards])
        for shard, start, stop in zip(self._shards, offsets, offsets[1:], strict=False):
            inside = np.flatnonzero((position >= start) & (position < stop))
            vectors[inside] = shard[position[inside] - start]
        return vectors

    def _append(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self._keys = np.concatenate([self._keys, keys])
        self._shards.append(vectors)
