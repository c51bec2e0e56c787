"""mteb's folder of results, for runs that may be killed at any moment and shared by several processes."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mteb.cache import ResultCache
from mteb.results import TaskResult

logger = logging.getLogger(__name__)


class ResultStore(ResultCache):
    """A folder of results in which no file is ever half written.

    mteb writes a result in place: a full disk, or a kill, would leave half a file where a whole one was. Here the
    files are written beside their folder and moved into it, the result last.

    Args:
        path: The folder.
        writes: Whether this process writes. Of several, all read and one writes.
        before_saving: Called with the name of a task before its result is written.

    Attributes:
        not_read: Names of tasks whose results are not read, so that they are computed anew.
    """

    def __init__(self, path: str | Path, *, writes: bool, before_saving: Callable[[str], None]) -> None:
        super().__init__(path)
        self._writes, self._before_saving = writes, before_saving
        self.not_read: set[str] = set()

    def save_to_cache(self, task_result: TaskResult, model_name: Any, *args: Any, **kwargs: Any) -> None:
        """Write a result, and the metadata and settings beside it."""
        if not self._writes:
            return
        self._before_saving(task_result.task_name)
        task_result = _with_other_subsets(task_result, self.load_task_result(task_result.task_name, model_name))
        place = {"task_name": task_result.task_name, "model_name": model_name}
        folder = self.get_task_result_path(**place).parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=self.cache_path) as scratch:
            draft = ResultCache(scratch)
            drafted = draft.get_task_result_path(**place)
            drafted.parent.mkdir(parents=True)
            if (settings := folder / "run_settings.jsonl").exists():  # which mteb adds to
                shutil.copyfile(settings, drafted.parent / settings.name)
            draft.save_to_cache(task_result, model_name, *args, **kwargs)
            for file in sorted(drafted.parent.iterdir(), key=lambda file: file == drafted):
                os.replace(file, folder / file.name)

    def load_task_result(self, task_name: str, model_name: Any, *args: Any, **kwargs: Any) -> TaskResult | None:
        """Return a result, `None` if it is not there; one that cannot be read counts as not there."""
        if task_name in self.not_read:
            return None
        try:
            return super().load_task_result(task_name, model_name, *args, **kwargs)
        except (ValueError, KeyError) as error:
            logger.warning("The result of %s cannot be read (%s); the task is run again.", task_name, error)
            return None


def _with_other_subsets(result: TaskResult, stored: TaskResult | None) -> TaskResult:
    """Keep the scores of subsets that were run before, on the same data, and are not asked for now."""
    if stored is None or stored.dataset_revision != result.dataset_revision:
        return result
    scores = {split: list(found) for split, found in result.scores.items()}
    for split, found in stored.scores.items():
        there = {each["hf_subset"] for each in scores.get(split, [])}
        scores.setdefault(split, []).extend(each for each in found if each["hf_subset"] not in there)
    return result.model_copy(update={"scores": scores})
