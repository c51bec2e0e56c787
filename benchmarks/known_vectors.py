"""A stand-in for a model whose vectors are there already, for functions that want a model and texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class KnownVectors:
    """Stands for a model whose vectors are there already: encoding looks them up by their text.

    Args:
        vectors: A unit vector for each text, shape (dim,).
    """

    device = torch.device("cpu")

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self._vectors = vectors

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        """Vectors of some texts."""
        return np.stack([self._vectors[text] for text in texts])

    encode_document = encode_query

    def similarity(self, queries: Any, documents: Any) -> torch.Tensor:
        """Cosines, as vectors have length 1."""
        return torch.as_tensor(queries) @ torch.as_tensor(documents).T

    def similarity_pairwise(self, queries: Any, documents: Any) -> torch.Tensor:
        """Cosine of each query with its own document."""
        return (torch.as_tensor(queries) * torch.as_tensor(documents)).sum(dim=-1)

    def get_embedding_dimension(self) -> int:
        """Entries of a vector."""
        return len(next(iter(self._vectors.values())))
