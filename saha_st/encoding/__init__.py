"""Encode inputs: each distinct one once, in shards on disk that a later run takes up again, at the machine's pace.

A vector is stored under what it depends on: a folder per model and task (`vector_fingerprint`), and inside it the
content key of the input (`data.keys`). So a run that was killed goes on where it stopped, two datasets share what
they have in common, and vectors of another model, prompt or image resolution are never found.
"""

from __future__ import annotations

from saha_st.lazy import lazy_names

_HOMES = {
    "DistinctInputs": "columns",
    "EncodedColumn": "columns",
    "Encoder": "engine",
    "IN_MEMORY": "store",
    "RowReader": "engine",
    "Task": "fingerprints",
    "VectorOrigin": "written",
    "VectorStore": "store",
    "WrittenVectors": "written",
    "encode_column": "columns",
    "encode_distinct": "columns",
    "encode_iterable": "columns",
    "read_vectors": "written",
    "results_revision": "fingerprints",
    "vector_fingerprint": "fingerprints",
    "weights_digest": "fingerprints",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
