"""The k documents nearest to each query by cosine: exact and blocked in torch, or through a FAISS index.

Exact means the same lists with every block size, ties included. Plain floats would not give that: how a matrix product
is rounded depends on the shape of its blocks. So unit vectors are rounded to whole multiples of 2^-26 (finer than
float32), whose products float64 adds up without any rounding, and the score and the document are packed into one
number. No two candidates are equal then, and what `topk` does with ties cannot matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from saha_st.mining.checks import inverse_norms

_GRID = 2.0**26  # steps in 1: sums of products need 2·26 bits, a packed score 27 and its document 26; float64 has 53
_BLOCK_SIZE = {"cpu": 1024, "cuda": 4096}
_DOCUMENTS_PER_QUERY = 16  # shape of a block: `topk` is faster on long rows
_TRAINING_DOCUMENTS = 262_144  # FAISS trains an index on a sample; it takes 256 documents a centroid at most


def top_k(
    queries: np.ndarray | torch.Tensor,
    documents: np.ndarray | torch.Tensor,
    k: int,
    *,
    backend: Literal["torch", "faiss"] = "torch",
    device: str | torch.device | None = None,
    block_size: int | None = None,
    faiss_index: str | None = None,
    faiss_parameters: str | None = None,
    show_progress_bar: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest documents of each query by cosine similarity.

    Args:
        queries: shape (queries, dim), any float type and length of vectors. A memory map is read block by block.
        documents: shape (documents, dim), likewise.
        k: neighbours a query; all documents if there are fewer.
        backend: "torch" is exact and deterministic, equal scores in the order of the documents. "faiss" builds an
            index in memory (float32); which of several equal documents ends a list is its own affair.
        device: where torch computes. None: the GPU if there is one, else the CPU.
        block_size: queries in a block, which has 16 times as many documents. Changes the speed and the memory (128
            bytes times its square) but never the result. None: 1024 on the CPU, 4096 on a GPU.
        faiss_index: what FAISS shall build, in the words of its `index_factory`: "IVF1024,Flat", "HNSW32", ...
            None: exact search.
        faiss_parameters: search parameters of that index, such as "nprobe=32" or "efSearch=64".
        show_progress_bar: show a bar over blocks of queries.

    Returns:
        The ids of the documents, best first, int32, and their cosines, float32; both of shape (queries, k). An
        approximate index that finds fewer than k fills up with the id -1 and the score -inf.

    Raises:
        ValueError: if shapes do not fit, a vector is zero or not finite (the row is named), or an option has no
            meaning here.
        ImportError: if FAISS is asked for and not installed.
    """
    if backend not in ("torch", "faiss"):
        raise ValueError(f"backend must be 'torch' or 'faiss', got {backend!r}.")
    if backend == "torch" and (faiss_index is not None or faiss_parameters is not None):
        raise ValueError("faiss_index and faiss_parameters need backend='faiss', got backend='torch'.")
    if backend == "faiss":
        import_faiss()
    where = _exact_device(device) if backend == "torch" else torch.device("cpu")
    block_size = _BLOCK_SIZE.get(where.type, _BLOCK_SIZE["cuda"]) if block_size is None else block_size
    if k < 1 or block_size < 1:
        raise ValueError(f"k and block_size must be at least 1, got k={k} and block_size={block_size}.")
    queries, documents = as_array(queries), as_array(documents)
    _check_shapes(queries, documents, backend)
    norms = inverse_norms(queries, "queries"), inverse_norms(documents, "documents")
    k = min(k, len(documents))
    if backend == "faiss":
        search = _faiss_blocks(queries, documents, norms, k, block_size, faiss_index, faiss_parameters)
    else:
        search = _torch_blocks(queries, documents, norms, k, block_size, where)
    indices = np.empty((len(queries), k), dtype=np.int32)
    scores = np.empty((len(queries), k), dtype=np.float32)
    with tqdm(total=len(queries), desc="Neighbours", disable=not show_progress_bar) as bar:
        for start, block_indices, block_scores in search:
            stop = start + len(block_indices)
            indices[start:stop], scores[start:stop] = block_indices, block_scores
            bar.update(stop - start)
    return indices, scores


def paired_scores(
    queries: np.ndarray | torch.Tensor, documents: np.ndarray | torch.Tensor, document_of_query: np.ndarray
) -> np.ndarray:
    """Returns the cosine of each query and one document, the very number that `top_k` gives the pair.

    Args:
        queries: shape (queries, dim).
        documents: shape (documents, dim).
        document_of_query: shape (queries,), integers.

    Returns:
        Shape (queries,), float32.
    """
    queries, documents = as_array(queries), as_array(documents)
    query_norms, document_norms = inverse_norms(queries, "queries"), inverse_norms(documents, "documents")
    scores = np.empty(len(queries), dtype=np.float32)
    for rows in _slices(len(queries), _BLOCK_SIZE["cpu"]):
        chosen = document_of_query[rows]
        on_left = _on_grid(queries[rows], query_norms[rows]) / _GRID
        on_right = _on_grid(documents[chosen], document_norms[chosen])
        scores[rows] = _cosines((on_left * on_right).sum(dim=1).round_())
    return scores


