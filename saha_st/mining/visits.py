"""Visits of the rule, told again for some rows of a mining that is done: what was discarded is kept nowhere.

The lists of neighbours of these rows alone are searched for once more, and the clusters say what was taken when. So a
visit costs about as much as it did in mining, and a sample of a large mining little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from saha_st.mining.build import search_depth
from saha_st.mining.checks import anchor_codes
from saha_st.mining.clusters import ClusterAssignment, LookUp, make_rule, pool_size
from saha_st.mining.neighbours import paired_scores, top_k
from saha_st.mining.tracing import Trace, Tracer

_SETTINGS = ("num_negatives", "pool_multiplier", "owner_filter", "max_owner_similarity", "relative_margin")


@dataclass(frozen=True)
class _OfSomeRows:
    """Lists of some rows, indexed by the number of the row; shape of `values` (some, k)."""

    rows: np.ndarray
    values: np.ndarray

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[np.searchsorted(self.rows, row)]


def sample_visits(assignment: ClusterAssignment, *, most: int, seed: int = 0) -> np.ndarray:
    """Draw rows that were visited for a cluster of their own: the first of each, and those that found no mate."""
    left_out = np.ones(assignment.counts.rows, dtype=bool)
    left_out[np.concatenate(assignment.clusters)] = False
    anchors = [cluster[0] for cluster in assignment.clusters]  # in no earlier cluster, or they had not been visited
    visited = np.concatenate([np.array(anchors, dtype=np.int64), np.flatnonzero(left_out)])
    if len(visited) > most:
        visited = np.random.default_rng(seed).choice(visited, most, replace=False)
    return np.sort(visited)


def replay_visits(
    anchor_embeddings: np.ndarray,
    document_embeddings: np.ndarray,
    document_of_row: np.ndarray,
    assignment: ClusterAssignment,
    rows: Sequence[int] | np.ndarray,
    *,
    settings: Mapping[str, Any],
    anchor_key: np.ndarray | Sequence | None = None,
    backend: Literal["torch", "faiss"] = "torch",
    faiss_index: str | None = None,
) -> Iterator[Trace]:
    """Explain what the rule did when it visited some rows.

    Args:
        anchor_embeddings: As in mining, shape (rows, dim).
        document_embeddings: As in mining, shape (documents, dim).
        document_of_row: As in mining, shape (rows,).
        assignment: The clusters that were mined.
        rows: Rows that were visited, as `sample_visits` draws them.
        settings: The options of the rule that were mined with, by name; others are passed over.
        anchor_key: As in mining, shape (rows,).
        backend: As in mining.
        faiss_index: As in mining.

    Yields:
        The visits in the order of the rule.
    """
    rows = np.unique(np.asarray(rows, dtype=np.int64))
    if not len(rows):
        return
    options = {name: settings[name] for name in _SETTINGS if name in settings}
    codes = anchor_codes(anchor_key, len(document_of_row))
    depth = search_depth(pool_size(options["num_negatives"], options["pool_multiplier"]), codes)
    near, scores = top_k(anchor_embeddings[rows], document_embeddings, depth, backend=backend, faiss_index=faiss_index)
    own = np.zeros(len(document_of_row), dtype=np.float32)
    own[rows] = paired_scores(anchor_embeddings[rows], document_embeddings, document_of_row[rows])
    shape = (len(document_of_row), near.shape[1])
    rule = make_rule(
        np.broadcast_to(np.int32(0), shape),  # stands in for all lists, and takes no memory
        anchor_embeddings,
        document_of_row,
        anchor_key=codes,
        neighbour_scores=np.broadcast_to(np.float32(0), shape),
        positive_scores=own,
        look_up=LookUp(len(document_embeddings), 1, lambda rows: None),
        **options,
    )
    lists, cosines = _OfSomeRows(rows, near), _OfSomeRows(rows, scores)
    limits = rule.score_limits and (cosines, rule.score_limits[1])
    rule = replace(rule, neighbours=lists, score_limits=limits)
    yield from Tracer.of_assignment(rule, cosines, assignment).visits(rows.tolist())
