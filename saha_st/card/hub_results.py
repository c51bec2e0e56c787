"""Results in the form that the Hub reads: entries of `.eval_results/<task>.yaml`, one for each split and subset.

Format: https://huggingface.co/docs/hub/eval-results. The ids are those that mteb gives; only tasks whose data are on
the Hub have any, and what is no score gets no entry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MTEB = "https://github.com/embeddings-benchmark/mteb/"


def hub_results(
    results: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the entries by task.

    Args:
        results: What is in mteb's result files.
        reports: Reports on the same results; they know where the data are, and which numbers are no scores.
    """
    datasets = {}
    for report in reports:
        for task in report["columns"][0]["tasks"].values():
            if task.get("dataset") and task["is_score"]:
                datasets[task["task"]] = task["dataset"]
    found = {each["task_name"]: _entries(each, datasets.get(each["task_name"])) for each in results}
    return {task: entries for task, entries in found.items() if entries}


def _entries(result: Mapping[str, Any], dataset: str | None) -> list[dict[str, Any]]:
    if dataset is None:
        return []
    scores = {
        f"{result['task_name']}_{each.get('hf_subset', 'default')}_{split}": each["main_score"]
        for split, subsets in result["scores"].items()
        for each in subsets
    }
    if any(score is None or math.isnan(score) for score in scores.values()):
        return []
    if len(scores) == 1:  # the score of the task itself is that of its only part
        scores[result["task_name"]] = next(iter(scores.values()))
    revision = result["dataset_revision"]
    pinned = {"revision": revision} if _COMMIT.fullmatch(revision or "") else {}
    notes = f"Scored with mteb {result['mteb_version']}, reported by the publisher of this repository"
    return [
        {
            "dataset": {"id": dataset, "task_id": task_id, **pinned},
            "value": round(100 * score, 5),
            **({"date": datetime.fromtimestamp(result["date"], UTC).date().isoformat()} if result.get("date") else {}),
            "source": {"url": _MTEB, "name": f"mteb {result['mteb_version']}"},
            "notes": notes,
        }
        for task_id, score in scores.items()
    ]
