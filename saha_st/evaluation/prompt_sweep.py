"""Compare prompts on pairs of a development split: the same model and the same pairs, one prompt after another.

Every anchor searches among all distinct positives. The prompts are compared query by query, so that what is hard for
all of them is no noise, and all differences at once, so that the best of many is not called better for its luck alone
(`paired_bootstrap`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from saha_st.data.cells import cell_parts, cell_video, stored_cells, with_closed_videos
from saha_st.encoding import DistinctInputs, EncodedColumn, encode_column, vector_fingerprint, weights_digest
from saha_st.encoding.modality_gap import modality_gap, unit_vectors
from saha_st.evaluation.paired_bootstrap import FEW, difference_margins, wilson_interval
from saha_st.evaluation.prompt_presets import as_entry
from saha_st.evaluation.prompt_rendering import features_of
from saha_st.modules.loading import with_prompt
from saha_st.prompts import HierarchicalPrompt
from saha_st.token_budgets import BATCH_TOKENS

logger = logging.getLogger(__name__)

_TASKS: Mapping[str, Literal["query", "document"]] = {"anchor": "query", "positive": "document"}
_BLOCK = 1024  # queries that are compared with all documents at a time
_TIE = 1e-6  # cosines that are closer than this are equal: float32 tells no more


@dataclass(frozen=True)
class PromptResult:
    """What a prompt does to every query.

    Attributes:
        name: The prompt's name.
        prompt: The prompt; None for what the model comes with.
        ranks: The place of the best right document of each distinct anchor, 1 is the first; shape (queries,). A wrong
            document that ties with it stands before it.
        gap: Distance of the centroids of inputs with a picture and of those of text alone; None if the pairs lack one.
    """

    name: str
    prompt: HierarchicalPrompt | None
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
        """95 % interval of each prompt's hit@1 (Wilson's), shape (prompts, 2)."""
        return np.array([wilson_interval(each.hit(1), self.queries) for each in self.results])

    def differences(self, base: int = 0) -> np.ndarray:
        """Return the interval of each prompt's hit@1 less that of another one, by default of the best; (prompts, 2).

        In 95 % of all cases those of all pairs of prompts hold at once. So of equal prompts, however many, chance puts
        one outside the noise in about 5 %, although which one is the best is read from the same queries.

        Args:
            base: The place of the other one in `results`.
        """
        means = np.array([each.hit(1) - self.results[base].hit(1) for each in self.results])
        margins = self._margins[:, base]
        return np.clip(np.stack([means - margins, means + margins], axis=1), -1, 1)

    @cached_property
    def _margins(self) -> np.ndarray:
        return difference_margins(np.stack([each.hits for each in self.results]), seed=self.seed)

    @property
    def is_small(self) -> bool:
        """Whether there are too few queries to call any difference real."""
        return self.queries < FEW

    @property
    def within_noise(self) -> list[bool]:
        """For each prompt, whether other queries might as well have put it level with the best."""
        return [self.is_small or bool(high >= -1e-12) for _, high in self.differences()]

    def to_markdown(self, *, against: Sequence[str] = ()) -> str:
        """Return the table, in percent.

        Args:
            against: Names of prompts from which differences are shown as well as from the best.
        """
        gaps = any(each.gap is not None for each in self.results)
        names = [each.name for each in self.results]
        header = ["prompt", "hit@1 (95 %)", "hit@5", "MRR", "from the best (95 %)", *["gap"] * gaps]
        header += [f"from `{name}` (95 %)" for name in against]
        lines = [f"| {' | '.join(header)} |", "|:--|" + "--:|" * (len(header) - 1)]
        for number, each in enumerate(self.results):
            low, high = 100 * self.intervals[number]
            cells = [f"{100 * each.hit(1):.1f} ({low:.1f} to {high:.1f})", f"{100 * each.hit(5):.1f}"]
            cells += [f"{100 * each.mrr:.1f}", self._difference(number)]
            cells += ["–" if each.gap is None else f"{each.gap:.2f}"] * gaps
            cells += [self._difference(number, names.index(name)) for name in against]
            lines.append(f"| {' | '.join([f'`{each.name}`', *cells])} |")
        return "\n".join(lines)

    @property
    def notes(self) -> list[str]:
        """What the table does not say by itself."""
        count = f"{self.queries:,} queries, {self.documents:,} documents; guessing hits {1 / self.documents:.2%}."
        level = [each.name for each, noise in zip(self.results[1:], self.within_noise[1:], strict=True) if noise]
        found = [count]
        if self.is_small:
            found.append(f"few queries: with fewer than {FEW}, no difference is called real; take more pairs.")
        if level:
            names = ", ".join(f"`{name}`" for name in level)
            found.append(f"≈ within noise of the best: these pairs do not tell {names} from `{self.best.name}`.")
        if len(self.results) > 2:
            found.append("The intervals of differences hold for all pairs of prompts at once.")
            found.append("The best of many is partly the luckiest: for a figure to quote, score it on other pairs.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all that was found as plain JSON values, the ranks included."""
        rows = zip(self.results, self.intervals, self.differences(), self.within_noise, strict=True)
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

    def _difference(self, number: int, base: int = 0) -> str:
        if number == base:
            return ""
        low, high = self.differences(base)[number]
        mean = self.results[number].hit(1) - self.results[base].hit(1)
        noise = self.is_small or low <= 1e-12 and high >= -1e-12
        return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})" + (" ≈" if noise else "")


