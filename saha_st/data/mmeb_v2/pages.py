"""Read a visual document task: queries, pages, and how well each page answers, in the form of BEIR."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import Dataset, Image

from saha_st.data.mmeb_v2.places import MMEBV2Place
from saha_st.data.mmeb_v2.split import Cell, RankingSplit, as_dataset, instructed
from saha_st.data.mmeb_v2.subsets import PAGE_QUERY, PAGE_TARGET, PageSubset


def page_split(subset: PageSubset, place: MMEBV2Place) -> RankingSplit:
    """Read a visual document task. All queries rank all pages, which stay in their files until they are encoded.

    Args:
        subset: The task.
        place: Where its configurations `queries`, `corpus` and `qrels` are.

    Raises:
        ValueError: A configuration lacks a column, a page is judged that is not there, or a query has no right page.
    """
    queries = _columns(subset, place, "queries", ("query-id", "query"))
    qrels = _columns(subset, place, "qrels", ("query-id", "corpus-id", "score"))
    corpus = _columns(subset, place, "corpus", ("corpus-id", "image"))
    rows: dict[str, int] = {}
    for row, name in enumerate(corpus["corpus-id"]):
        rows.setdefault(str(name), row)  # of pages with the same name, the first is meant
    ids = {name: f"d{number:06d}" for number, name in enumerate(rows)}
    grades = _grades(qrels)
    relevant, cells = {}, []
    for number, (name, text) in enumerate(zip(queries["query-id"], queries["query"], strict=True)):
        judged = grades.get(str(name), {})
        if not judged:
            raise ValueError(f"{subset.name}: qrels has no right page for the query {name!r}.")
        if lost := sorted(judged.keys() - ids.keys()):
            raise ValueError(f"{subset.name}: corpus lacks the pages {lost}, right for the query {name!r}.")
        relevant[f"q{number:06d}"] = {ids[page]: grade for page, grade in judged.items()}
        cells.append(Cell(instructed(PAGE_QUERY, text)))
    documents = _documents(corpus, {ids[name]: row for name, row in rows.items()})
    return RankingSplit(as_dataset(list(relevant), cells), documents, relevant, None)


def _columns(subset: PageSubset, place: MMEBV2Place, config: str, names: tuple[str, ...]) -> Dataset:
    rows = place.page_rows(subset, config)
    if missing := [name for name in names if name not in rows.column_names]:
        raise ValueError(f"{subset.name}: {config} lacks the columns {missing}; it has {rows.column_names}.")
    if not len(rows):
        raise ValueError(f"{subset.name}: {config} has no rows.")
    return rows.select_columns(list(names))


def _grades(qrels: Dataset) -> Mapping[str, dict[str, int]]:
    """Return the pages that answer a query with their grades, of several judgements the best; 0 is no answer."""
    found: dict[str, dict[str, int]] = {}
    for query, page, score in zip(*(qrels[name] for name in ("query-id", "corpus-id", "score")), strict=True):
        if score > 0:
            judged = found.setdefault(str(query), {})
            judged[str(page)] = max(judged.get(str(page), 0), int(score))
    return found


def _documents(corpus: Dataset, rows: Mapping[str, int]) -> Dataset:
    """Return the pages as documents, of each id its row; no page is copied: they are gigabytes, and stay on disk."""
    ids = dict.fromkeys(range(len(corpus)), "") | {row: name for name, row in rows.items()}
    pages = corpus.select_columns("image").cast_column("image", Image())
    pages = pages.add_column("id", list(ids.values())).add_column("text", [PAGE_TARGET] * len(corpus))
    pages = pages.select_columns(["id", "image", "text"])
    # Rows are chosen last: to add a column to chosen rows, datasets would write them anew.
    return pages if len(rows) == len(corpus) else pages.select(list(rows.values()))
