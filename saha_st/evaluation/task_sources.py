"""What a result is of: the task's name in mteb's files, and where its data are on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mteb.abstasks.abstask import AbsTask

from saha_st.evaluation.encoder import name_of_source
from saha_st.evaluation.run import names_of


@dataclass(frozen=True)
class TaskSource:
    """Where a result comes from.

    Args:
        task: The task's name in mteb's files.
        dataset: The Hub id of its data, `None` if they are not there.
    """

    task: str
    dataset: str | None = None


def task_sources(tasks: Sequence[AbsTask]) -> dict[str, TaskSource]:
    """Return where the results of tasks come from, by the names that the tasks have in tables."""
    return {
        name: TaskSource(task.metadata.name, _dataset_of(task))
        for name, task in zip(names_of(tasks), tasks, strict=True)
    }


def _dataset_of(task: AbsTask) -> str | None:
    path = None if task.is_aggregate else str(task.metadata.dataset["path"])
    return path if path is not None and name_of_source(path) == path else None
