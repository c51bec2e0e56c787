"""mteb's mock tasks by name, each as a new object, and tasks of ours for the pairs of modalities that it lacks."""

from __future__ import annotations

from pathlib import Path

from mmeb_folder import MARK, paint, write_rows
from mteb.abstasks.abstask import AbsTask
from mteb.mocks import ALL_MOCK_TASK_TEST_GRID

from saha_st.evaluation import MMEBTask, mmeb_tasks

GRID = {task.metadata.name: task for task in ALL_MOCK_TASK_TEST_GRID}
IMAGE_TEXT = [name for name, task in GRID.items() if set(task.metadata.modalities) <= {"image", "text"}]


def mock(name: str) -> AbsTask:
    return type(GRID[name])()


def pairs_of_modalities(root: Path) -> dict[str, MMEBTask]:
    """it2t, t2it and it2it, each in three rows: mteb's own mocks have both modalities in queries to images alone."""
    for number in range(4):
        paint(root / f"{number}.png", number)
    pictures = [f"{number}.png" for number in range(3)]
    asked, shown = f"{MARK}\nWhat is it, %d?\n", f"{MARK}\nRepresent the image.\n"
    rows = [(asked % row, pictures[row], [f"{row}", "cat", "dog"], [""] * 3) for row in range(3)]
    write_rows(root, "OK-VQA", rows)
    rows = [(f"Find {row}.\n", "", [shown] * 3, pictures[row:] + pictures[:row]) for row in range(3)]
    write_rows(root, "MSCOCO_t2i", rows)
    rows = [(asked % row, "3.png", [shown] * 3, pictures[row:] + pictures[:row]) for row in range(3)]
    write_rows(root, "CIRR", rows)
    return {task.spec.category: task for task in mmeb_tasks(root, ["OK-VQA", "MSCOCO_t2i", "CIRR"])}
