"""One self-contained HTML page: the table, and searches with pictures, before and after fine-tuning."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image
from sentence_transformers import SentenceTransformer

from saha_st.evaluation import Scores
from saha_st.evaluation.mmeb import MMEBTask

SEARCHES = ("Scenes_t2i", "Changes_it2i", "Scenes_i2t", "Crops", "CountVQA", "Digits")
"""Subsets that the searches are taken from, where they are there."""

_TOP = 5
_THUMBNAIL = 96  # pixels


@dataclass(frozen=True)
class Hit:
    """A candidate that a search found: its picture or text, its cosine, and whether it is the answer."""

    image: str | None
    text: str
    score: float
    is_answer: bool


@dataclass(frozen=True)
class Search:
    """A query and what each model found."""

    subset: str
    image: str | None
    text: str
    hits: Mapping[str, Sequence[Hit]]


def write_page(
    path: Path,
    *,
    tasks: Sequence[MMEBTask],
    models: Mapping[str, SentenceTransformer],
    scores: Mapping[str, Scores],
    query: int = 0,
) -> None:
    """Write the page.

    Args:
        path: File to write.
        tasks: Loaded tasks to search in.
        models: Models to compare, by name.
        scores: Scores by stage.
        query: Which query of each task to show.
    """
    by_name = {task.spec.subset: task for task in tasks}
    searches = [_search(by_name[name], models, query) for name in SEARCHES if name in by_name]
    # Text of the data reaches the page: escape it.
    environment = Environment(autoescape=True)
    template = environment.from_string((resources.files("saha_st.quickstart") / "page.html.jinja").read_text("utf8"))
    page = template.render(
        stages=list(scores),
        rows=[(name, [scores[stage].means[name] for stage in scores]) for name in next(iter(scores.values())).means],
        searches=searches,
    )
    path.write_text(page, encoding="utf8")


def _search(task: MMEBTask, models: Mapping[str, SentenceTransformer], index: int) -> Search:
    data = task.dataset["default"]["test"]
    query = data["queries"][min(index, len(data["queries"]) - 1)]
    ids = data["top_ranked"][query["id"]]
    position = {name: row for row, name in enumerate(data["corpus"]["id"])}
    candidates = [data["corpus"][position[name]] for name in ids]
    answers = set(data["relevant_docs"][query["id"]])
    hits = {name: _hits(model, query, ids, candidates, answers) for name, model in models.items()}
    return Search(task.spec.subset, _thumbnail(query.get("image")), (query.get("text") or "").strip(), hits)


def _hits(
    model: SentenceTransformer, query: Mapping[str, Any], ids: list[str], candidates: list[dict], answers: set[str]
) -> list[Hit]:
    vector = model.encode_query([_cell(query)])[0]
    vectors = model.encode_document([_cell(candidate) for candidate in candidates])
    cosines = vectors @ vector
    best = np.argsort(-cosines, kind="stable")[:_TOP]
    return [
        Hit(
            _thumbnail(candidates[i].get("image")),
            (candidates[i].get("text") or "").strip(),
            float(cosines[i]),
            ids[i] in answers,
        )
        for i in best
    ]


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    return {part: row[part] for part in ("image", "text") if row.get(part)}


def _thumbnail(image: Image.Image | None) -> str | None:
    if image is None:
        return None
    file = io.BytesIO()
    image.convert("RGB").resize((_THUMBNAIL, _THUMBNAIL)).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
