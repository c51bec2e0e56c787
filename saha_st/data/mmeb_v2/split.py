"""A task as what is ranked: queries, documents, which are right, and which each query ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Image, List, Value

from saha_st.data.cells import images_from_paths

_VIDEO = List(Image())


@dataclass(frozen=True)
class RankingSplit:
    """The data of a task.

    Args:
        queries: Columns `id`, and of `image`, `video` (a list of frames) and `text` those that there are, in this
            order. Pictures and frames are references: nothing is decoded before a row is read.
        documents: As `queries`.
        relevant: By query, the documents that are right, each with its grade.
        candidates: By query, the documents it ranks, in the order in which equal ones stand; `None` if all queries
            rank all documents.
    """

    queries: Dataset
    documents: Dataset
    relevant: dict[str, dict[str, int]]
    candidates: dict[str, list[str]] | None


@dataclass(frozen=True)
class Cell:
    """A text, and the picture or the frames beside it."""

    text: str
    image: str | None = None
    video: Sequence[str] | None = None


@dataclass(frozen=True)
class Query:
    """A query.

    Args:
        cell: What is asked.
        relevant: Names of the right documents, each with its grade.
        candidates: Names of the documents that it ranks; `None` for all.
    """

    cell: Cell
    relevant: Mapping[str, int]
    candidates: Sequence[str] | None = None


def instructed(instruction: str, text: str | None) -> str:
    """Return an instruction and the text it is about; alone, without a space behind it, if there is no text."""
    return f"{instruction} {text}" if text else instruction


def ranking_split(queries: Sequence[Query], documents: Mapping[str, Cell]) -> RankingSplit:
    """Give queries and documents their ids.

    Args:
        queries: The queries, all of them with candidates of their own, or none.
        documents: What there is to rank, by name: as VLM2Vec has it, documents of the same name are one.
    """
    ids = {name: f"d{number:06d}" for number, name in enumerate(documents)}
    names = [f"q{number:06d}" for number in range(len(queries))]
    # An answer that is no document is found by no one: the query is a miss, as it is in VLM2Vec.
    relevant = {
        query: {ids.get(document, f"absent {document}"): grade for document, grade in each.relevant.items()}
        for query, each in zip(names, queries, strict=True)
    }
    candidates = None
    if queries and queries[0].candidates is not None:
        candidates = {
            query: list(dict.fromkeys(ids[document] for document in each.candidates))
            for query, each in zip(names, queries, strict=True)
        }
    asked = as_dataset(names, [query.cell for query in queries])
    return RankingSplit(asked, as_dataset(list(ids.values()), list(documents.values())), relevant, candidates)


def as_dataset(ids: Sequence[str], cells: Sequence[Cell]) -> Dataset:
    """Return cells as rows; a column of pictures or of frames is there if any cell has one."""
    columns: dict[str, Any] = {"id": pa.array(ids, pa.string())}
    features: dict[str, Any] = {"id": Value("string")}
    if any(cell.image is not None for cell in cells):
        columns["image"], features["image"] = images_from_paths([cell.image for cell in cells]), Image()
    if any(cell.video is not None for cell in cells):
        frames = [None if cell.video is None else images_from_paths(cell.video).to_pylist() for cell in cells]
        columns["video"], features["video"] = pa.array(frames, pa.list_(Image().pa_type)), _VIDEO
    columns["text"], features["text"] = pa.array([cell.text for cell in cells], pa.string()), Value("string")
    return Dataset(pa.table(columns).cast(Features(features).arrow_schema))
