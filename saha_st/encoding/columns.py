"""Encode the columns of a dataset, or a stream: each distinct input once."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from saha_st.data.cells import cell_kind, cell_parts, stored_cells, with_closed_videos
from saha_st.data.keys import cell_keys, column_keys
from saha_st.encoding.engine import Encoder, RowReader
from saha_st.encoding.fingerprints import Task, vector_fingerprint
from saha_st.encoding.store import VectorStore
from saha_st.modules.inputs import has_video
from saha_st.ranks import Ranks

logger = logging.getLogger(__name__)

SHARD_SIZE = 2048
"""Inputs per file of the cache: what a kill costs at most."""

_PATIENCE = 120.0  # seconds that a disk in the network may take to show a file


@dataclass(frozen=True)
class DistinctInputs:
    """Which rows of a column hold the same input, in the order of their first row.

    Attributes:
        keys: Content keys of the distinct inputs, shape (distinct,).
        first_row: The first row that holds each, shape (distinct,).
        index_of_row: For every row the index of its input, shape (rows,).
    """

    keys: np.ndarray
    first_row: np.ndarray
    index_of_row: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, column: str) -> DistinctInputs:
        """Read a column; no image is opened. Raises what `column_keys` raises."""
        return cls.of_keys(column_keys(dataset, column))

    @classmethod
    def of_keys(cls, keys_of_rows: np.ndarray) -> DistinctInputs:
        """Group rows by their content keys, shape (rows,)."""
        keys, first_row, index = np.unique(keys_of_rows, return_index=True, return_inverse=True)
        order = np.argsort(first_row, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(keys[order], first_row[order], rank[index])

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class EncodedColumn:
    """The vectors of a column, each distinct input once.

    Attributes:
        embeddings: Vectors of the distinct inputs, shape (distinct, dim), float32.
        distinct: Which rows they belong to.
    """

    embeddings: np.ndarray
    distinct: DistinctInputs

    @property
    def of_rows(self) -> np.ndarray:
        """The vector of every row, shape (rows, dim); not copied if all rows differ."""
        index = self.distinct.index_of_row
        return self.embeddings if len(index) == len(self.distinct) else self.embeddings[index]


def encode_column(
    dataset: Dataset,
    column: str,
    model: SentenceTransformer,
    *,
    task: Task = None,
    prompt: str | None = None,
    distinct: DistinctInputs | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    show_progress_bar: bool = True,
    ranks: Ranks | None = None,
    **options: Any,
) -> EncodedColumn:
    """Encode a column of strings, images, or structs of texts, images and videos.

    Args:
        dataset: A map-style dataset.
        column: Name of the column.
        model: The embedder.
        task: ``"query"`` and ``"document"`` encode as `encode_query` and `encode_document` do, None as `encode`.
        prompt: Replaces the system level of the model's prompt.
        distinct: The column's distinct inputs, where they are known already.
        cache_folder: Where to keep the vectors, in shards that a later or repeated run reuses. None: in memory only.
        weights: The model's `weights_digest`, where it is known already.
        show_progress_bar: Show a bar with the time left.
        ranks: Processes that share the work, through a `cache_folder` that all of them see; each must call this, and
            gets all vectors. None: this one does it all.
        **options: ``batch_size``, ``batch_tokens``, ``num_workers``, as in `Encoder`.

    Raises:
        KeyError: The dataset has no such column.
        ValueError: An input that cannot be encoded or whose vector is not finite, with its row and column; several
            processes without a `cache_folder`.
        FileNotFoundError: An image file that does not exist, with its row; before anything is encoded.
    """
    distinct = DistinctInputs.of(dataset, column) if distinct is None else distinct
    store = _store(cache_folder, model, task, prompt, weights)
    encoder = Encoder(model, task=task, prompt=prompt, **options)
    reader = _reader(dataset, column)
    logger.info(
        "Column %r: %d rows, %d distinct, %d to encode.",
        column,
        len(distinct.index_of_row),
        len(distinct),
        int((~store.contains(distinct.keys)).sum()),
    )
    title = f"Encode {column}"
    _encode_finite(distinct, store, encoder, reader, title=title, show_progress_bar=show_progress_bar, ranks=ranks)
    with (ranks or Ranks()).first():  # which may have to join the vectors in a file
        return EncodedColumn(store.get(distinct.keys), distinct)


def encode_iterable(
    inputs: Iterable[Any],
    model: SentenceTransformer,
    *,
    task: Task = None,
    prompt: str | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    show_progress_bar: bool = True,
    **options: Any,
) -> Iterator[np.ndarray]:
    """Encode a stream of inputs, which may be longer than memory; equal inputs once.

    Args:
        inputs: What `SentenceTransformer.encode` takes, one after another.
        model: The embedder.
        task: As `encode_column`.
        prompt: As `encode_column`.
        cache_folder: As `encode_column`. Without it, the vectors of all distinct inputs stay in memory.
        show_progress_bar: Show how many inputs have been encoded.
        **options: As `encode_column`.

    Yields:
        The vectors of the next inputs, in their order: shape (inputs, dim), float32, at most `SHARD_SIZE` at a time.

    Raises:
        ValueError: An input that cannot be encoded, with its position in the stream.
    """
    store = _store(cache_folder, model, task, prompt)
    encoder = Encoder(model, task=task, prompt=prompt, **options)
    stream, first = iter(inputs), 0
    with tqdm(desc="Encode", unit="input", disable=not show_progress_bar) as bar:
        while cells := list(itertools.islice(stream, SHARD_SIZE)):
            distinct = DistinctInputs.of_keys(cell_keys(cells, name=f"of the inputs from {first} on"))
            reader = RowReader(
                lambda rows, cells=cells: [cells[row] for row in rows],
                lambda row, at=first: f"Input {at + row}",
                has_media=not all(isinstance(cell, str) for cell in cells),
                has_videos=any(map(has_video, cells)),
            )
            _encode_finite(distinct, store, encoder, reader, title="Encode", show_progress_bar=False)
            yield store.get(distinct.keys)[distinct.index_of_row]
            bar.update(len(cells))
            first += len(cells)


def encode_distinct(
    distinct: DistinctInputs,
    store: VectorStore,
    encode_windows: Callable[[Sequence[np.ndarray], Callable[[int], object]], Iterator[np.ndarray]],
    *,
    window: int,
    title: str,
    show_progress_bar: bool = True,
    ranks: Ranks | None = None,
) -> None:
    """Encode the inputs that a store lacks, shard by shard, into the store.

    What is encoded in one window depends on what the store lacks at first, not on the number of processes, nor on how
    often a run is killed and started again: so vectors are the same to the last bit, at equal numbers of threads.

    Args:
        distinct: The inputs.
        store: Where the vectors go; with several processes, a store in a folder that all of them see.
        encode_windows: Takes row numbers in windows and what to call with a number of rows that are done; yields the
            vectors of each window, shape (rows, dim), as `Encoder.encode_windows` does.
        window: Inputs per window.
        title: What to call the inputs in the bar and the log.
        show_progress_bar: Show a bar with the time left.
        ranks: The processes that share the work; all of them must call this. None: this one does it all.

    Raises:
        RuntimeError: Another process failed.
        ValueError: Several processes with a store in memory.
    """
    ranks = Ranks() if ranks is None else ranks
    if ranks.count > 1 and store.folder is None:
        raise ValueError(
            f"cache_folder: {ranks.count} processes exchange vectors through a folder that all of them see; name one."
        )
    # The first process decides for all: another may have looked later, when the store held more.
    missing = ranks.share_array(np.flatnonzero(~store.contains(distinct.keys)) if ranks.is_main else None)
    window = min(window, SHARD_SIZE)
    parts = list(_chunks(missing, window))[ranks.rank :: ranks.count]
    total, show = sum(map(len, parts)), show_progress_bar and ranks.is_main and bool(parts)
    with ranks.together(), tqdm(total=total, desc=title, unit="input", leave=None, disable=not show) as bar:
        with closing(encode_windows([distinct.first_row[part] for part in parts], bar.update)) as vectors:
            for shard in _chunks(parts, SHARD_SIZE // window):
                store.add(distinct.keys[np.concatenate(shard)], np.concatenate([next(vectors) for _ in shard]))
    if ranks.count > 1:
        with ranks.together():
            _take_up(store, distinct.keys[missing])


def _encode_finite(
    distinct: DistinctInputs, store: VectorStore, encoder: Encoder, reader: RowReader, **options: Any
) -> None:
    """`encode_distinct` by an encoder, which refuses vectors that are not finite."""

    def encode(windows: Sequence[np.ndarray], advance: Callable[[int], object]) -> Iterator[np.ndarray]:
        return _finite(windows, encoder.encode_windows(reader, windows, advance), reader)

    encode_distinct(distinct, store, encode, window=encoder.window(reader), **options)


def _take_up(store: VectorStore, keys: np.ndarray) -> None:
    """Wait for vectors that other processes have written; a disk in the network may show them later."""
    deadline = time.monotonic() + _PATIENCE
    store.refresh()
    while not store.contains(keys).all():
        if time.monotonic() > deadline:
            raise OSError(f"Vectors that other processes wrote into {str(store.folder)!r} cannot be seen here.")
        time.sleep(1)
        store.refresh()


def _store(
    cache_folder: str | os.PathLike[str] | None,
    model: SentenceTransformer,
    task: Task,
    prompt: str | None,
    weights: str | None = None,
) -> VectorStore:
    if cache_folder is None:  # to name the vectors, all weights are read
        return VectorStore(None, "")
    return VectorStore(cache_folder, vector_fingerprint(model, task=task, prompt=prompt, weights=weights))


def _reader(dataset: Dataset, column: str) -> RowReader:
    cells = with_closed_videos(dataset.select_columns(column))
    kind = cell_kind(dataset.features[column])
    return RowReader(
        lambda rows: cells[rows.tolist()][column],
        lambda row: _place(cells, column, row),
        has_media=kind != "text",
        has_videos=kind == "video",
    )


def _place(dataset: Dataset, column: str, row: int) -> str:
    """What to call a row in an error: with the files of its pictures, which say more than a number in a folder."""
    (cell,) = stored_cells(dataset.select([row]), column)
    pictures = [each.get("path") if isinstance(each, Mapping) else each for each in cell_parts(cell)[0]]
    files = ", ".join(repr(path) for path in pictures if isinstance(path, str))
    return f"Row {row}, column {column!r}" + (f" ({files})" if files else "")


def _finite(windows: Sequence[np.ndarray], encoded: Iterator[np.ndarray], reader: RowReader) -> Iterator[np.ndarray]:
    """Pass vectors on; refuse those that are not finite, with their row."""
    with closing(encoded):
        for rows, vectors in zip(windows, encoded, strict=True):
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"{reader.place(int(rows[~finite][0]))}: the vector is not finite (so are {int((~finite).sum())} "
                    f"of {len(rows)} around it). Half precision may overflow here: load the model in bfloat16 or "
                    "float32."
                )
            yield vectors


def _chunks(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))
