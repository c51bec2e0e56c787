"""Exact search at the speed of a float32 product: candidates by float32, their order by exact scores, and a proof.

A float32 product finds more candidates than are asked for, and these are scored again on the grid (see
`saha_st.mining.grid`). Whatever was dropped scores no more in float32 than the last candidate; so if the k-th exact
score exceeds that one by more than float32 can be wrong, nothing that was dropped belongs among the k. Queries without
such a gap (ties, dense neighbourhoods) are searched again with the exact product. Either way the lists and scores are
those of the exact product, to the bit.

How wrong float32 can be, in steps of 2^-26, for `dim` dimensions: a sum of products of unit vectors in any order is
off by at most dim·2^-24, which is 4·dim steps; rounding an entry of either vector costs 2^-24 for each of its three
roundings (type, scale, product), 4 steps each; entries off the grid by up to half a step add sqrt(dim)/2 steps; and
both scores are rounded to whole steps. See `largest_error`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from saha_st.mining.document_blocks import DocumentBlocks, Scratch
from saha_st.mining.grid import GRID, documents_of, greatest, on_grid, pack_

_DOCUMENTS_PER_CANDIDATE = 256  # with fewer documents, scoring candidates again costs more than the exact product
_LENGTHS = (2.0**-80, 2.0**80)  # of vectors that float32 scales to length 1 without overflow or underflow
_GROUPS = 32  # of a block's scores, compared by their maxima; whole rows would take ten times as long
_ENTRIES = 2**21  # of candidates that are scored again in one go: 16 MiB, so that they stay in the CPU's caches


def candidates_for(k: int) -> int:
    """How many candidates float32 shall find: the more, the wider the gap behind the k-th."""
    return k + max(16, k // 8)


def largest_error(dim: int) -> float:
    """A bound on |float32 score - grid score| in steps (see the top of this file), a little above what is proven."""
    return 1.01 * (4 * (dim + 8) + math.sqrt(dim))


class ExactSearch:
    """The nearest of some documents to any queries.

    Args:
        documents: the documents. Shape (documents, dim).
        inverse_norms: 1 / length of each. Shape (documents,), float64.
        k: neighbours a query.
        first_document: the number of the first of the documents.
        device: where to compute; it must have float64.
        block_size: documents in a block.
        streamed: as `DocumentBlocks`.
        approximate_first: look for candidates in float32. None: if there are 256 documents or more for each candidate
            and float32 can hold the vectors' lengths.

    Attributes:
        device: where it computes.
        searched_again: how many queries the check has sent to the exact product so far.
    """

    def __init__(
        self,
        documents: np.ndarray,
        inverse_norms: np.ndarray,
        k: int,
        *,
        first_document: int = 0,
        device: torch.device,
        block_size: int,
        streamed: bool | None = None,
        approximate_first: bool | None = None,
    ) -> None:
        self._k, self._first, self.device = k, first_document, device
        if approximate_first is None:
            approximate_first = _is_worth_it(inverse_norms, candidates_for(k))
        self._approximate_first = approximate_first
        self._documents = DocumentBlocks(
            documents, inverse_norms, device=device, block_size=block_size, streamed=streamed
        )
        self._scratch = Scratch(device)
        self.searched_again = 0

    def nearest(self, queries: np.ndarray, inverse_norms: np.ndarray) -> torch.Tensor:
        """Search for a block of queries.

        Args:
            queries: shape (block, dim).
            inverse_norms: 1 / length of each. Shape (block,), float64.

        Returns:
            Scores and documents, packed, best first; -inf where there are fewer than k documents. Shape (block, k),
            float64.
        """
        left = on_grid(queries, inverse_norms, self.device)  # (block, dim)
        if not self._approximate_first:
            return self._scan(left, self._k)
        with full_float32():
            found = self._scan(left.float(), candidates_for(self._k))
        best = self._scored_again(found, left)
        dropped = found[:, -1].floor() + largest_error(self._documents.dim)  # no dropped document scores more
        doubtful = (best[:, -1].floor() <= dropped).nonzero().squeeze(1)
        if len(doubtful):
            best[doubtful] = self._scan(left[doubtful], self._k)
            self.searched_again += len(doubtful)
            self._approximate_first = 2 * len(doubtful) <= len(best)  # else the next blocks save that search
        return best

    def _scan(self, left: torch.Tensor, k: int) -> torch.Tensor:
        """The k greatest products with all documents, packed. In float64 they are exact."""
        left = left / GRID  # exact, and the products are steps as those of the documents are
        best = torch.full((len(left), k), -torch.inf, dtype=torch.float64, device=self.device)
        for start, right in self._documents.blocks(left.dtype):
            scores = self._scratch.take("scores", (len(left), len(right)), left.dtype)
            best = _with_block(best, torch.mm(left, right.T, out=scores), self._first + start)
        return best

    def _scored_again(self, found: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        """The k best candidates by their exact scores."""
        best = found.new_empty((len(found), self._k))
        at_once = max(1, _ENTRIES // (found.shape[1] * left.shape[1]))
        for start in range(0, len(found), at_once):
            rows = slice(start, start + at_once)
            documents = documents_of(found[rows])  # (rows, candidates)
            right = self._documents.on_grid(documents.flatten() - self._first).view(*documents.shape, -1)
            scores = torch.bmm(right, left[rows, :, None] / GRID).squeeze(2)
            best[rows] = greatest(pack_(scores, documents), self._k)
        return best


def _is_worth_it(inverse_norms: np.ndarray, candidates: int) -> bool:
    enough = len(inverse_norms) >= _DOCUMENTS_PER_CANDIDATE * candidates
    shortest, longest = _LENGTHS
    return enough and 1 / inverse_norms.max() >= shortest and 1 / inverse_norms.min() <= longest


def _with_block(best: torch.Tensor, scores: torch.Tensor, first_document: int) -> torch.Tensor:
    """Takes the next documents in; their scores are overwritten.

    Few of them reach into the lists once these are filled, and only those are packed and sorted in. Documents come in
    their order, so one that only equals the last of a list comes behind it, and need not be looked at.

    Args:
        best: the greatest so far, packed, best first. Shape (block, k).
        scores: in steps. Shape (block, documents).
        first_document: the number of the first of them.
    """
    k, limit = best.shape[1], best[:, -1:].floor().to(scores.dtype)  # exact: float32 has the whole numbers it had
    groups = scores.shape[1] // _GROUPS
    head, rest = scores[:, : groups * _GROUPS], scores[:, groups * _GROUPS :]
    numbers = torch.arange(first_document, first_document + scores.shape[1], device=scores.device)
    grouped = head.unflatten(1, (_GROUPS, groups))  # every group is a column: its maximum is that of whole rows
    hits = grouped.amax(1) > limit  # (block, groups)
    crowded = hits.sum(1) > groups // 4
    found = _survivors(grouped, hits & ~crowded[:, None], limit, first_document)
    found = torch.cat((best, found, _packed(rest, numbers[groups * _GROUPS :])), dim=1)
    merged = greatest(found, k)
    if crowded.any():
        rows = slice(None) if crowded.all() else crowded  # a slice copies nothing
        merged[rows] = greatest(torch.cat((merged[rows], _top(head[rows], numbers, k)), dim=1), k)
    return merged


def _survivors(grouped: torch.Tensor, hits: torch.Tensor, limit: torch.Tensor, first_document: int) -> torch.Tensor:
    """What exceeds the limit in the groups that are hit, packed, a row for each query, filled up with -inf."""
    row, group = hits.nonzero(as_tuple=True)
    scores = grouped[row, :, group]  # (hits, 32)
    hit, place = (scores > limit[row]).nonzero(as_tuple=True)
    packed = _packed(scores[hit, place], first_document + place * hits.shape[1] + group[hit])
    row = row[hit]  # ascending
    counts = torch.bincount(row, minlength=len(hits))
    width = int(counts.max()) if len(row) else 0
    rows = torch.full((len(hits), width), -torch.inf, dtype=torch.float64, device=hits.device)
    rows[row, torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]] = packed
    return rows


def _top(scores: torch.Tensor, documents: torch.Tensor, k: int) -> torch.Tensor:
    """The k greatest of each row, packed. Float64 scores are overwritten; which of equal float32 ones is open."""
    k, documents = min(k, scores.shape[1]), documents[: scores.shape[1]]
    if scores.dtype == torch.float64:
        return greatest(pack_(scores, documents), k)
    values, places = scores.topk(k, dim=1)
    return _packed(values, documents[places])


def _packed(scores: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    return pack_(scores.to(torch.float64, copy=True), documents)


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute products of float32 in float32, whatever was set before: TF32 and bfloat16 err by far more."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    if not hasattr(backends[0], "fp32_precision"):  # torch before 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    settings = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, setting in zip(backends, settings, strict=True):
            backend.fp32_precision = setting
