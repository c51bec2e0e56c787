"""Inputs in, vectors out: read and processed in worker processes, ahead of the forward.

A window of inputs is sorted by length and cut into batches that cost about the same, counted in tokens: a batch of
captions has many rows, one of large pictures few, and neither is mostly padding. What a batch is made of depends on
its window alone, not on the number of workers or processes, so vectors are the same to the last bit.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import truncate_embeddings
from torch.utils.data import DataLoader, Dataset

from saha_st.encoding.fingerprints import Task
from saha_st.errors import MemoryFullError
from saha_st.modules.inputs import canonical_inputs, has_video
from saha_st.modules.token_counts import count_tokens
from saha_st.modules.transformer import HierarchicalPromptTransformer
from saha_st.token_budgets import BATCH_TOKENS, deal_out

# Inputs that are sorted together. Pictures are held in memory meanwhile, and of a batch of videos the frames.
_WINDOW, _MEDIA_WINDOW, _VIDEO_WINDOW = 512, 64, 8
_MOST_WORKERS, _MOST_LANES = 8, 4
_TURNS = 16  # tokens that open and close the turns of a chat

Batch = tuple[np.ndarray, dict[str, Any]]  # positions within the window, and features as arrays


@dataclass(frozen=True)
class RowReader:
    """Inputs by row number.

    Args:
        read: Takes row numbers, returns the inputs. Called in worker processes.
        place: What to call a row in an error.
        has_media: Whether inputs may be pictures: then fewer of them are in memory at a time.
        has_videos: Whether they may be videos: then even fewer.
    """

    read: Callable[[np.ndarray], list[Any]]
    place: Callable[[int], str]
    has_media: bool = True
    has_videos: bool = False


class Encoder:
    """Encodes inputs as one task.

    Args:
        model: The embedder. One with a hierarchical prompt is fed from worker processes; any other, and one whose
            `encode` was replaced, encodes by it.
        task: ``"query"`` and ``"document"`` encode as `encode_query` and `encode_document` do, None as `encode`.
        prompt: Replaces the system level of the model's prompt.
        batch_size: Most inputs per forward; by default as many as there is room for.
        batch_tokens: Most tokens per forward, padding included; a longer input runs alone.
        num_workers: Processes that read inputs ahead of the model. By default one for each core that is free, at most
            8; none where there is little to read, or where processes cannot be forked.

    Raises:
        ValueError: An option that is out of range.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        task: Task = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        num_workers: int | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("batch_tokens", batch_tokens, 1),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        self.model = model
        self.task: Task = task
        self.prompt = prompt
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.num_workers = num_workers

    def __call__(self, inputs: Sequence[Any]) -> np.ndarray:
        """Encode inputs that are at hand, in this process; shape (inputs, dim), float32.

        Raises:
            ValueError: An input that cannot be encoded, with its position.
        """
        inputs = list(inputs)
        if not inputs:
            return np.empty((0, self.model.get_embedding_dimension()), dtype=np.float32)
        reader = RowReader(
            lambda rows: [inputs[row] for row in rows],
            lambda row: f"Input {row}",
            has_media=not all(isinstance(cell, str) for cell in inputs),
            has_videos=any(map(has_video, inputs)),
        )
        window = self.window(reader)
        parts = np.split(np.arange(len(inputs)), range(window, len(inputs), window))
        return np.concatenate([self._encode(_prepare_or_name(self._prepare, reader, part)) for part in parts])

    def window(self, reader: RowReader) -> int:
        """How many inputs to put into a window."""
        if reader.has_videos:
            return _VIDEO_WINDOW
        return _MEDIA_WINDOW if reader.has_media else _WINDOW

    def encode_windows(
        self, reader: RowReader, windows: Sequence[np.ndarray], advance: Callable[[int], object] = lambda rows: None
    ) -> Iterator[np.ndarray]:
        """Encode windows of rows, in their order.

        Args:
            reader: The inputs.
            windows: Row numbers of each window, shape (rows,).
            advance: Called with the number of rows of each batch that has been encoded.

        Yields:
            The vectors of a window, shape (rows, dim), float32.

        Raises:
            ValueError: A row that cannot be read or encoded, by what `reader.place` calls it.
        """
        prepared = self._ahead(_Windows(reader, windows, self._prepare))
        lanes = self._lanes()
        if lanes > 1:
            yield from self._encode_in_lanes(prepared, lanes, advance)
        else:
            yield from (self._encode(batches, advance) for batches in prepared)

    def _lanes(self) -> int:
        """How many batches to compute at a time: on a CPU as many as torch has threads, at most 4; on a GPU one."""
        if self.model.device.type != "cpu" or not isinstance(self._prepare, _Prompted):
            return 1
        return min(torch.get_num_threads(), _MOST_LANES)

    def _encode_in_lanes(
        self, prepared: Iterator[list[Batch] | ValueError], lanes: int, advance: Callable[[int], object]
    ) -> Iterator[np.ndarray]:
        """Compute batches side by side, yield windows in their order.

        Threads that share a product of this size wait for each other most of the time; threads that have a batch each
        do not. Each batch has as many, however many there are: they round alike, then.
        """
        threads, running = torch.get_num_threads(), deque()
        pool = ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads // lanes,))
        self.model.eval()
        try:
            first = True
            for window in prepared:
                batches = _or_raise(window)
                futures = []
                for _, features in batches:
                    futures.append(pool.submit(self._forward, features))
                    if first:
                        first = False
                        futures[0].result()  # alone: whether the prefix can be shared is tried on it
                running.append((batches, (future.result() for future in futures)))
                if len(running) > lanes:
                    yield _in_order(*running.popleft(), advance)
            while running:
                yield _in_order(*running.popleft(), advance)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # which the lanes have set for all

    def _ahead(self, windows: _Windows) -> Iterator[list[Batch] | ValueError]:
        """Prepare windows, in worker processes if that pays, some ahead of the one that is asked for."""
        workers = self._workers(len(windows), windows.reader.has_media)
        if not workers:
            return (windows[index] for index in range(len(windows)))
        # A worker that is forked shares the memory of this process: nothing is copied to it, no model is loaded.
        # Arrays come back through a pipe: tensors would need shared memory, of which a container has 64 MB.
        with _quiet_tokenizers():
            found = iter(
                DataLoader(
                    windows,
                    batch_size=None,
                    collate_fn=_as_it_is,
                    num_workers=workers,
                    prefetch_factor=1 if windows.reader.has_media else 2,
                    multiprocessing_context="fork",
                    worker_init_fn=partial(_end_with, os.getpid()),
                    generator=torch.Generator(),  # or it would draw from the one that training draws from
                )
            )
        return _one_ahead(found)

    def _workers(self, windows: int, has_media: bool) -> int:
        forks = "fork" in multiprocessing.get_all_start_methods() and os.name == "posix"
        if not forks or multiprocessing.current_process().daemon or not isinstance(self._prepare, _Prompted):
            return 0
        if self.num_workers is not None:
            return min(self.num_workers, windows)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # On a CPU the forward of pictures keeps its threads busy, and reading them is little beside it.
        taken = torch.get_num_threads() if has_media and self.model.device.type == "cpu" else 1
        free = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - taken
        return max(0, min(free, _MOST_WORKERS, windows - 1)) if windows > 2 else 0

    @cached_property
    def _prepare(self) -> _Prompted | _Plain:
        module, own = self.model[0], {"encode", "encode_query", "encode_document"}
        if not isinstance(module, HierarchicalPromptTransformer) or own & vars(self.model).keys():
            return _Plain(self.model, self.prompt, self.task, self.batch_size)
        return _Prompted(module, self._system_level(), self.task, self.batch_size, self.batch_tokens)

    def _system_level(self) -> str | None:
        """The text that `encode_query`, `encode_document` or `encode` put in front of an input."""
        if self.prompt is not None:
            return self.prompt
        names = {"query": ("query",), "document": ("document", "passage", "corpus"), None: ()}[self.task]
        prompts = self.model.prompts or {}
        return next((prompts[name] for name in (*names, self.model.default_prompt_name) if name in prompts), None)

    def _encode(self, window: list[Batch] | ValueError, advance: Callable[[int], object] = lambda rows: None) -> Any:
        """The vectors of a window; shape (rows, dim)."""
        batches = _or_raise(window)
        self.model.eval()
        return _in_order(batches, (self._forward(features) for _, features in batches), advance)

    @torch.inference_mode()
    def _forward(self, features: dict[str, Any]) -> torch.Tensor:
        """The vectors of a batch, shape (rows, dim), on the device of the model."""
        if "vectors" in features:
            return features["vectors"]
        options = {} if self.task is None else {"task": self.task}
        try:
            vectors = self.model(_to_device(features, self.model.device), **options)["sentence_embedding"]
        except torch.OutOfMemoryError as error:
            rows, tokens = features["input_ids"].shape
            raise MemoryFullError(
                f"{error} It was a batch of {rows} inputs of up to {tokens} tokens: lower batch_tokens="
                f"{self.batch_tokens}, or image_tokens, num_frames or max_seq_length if it is a single input."
            ) from error
        dimension = self.model.truncate_dim
        return vectors if dimension is None else truncate_embeddings(vectors, dimension)


