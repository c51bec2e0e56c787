"""Which documents of a batch are known to be right answers, and hence no negatives, of which anchor.

The labels of a batch are a list of (anchor, positive) pairs. A document is no negative of an anchor if the two are any
of these pairs, whichever rows they meet in. That covers the same document twice, several positives of one anchor, and
a positive of the anchor's other row that is in the batch once more as somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KnownPairs:
    """The (anchor, positive) pairs of the rows of a batch, made for looking up.

    Attributes:
        anchors: The anchor of each row, numbered from 0, shape (rows,).
        positives: The positive of each row, numbered from 0, shape (rows,).
        keys: One number for each pair, ascending, shape (rows,).
    """

    anchors: Tensor
    positives: Tensor
    keys: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> KnownPairs:
        """Index integer ``labels`` of shape (rows, 3), each [cluster, anchor, positive]."""
        # Numbered anew, as a key made of arbitrary numbers (hashes, say) could overflow and hit another pair.
        anchors, positives = (torch.unique(labels[:, column], return_inverse=True)[1] for column in (1, 2))
        return cls(anchors, positives, (anchors * len(labels) + positives).sort().values)

    def lookup(self, rows: Tensor) -> Tensor:
        """Whether the anchor of each of ``rows`` and the positive of each row are a pair, (len(rows), all rows)."""
        wanted = self.anchors[rows, None] * len(self.keys) + self.positives
        found = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return self.keys[found] == wanted
