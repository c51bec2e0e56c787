"""Embeddings in, clusters out: the search for neighbours, then the cluster rule or the communities.

What cannot work is refused before the search begins.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from saha_st.mining.checks import anchor_codes, check_builder, check_document_of_row, check_options
from saha_st.mining.clusters import ClusterAssignment, LookUp, assign_clusters, pool_size
from saha_st.mining.communities import Partitioner, assign_communities, window
from saha_st.mining.neighbours import NeighbourSearch, as_array, paired_scores
from saha_st.ranks import Ranks

Builder = Literal["owners", "communities"]


def build_clusters(
    anchor_embeddings: np.ndarray | torch.Tensor,
    document_embeddings: np.ndarray | torch.Tensor,
    document_of_row: np.ndarray | Sequence[int],
    *,
    num_negatives: int = 15,
    pool_multiplier: int = 3,
    owner_filter: bool = True,
    anchor_key: np.ndarray | Sequence | None = None,
    builder: Builder = "owners",
) -> list[np.ndarray]:
    """Forms mutually hard clusters of (anchor, positive) rows.

    Args:
        anchor_embeddings: shape (rows, dim).
        document_embeddings: the embeddings of the unique positives. Shape (documents, dim).
        document_of_row: the document that is each row's positive. Shape (rows,), integers.
        num_negatives: the mates of a full cluster, which thus has `num_negatives` + 1 rows.
        pool_multiplier: how much wider than that the choice is.
        owner_filter: drop documents whose owner asks nearly what the anchor asks; False for classification data.
        anchor_key: one key a row; rows with the same key have the same anchor. None: every row has its own.
        builder: "owners" is the paper's rule. "communities" divides the rows, see `saha_st.mining.communities`.

    Returns:
        Arrays of row indices: for "owners" the anchor's row first, clusters of phase 1 before those of phase 2; for
        "communities" in ascending order, the largest clusters first.

    Raises:
        ValueError: if the arrays do not fit one another, embeddings are not finite or zero, or `num_negatives` is
            larger than the data.

    Example:
        ```python
        clusters = build_clusters(queries, documents, document_of_row, num_negatives=7)
        ```
    """
    return find_clusters(
        anchor_embeddings,
        document_embeddings,
        document_of_row,
        num_negatives=num_negatives,
        pool_multiplier=pool_multiplier,
        owner_filter=owner_filter,
        anchor_key=anchor_key,
        builder=builder,
    ).clusters


def find_clusters(
    anchor_embeddings: np.ndarray | torch.Tensor,
    document_embeddings: np.ndarray | torch.Tensor,
    document_of_row: np.ndarray | Sequence[int],
    *,
    num_negatives: int = 15,
    pool_multiplier: int = 3,
    owner_filter: bool = True,
    anchor_key: np.ndarray | Sequence | None = None,
    max_owner_similarity: float | None = None,
    relative_margin: float | None = None,
    builder: Builder = "owners",
    range_min: int = 0,
    range_max: int | None = None,
    partitioner: Partitioner = "greedy",
    backend: Literal["torch", "faiss"] = "torch",
    faiss_index: str | None = None,
    faiss_parameters: str | None = None,
    device: str | torch.device | None = None,
    block_size: int | None = None,
    output_folder: str | os.PathLike[str] | None = None,
    ranks: Ranks | None = None,
    show_progress_bar: bool = False,
) -> ClusterAssignment | None:
    """`build_clusters` with every option of `top_k`, of `assign_clusters` and `assign_communities`, and with counts.

    The rule's lists are searched for when it comes to them, a block of rows at a time: most rows join a cluster
    before their turn. Communities need all lists. Several processes (``ranks``) search together, while the first one
    forms the clusters; the others return None when it is done. With ``output_folder`` the lists are kept in files,
    and those of rows that the rule never came to hold nothing.
    """
    check_options(num_negatives, pool_multiplier, max_owner_similarity, relative_margin)
    check_builder(builder, partitioner, range_min, range_max)
    document_of_row = check_document_of_row(document_of_row, num_negatives=num_negatives)
    anchor_of_row = anchor_codes(anchor_key, len(document_of_row))
    anchor_embeddings, document_embeddings = as_array(anchor_embeddings), as_array(document_embeddings)
    _check_lengths(anchor_embeddings, document_embeddings, document_of_row)
    depth = pool_size(num_negatives, pool_multiplier)
    if builder == "communities":
        range_min, range_max = window(num_negatives, pool_multiplier, range_min, range_max)
        depth = range_max + 1  # a row's own positive has no rank
    search = NeighbourSearch(
        anchor_embeddings,
        document_embeddings,
        search_depth(depth, anchor_of_row),
        backend=backend,
        device=device,
        block_size=block_size,
        faiss_index=faiss_index,
        faiss_parameters=faiss_parameters,
        ranks=ranks,
    )
    if not search.ranks.is_main:
        return _help(search)
    with closing(_Lists(search)) as lists:
        lists.make_room(output_folder)
        positive_scores = None
        if relative_margin is not None:
            positive_scores = paired_scores(anchor_embeddings, document_embeddings, document_of_row)
        arguments: dict[str, Any] = {
            "num_negatives": num_negatives,
            "pool_multiplier": pool_multiplier,
            "owner_filter": owner_filter,
            "anchor_key": anchor_of_row,
            "max_owner_similarity": max_owner_similarity,
            "relative_margin": relative_margin,
            "neighbour_scores": lists.scores,
            "positive_scores": positive_scores,
        }
        if builder == "communities":
            lists.fill_all(show_progress_bar=show_progress_bar)
            arguments |= {"range_min": range_min, "range_max": range_max, "partitioner": partitioner}
            return assign_communities(lists.neighbours, anchor_embeddings, document_of_row, **arguments)
        arguments |= {"look_up": LookUp(len(document_embeddings), search.block_size, lists.fill)}
        return assign_clusters(
            lists.neighbours, anchor_embeddings, document_of_row, show_progress_bar=show_progress_bar, **arguments
        )


class _Lists:
    """The lists that the rule reads in the first process, and all processes search for."""

    def __init__(self, search: NeighbourSearch) -> None:
        self._search, self._others_wait = search, True

    def make_room(self, output_folder: str | os.PathLike[str] | None) -> None:
        """Makes the lists, which may find a full disk; the others are waiting already."""
        self.neighbours, self.scores = self._search.room(output_folder)

    def fill(self, rows: np.ndarray) -> None:
        """Searches for the lists of some rows."""
        self._others_wait = False  # for rows: whatever fails from here on, fails in all
        self._search.ranks.share_array(rows)
        with self._search.ranks.together():
            self.neighbours[rows], self.scores[rows] = self._search(rows)
        self._others_wait = True

    def fill_all(self, *, show_progress_bar: bool) -> None:
        """Searches for the lists of all rows, and lets the other processes go."""
        rows = np.arange(len(self.neighbours))
        blocks = [rows[start : start + self._search.block_size] for start in rows[:: self._search.block_size]]
        for block in tqdm(blocks, desc="Neighbours", disable=not show_progress_bar):
            self.fill(block)
        self.close()

    def close(self) -> None:
        """Tells the other processes that there is nothing more to search for."""
        if self._others_wait:
            self._search.ranks.share_array(np.empty(0, dtype=np.int64))
            self._others_wait = False


def _help(search: NeighbourSearch) -> None:
    """Searches wherever the first process searches, until it says that there is no more."""
    while len(rows := search.ranks.share_array(None)):
        with search.ranks.together():
            search(rows)


def _check_lengths(anchors: np.ndarray, documents: np.ndarray, document_of_row: np.ndarray) -> None:
    if len(anchors) != len(document_of_row):
        raise ValueError(f"anchor_embeddings has {len(anchors)} rows, document_of_row has {len(document_of_row)}.")
    beyond = document_of_row >= len(documents)
    if beyond.any():
        raise ValueError(
            f"document_of_row names documents up to {document_of_row.max()} (first in row {beyond.argmax()}), but "
            f"document_embeddings has {len(documents)} rows."
        )


def search_depth(pool: int, anchor_of_row: np.ndarray) -> int:
    """The pool, and as many more as an anchor's other positives may take up, but no more than twice the pool."""
    return pool + min(int(np.bincount(anchor_of_row).max()) - 1, pool)
