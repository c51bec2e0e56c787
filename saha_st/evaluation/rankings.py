"""The best candidates of every query of an MMEB task, kept in a file from which any metric follows without the model.

One Parquet file per task. A row is a query: its id, the documents that are right with their grades, how many
candidates it has, and the ten best of them with their similarities. Candidates that tie stand in the order of the
query's list; similarities that are not numbers come last and are stored as null. In the lists of MMEB's image tasks
the truth is the first, so that it is in the first place, and a number, exactly where MMEB's own rule counts a hit. The
file's metadata say of which model and data it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from saha_st.evaluation.metrics import Judged
from saha_st.files import write_whole

NUM_KEPT = 10
"""How many candidates of a query are kept: the largest k of the leaderboard's metrics."""

_FORMAT_VERSION = "2"
_SCHEMA = pa.schema(
    {
        "query": pa.string(),
        "relevant": pa.list_(pa.string()),
        "grades": pa.list_(pa.int32()),
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
class Ranking:
    """The best candidates of one query.

    Args:
        query: Its id.
        relevant: The documents that are right, each with its grade, 1 or more.
        candidates: How many candidates it has.
        documents: The best of them, best first; `NUM_KEPT` or all.
        similarities: Their similarities, NaN for what is not a number.
    """

    query: str
    relevant: Mapping[str, int]
    candidates: int
    documents: Sequence[str]
    similarities: Sequence[float]


@dataclass(frozen=True)
class Rankings:
    """The rankings of a task.

    Args:
        source: What they were computed from.
        table: A row per query; columns `query`, the lists `relevant` and `grades`, `candidates` (how many), and the
            lists `documents` and `similarities`, of `NUM_KEPT` elements or as many as there are candidates.
    """

    source: RankingsSource
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def judged(self) -> Judged:
        """The grades of the best of every query; a document whose similarity is not a number counts as not right."""
        return judge(_rankings_in(self.table))


def judge(rankings: Iterable[Ranking]) -> Judged:
    """Return the grades of the best of every query, and what the best order would have."""
    gains, ideal, num_relevant, total_grade = [], [], [], []
    for each in rankings:
        pairs = zip(each.documents, each.similarities, strict=True)
        gains.append(_padded([each.relevant.get(name, 0) * (not np.isnan(value)) for name, value in pairs]))
        ideal.append(_padded(sorted(each.relevant.values(), reverse=True)))
        num_relevant.append(len(each.relevant))
        total_grade.append(sum(each.relevant.values()))
    shape = (-1, NUM_KEPT)
    return Judged(
        np.reshape(np.array(gains, dtype=np.float64), shape),
        np.reshape(np.array(ideal, dtype=np.float64), shape),
        np.array(num_relevant, dtype=np.int64),
        np.array(total_grade, dtype=np.float64),
    )


def rank(similarities: np.ndarray) -> np.ndarray:
    """Return the indices of the best of a query's candidates, best first; at most `NUM_KEPT`.

    Args:
        similarities: Shape (candidates,), in the order of the list; NaN is below every number.
    """
    return np.argsort(-similarities, kind="stable")[:NUM_KEPT]


def rank_list(
    query: str, candidates: Sequence[str], similarities: np.ndarray, relevant: Mapping[str, int] | None = None
) -> Ranking:
    """Rank the candidates of a query.

    Args:
        query: Its id.
        candidates: Their ids.
        similarities: Shape (candidates,), NaN for what is not a number.
        relevant: The documents that are right, with their grades. Default: the first candidate, as in MMEB.
    """
    best = rank(similarities)
    relevant = {candidates[0]: 1} if relevant is None else relevant
    return Ranking(query, relevant, len(candidates), [candidates[i] for i in best], similarities[best].tolist())


def make_rankings(source: RankingsSource, rankings: Iterable[Ranking]) -> Rankings:
    """Put the rankings of all queries into one table.

    Args:
        source: What the similarities were computed from.
        rankings: The best candidates of every query.
    """
    rows = [
        (
            each.query,
            list(each.relevant),
            list(each.relevant.values()),
            each.candidates,
            each.documents,
            [None if np.isnan(value) else value for value in each.similarities],
        )
        for each in rankings
    ]
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
    if metadata.get("format_version") == "1" and "truth" in table.schema.names:
        table, metadata = _without_grades(table), metadata | {"format_version": _FORMAT_VERSION}
    if problem := _problem(table, metadata):
        raise ValueError(f"{file} holds no rankings of this version: {problem}. Evaluate the task again.")
    return Rankings(RankingsSource(**{each.name: metadata[each.name] for each in fields(RankingsSource)}), table)


def _rankings_in(table: pa.Table) -> Iterator[Ranking]:
    for row in table.to_pylist():
        similarities = [np.nan if value is None else value for value in row["similarities"]]
        relevant = dict(zip(row["relevant"], row["grades"], strict=True))
        yield Ranking(row["query"], relevant, row["candidates"], row["documents"], similarities)


def _padded(values: Sequence[float]) -> list[float]:
    return [*values[:NUM_KEPT], *[0] * (NUM_KEPT - len(values))]


def _without_grades(table: pa.Table) -> pa.Table:
    """Return a table of the first version, which had one truth for each query, as one of this version."""
    columns = {name: table.column(name) for name in table.schema.names}
    columns["relevant"] = pa.array([[truth] for truth in columns.pop("truth").to_pylist()], pa.list_(pa.string()))
    columns["grades"] = pa.array([[1]] * len(table), pa.list_(pa.int32()))
    return pa.table({name: columns[name] for name in _SCHEMA.names})


def _problem(table: pa.Table, metadata: Mapping[str, str]) -> str | None:
    """Say what is wrong with a file, or return `None`."""
    wanted = ["format_version", *(each.name for each in fields(RankingsSource))]
    if missing := [name for name in wanted if name not in metadata]:
        return f"its metadata lack {missing}"
    if metadata["format_version"] != _FORMAT_VERSION:
        return f"its format version is {metadata['format_version']!r}, not {_FORMAT_VERSION!r}"
    if not table.schema.equals(_SCHEMA):
        return f"its columns are {dict(zip(table.schema.names, map(str, table.schema.types), strict=True))}"
    lists = [pc.list_flatten(table.column(name)) for name in ("relevant", "grades", "documents")]
    if any(column.null_count for column in (*table.columns, *lists)):
        return "a cell is empty"
    if not len(table):
        return "it has no rows"
    kept = np.minimum(np.asarray(table.column("candidates")), NUM_KEPT)
    lengths = [np.asarray(pc.list_value_length(table.column(name))) for name in ("documents", "similarities")]
    counts = [np.asarray(pc.list_value_length(table.column(name))) for name in ("relevant", "grades")]
    if bad := np.flatnonzero((counts[0] != counts[1]) | (counts[0] < 1)).tolist():
        return f"row {bad[0]} does not have a grade for each of its relevant documents"
    if bad := np.flatnonzero((lengths[0] != kept) | (lengths[1] != kept) | (kept < 1)).tolist():
        return f"row {bad[0]} does not have as many documents and similarities as it should"
    return None