Norms = tuple[np.ndarray, np.ndarray]  # 1 / length of the queries and of the documents
Blocks = Iterator[tuple[int, np.ndarray, np.ndarray]]  # first query, indices (block, k), scores (block, k)


@torch.inference_mode()
def _torch_blocks(
    queries: np.ndarray, documents: np.ndarray, norms: Norms, k: int, block_size: int, device: torch.device
) -> Blocks:
    query_norms, document_norms = norms
    # one buffer for every block: to ask the system for fresh memory takes longer than the product on a CPU
    largest = min(block_size, len(queries)) * min(_DOCUMENTS_PER_QUERY * block_size, len(documents))
    buffer = torch.empty(largest, dtype=torch.float64, device=device)
    for rows in _slices(len(queries), block_size):
        left = _on_grid(queries[rows], query_norms[rows], device) / _GRID  # (block, dim)
        best = left.new_empty((len(left), 0))
        for columns in _slices(len(documents), _DOCUMENTS_PER_QUERY * block_size):
            right = _on_grid(documents[columns], document_norms[columns], device)  # (documents of the block, dim)
            scores = buffer[: len(left) * len(right)].view(len(left), len(right))
            packed = _pack(torch.mm(left, right.T, out=scores), first_document=columns.start)
            best = torch.cat((best, _greatest(packed, k)), dim=1)
            best = _greatest(best, k)
        yield rows.start, *_unpack(best)


def _on_grid(block: np.ndarray, norms: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """Unit vectors as whole numbers of steps. Shape (block, dim), float64."""
    vectors = torch.tensor(np.asarray(block), device=device).to(torch.float64)
    return (vectors * torch.tensor(norms, device=device)[:, None]).mul_(_GRID).round_()


def _pack(scores: torch.Tensor, first_document: int) -> torch.Tensor:
    """In place: whole steps of score before the point, and behind it a fraction, greater for lower documents."""
    last = first_document + scores.shape[1]
    documents = torch.arange(first_document, last, dtype=scores.dtype, device=scores.device)
    return scores.round_().add_((_GRID - 1 - documents) / _GRID)


def _unpack(packed: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Documents and cosines of packed numbers."""
    steps = packed.floor()
    documents = _GRID - 1 - (packed - steps) * _GRID
    return documents.to(torch.int32).cpu().numpy(), _cosines(steps)


def _cosines(steps: torch.Tensor) -> np.ndarray:
    return (steps / _GRID).clamp_(-1, 1).float().cpu().numpy()


def _greatest(packed: torch.Tensor, k: int) -> torch.Tensor:
    return packed.topk(min(k, packed.shape[1]), dim=1).values


def _exact_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(device)
    if device.type == "mps":
        raise ValueError("device='mps' has no float64, which exact search needs. Set device='cpu' or backend='faiss'.")
    return device


def _faiss_blocks(
    queries: np.ndarray,
    documents: np.ndarray,
    norms: Norms,
    k: int,
    block_size: int,
    faiss_index: str | None,
    faiss_parameters: str | None,
) -> Blocks:
    faiss = import_faiss()
    query_norms, document_norms = norms
    index = faiss.index_factory(documents.shape[1], faiss_index or "Flat", faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        sample = np.unique(np.linspace(0, len(documents) - 1, _TRAINING_DOCUMENTS).astype(np.int64))
        index.train(_unit_float32(documents[sample], document_norms[sample]))
    for rows in _slices(len(documents), block_size):
        index.add(_unit_float32(documents[rows], document_norms[rows]))
    if faiss_parameters is not None:
        faiss.ParameterSpace().set_index_parameters(index, faiss_parameters)
    for rows in _slices(len(queries), block_size):
        scores, indices = index.search(_unit_float32(queries[rows], query_norms[rows]), k)
        scores[indices < 0] = -np.inf
        order = np.lexsort((indices, -scores), axis=1)  # equal scores in the order of the documents
        yield rows.start, np.take_along_axis(indices, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _check_shapes(queries: np.ndarray, documents: np.ndarray, backend: str) -> None:
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1] or len(documents) == 0:
        raise ValueError(
            f"queries (n, dim) and documents (m > 0, dim) do not fit: got {queries.shape} and {documents.shape}."
        )
    if backend == "torch" and len(documents) > _GRID:
        raise ValueError(
            f"Exact search serves up to {int(_GRID)} documents, got {len(documents)}. Set backend='faiss'."
        )


def import_faiss() -> Any:
    """Import FAISS, or say how to install it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError('backend="faiss" needs FAISS: pip install "saha-st[faiss]"') from error
    return faiss


def _unit_float32(block: np.ndarray, norms: np.ndarray) -> np.ndarray:
    return (np.asarray(block) * norms[:, None]).astype(np.float32)


def as_array(embeddings: np.ndarray | torch.Tensor) -> np.ndarray:
    """The embeddings in the memory of the host; bfloat16, which NumPy lacks, as float32."""
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().cpu()
        return (embeddings.float() if embeddings.dtype == torch.bfloat16 else embeddings).numpy()
    return np.asarray(embeddings)


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