class _Windows(Dataset):
    """Windows, prepared where they are asked for; what fails is returned, as a worker's exceptions lose their kind."""

    def __init__(self, reader: RowReader, windows: Sequence[np.ndarray], prepare: Callable[..., list[Batch]]) -> None:
        self.reader, self.windows, self.prepare = reader, windows, prepare

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> list[Batch] | ValueError:
        return _prepare_or_name(self.prepare, self.reader, self.windows[index])


class _Prompted:
    """Batches of a model with a hierarchical prompt, ready for its forward."""

    def __init__(
        self,
        module: HierarchicalPromptTransformer,
        prompt: str | None,
        task: Task,
        batch_size: int | None,
        batch_tokens: int,
    ) -> None:
        self.module, self.prompt, self.task = module, prompt, task
        self.batch_size, self.batch_tokens = batch_size, batch_tokens

    def __call__(self, inputs: list[Any]) -> list[Batch]:
        inputs = canonical_inputs(inputs, supported=self.module.modalities)
        return [
            (np.array(positions), _as_arrays(self._features([inputs[position] for position in positions])))
            for positions in deal_out(self._lengths(inputs), self.batch_tokens, most_rows=self.batch_size)
        ]

    def _lengths(self, inputs: list[Any]) -> list[int]:
        lengths, limit = count_tokens(self.module, inputs) + self._frame, self.module.max_seq_length
        return (lengths if limit is None else np.minimum(lengths, limit)).tolist()

    @cached_property
    def _frame(self) -> int:
        """About how many tokens the prompt puts around an input's own."""
        own = self.module.prompt
        suffixes = (own and own.query_suffix) or {"text": ""}
        text = (self.prompt or (own and own.system) or "") + max(suffixes.values(), key=len)
        return _TURNS + len(self.module.tokenizer(text)["input_ids"])

    def _features(self, inputs: list[Any]) -> dict[str, Any]:
        return self.module.preprocess(inputs, prompt=self.prompt, task=self.task)


