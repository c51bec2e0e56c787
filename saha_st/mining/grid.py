"""Cosines that are the same on every machine, and numbers that hold a cosine and its document.

How a matrix product is rounded depends on the shape of its blocks. So unit vectors are rounded to whole multiples of
2^-26 (finer than float32), whose products float64 adds up in any order without rounding, and a score and its document
are packed into one number: no two candidates are equal then, and what `topk` does with ties cannot matter.
"""

from __future__ import annotations

import numpy as np
import torch

GRID = 2.0**26
"""Steps in 1: sums of products need 2·26 bits, a packed score 27 and its document 26; float64 has 53."""


def on_grid(block: np.ndarray, inverse_norms: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """Unit vectors as whole numbers of steps.

    Args:
        block: shape (block, dim), any float type.
        inverse_norms: 1 / length of each. Shape (block,), float64.
        device: where they shall be.

    Returns:
        Shape (block, dim), float64.
    """
    vectors = torch.tensor(np.asarray(block), device=device).to(torch.float64)
    return vectors.mul_(torch.tensor(inverse_norms * GRID, device=device)[:, None]).round_()


def pack_(scores: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """In place: whole steps of score before the point, and behind it a fraction, greater for lower documents.

    Args:
        scores: in steps, float64.
        documents: their documents, of a shape that spreads over that of the scores.
    """
    return scores.round_().add_((GRID - 1 - documents.to(torch.float64)) / GRID)


def documents_of(packed: torch.Tensor) -> torch.Tensor:
    """Documents of packed numbers, int64."""
    return (GRID - 1 - (packed - packed.floor()) * GRID).long()


def cosines_of(packed: torch.Tensor) -> torch.Tensor:
    """Cosines of packed numbers, or of steps, float32."""
    return (packed.floor() / GRID).clamp_(-1, 1).float()


def greatest(packed: torch.Tensor, k: int) -> torch.Tensor:
    """The k greatest of each row, in their order."""
    return packed.topk(k, dim=1).values
