"""One model under three prompts, the gallery's vectors under each, and search by cosine.

The three share their weights and differ in the chat template alone. Vectors are computed when they are first needed,
and kept on disk under the model's fingerprint; a query then costs one forward and a product.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

from saha_st.data.keys import cell_keys
from saha_st.demo import gpu
from saha_st.demo.errors import UserError
from saha_st.demo.gallery import Gallery
from saha_st.encoding import DistinctInputs, Task, VectorStore, encode_distinct, vector_fingerprint, weights_digest
from saha_st.modules.loading import with_prompt
from saha_st.prompts import HierarchicalPrompt


class Level(StrEnum):
    """How much of the hierarchical prompt a model gets."""

    NONE = "no prompt"
    SYSTEM = "system level"
    BOTH = "both levels"


@dataclass(frozen=True)
class Query:
    """What is asked: a text, a picture, or both."""

    text: str = ""
    picture: Image.Image | None = None

    @property
    def cell(self) -> dict[str, Any]:
        """The query as the models take it: a string is text here, whatever it looks like."""
        parts = {"image": self.picture, "text": self.text or None}
        return {name: part for name, part in parts.items() if part is not None}


@dataclass(frozen=True)
class Hit:
    """A document that was found: its index and its cosine."""

    index: int
    score: float


def rank(query: np.ndarray, documents: np.ndarray, count: int) -> list[Hit]:
    """The documents nearest to a query by cosine, best first; equals in their order.

    Args:
        query: Shape (dim,), of length one.
        documents: Shape (documents, dim), of length one.
        count: How many, at most.
    """
    scores = documents @ query
    best = np.argsort(-scores, kind="stable")[:count]
    return [Hit(int(index), float(scores[index])) for index in best]


def level_prompts(own: HierarchicalPrompt) -> dict[Level, HierarchicalPrompt]:
    """A model's own prompt, its system level alone, and none."""
    return {
        Level.NONE: HierarchicalPrompt(system=None, query_suffix=None),
        Level.SYSTEM: HierarchicalPrompt(system=own.system, query_suffix=None),
        Level.BOTH: own,
    }


class Engine:
    """A model and a gallery, ready to search.

    Args:
        model: What `load_embedder` returned.
        gallery: What is searched.
        name: The model's name, for people.
        cache_folder: Where vectors are kept; None: in memory only.
        show_progress_bar: Show a bar while the gallery is encoded.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        gallery: Gallery,
        *,
        name: str,
        cache_folder: Path | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        self.gallery, self.name = gallery, name
        self._cache_folder, self._show_progress_bar = cache_folder, show_progress_bar
        self._weights = weights_digest(model)
        self._models = {
            level: with_prompt(model, prompt, name)
            for level, prompt in level_prompts(model[0].prompt or HierarchicalPrompt()).items()
        }
        for level, variant in self._models.items():
            gpu.keep(self._key(level), variant)
        self._vectors: dict[tuple[Level, str, Task], np.ndarray] = {}
        self._lock = threading.RLock()

    def pictures(self, level: Level = Level.BOTH) -> np.ndarray:
        """The gallery's pictures as documents, shape (pictures, dim)."""
        return self._of_gallery(level, "pictures", "document")

    def texts(self, level: Level = Level.BOTH, *, task: Task = "document") -> np.ndarray:
        """The gallery's texts as documents or queries, shape (texts, dim)."""
        return self._of_gallery(level, "texts", task)

    def embed(self, query: Query, level: Level = Level.BOTH) -> np.ndarray:
        """The vector of a query, shape (dim,).

        Raises:
            UserError: The text holds a control token of the model.
        """
        tokenizer = self._models[level][0].tokenizer
        for token in tokenizer.all_special_tokens:
            if token in query.text:
                raise UserError(f"{token} is a control token of this model and cannot be searched for. Leave it out.")
        return gpu.encode(self._key(level), [query.cell], "query")[0]

    def embed_pictures(self, pictures: list[Image.Image]) -> np.ndarray:
        """Pictures of a visitor as documents, shape (pictures, dim); nothing is kept."""
        return gpu.encode(self._key(Level.BOTH), [{"image": picture} for picture in pictures], "document")

    def rendered(self, query: Query, level: Level) -> str:
        """The text that the model reads for a query, as its processor renders it."""
        module = self._models[level][0]
        messages = module.input_formatter.to_message(query.cell)
        return module.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, task="query")

    def _of_gallery(self, level: Level, side: str, task: Task) -> np.ndarray:
        with self._lock:
            if (level, side, task) not in self._vectors:
                self._vectors[level, side, task] = self._encode(level, side, task)
            return self._vectors[level, side, task]

    def _encode(self, level: Level, side: str, task: Task) -> np.ndarray:
        part = {"pictures": "image", "texts": "text"}[side]
        cells = [{part: content} for content in getattr(self.gallery, side)]
        if not cells:
            return np.empty((0, self.pictures(level).shape[1]), dtype=np.float32)
        distinct = DistinctInputs.of_keys(cell_keys(cells))
        fingerprint = vector_fingerprint(self._models[level], task=task, weights=self._weights)
        store = VectorStore(self._cache_folder, fingerprint)

        def encode(windows: Sequence[np.ndarray], advance: Callable[[int], object]) -> Iterator[np.ndarray]:
            for rows in windows:
                yield gpu.encode(self._key(level), [cells[row] for row in rows], task)
                advance(len(rows))

        encode_distinct(
            distinct,
            store,
            encode,
            window=128,
            title=f"Encode {side} as {'queries' if task == 'query' else 'documents'}, {level}",
            show_progress_bar=self._show_progress_bar,
        )
        return store.get(distinct.keys)[distinct.index_of_row]

    def _key(self, level: Level) -> str:
        return f"{self._weights}/{level}"
