"""A quick look at a task of mteb: some of its rows instead of all. What comes out is no result of the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.abstask import AbsTask

from saha_st.evaluation.checks import subset_key

_DISTRACTORS = 10
"""Documents that a limited corpus keeps for each query, beside those that its queries name."""

_SEED = 42  # rows are often sorted by label: the first of them would be of one kind


def keep_rows(task: AbsTask, limit: int) -> None:
    """Cut the loaded data of a task.

    Retrieval keeps the first queries, the documents that these name, and ten other documents a query; other tasks keep
    rows drawn at random (always the same) of the splits that are scored. What they train on stays whole.

    Args:
        task: A task whose data are loaded.
        limit: Queries, or rows, to keep of each split and subset.
    """
    for _, splits, split in _places(task):
        data = splits[split]
        if isinstance(task, AbsTaskRetrieval):
            splits[split] = _cut_retrieval(data, limit)
        elif isinstance(data, Dataset):
            splits[split] = data.select(_draw(len(data), limit))
        elif isinstance(data, Mapping):  # columns, as the oldest pair tasks keep them
            chosen = _draw(len(next(iter(data.values()))), limit)
            splits[split] = {name: [column[row] for row in chosen] for name, column in data.items()}


def splits_of(task: AbsTask) -> Iterator[tuple[str, Any]]:
    """Yield the loaded data of every split and subset that is scored, with its name in checks."""
    for subset, splits, split in _places(task):
        yield subset_key(split, subset), splits[split]


def _places(task: AbsTask) -> Iterator[tuple[str, MutableMapping[str, Any], str]]:
    """Yield where the data of each subset and split are kept: the subset, the mapping, and the split as its key."""
    if isinstance(task, AbsTaskRetrieval):
        task.convert_v1_dataset_format_to_v2(num_proc=None)
    for subset in task.hf_subsets or ["default"]:
        splits = task.dataset[subset] if subset in task.dataset else task.dataset
        for split in task.eval_splits:
            if split in splits:
                yield subset, splits, split


def _draw(rows: int, limit: int) -> list[int]:
    if rows <= limit:
        return list(range(rows))
    return np.sort(np.random.default_rng(_SEED).choice(rows, limit, replace=False)).tolist()


def _cut_retrieval(data: Mapping[str, Any], limit: int) -> dict[str, Any]:
    relevant, top_ranked = data["relevant_docs"], data.get("top_ranked")
    ids = [name for name in data["queries"]["id"] if relevant.get(name)][:limit]
    kept = set(ids)
    named = {document for query in ids for document in relevant[query]}
    if top_ranked is None:
        others = (name for name in data["corpus"]["id"] if name not in named)
        named |= {name for name, _ in zip(others, range(_DISTRACTORS * limit), strict=False)}
    else:
        named |= {document for query in ids for document in top_ranked[query]}

    def select(side: str, names: set[str]) -> Dataset:
        return data[side].select([row for row, name in enumerate(data[side]["id"]) if name in names])

    return {
        **data,
        "queries": select("queries", kept),
        "corpus": select("corpus", named),
        "relevant_docs": {query: relevant[query] for query in ids},
        "top_ranked": None if top_ranked is None else {query: top_ranked[query] for query in ids},
    }
