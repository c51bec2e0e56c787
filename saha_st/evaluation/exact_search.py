"""Rank documents so that equal ones stand in the order of the corpus, or of the query's list.

mteb's own search keeps the best in a heap, in which the order of ties is an accident, and holds the similarities of
all candidates of all queries. Here a query keeps its ten best, and what tells whether they mean anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from torch.utils.data import DataLoader

from saha_st.evaluation.encoder import cosine_with_each
from saha_st.evaluation.mmeb import UNDEFINED
from saha_st.evaluation.rankings import rank

_BLOCK = 256  # queries that are compared with all documents at a time


@dataclass
class Seen:
    """What was seen of the similarities, each of shape (queries,).

    Attributes:
        candidates: How many documents each query ranked.
        all_tied: Whether its several documents are all equally similar.
        undefined: Whether a similarity is not a number.
    """

    candidates: list[int] = field(default_factory=list)
    all_tied: list[bool] = field(default_factory=list)
    undefined: list[bool] = field(default_factory=list)

    def add(self, similarities: np.ndarray) -> None:
        """Look at the similarities of a query, shape (documents,)."""
        self.candidates.append(len(similarities))
        self.undefined.append(bool(np.isnan(similarities).any()))
        self.all_tied.append(len(similarities) > 1 and bool((similarities == similarities[0]).all()))


class ExactSearch:
    """A search model of mteb around an encoder of mteb.

    Args:
        encoder: The encoder.

    Attributes:
        seen: What was seen in the last search.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.seen = Seen()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Metadata of the encoder."""
        return self.encoder.mteb_model_meta

    def index(self, corpus: Dataset, **options: Any) -> None:
        """Encode the documents."""
        self._ids = list(corpus["id"])
        self._documents = self._encode(corpus, PromptType.document, **options)

    def search(
        self, queries: Dataset, *, top_k: int, top_ranked: Mapping[str, Sequence[str]] | None = None, **options: Any
    ) -> dict[str, dict[str, float]]:
        """Encode the queries and rank the documents.

        Returns:
            For each query its `NUM_KEPT` best documents, best first, with their similarities; `UNDEFINED` stands for
            what is not a number.
        """
        self.seen = Seen()
        names, vectors = list(queries["id"]), self._encode(queries, PromptType.query, **options)
        if top_ranked is None:
            return self._rank_all(names, vectors)
        rows = {name: row for row, name in enumerate(self._ids)}
        found = {}
        for name, vector in zip(names, vectors, strict=True):
            listed = [rows[document] for document in top_ranked[name]]
            found[name] = self._best(self._compare_one(vector, self._documents[listed]), listed)
        return found

    def _rank_all(self, names: Sequence[str], vectors: np.ndarray) -> dict[str, dict[str, float]]:
        # Equal documents are compared once: what a matrix product makes of equal rows may differ in the last bit.
        distinct, inverse = np.unique(self._documents, axis=0, return_inverse=True)
        compare, everything, found = self._comparison_with(distinct), range(len(self._ids)), {}
        for start in range(0, len(names), _BLOCK):
            block = compare(vectors[start : start + _BLOCK])[:, inverse.reshape(-1)]
            for name, similarities in zip(names[start : start + _BLOCK], block, strict=True):
                found[name] = self._best(similarities, everything)
        return found

    def _best(self, similarities: np.ndarray, rows: Sequence[int]) -> dict[str, float]:
        self.seen.add(similarities)
        best = rank(similarities)
        values = np.nan_to_num(similarities[best], nan=UNDEFINED)
        return {self._ids[rows[index]]: value for index, value in zip(best, values.tolist(), strict=True)}

    def _compare_one(self, query: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Return the similarities of a query in float64, shape (documents,); those of equal documents are equal."""
        if not self._is_cosine:
            return self._comparison_with(documents)(query[None])[0]
        return cosine_with_each(query, documents)

    def _comparison_with(self, documents: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return what gives the similarities of queries with the documents in float64, shape (queries, documents)."""
        if not self._is_cosine:
            return lambda queries: np.asarray(self.encoder.similarity(queries, documents), dtype=np.float64)
        transposed = _unit(documents).T  # once for all blocks of queries

        def cosines(queries: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                return _unit(queries) @ transposed

        return cosines

    @property
    def _is_cosine(self) -> bool:
        return self.mteb_model_meta.similarity_fn_name is ScoringFunction.COSINE

    def _encode(
        self, rows: Dataset, side: PromptType, *, encode_kwargs: Mapping[str, Any], **options: Any
    ) -> np.ndarray:
        # Not mteb's loader: it would write every row anew, pages of gigabytes among them.
        batches = DataLoader(rows, batch_size=encode_kwargs.get("batch_size") or 32, collate_fn=_as_lists)
        known = {name: options[name] for name in ("task_metadata", "hf_split", "hf_subset")}
        vectors = self.encoder.encode(batches, prompt_type=side, **known, **encode_kwargs)
        return vectors.float().cpu().numpy() if isinstance(vectors, torch.Tensor) else np.asarray(vectors)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _as_lists(batch: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in batch] for name in batch[0]}
