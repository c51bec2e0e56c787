"""Encode the columns of a dataset: each distinct input once, in shards on disk that a later run takes up again.

A vector is stored under what it depends on: a folder per model and task (`vector_fingerprint`), and inside it the
content key of the input (`data.keys`). So a run that was killed goes on where it stopped, two datasets share what
they have in common, and vectors of another model, prompt or image resolution are never found.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentence_transformers
import torch
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from saha_st.data.keys import KEY_DTYPE, column_keys
from saha_st.files import write_whole
from saha_st.ranks import Ranks

logger = logging.getLogger(__name__)

Task = Literal["query", "document"] | None

SHARD_SIZE = 2048
"""Inputs per file of the cache: what a kill costs at most."""


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
        """The vector of every row, shape (rows, dim)."""
        return self.embeddings[self.distinct.index_of_row]


def encode_column(
    dataset: Dataset,
    column: str,
    model: SentenceTransformer,
    *,
    task: Task = None,
    prompt: str | None = None,
    distinct: DistinctInputs | None = None,
    batch_size: int = 32,
    cache_folder: str | os.PathLike[str] | None = None,
    show_progress_bar: bool = True,
) -> EncodedColumn:
    """Encode a column of strings, images, or structs of both.

    Args:
        dataset: A map-style dataset.
        column: Name of the column.
        model: The embedder.
        task: ``"query"`` and ``"document"`` encode as `encode_query` and `encode_document` do, None as `encode`.
        prompt: Replaces the system level of the model's prompt.
        distinct: The column's distinct inputs, where they are known already.
        batch_size: Inputs per forward.
        cache_folder: Where to keep the vectors, in shards that a later or repeated run reuses. None: in memory only.
        show_progress_bar: Show a bar with the time left.

    Raises:
        KeyError: The dataset has no such column.
        ValueError: An input that cannot be encoded or whose vector is not finite, with its row and column.
        FileNotFoundError: An image file that does not exist, with its row; before anything is encoded.
    """
    distinct = DistinctInputs.of(dataset, column) if distinct is None else distinct
    store = VectorStore(cache_folder, vector_fingerprint(model, task=task, prompt=prompt))
    encode = encode_function(model, task=task, prompt=prompt, batch_size=batch_size)
    logger.info(
        "Column %r: %d rows, %d distinct, %d to encode.",
        column,
        len(distinct.index_of_row),
        len(distinct),
        int((~store.contains(distinct.keys)).sum()),
    )
    encode_distinct(
        distinct,
        store,
        lambda rows: _encode_rows(dataset, column, rows, encode),
        batch_size=batch_size,
        title=f"Encode {column}",
        show_progress_bar=show_progress_bar,
    )
    return EncodedColumn(store.get(distinct.keys), distinct)


def encode_distinct(
    distinct: DistinctInputs,
    store: VectorStore,
    encode_rows: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int,
    title: str,
    show_progress_bar: bool = True,
    ranks: Ranks | None = None,
) -> None:
    """Encode the inputs that a store lacks, shard by shard, into the store.

    What is encoded in one call depends on what the store lacks at first, not on the number of processes, nor on how
    often a run is killed and started again: so vectors are the same to the last bit.

    Args:
        distinct: The inputs.
        store: Where the vectors go; with several processes, a store in a folder that all of them see.
        encode_rows: Takes row numbers, returns their vectors, shape (rows, dim).
        batch_size: Inputs per forward.
        title: What to call the inputs in the bar and the log.
        show_progress_bar: Show a bar with the time left.
        ranks: The processes that share the work; all of them must call this. None: this one does it all.

    Raises:
        RuntimeError: Another process failed.
    """
    ranks = Ranks() if ranks is None else ranks
    # The first process decides for all: another may have looked later, when the store held more.
    missing = ranks.gather(np.flatnonzero(~store.contains(distinct.keys)))[0]
    size = min(8 * batch_size, SHARD_SIZE)  # inputs that one call sorts by length and holds in memory
    parts = list(_chunks(missing, size))[ranks.rank :: ranks.count]
    with ranks.together():
        with tqdm(
            total=sum(map(len, parts)), desc=title, unit="input", leave=None, disable=not (show_progress_bar and parts)
        ) as bar:
            for start in range(0, len(parts), SHARD_SIZE // size):
                shard = parts[start : start + SHARD_SIZE // size]
                vectors = []
                for part in shard:
                    vectors.append(encode_rows(distinct.first_row[part]))
                    bar.update(len(part))
                store.add(distinct.keys[np.concatenate(shard)], np.concatenate(vectors))
    if ranks.count > 1:
        store.refresh()


def encode_or_name(
    read: Callable[[np.ndarray], list[Any]],
    rows: np.ndarray,
    encode: Callable[[list[Any]], np.ndarray],
    place: Callable[[int], str],
) -> np.ndarray:
    """Encode some rows, shape (rows, dim); if that fails, say which row it is about.

    Args:
        read: Takes row numbers, returns the inputs.
        rows: The row numbers.
        encode: Encodes inputs.
        place: What to call a row in an error.

    Raises:
        ValueError: A row that cannot be read or encoded.
    """
    try:
        return encode(read(rows))
    except (ValueError, OSError) as error:  # OSError: a picture that cannot be decoded
        # The error names a place in a batch that was sorted, or none: find the row, one by one.
        for row in rows:
            try:
                encode(read(np.array([row])))
            except (ValueError, OSError) as reason:
                message = str(reason).removeprefix("Input 0 of the batch: ")
                raise ValueError(f"{place(int(row))}: {message}") from error
        raise


def encode_function(
    model: SentenceTransformer, *, task: Task, prompt: str | None = None, batch_size: int = 32
) -> Callable[[list[Any]], np.ndarray]:
    """Return what encodes a list of inputs as a task does, shape (inputs, dim), float32."""
    encode = {"query": model.encode_query, "document": model.encode_document, None: model.encode}[task]
    options = {"batch_size": batch_size, "show_progress_bar": False} | (
        {"prompt": prompt} if prompt is not None else {}
    )
    return lambda inputs: np.asarray(encode(inputs, **options), dtype=np.float32)


def vector_fingerprint(
    model: SentenceTransformer,
    *,
    task: Task = None,
    prompt: str | None = None,
    weights: str | None = None,
    versions: tuple[str, str] | None = None,
) -> str:
    """Name everything beside the input that a vector depends on.

    Weights and their dtype, the modules' settings, chat template, processor, tokenizer, prompts, task, the requested
    dimension, and the versions of the libraries that compute it.

    Args:
        model: The embedder.
        task: As `encode_column`.
        prompt: As `encode_column`.
        weights: The model's `weights_digest`, where it is known already: reading all weights takes seconds a billion.
        versions: Those of sentence-transformers and transformers; by default the installed ones.

    Returns:
        32 hexadecimal digits.
    """
    settings = {
        "weights": weights_digest(model) if weights is None else weights,
        "modules": [repr(module) if index else _input_settings(module) for index, module in enumerate(model)],
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "truncate_dim": model.truncate_dim,
        "task": task,
        "prompt": prompt,
        "versions": list(versions or (sentence_transformers.__version__, transformers.__version__)),
    }
    return blake2b(json.dumps(settings, sort_keys=True, default=_as_json).encode(), digest_size=16).hexdigest()


def results_revision(
    model: SentenceTransformer, *, weights: str | None = None, versions: tuple[str, str] | None = None
) -> str:
    """Name all that the results of a model depend on: what its vectors do, and how they are compared.

    `evaluate` keeps results under this name, and `publish` takes along those of the vectors that it publishes.

    Args:
        model: The embedder.
        weights: As `vector_fingerprint`.
        versions: As `vector_fingerprint`.

    Returns:
        32 hexadecimal digits.
    """
    parts = [vector_fingerprint(model, weights=weights, versions=versions), model.similarity_fn_name or "cosine"]
    return blake2b(":".join(parts).encode(), digest_size=16).hexdigest()


def weights_digest(model: SentenceTransformer) -> str:
    """Name the weights and their dtype, to the last bit; 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _input_settings(module: Any) -> dict[str, Any]:
    """What the input module does to an input before the weights see it."""
    processor, tokenizer = getattr(module, "processor", None), getattr(module, "tokenizer", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = json.loads(backend.to_str()) if backend is not None else {"repr": repr(tokenizer)}
    for state in ("truncation", "padding"):  # left over from the last call
        vocabulary.pop(state, None)
    return {
        "config": module.get_config_dict() if hasattr(module, "get_config_dict") else repr(module),
        "backbone": _without_origin(getattr(getattr(module, "config", None), "to_dict", dict)()),
        "adapters": _adapters(getattr(getattr(module, "model", None), "peft_config", None)),
        "max_seq_length": getattr(module, "max_seq_length", None),
        "chat_template": getattr(processor, "chat_template", None),
        "image_processor": getattr(getattr(processor, "image_processor", None), "to_dict", dict)(),
        "tokenizer": vocabulary,
    }


def _adapters(configs: Mapping[str, Any] | None) -> dict[str, Any]:
    """What adapters do to a model."""
    return {name: _without_origin(config.to_dict()) for name, config in (configs or {}).items()}


_ORIGIN = {
    *("_name_or_path", "_commit_hash", "architectures", "transformers_version"),
    *("base_model_name_or_path", "revision", "peft_version", "inference_mode"),  # of adapters
}


def _without_origin(settings: Any) -> Any:
    """Leave out where and by what a model was saved: a checkpoint is the same in a folder, on the Hub, and copied."""
    if not isinstance(settings, dict):
        return settings
    return {name: _without_origin(value) for name, value in settings.items() if name not in _ORIGIN}


def _as_json(value: Any) -> Any:
    """Sets come in an order that differs from process to process."""
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else str(value)


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

        Raises:
            KeyError: A key whose vector is not here.
        """
        if not len(keys):
            return np.empty((0, 0), dtype=np.float32)
        if not self.contains(keys).all():
            raise KeyError(f"{int((~self.contains(keys)).sum())} of {len(keys)} inputs have no vector in the store.")
        order = np.argsort(self._keys, kind="stable")
        position = order[np.searchsorted(self._keys, keys, sorter=order)]
        offsets = np.cumsum([0] + [len(shard) for shard in self._shards])
        vectors = np.empty((len(keys), self._shards[0].shape[1]), dtype=np.float32)
        for shard, start, stop in zip(self._shards, offsets, offsets[1:], strict=False):
            inside = np.flatnonzero((position >= start) & (position < stop))
            vectors[inside] = shard[position[inside] - start]
        return vectors

    def _append(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self._keys = np.concatenate([self._keys, keys])
        self._shards.append(vectors)


def _encode_rows(
    dataset: Dataset, column: str, rows: np.ndarray, encode: Callable[[list[Any]], np.ndarray]
) -> np.ndarray:
    """Encode some rows of a column; shape (rows, dim)."""
    cells = dataset.select_columns(column)
    vectors = encode_or_name(
        lambda numbers: cells[numbers.tolist()][column], rows, encode, lambda row: f"Row {row}, column {column!r}"
    )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"Row {rows[~finite][0]}, column {column!r}: the vector is not finite (so are {int((~finite).sum())} of "
            f"{len(rows)} in this batch). Half precision may overflow here: load the model in bfloat16 or float32."
        )
    return vectors


def _chunks(array: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (array[start : start + size] for start in range(0, len(array), size))
