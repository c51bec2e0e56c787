"""A page about mined clusters: one HTML file that holds all it shows, and the same numbers for programs.

The vectors come out of the cache of the mining, so nothing is encoded again; what the page shows of the pairs are cut
texts and small copies of pictures, inside the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from jinja2 import Environment, StrictUndefined, Template
from sentence_transformers import SentenceTransformer

from saha_st.data.cells import with_closed_videos
from saha_st.data.truth import truth_values
from saha_st.encoding import DistinctInputs, EncodedColumn, encode_column, vector_fingerprint, weights_digest
from saha_st.files import require_new_file, write_text_whole
from saha_st.mining.audit import Truth, truth_codes
from saha_st.mining.cluster_pairs import STEP
from saha_st.mining.findings import MOST_VISITS, Findings, assignment_of, examine_clusters
from saha_st.mining.miner import MinedClusters, pairs_digest
from saha_st.mining.shown import CellReader
from saha_st.mining.tracing import Candidate, Fate

FATE_NOTES = {
    Fate.OWN_POSITIVE: "the anchor's own positive",
    Fate.IN_MARGIN: "scores too near the anchor's own positive",
    Fate.NO_FREE_OWNER: "its owners are in earlier clusters, or may not stand beside the anchor",
    Fate.TOO_SIMILAR: "its owner asks more nearly the same than max_owner_similarity allows",
    Fate.BEYOND_LIMIT: "enough owners had been found before it",
    Fate.CLASH: "its pair and a mate's would be each other's positives",
    Fate.SUSPECTED: "thrown out by the owner filter: its owner asks too nearly the same",
    Fate.SURPLUS: "the cluster was full",
    Fate.MATE: "kept: its pair joined the cluster as a hard negative",
}
_SHOWN_KEPT, _SHOWN_DISCARDED = 15, 10  # of each cluster of the gallery: bounds the size of the page
_DISCARDED_FIRST = (Fate.SUSPECTED, Fate.TOO_SIMILAR, Fate.CLASH, Fate.SURPLUS, Fate.IN_MARGIN)  # then the rest

Vectors = tuple[EncodedColumn, EncodedColumn]
"""Anchors and positives, as `encode_column` returns them."""


def write_report(
    path: str | os.PathLike[str],
    dataset: Dataset,
    model: SentenceTransformer | Vectors,
    mined: MinedClusters,
    *,
    truth_column: str | Sequence[Any] | None = None,
    name: str = "the dataset",
    json_path: str | os.PathLike[str] | None = None,
    distinct: tuple[DistinctInputs, DistinctInputs] | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    near_duplicate: float = 0.95,
    most_visits: int = MOST_VISITS,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> Findings:
    """Write a page about mined clusters: counts, similarities, suspected false negatives, and clusters to look at.

    Args:
        path: The ``.html`` file to write; it must not exist.
        dataset: The pairs that were mined.
        model: The model that they were mined with; or the vectors of both columns, as `encode_column` returns them.
        mined: What was mined, as `find_saha_clusters` returns it or `MinedClusters.load` reads it.
        truth_column: A column that says of every row what it is about, or its values: rows of equal value are in
            truth each other's positives. With it, the page tells how many negatives are false. A row without (None,
            "") is left out and counted. No model sees it.
        name: What to call the pairs on the page.
        json_path: Where to write the numbers too, as plain JSON, before the page; what is there is replaced.
        distinct: The dataset's distinct anchors and documents, where they are known, as by `MinedClusters.inputs`.
        cache_folder: That of the mining: its vectors are read. Without it, everything is encoded once more.
        near_duplicate: The cosine from which two documents, or two anchors, are suspected to be one.
        most_visits: How many visits of the rule to tell again, drawn by ``seed`` where there are more.
        seed: Decides what is drawn and shown.
        show_progress_bar: Show bars with the time left, if anything is encoded.

    Returns:
        What was found; ``to_dict()`` gives the numbers as plain JSON values.

    Raises:
        FileExistsError: The file exists.
        FileNotFoundError: Its folder does not exist.
        ValueError: A missing column, a truth for no row, another dataset or model than was mined, an option without
            meaning.
    """
    path = require_new_file(path, name="report", suffix=".html")
    if not -1 <= near_duplicate <= 1:
        raise ValueError(f"near_duplicate is a cosine and must lie in [-1, 1], got {near_duplicate}.")
    if most_visits < 1:
        raise ValueError(f"most_visits must be at least 1, got {most_visits}.")
    truths = _truths(dataset, truth_column)
    options = {"cache_folder": cache_folder, "show_progress_bar": show_progress_bar}
    anchors, documents = _vectors(dataset, model, mined, distinct, options)
    document_of_row = documents.distinct.index_of_row
    truth = None if truths is None else Truth(truths, document_of_row, anchors.distinct.index_of_row)
    findings = examine_clusters(
        anchors.of_rows,
        documents.embeddings,
        document_of_row,
        assignment_of(mined.rows, mined.labels, mined.statistics),
        mined.statistics,
        anchor_key=anchors.distinct.index_of_row,
        truth=truth,
        near_duplicate=near_duplicate,
        most_visits=most_visits,
        seed=seed,
        **{name: mined.statistics["settings"][name] for name in ("backend", "faiss_index")},
    )
    page = _render(findings, dataset, documents.distinct, name=name, truth=truth)
    if json_path is not None:
        write_text_whole(Path(json_path), json.dumps(findings.to_dict(), indent=2) + "\n")
    write_text_whole(path, page)
    return findings


def _truths(dataset: Dataset, truth_column: str | Sequence[Any] | None) -> np.ndarray | None:
    """The truth of each row as a number, shape (rows,); None without truth."""
    if truth_column is None:
        return None
    values = truth_column
    if isinstance(truth_column, str):
        if truth_column not in dataset.column_names:
            found = ", ".join(dataset.column_names)
            raise ValueError(f"truth_column: the dataset has no column {truth_column!r}; it has {found}.")
        values = truth_values(dataset, truth_column)
    if len(values) != len(dataset):
        raise ValueError(f"truth_column has {len(values)} values for {len(dataset)} rows; give one a row.")
    return truth_codes(values)


def _vectors(
    dataset: Dataset,
    model: SentenceTransformer | Vectors,
    mined: MinedClusters,
    distinct: tuple[DistinctInputs, DistinctInputs] | None,
    options: dict[str, Any],
) -> Vectors:
    """The vectors of both columns; refuses what was not mined before anything is encoded."""
    names = (mined.statistics["anchor_column_name"], mined.statistics["positive_column_name"])
    if missing := [name for name in names if name not in dataset.column_names]:
        raise ValueError(f"The dataset has no columns {missing}, which were mined; it has {dataset.column_names}.")
    if isinstance(model, tuple):
        distinct = tuple(each.distinct for each in model)
    elif distinct is None:
        distinct = tuple(DistinctInputs.of(dataset, name) for name in names)
    if pairs_digest(*distinct) != mined.statistics["data"]:
        raise ValueError("These clusters are of other pairs than the dataset's. Pass the dataset that was mined.")
    if isinstance(model, tuple):
        return model
    weights = weights_digest(model)
    if vector_fingerprint(model, weights=weights) != mined.statistics["model"]:
        raise ValueError(
            "These clusters were mined with another model, with other settings of it, or with other versions of "
            "transformers or sentence-transformers. Pass that model, or mine again with this one."
        )
    prompts = [mined.statistics[name] for name in ("query_prompt", "corpus_prompt")]
    anchors, documents = (
        encode_column(dataset, name, model, task=task, prompt=prompt, distinct=inputs, weights=weights, **options)
        for name, task, prompt, inputs in zip(names, ("query", "document"), prompts, distinct, strict=True)
    )
    return anchors, documents


class _Page:
    """What the template asks for: cells of rows, and which candidates of a cluster to show."""

    def __init__(self, findings: Findings, dataset: Dataset, documents: DistinctInputs, truth: Truth | None) -> None:
        self.findings, self._documents, self._truth = findings, documents, truth
        names = (findings.statistics["anchor_column_name"], findings.statistics["positive_column_name"])
        self._cells = {name: CellReader(with_closed_videos(dataset), name) for name in names}
        self._anchor, self._positive = names

    def anchor(self, row: int) -> Any:
        """The anchor of a row."""
        return self._cells[self._anchor][row]

    def positive(self, row: int) -> Any:
        """The positive of a row."""
        return self._cells[self._positive][row]

    def document(self, document: int) -> Any:
        """A document, as the first of its rows holds it."""
        return self.positive(int(self._documents.first_row[document]))

    def same(self, row: int, document: int) -> bool | None:
        """Whether a document is in truth a positive of a row's anchor; None where that is not known."""
        if self._truth is None:
            return None
        judged, positive = self._truth.judge(np.array([row]), np.array([document]))
        return bool(positive[0]) if judged[0] else None

    def same_rows(self, row: int, mate: int) -> bool | None:
        """The same of a mate's document."""
        return self.same(row, int(self._documents.index_of_row[mate]))

    def suspects(self, name: str) -> list[dict[str, Any]]:
        """The worst pairs of a kind."""
        pairs = self.findings.pairs
        found = []
        for index in self.findings.suspects[name].worst:
            member, mate = int(pairs.member[index]), int(pairs.mate[index])
            found.append(
                {
                    "row": int(pairs.rows[member]),
                    "mate": int(pairs.rows[mate]),
                    "anchors": float(pairs.anchor_anchor[index]),
                    "documents": float(pairs.document_document[index]),
                    "own": float(pairs.positive[member]),
                    "other": float(pairs.anchor_document[index]),
                }
            )
        return found

    def kept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates that became mates, in rank order; the first ones where there are many."""
        return [each for each in candidates if each.fate is Fate.MATE][:_SHOWN_KEPT]

    def mates(self, rows: np.ndarray) -> list[int]:
        """The mates of a cluster of which nothing more is known; the first ones where there are many."""
        return rows[1 : 1 + _SHOWN_KEPT].tolist()

    def discarded(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates that did not, suspected false negatives first; some of them where there are many."""
        order = {fate: place for place, fate in enumerate(_DISCARDED_FIRST)}
        dropped = [each for each in candidates if each.fate not in (Fate.MATE, Fate.OWN_POSITIVE)]
        return sorted(dropped, key=lambda each: order.get(each.fate, len(order)))[:_SHOWN_DISCARDED]


def _render(findings: Findings, dataset: Dataset, documents: DistinctInputs, *, name: str, truth: Truth | None) -> str:
    return _template().render(
        findings=findings,
        statistics=findings.statistics,
        settings=findings.statistics["settings"],
        page=_Page(findings, dataset, documents, truth),
        name=name,
        fates=Fate,
        notes=FATE_NOTES,
        step=STEP,
    )


@cache
def _template() -> Template:
    # Text of the data reaches the page: escape it.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {
        "number": lambda value: f"{value:,}",
        "percent": lambda value: "–" if value is None else f"{100 * value:.{2 if 0 < value < 0.1 else 1}f} %",
        "cosine": lambda value: "–" if value is None else f"{value:.3f}",
    }
    return environment.from_string((resources.files("saha_st.mining") / "report.html.jinja").read_text("utf8"))