class _Plain:
    """A window that is encoded where it is prepared: by a model that is not ours, or whose `encode` was replaced."""

    def __init__(self, model: SentenceTransformer, prompt: str | None, task: Task, batch_size: int | None) -> None:
        self.encode = {"query": model.encode_query, "document": model.encode_document, None: model.encode}[task]
        self.options = {"batch_size": batch_size or 32, "show_progress_bar": False}
        self.options |= {} if prompt is None else {"prompt": prompt}

    def __call__(self, inputs: list[Any]) -> list[Batch]:
        vectors = np.asarray(self.encode(inputs, **self.options), dtype=np.float32)
        return [(np.arange(len(inputs)), {"vectors": torch.from_numpy(vectors)})]


def _or_raise(window: list[Batch] | ValueError) -> list[Batch]:
    if isinstance(window, ValueError):
        raise window
    return window


def _in_order(batches: list[Batch], vectors: Iterable[torch.Tensor], advance: Callable[[int], object]) -> np.ndarray:
    """The vectors of a window's batches, each (rows, dim), in the order of its inputs; shape (inputs, dim)."""
    found = []
    for (positions, _), of_batch in zip(batches, vectors, strict=True):
        found.append(of_batch)
        advance(len(positions))
    stacked = torch.cat(found).float().cpu().numpy()  # once a window: until here the device need not be waited for
    ordered = np.empty_like(stacked)
    ordered[np.concatenate([positions for positions, _ in batches])] = stacked
    return ordered


def _prepare_or_name(
    prepare: Callable[[list[Any]], list[Batch]], reader: RowReader, rows: np.ndarray
) -> list[Batch] | ValueError:
    """Prepare rows; if that fails, say which row it is about: the error names a place in a batch, or none."""
    try:
        return prepare(reader.read(rows))
    except Exception as error:  # what a decoder or a processor raises for a bad picture has many names
        for row in rows:
            try:
                prepare(reader.read(np.array([row])))
            except Exception as reason:
                return ValueError(f"{reader.place(int(row))}: {_in_words(reason)}")
        return ValueError(f"{reader.place(int(rows[0]))} and the {len(rows) - 1} after it: {_in_words(error)}")


def _in_words(error: Exception) -> str:
    kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
    return kind + str(error).removeprefix("Input 0 of the batch: ")


def _as_arrays(features: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in features.items()}


def _to_device(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    def moved(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    return {name: moved(value) if isinstance(value, np.ndarray) else value for name, value in features.items()}


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Take the next item, which may be hundreds of megabytes from a pipe, while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


def _end_with(parent: int, worker: int) -> None:
    """End this worker when its parent is gone: one that waits to hand on a window would wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_it_is(batches: Any) -> Any:
    return batches


@contextmanager
def _quiet_tokenizers() -> Iterator[None]:
    """While processes are forked, tell tokenizers that no threads will be wanted there, or they warn."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
