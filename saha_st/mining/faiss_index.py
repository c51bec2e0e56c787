"""Search through a FAISS index, in memory and float32, for what exact search no longer serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_TRAINING_DOCUMENTS = 262_144  # FAISS trains an index on a sample; it takes 256 documents a centroid at most


class FaissSearch:
    """An index of the documents.

    Args:
        documents: shape (documents, dim).
        inverse_norms: 1 / length of each. Shape (documents,).
        k: neighbours a query.
        block_size: documents that are handed over in one go.
        index: as `faiss_index` of `top_k`.
        parameters: as `faiss_parameters` of `top_k`.
    """

    def __init__(
        self,
        documents: np.ndarray,
        inverse_norms: np.ndarray,
        k: int,
        *,
        block_size: int,
        index: str | None,
        parameters: str | None,
    ) -> None:
        faiss = import_faiss()
        self._k = k
        self._index = faiss.index_factory(documents.shape[1], index or "Flat", faiss.METRIC_INNER_PRODUCT)
        if not self._index.is_trained:
            sample = np.unique(np.linspace(0, len(documents) - 1, _TRAINING_DOCUMENTS).astype(np.int64))
            self._index.train(_unit_float32(documents[sample], inverse_norms[sample]))
        for rows in slices(len(documents), block_size):
            self._index.add(_unit_float32(documents[rows], inverse_norms[rows]))
        if parameters is not None:
            faiss.ParameterSpace().set_index_parameters(self._index, parameters)

    def nearest(self, queries: np.ndarray, inverse_norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Search for a block of queries.

        Args:
            queries: shape (block, dim).
            inverse_norms: 1 / length of each. Shape (block,).

        Returns:
            Documents and cosines, best first. Shape (block, k); -1 and -inf where none was found.
        """
        scores, indices = self._index.search(_unit_float32(queries, inverse_norms), self._k)
        scores[indices < 0] = -np.inf
        order = np.lexsort((indices, -scores), axis=1)  # equal scores in the order of the documents
        return np.take_along_axis(indices, order, axis=1), np.take_along_axis(scores, order, axis=1)


def import_faiss() -> Any:
    """Import FAISS, or say how to install it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError('backend="faiss" needs FAISS: pip install "saha-st[faiss]"') from error
    return faiss


def slices(length: int, size: int) -> Iterator[slice]:
    """Parts of a length, all of one size but for the last."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _unit_float32(block: np.ndarray, norms: np.ndarray) -> np.ndarray:
    return (np.asarray(block) * norms[:, None]).astype(np.float32)
