"""What the cluster rule and the search refuse, said before anything expensive begins.

Every check names the argument, what was found (the first bad row, and how many), and the way out. NumPy only: the
cluster rule, which must not know torch, uses them too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLOCK = 4096  # rows looked at in one go: bounds the memory, and is the same for every caller, as norms are reused


def check_options(
    num_negatives: int, pool_multiplier: int, max_owner_similarity: float | None, relative_margin: float | None
) -> None:
    """Refuses values of the cluster rule's options that have no meaning."""
    for name, value in (("num_negatives", num_negatives), ("pool_multiplier", pool_multiplier)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if max_owner_similarity is not None and not -1 <= max_owner_similarity <= 1:
        raise ValueError(f"max_owner_similarity is a cosine and must lie in [-1, 1], got {max_owner_similarity}.")
    if relative_margin is not None and not 0 <= relative_margin <= 1:
        raise ValueError(f"relative_margin is a share and must lie in [0, 1], got {relative_margin}.")


def check_builder(builder: str, partitioner: str, range_min: int, range_max: int | None) -> None:
    """Refuses a builder that there is not, and values of the options of communities that have no meaning."""
    if builder not in ("owners", "communities"):
        raise ValueError(f"builder must be 'owners' or 'communities', got {builder!r}.")
    if partitioner not in ("greedy", "metis"):
        raise ValueError(f"partitioner must be 'greedy' or 'metis', got {partitioner!r}.")
    for name, value in (("range_min", range_min), ("range_max", range_max)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
    if range_min < 0:
        raise ValueError(f"range_min is a rank and must be at least 0, got {range_min}.")
    if range_max is not None and range_max <= range_min:
        raise ValueError(
            f"range_max must be above range_min, or the window is empty; got range_min={range_min} and "
            f"range_max={range_max}. Leave range_max out for a window as wide as the pool."
        )
    given = {"range_min": (range_min, 0), "range_max": (range_max, None), "partitioner": (partitioner, "greedy")}
    given = {name: value for name, (value, default) in given.items() if value != default}
    if builder == "owners" and given:
        named = " and ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"{named}: of builder='communities' alone, but builder is 'owners'. Set builder='communities' (--builder "
            "communities), or leave it out."
        )


def check_document_of_row(document_of_row: np.ndarray | Sequence[int], *, num_negatives: int) -> np.ndarray:
    """Checks that the rows can form clusters of `num_negatives` mates at all.

    Args:
        document_of_row: the document that is each row's positive. Shape (rows,), integers from 0.
        num_negatives: mates in a full cluster.

    Returns:
        `document_of_row` as an int64 array.

    Raises:
        ValueError: if it is not one-dimensional, not of integers, negative, has fewer than two rows, or if fewer than
            `num_negatives` + 1 documents have an owner.
    """
    document_of_row = np.asarray(document_of_row)
    if document_of_row.ndim != 1:
        raise ValueError(f"document_of_row must have the shape (rows,), got {document_of_row.shape}.")
    rows = len(document_of_row)
    if rows < 2:
        raise ValueError(
            f"document_of_row has {rows} rows, but a cluster needs an anchor and at least one mate. "
            "Give at least two (anchor, positive) pairs with different positives."
        )
    if not np.issubdtype(document_of_row.dtype, np.integer):
        raise ValueError(f"document_of_row must hold integers, got {document_of_row.dtype}.")
    document_of_row = document_of_row.astype(np.int64, copy=False)
    _refuse_rows(document_of_row < 0, "document_of_row", "are negative; documents are numbered from 0")
    documents = len(np.unique(document_of_row))
    if num_negatives > documents - 1:
        raise ValueError(
            f"num_negatives={num_negatives} is larger than the data: {rows} rows with {documents} different positives "
            f"leave at most {documents - 1} negatives for an anchor. Set num_negatives to {max(documents - 1, 1)} or "
            "less" + (", or add rows." if documents > 1 else ", and add rows with other positives.")
        )
    return document_of_row


def anchor_codes(anchor_key: np.ndarray | Sequence | None, rows: int) -> np.ndarray:
    """Numbers the anchors: rows with the same key get the same number.

    Args:
        anchor_key: one sortable key (integer, string, ...) a row; None: every row has an anchor of its own.
        rows: the number of rows.

    Returns:
        Shape (rows,), int64, numbers from 0 without gaps.

    Raises:
        ValueError: if there is not exactly one key a row.
    """
    if anchor_key is None:
        return np.arange(rows)
    keys = np.asarray(anchor_key)
    if keys.shape != (rows,):
        raise ValueError(f"anchor_key must hold one key for each of the {rows} rows, got the shape {keys.shape}.")
    return np.unique(keys, return_inverse=True)[1].astype(np.int64, copy=False)


def check_rows(
    neighbours: np.ndarray,
    anchor_embeddings: np.ndarray,
    document_of_row: np.ndarray | Sequence[int],
    anchor_key: np.ndarray | Sequence | None,
    *,
    num_negatives: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns what both builders are given of rows: lists, embeddings, documents, and a code for each anchor.

    Raises:
        ValueError: `document_of_row` or `anchor_key` does not fit, or there are not as many embeddings as rows.
    """
    document_of_row = check_document_of_row(document_of_row, num_negatives=num_negatives)
    rows = len(document_of_row)
    anchor_of_row = anchor_codes(anchor_key, rows)
    neighbours, anchor_embeddings = np.asarray(neighbours), np.asarray(anchor_embeddings)
    if len(anchor_embeddings) != rows:
        raise ValueError(f"anchor_embeddings has {len(anchor_embeddings)} rows, document_of_row has {rows}.")
    return neighbours, anchor_embeddings, document_of_row, anchor_of_row


def check_neighbours(neighbours: np.ndarray, rows: int, *, documents: int, pool_size: int) -> int:
    """Checks top-k lists: their shape and width, that ids are in range and that no list names a document twice.

    Args:
        neighbours: document ids in rank order, padded with -1. Shape (rows, k).
        rows: the number of rows that is expected.
        documents: the number of documents that are known so far; ids beyond it are documents that nobody owns.
        pool_size: how many documents the rule looks at for a row.

    Returns:
        The number of documents, those that nobody owns included.
    """
    if neighbours.ndim != 2 or len(neighbours) != rows or not np.issubdtype(neighbours.dtype, np.integer):
        raise ValueError(
            f"neighbours must hold integers in the shape ({rows}, k), got {neighbours.dtype} {neighbours.shape}."
        )
    low, high = (int(neighbours.min()), int(neighbours.max())) if neighbours.size else (0, -1)
    if low < -1:
        raise ValueError(f"neighbours holds the id {low}; documents are numbered from 0, and -1 fills up a list.")
    documents = max(documents, high + 1)
    if neighbours.shape[1] < min(pool_size, documents):
        raise ValueError(
            f"neighbours lists {neighbours.shape[1]} documents a row, but the pool is {min(pool_size, documents)}. "
            "Search for more neighbours, or lower num_negatives or pool_multiplier."
        )
    twice = np.zeros(rows, dtype=bool)
    for start in range(0, rows, _BLOCK):
        block = np.sort(neighbours[start : start + _BLOCK], axis=1)
        twice[start : start + _BLOCK] = ((block[:, 1:] == block[:, :-1]) & (block[:, 1:] >= 0)).any(axis=1)
    _refuse_rows(twice, "neighbours", "name a document twice; each list must hold different ids")
    return documents


def score_limits(
    relative_margin: float | None,
    neighbours: np.ndarray,
    neighbour_scores: np.ndarray | None,
    positive_scores: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the scores of the neighbours and the greatest one that each row allows; None without a margin.

    Args:
        relative_margin: how far below the score of the row's positive others must stay, as a share of it.
        neighbours: shape (rows, k).
        neighbour_scores: shape (rows, k).
        positive_scores: shape (rows,).

    Returns:
        Shapes (rows, k) and (rows,).

    Raises:
        ValueError: if a margin is set and the scores are missing or of another shape.
    """
    if relative_margin is None:
        return None
    if neighbour_scores is None or positive_scores is None:
        raise ValueError("relative_margin needs scores: give neighbour_scores (rows, k) and positive_scores (rows,).")
    scores, positives = np.asarray(neighbour_scores), np.asarray(positive_scores)
    if scores.shape != neighbours.shape or positives.shape != (len(neighbours),):
        raise ValueError(
            f"neighbour_scores must have the shape {neighbours.shape} of neighbours, and positive_scores the shape "
            f"({len(neighbours)},); got {scores.shape} and {positives.shape}."
        )
    return scores, positives - relative_margin * np.abs(positives)


def inverse_norms(embeddings: np.ndarray, name: str) -> np.ndarray:
    """Returns 1 / length of each row, and refuses rows that have no direction.

    Args:
        embeddings: shape (rows, dim), any float type; read in blocks, so a memory map is fine.
        name: the argument's name, for the message.

    Returns:
        Shape (rows,), float64.

    Raises:
        ValueError: if the shape is not (rows, dim), or rows hold NaN or infinity, or are zero.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] == 0 or not np.issubdtype(embeddings.dtype, np.floating):
        raise ValueError(
            f"{name} must hold floats in the shape (rows, dim), got {embeddings.dtype} {embeddings.shape}."
        )
    squares = np.empty(len(embeddings))
    for start in range(0, len(embeddings), _BLOCK):
        block = np.asarray(embeddings[start : start + _BLOCK], dtype=np.float64)
        squares[start : start + _BLOCK] = np.einsum("nd,nd->n", block, block)
    _refuse_rows(~np.isfinite(squares), name, "hold NaN or infinity; encode them again, in float32 if they overflowed")
    _refuse_rows(squares == 0, name, "are zero vectors, which have no direction; encode them again, or drop them")
    return 1 / np.sqrt(squares)


def _refuse_rows(bad: np.ndarray, name: str, why: str) -> None:
    if bad.any():
        raise ValueError(f"{name}: {int(bad.sum())} of {len(bad)} rows {why}. The first is row {bad.argmax()}.")