def sweep_prompts(
    pairs: Dataset,
    model: SentenceTransformer,
    prompts: Mapping[str, HierarchicalPrompt | None],
    *,
    cache_folder: str | os.PathLike[str] | None = None,
    weights: str | None = None,
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
        prompts: The prompts by name; None stands for what the model comes with, whoever made it.
        cache_folder: Where vectors are kept, so that a sweep that was killed goes on, and a longer list costs no more
            than what is new.
        weights: As `encode_column`.
        batch_size: As `encode_column`.
        batch_tokens: As `encode_column`.
        seed: Seed of the bootstrap.
        show_progress_bar: Show a bar for each column and prompt.

    Raises:
        ValueError: No prompt; no rows, or fewer than two distinct positives; a prompt that the model's chat template
            does not render or that leaves no room in its `max_seq_length`, before anything is encoded; an input that
            cannot be encoded. The message names the prompt.
    """
    if not prompts:
        raise ValueError("prompts is empty: name at least one preset, or write a prompt into the file of the sweep.")
    if not len(pairs):
        raise ValueError("pairs has no rows: a sweep needs queries, and two different positives to choose among.")
    sides = {column: DistinctInputs.of(pairs, column) for column in _TASKS}
    if len(sides["positive"]) < 2:
        raise ValueError(
            f"Column 'positive' has 1 distinct document in {len(pairs)} rows, so that every query finds it. Take more "
            "pairs, with at least 2 different positives."
        )
    variants = {name: _variant(model, prompt, name) for name, prompt in prompts.items()}
    pictured = _require_room(pairs, variants, sides)
    right = np.unique(np.stack([distinct.index_of_row for distinct in sides.values()], axis=1), axis=0)
    options = {"batch_size": batch_size, "batch_tokens": batch_tokens, "weights": weights or weights_digest(model)}
    options |= {"cache_folder": cache_folder, "show_progress_bar": show_progress_bar}
    results = []
    for number, (name, variant) in enumerate(variants.items(), start=1):
        logger.info("Prompt %d of %d: %s", number, len(variants), name)

        def encode(column: str, variant: SentenceTransformer = variant, name: str = name) -> EncodedColumn:
            try:
                return encode_column(pairs, column, variant, task=_TASKS[column], distinct=sides[column], **options)
            except ValueError as error:
                raise ValueError(f"Prompt {name!r}: {error}") from error

        vectors = {column: unit_vectors(encode(column).embeddings) for column in sides}
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


def is_own_prompt(model: SentenceTransformer, prompt: HierarchicalPrompt) -> bool:
    """Tell whether a model with this prompt is the model as it comes; an embedder of others has none of ours."""
    if model[0].prompt != prompt:
        return False
    try:
        variant = with_prompt(model, prompt, "")
    except ValueError:
        return False
    return len({vector_fingerprint(each, weights="") for each in (model, variant)}) == 1


def _variant(model: SentenceTransformer, prompt: HierarchicalPrompt | None, name: str) -> SentenceTransformer:
    try:
        return with_prompt(model, prompt, "the model")
    except ValueError as error:
        raise ValueError(f"Prompt {name!r}: {error}") from error


def _require_room(
    pairs: Dataset, variants: Mapping[str, SentenceTransformer], sides: Mapping[str, DistinctInputs]
) -> dict[str, np.ndarray]:
    """Let every prompt be put around the shortest inputs with and without pictures, before anything is encoded.

    Returns:
        For each column, whether each distinct input has an image or a video; shape (distinct,).

    Raises:
        ValueError: A prompt leaves no room within `max_seq_length`.
    """
    pictured = {}
    for column, distinct in sides.items():
        stored = list(map(_outline, stored_cells(pairs.select(distinct.first_row), column)))
        pictured[column], lengths = (np.array(values) for values in zip(*stored, strict=True))
        kinds = (np.flatnonzero(pictured[column] == kind) for kind in (False, True))
        for row in [int(distinct.first_row[each[lengths[each].argmin()]]) for each in kinds if len(each)]:
            try:
                cell = with_closed_videos(pairs.select_columns(column))[row][column]
            except Exception as error:  # a picture that cannot be opened, which `encode_column` names
                logger.debug("Row %d, column %r: %s", row, column, error)
                continue
            for name, variant in variants.items():
                try:
                    features_of(variant, cell, _TASKS[column])
                except Exception as error:  # what a processor raises for a bad input has many names
                    reason = str(error).removeprefix("Input 0 of the batch: ")
                    raise ValueError(f"Prompt {name!r}: row {row}, column {column!r}: {reason}") from error
    return pictured


def _outline(cell: Any) -> tuple[bool, int]:
    """Whether a cell has an image or a video, and the length of its text."""
    images, text = cell_parts(cell)
    return bool(images) or bool(cell_video(cell)), len(text or "")


def _gap(vectors: Mapping[str, np.ndarray], pictured: Mapping[str, np.ndarray]) -> float | None:
    """The modality gap of both columns together."""
    together, has = np.concatenate(list(vectors.values())), np.concatenate(list(pictured.values()))
    return modality_gap(together[has], together[~has]) if has.any() and not has.all() else None
