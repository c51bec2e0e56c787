"""METIS, an optional partitioner of graphs: parts of about equal size that cut few edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from saha_st.mining.rank_windows import Graph


def metis_parts(graph: Graph, parts: int, *, seed: int) -> np.ndarray:
    """Divides the rows of a graph.

    Args:
        graph: its edges only.
        parts: how many parts are wanted; some may stay empty.
        seed: seed of METIS.

    Returns:
        The part of each row. Shape (rows,).
    """
    pymetis = import_pymetis()
    kind = np.dtype(pymetis.zero_copy_dtype())
    adjacency = pymetis.CSRAdjacency(graph.starts.astype(kind), graph.others.astype(kind))
    found = pymetis.part_graph(parts, adjacency=adjacency, options=pymetis.Options(seed=seed))
    return np.asarray(found[1], dtype=np.int64)


def import_pymetis() -> Any:
    """Imports METIS, or says how to get it."""
    try:
        import pymetis
    except ImportError as error:
        raise ImportError(
            "partitioner='metis' needs pymetis: pip install 'saha-st[metis]' (x86-64 Linux and macOS; elsewhere pip "
            "install pymetis compiles it). Or leave partitioner='greedy', which needs nothing."
        ) from error
    return pymetis
