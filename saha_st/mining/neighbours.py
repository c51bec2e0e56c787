"""The k documents nearest to each query by cosine: exact and blocked in torch, or through a FAISS index.

Exact means the same lists and scores, to the bit, with every block size, device and number of processes, ties
included: scores are those of `saha_st.mining.grid`. How that is as fast as a float32 product says
`saha_st.mining.exact`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from saha_st.errors import MemoryFullError
from saha_st.files import map_new_array
from saha_st.mining.checks import inverse_norms
from saha_st.mining.exact import ExactSearch
from saha_st.mining.faiss_index import FaissSearch, import_faiss, slices
from saha_st.mining.grid import GRID, cosines_of, documents_of, greatest, on_grid
from saha_st.ranks import Ranks

_BLOCK_SIZE = {"cpu": 1024, "cuda": 4096}
_DOCUMENTS_PER_QUERY = 16  # shape of a block: each document is converted, and each query's list merged, once a block

Lists = tuple[np.ndarray, np.ndarray]  # documents (queries, k), cosines (queries, k)


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
    output_folder: str | os.PathLike[str] | None = None,
    ranks: Ranks | None = None,
    show_progress_bar: bool = False,
) -> Lists | None:
    """Finds the nearest documents of each query by cosine similarity.

    Memory beyond the arguments is 8 bytes for each entry of the result, 8 for each query, 16 for each document, and
    the blocks; a GPU holds the documents too if they fit into half of its free memory, and else two blocks. For 1M x
    1M of 256 float16 dimensions and k = 90 that is 10^6 · 90 · 8 = 720 MB of results (on disk with `output_folder`),
    24 · 10^6 = 24 MB of lengths, and on a CPU blocks of 1024 · 16384 · 4 = 67 MB of scores, 16384 · 256 · 4 = 17 MB of
    documents and 17 MB of candidates: under 1 GB, where the embeddings are 1 GB and all scores would be 4 TB. Time is
    that of 2 · 10^12 · 256 float32 operations, 5.1 · 10^14: 23 minutes at 0.37 TFLOP/s (two CPU cores), 13 s at 40
    TFLOP/s (a large GPU).

    Args:
        queries: shape (queries, dim), any float type and length of vectors. A memory map is read block by block.
        documents: shape (documents, dim), likewise.
        k: neighbours a query; all documents if there are fewer.
        backend: "torch" is exact and deterministic, equal scores in the order of the documents. "faiss" builds an
            index in memory (float32); which of several equal documents ends a list is its own affair.
        device: where torch computes. None: the GPU if there is one, else the CPU.
        block_size: queries in a block, which has 16 times as many documents. Changes the speed and the memory (64
            bytes times its square, 128 more where float32 does not suffice) but never the result. None: 1024 on the
            CPU, 4096 on a GPU.
        faiss_index: what FAISS shall build, in the words of its `index_factory`: "IVF1024,Flat", "HNSW32", ...
            None: exact search.
        faiss_parameters: search parameters of that index, such as "nprobe=32" or "efSearch=64".
        output_folder: write the result into `neighbours.npy` and `scores.npy` there, and return memory maps of them.
            None: the result is in memory.
        ranks: the processes that search together, all with the same arguments: each in its share of the documents,
            the first one merges. FAISS works in the first one alone. None: this process alone.
        show_progress_bar: show a bar over blocks of queries.

    Returns:
        The ids of the documents, best first, int32, and their cosines, float32; both of shape (queries, k). An
        approximate index that finds fewer than k fills up with the id -1 and the score -inf. In processes other than
        the first: None.

    Raises:
        ValueError: if shapes do not fit, a vector is zero or not finite (the row is named), or an option has no
            meaning here.
        MemoryFullError: if the device's memory is full.
        OSError: if `output_folder` has no room for the result.
        ImportError: if FAISS is asked for and not installed.
    """
    search = NeighbourSearch(
        queries,
        documents,
        k,
        backend=backend,
        device=device,
        block_size=block_size,
        faiss_index=faiss_index,
        faiss_parameters=faiss_parameters,
        ranks=ranks,
    )
    results = search.room(output_folder)
    disable = not (show_progress_bar and search.ranks.is_main)
    with tqdm(total=search.queries, desc="Neighbours", disable=disable) as bar:
        for rows in slices(search.queries, search.block_size):
            found = search(rows)
            if results is not None:
                results[0][rows], results[1][rows] = found
            bar.update(rows.stop - rows.start)
    return results


class NeighbourSearch:
    """The search of `top_k`, made ready to be asked for a block of queries at a time.

    The arguments are those of `top_k`; all processes must make one, and ask it for the same queries.

    Attributes:
        queries: how many queries there are.
        k: neighbours a query.
        block_size: how many queries it should be asked for at a time.
        ranks: the processes that search together.
    """

    def __init__(
        self,
        queries: np.ndarray | torch.Tensor,
        documents: np.ndarray | torch.Tensor,
        k: int,
        *,
        backend: Literal["torch", "faiss"] = "torch",
        device: str | torch.device | None = None,
        block_size: int | None = None,
        faiss_index: str | None = None,
        faiss_parameters: str | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        _check_options(k, block_size, backend, faiss_index, faiss_parameters)
        where = _exact_device(device) if backend == "torch" else torch.device("cpu")
        self.block_size = block_size or _BLOCK_SIZE.get(where.type, _BLOCK_SIZE["cuda"])
        self._queries, documents = as_array(queries), as_array(documents)
        _check_shapes(self._queries, documents, backend)
        with self.ranks.together():
            self._norms, norms = inverse_norms(self._queries, "queries"), inverse_norms(documents, "documents")
        self.queries, self.k = len(self._queries), min(k, len(documents))
        self._faiss = self._exact = None
        with self.ranks.together(), _named_if_memory_is_full(where):
            if backend == "torch":
                share = _share(len(documents), self.ranks)
                size = {"block_size": _DOCUMENTS_PER_QUERY * self.block_size}
                first = {"first_document": share.start, "device": where}
                self._exact = ExactSearch(documents[share], norms[share], self.k, **first, **size)
            elif self.ranks.is_main:
                options = {"index": faiss_index, "parameters": faiss_parameters, "block_size": self.block_size}
                self._faiss = FaissSearch(documents, norms, self.k, **options)

    def __call__(self, rows: slice | np.ndarray) -> Lists | None:
        """Documents and cosines of some queries, each (rows, k); None in processes other than the first."""
        if self._faiss is not None:
            return self._faiss.nearest(self._queries[rows], self._norms[rows])
        if self._exact is None:
            return None
        with _named_if_memory_is_full(self._exact.device):
            best = _best_of_all(self._exact.nearest(self._queries[rows], self._norms[rows]), self.ranks)
        if best is None:
            return None
        return documents_of(best).int().cpu().numpy(), cosines_of(best).cpu().numpy()

    def room(self, output_folder: str | os.PathLike[str] | None) -> Lists | None:
        """Room for the lists of all queries, as `top_k` returns them; None in processes other than the first."""
        if not self.ranks.is_main:
            return None
        shape = (self.queries, self.k)
        if output_folder is None or self.queries == 0:  # an empty file cannot be mapped
            return np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.float32)
        folder = Path(output_folder)
        folder.mkdir(parents=True, exist_ok=True)
        return (
            map_new_array(folder / "neighbours.npy", np.int32, shape),
            map_new_array(folder / "scores.npy", np.float32, shape),
        )


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
    for rows in slices(len(queries), _BLOCK_SIZE["cpu"]):
        chosen = document_of_query[rows]
        on_left = on_grid(queries[rows], query_norms[rows]) / GRID
        on_right = on_grid(documents[chosen], document_norms[chosen])
        scores[rows] = cosines_of((on_left * on_right).sum(dim=1).round_()).numpy()
    return scores


def _share(documents: int, ranks: Ranks) -> slice:
    """The documents that this process searches in."""
    return slice(documents * ranks.rank // ranks.count, documents * (ranks.rank + 1) // ranks.count)


def _best_of_all(best: torch.Tensor, ranks: Ranks) -> torch.Tensor | None:
    """Merges the packed lists of all processes in the first one. Shape (block, k) in each."""
    if ranks.count == 1:
        return best
    from torch import distributed

    home = {"gloo": "cpu", "nccl": "cuda"}.get(distributed.get_backend())  # a group of both takes what comes
    best = best.to(home or best.device)
    shares = [torch.empty_like(best) for _ in range(ranks.count)] if ranks.is_main else None
    distributed.gather(best, shares)
    return greatest(torch.cat(shares, dim=1), best.shape[1]) if shares else None


@contextmanager
def _named_if_memory_is_full(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryFullError(
            f"The search for neighbours does not fit into the memory of {device} ({str(error).splitlines()[0]}). End "
            "what else runs there, lower block_size, or search on the CPU (CUDA_VISIBLE_DEVICES='' for the command)."
        ) from error


def _exact_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(device)
    if device.type == "mps":
        raise ValueError("device='mps' has no float64, which exact search needs. Set device='cpu' or backend='faiss'.")
    return device


def _check_options(
    k: int, block_size: int | None, backend: str, faiss_index: str | None, faiss_parameters: str | None
) -> None:
    if backend not in ("torch", "faiss"):
        raise ValueError(f"backend must be 'torch' or 'faiss', got {backend!r}.")
    if backend == "torch" and (faiss_index is not None or faiss_parameters is not None):
        raise ValueError("faiss_index and faiss_parameters need backend='faiss', got backend='torch'.")
    if backend == "faiss":
        import_faiss()
    if k < 1 or (block_size is not None and block_size < 1):
        raise ValueError(f"k and block_size must be at least 1, got k={k} and block_size={block_size}.")


def _check_shapes(queries: np.ndarray, documents: np.ndarray, backend: str) -> None:
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1] or len(documents) == 0:
        raise ValueError(
            f"queries (n, dim) and documents (m > 0, dim) do not fit: got {queries.shape} and {documents.shape}."
        )
    if backend == "torch" and len(documents) > GRID:
        raise ValueError(
            f"Exact search serves up to {int(GRID)} documents, got {len(documents)}. Set backend='faiss'."
        )


def as_array(embeddings: np.ndarray | torch.Tensor) -> np.ndarray:
    """The embeddings in the memory of the host; bfloat16, which NumPy lacks, as float32."""
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().cpu()
        return (embeddings.float() if embeddings.dtype == torch.bfloat16 else embeddings).numpy()
    return np.asarray(embeddings)
