"""The best candidates of every query of an MMEB task, kept in a file from which any metric follows without the model.

One Parquet file per task. A row is a query: its id, the document that is its truth, how many candidates it has, and
the ten best of them with their similarities. Candidates that tie stand in the order of the query's list, in which the
truth is the first; similarities that are not numbers come last and are stored as null. So the truth is in the first
place, and a number, exactly where MMEB's own rule counts a hit. The file's metadata say of which model and data it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from saha_st.files import write_whole

NUM_KEPT = 10
"""How many candidates of a query are kept: the largest k of the leaderboard's metrics."""

_FORMAT_VERSION = "1"
_SCHEMA = pa.schema(
    {
        "query": pa.string(),
        "truth": pa.string(),
        "candidates": pa.int32(),
        "documents": pa.list_(pa.string()),
        "similarities": pa.list_(pa.float64()),
    }
)


@dataclass(frozen=True)
class RankingsSource:
    """What a file of rankings was computed from.

    Args:
        model_name: The model, `organisation/name`.
        model_revision: Its revision, as results are kept under.
        task: The task's name in mteb.
        dataset_revision: The revision of its data.
    """

    model_name: str
    model_revision: str
    task: str
    dataset_revision: str


@dataclass(frozen=True)
class Rankings:
    """The rankings of a task.

    Args:
        source: What they were computed from.
        table: A row per query; columns `query`, `truth`, `candidates` (how many), and the lists `documents` and
            `similarities`, of `NUM_KEPT` elements or as many as there are candidates.
    """

    source: RankingsSource
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def places(self) -> np.ndarray:
        """The place of each query's truth, from 1; 0 if it is not among the best or its similarity is no number."""
        columns = (self.table.column(name).to_pylist() for name in ("truth", "documents", "similarities"))
        lists = zip(*columns, strict=True)
        return np.fromiter((_place(*each) for each in lists), dtype=np.int64, count=len(self))


def rank(similarities: np.ndarray) -> np.ndarray:
    """Return the indices of the best of a query's candidates, best first; at most `NUM_KEPT`.

    Args:
        similarities: Shape (candidates,), in the order of the list; NaN is below every number.
    """
    return np.argsort(-similarities, kind="stable")[:NUM_KEPT]


def make_rankings(source: RankingsSource, queries: Iterable[tuple[str, Sequence[str], np.ndarray]]) -> Rankings:
    """Rank the candidates of every query.

    Args:
        source: What the similarities were computed from.
        queries: For each query its id, the ids of its candidates, the truth first, and their similarities, shape
            (candidates,), NaN for what is not a number.
    """
    rows = []
    for query, candidates, similarities in queries:
        best = rank(similarities)
        kept = [None if np.isnan(value) else value for value in similarities[best].tolist()]
        rows.append((query, candidates[0], len(candidates), [candidates[index] for index in best], kept))
    columns = zip(*rows, strict=True) if rows else ((),) * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return Rankings(source, pa.table(arrays, schema=_SCHEMA))


def rankings_file(folder: str | Path, task: str) -> Path:
    """Return where the rankings of a task are kept in a folder."""
    return Path(folder) / f"{task}.parquet"


def write_rankings(rankings: Rankings, folder: str | Path) -> Path:
    """Write `<folder>/<task>.parquet`, whole or not at all, in place of an older one; return the file."""
    file = rankings_file(folder, rankings.source.task)
    file.parent.mkdir(parents=True, exist_ok=True)
    table = rankings.table.replace_schema_metadata(asdict(rankings.source) | {"format_version": _FORMAT_VERSION})
    write_whole(file, lambda handle: pq.write_table(table, handle, compression="zstd"))
    return file


def read_rankings(file: str | Path) -> Rankings:
    """Read what `write_rankings` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no Parquet file, not one of rankings, or its rows contradict themselves.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there are no rankings. Evaluate the task again; they are written beside it.")
    try:
        table = pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a Parquet file ({error}). Delete it and evaluate the task again.") from error
    metadata = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    if problem := _problem(table, metadata):
        raise ValueError(f"{file} holds no rankings of this version: {problem}. Evaluate the task again.")
    return Rankings(RankingsSource(**{each.name: metadata[each.name] for each in fields(RankingsSource)}), table)


def _place(truth: str, documents: Sequence[str], similarities: Sequence[float | None]) -> int:
    if truth not in documents:
        return 0
    index = documents.index(truth)
    return 0 if similarities[index] is None else index + 1


def _problem(table: pa.Table, metadata: Mapping[str, str]) -> str | None:
    """Say what is wrong with a file, or return `None`."""
    wanted = ["format_version", *(each.name for each in fields(RankingsSource))]
    if missing := [name for name in wanted if name not in metadata]:
        return f"its metadata lack {missing}"
    if metadata["format_version"] != _FORMAT_VERSION:
        return f"its format version is {metadata['format_version']!r}, not {_FORMAT_VERSION!r}"
    if not table.schema.equals(_SCHEMA):
        return f"its columns are {dict(zip(table.schema.names, map(str, table.schema.types), strict=True))}"
    if any(table.column(name).null_count for name in ("query", "truth", "candidates", "documents", "similarities")):
        return "a cell is empty"
    if not len(table):
        return "it has no rows"
    kept = np.minimum(np.asarray(table.column("candidates")), NUM_KEPT)
    lengths = [np.asarray(pc.list_value_length(table.column(name))) for name in ("documents", "similarities")]
    if bad := np.flatnonzero((lengths[0] != kept) | (lengths[1] != kept) | (kept < 1)).tolist():
        return f"row {bad[0]} does not have as many documents and similarities as it should"
    return None
