"""Compare prompts on pairs of a development split: the same model and the same pairs, one prompt after another.

Every anchor searches among all distinct positives. The prompts are compared query by query, so that what is hard for
all of them is no noise: an interval of a difference comes from drawing the same queries for both (paired bootstrap).
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from saha_st.data.cells import cell_parts, cell_video, stored_cells
from saha_st.encoding import DistinctInputs, EncodedColumn, encode_column, weights_digest
from saha_st.encoding.modality_gap import modality_gap
from saha_st.evaluation.prompt_presets import as_entry
from saha_st.modules.loading import set_prompt
from saha_st.prompts import HierarchicalPrompt
from saha_st.token_budgets import BATCH_TOKENS

logger = logging.getLogger(__name__)

SAMPLES = 2000
"""Draws of the bootstrap."""

_BLOCK = 1024  # queries that are compared with all documents at a time
_DRAWS = 50  # of the bootstrap at a time
_TIE = 1e-6  # cosines that are closer than this are equal: float32 tells no more


@dataclass(frozen=True)
class PromptResult:
    """What a prompt does to every query.

    Attributes:
        name: The prompt's name.
        prompt: The prompt.
        ranks: The place of the best right document of each distinct anchor, 1 is the first; shape (queries,). A wrong
            document that ties with it stands before it.
        gap: Distance of the centroids of inputs with a picture and of those of text alone; None if the pairs lack one.
    """

    name: str
    prompt: HierarchicalPrompt
    ranks: np.ndarray
    gap: float | None = None

    @property
    def hits(self) -> np.ndarray:
        """1 where the first document is a right one, else 0; shape (queries,)."""
        return (self.ranks == 1).astype(np.float64)

    def hit(self, k: int) -> float:
        """Share of queries with a right document among the first k."""
        return float((self.ranks <= k).mean())

    @property
    def mrr(self) -> float:
        """Mean of 1 / rank."""
        return float((1 / self.ranks).mean())


@dataclass(frozen=True)
class PromptSweep:
    """The prompts of a sweep, the best first: by hit@1, then by MRR.

    Attributes:
        results: One for each prompt.
        documents: Number of distinct documents.
        seed: Seed of the bootstrap.
    """

    results: tuple[PromptResult, ...]
    documents: int
    seed: int = 0

    @classmethod
    def of(cls, results: list[PromptResult], documents: int, *, seed: int = 0) -> PromptSweep:
        """Sort results; equal ones stay in their order."""
        return cls(tuple(sorted(results, key=lambda each: (-each.hit(1), -each.mrr))), documents, seed)

    @property
    def best(self) -> PromptResult:
        """The prompt with the highest hit@1."""
        return self.results[0]

    @property
    def queries(self) -> int:
        """Number of distinct anchors."""
        return len(self.best.ranks)

    @cached_property
    def intervals(self) -> np.ndarray:
        """95 % interval of each prompt's hit@1, shape (prompts, 2)."""
        return np.quantile(self._resampled, (0.025, 0.975), axis=0).T

    @cached_property
    def differences(self) -> np.ndarray:
        """95 % interval of each prompt's hit@1 less that of the best, shape (prompts, 2)."""
        return np.quantile(self._resampled - self._resampled[:, :1], (0.025, 0.975), axis=0).T

    @property
    def within_noise(self) -> list[bool]:
        """For each prompt, whether other queries might as well have put it level with the best."""
        return [bool(high >= 0) for _, high in self.differences]

    @cached_property
    def _resampled(self) -> np.ndarray:
        return resampled_means(np.stack([each.hits for each in self.results]), seed=self.seed)

    def to_markdown(self) -> str:
        """Return the table, in percent."""
        gaps = any(each.gap is not None for each in self.results)
        header = ["prompt", "hit@1 (95 %)", "hit@5", "MRR", "from the best (95 %)", *["gap"] * gaps]
        lines = [f"| {' | '.join(header)} |", "|:--|" + "--:|" * (len(header) - 1)]
        for number, each in enumerate(self.results):
            low, high = 100 * self.intervals[number]
            cells = [f"{100 * each.hit(1):.1f} ({low:.1f} to {high:.1f})", f"{100 * each.hit(5):.1f}"]
            cells += [f"{100 * each.mrr:.1f}", self._difference(number)]
            cells += ["–" if each.gap is None else f"{each.gap:.2f}"] * gaps
            lines.append(f"| {' | '.join([f'`{each.name}`', *cells])} |")
        return "\n".join(lines)

    @property
    def notes(self) -> list[str]:
        """What the table does not say by itself."""
        count = f"{self.queries:,} queries, {self.documents:,} documents; guessing hits {1 / self.documents:.2%}."
        level = [each.name for each, noise in zip(self.results[1:], self.within_noise[1:], strict=True) if noise]
        found = [count]
        if level:
            names = ", ".join(f"`{name}`" for name in level)
            found.append(f"≈ within noise of the best: these pairs do not tell {names} from `{self.best.name}`.")
        if len(self.results) > 2:
            found.append("The best of many is partly the luckiest: for a figure to quote, score it on other pairs.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all that was found as plain JSON values, the ranks included."""
        rows = zip(self.results, self.intervals, self.differences, self.within_noise, strict=True)
        return {
            "queries": self.queries,
            "documents": self.documents,
            "seed": self.seed,
            "prompts": [
                as_entry(each.name, each.prompt)
                | {"hit@1": each.hit(1), "hit@1_interval": interval.tolist(), "hit@5": each.hit(5), "mrr": each.mrr}
                | {"difference_from_best": difference.tolist(), "within_noise": noise}
                | {"modality_gap": each.gap, "ranks": each.ranks.tolist()}
                for each, interval, difference, noise in rows
            ],
        }

    def _difference(self, number: int) -> str:
        if number == 0:
            return ""
        low, high = 100 * self.differences[number]
        mean = 100 * (self.results[number].hit(1) - self.best.hit(1))
        return f"{mean:.1f} ({low:.1f} to {high:.1f})" + (" ≈" if self.within_noise[number] else "")


def sweep_prompts(
    pairs: Dataset,
    model: SentenceTransformer,
    prompts: Mapping[str, HierarchicalPrompt],
    *,
    cache_folder: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> PromptSweep:
    """Score prompts on pairs.

    Args:
        pairs: Columns `anchor` and `positive`, as `load_pairs` returns them. Rows with the same anchor are one query
            with several right documents.
        model: What `load_embedder` returned; it keeps its own prompt.
        prompts: The prompts by name.
        cache_folder: Where vectors are kept, so that a sweep that was killed goes on, and a longer list costs no more
            than what is new.
        batch_size: As `encode_column`.
        batch_tokens: As `encode_column`.
        seed: Seed of the bootstrap.
        show_progress_bar: Show a bar for each column and prompt.

    Raises:
        ValueError: No prompt; a prompt that the model's chat template does not render, before anything is encoded; an
            input that cannot be encoded. The message names the prompt.
    """
    if not prompts:
        raise ValueError("prompts is empty: name at least one preset, or write a prompt into the file of the sweep.")
    variants = {name: with_prompt(model, prompt, name) for name, prompt in prompts.items()}
    sides = {column: DistinctInputs.of(pairs, column) for column in ("anchor", "positive")}
    pictured = {column: _has_picture(pairs, column, distinct) for column, distinct in sides.items()}
    right = np.unique(np.stack([distinct.index_of_row for distinct in sides.values()], axis=1), axis=0)
    options = {"batch_size": batch_size, "batch_tokens": batch_tokens, "weights": weights_digest(model)}
    options |= {"cache_folder": cache_folder, "show_progress_bar": show_progress_bar}
    results = []
    for number, (name, variant) in enumerate(variants.items(), start=1):
        logger.info("Prompt %d of %d: %s", number, len(variants), name)

        def encode(column: str, variant: SentenceTransformer = variant, name: str = name) -> EncodedColumn:
            task = "query" if column == "anchor" else "document"
            try:
                return encode_column(pairs, column, variant, task=task, distinct=sides[column], **options)
            except ValueError as error:
                raise ValueError(f"Prompt {name!r}: {error}") from error

        vectors = {column: _unit(encode(column).embeddings) for column in sides}
        ranks = ranks_of(vectors["anchor"], vectors["positive"], right)
        results.append(PromptResult(name, prompts[name], ranks, _gap(vectors, pictured)))
    return PromptSweep.of(results, len(sides["positive"]), seed=seed)


def ranks_of(queries: np.ndarray, documents: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the place of the best right document of each query; wrong ones that tie with it stand before it.

    Args:
        queries: Vectors of length one, shape (queries, dim).
        documents: Vectors of length one, shape (documents, dim).
        right: Pairs of a query and a right document, sorted, each query at least once; shape (pairs, 2), integers.

    Returns:
        Shape (queries,), integers from 1.
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK):
        stop = min(start + _BLOCK, len(queries))
        scores = queries[start:stop] @ documents.T  # (block, documents)
        first, last = np.searchsorted(right[:, 0], (start, stop))
        rows, columns = right[first:last, 0] - start, right[first:last, 1]
        best = np.maximum.reduceat(scores[rows, columns], np.searchsorted(rows, np.arange(stop - start)))
        scores[rows, columns] = -np.inf
        ranks[start:stop] = 1 + (scores >= best[:, None] - _TIE).sum(axis=1)
    return ranks


def resampled_means(values: np.ndarray, *, seed: int = 0, samples: int = SAMPLES) -> np.ndarray:
    """Return means over queries that are drawn with replacement, the same ones for every row.

    Args:
        values: Shape (rows, queries).
        seed: Decides what is drawn.
        samples: How often.

    Returns:
        Shape (samples, rows).
    """
    queries, random = values.shape[1], np.random.default_rng(seed)
    means = np.empty((samples, len(values)))
    for start in range(0, samples, _DRAWS):
        count = min(_DRAWS, samples - start)
        drawn = random.multinomial(queries, np.full(queries, 1 / queries), size=count)  # (count, queries)
        means[start : start + count] = drawn @ values.T / queries
    return means


def with_prompt(model: SentenceTransformer, prompt: HierarchicalPrompt, name: str) -> SentenceTransformer:
    """Return a copy of a model that shares its weights and has another prompt.

    Raises:
        ValueError: The model cannot be given this prompt; the message names it.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    variant = copy.deepcopy(model, shared)
    try:
        set_prompt(variant, prompt, "the model")
    except ValueError as error:
        raise ValueError(f"Prompt {name!r}: {error}") from error
    return variant


def _has_picture(pairs: Dataset, column: str, distinct: DistinctInputs) -> np.ndarray:
    """Whether each distinct input has an image or a video, shape (distinct,)."""
    first = pairs.select(distinct.first_row)
    return np.array([bool(cell_parts(cell)[0]) or bool(cell_video(cell)) for cell in stored_cells(first, column)])


def _gap(vectors: Mapping[str, np.ndarray], pictured: Mapping[str, np.ndarray]) -> float | None:
    """The modality gap of both columns together."""
    together, has = np.concatenate(list(vectors.values())), np.concatenate(list(pictured.values()))
    return modality_gap(together[has], together[~has]) if has.any() and not has.all() else None


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one, shape (rows, dim); those cut to their first dimensions are shorter."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
