"""The numbers people quote: hit@1 per task, and its means per meta-task, in and out of distribution, and overall."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

OVERALL = "Overall"


@dataclass(frozen=True)
class TaskScore:
    """The result of one task.

    Args:
        hit_at_1: Share of queries whose truth no other candidate beats.
        meta_task: The group it is averaged in.
        in_distribution: Whether there is training data for it.
        num_queries: Number of queries.
        chance: The score of guessing.
        all_tied: Share of queries whose several candidates all got the same similarity.
        undefined: Share of queries with a similarity that is not a number.
    """

    hit_at_1: float
    meta_task: str
    in_distribution: bool
    num_queries: int
    chance: float
    all_tied: float = 0.0
    undefined: float = 0.0


@dataclass(frozen=True)
class Scores:
    """The results of a model on the tasks of a benchmark; all means are over tasks, unweighted.

    Args:
        tasks: Results by subset.
    """

    tasks: Mapping[str, TaskScore]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks: there is no result of any task; give one at least.")

    @property
    def hit_at_1(self) -> dict[str, float]:
        """hit@1 by subset."""
        return {name: task.hit_at_1 for name, task in self.tasks.items()}

    @property
    def meta_tasks(self) -> dict[str, float]:
        """Mean hit@1 by meta-task, in the order of the tasks."""
        names = dict.fromkeys(task.meta_task for task in self.tasks.values())
        return {name: _mean(task for task in self.tasks.values() if task.meta_task == name) for name in names}

    @property
    def ind(self) -> float | None:
        """Mean over the tasks that have training data, `None` if there are none."""
        return _mean(task for task in self.tasks.values() if task.in_distribution)

    @property
    def ood(self) -> float | None:
        """Mean over the tasks without training data, `None` if there are none."""
        return _mean(task for task in self.tasks.values() if not task.in_distribution)

    @property
    def overall(self) -> float:
        """Mean over all tasks: neither the mean of IND and OOD nor that of the meta-tasks."""
        return _mean(self.tasks.values())

    @property
    def chance(self) -> float:
        """Mean over all tasks of the score of guessing."""
        return sum(task.chance for task in self.tasks.values()) / len(self.tasks)

    @property
    def means(self) -> dict[str, float | None]:
        """All means under the names they have in tables."""
        return {**self.meta_tasks, "IND": self.ind, "OOD": self.ood, OVERALL: self.overall}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why some of these numbers are no scores: similarities all equal or not numbers, or an overall at chance."""
        found = [message for name, task in self.tasks.items() for message in _task_warnings(name, task)]
        if not found and self.overall <= self.chance + 2 * self._deviation_of_guessing():
            found.append(
                f"The overall hit@1 of {self.overall:.1%} is at chance level ({self.chance:.1%}): the model does not "
                "tell candidates apart."
            )
        return tuple(found)

    def to_markdown(self, columns: Sequence[str] | None = None, *, tasks: bool = False) -> str:
        """Return a table in percent.

        Args:
            columns: Which means, by the names in `means`; all by default.
            tasks: Also list every task.

        Raises:
            ValueError: A column that there is not.
        """
        means = self.means
        if unknown := [name for name in columns or () if name not in means]:
            raise ValueError(f"columns: there is no {unknown[0]!r}; there are {list(means)}.")
        rows = {name: [means[name]] for name in columns or means}
        if tasks:
            rows = {name: [score] for name, score in self.hit_at_1.items()} | rows
        return _table("", ["hit@1"], rows)

    def _deviation_of_guessing(self) -> float:
        """Standard deviation of `overall` if every answer were guessed."""
        variances = [task.chance * (1 - task.chance) / task.num_queries for task in self.tasks.values()]
        return math.sqrt(sum(variances)) / len(variances)


def comparison_table(stages: Mapping[str, Scores]) -> str:
    """Return a table of means in percent, a row each, with a column for every stage (zero-shot, fine-tuned, …).

    Raises:
        ValueError: No stages, or stages scored on different tasks.
    """
    if not stages:
        raise ValueError("stages: there is nothing to compare; give one stage at least.")
    first = next(iter(stages.values()))
    for name, scores in stages.items():
        if set(scores.tasks) != set(first.tasks):
            other = sorted(set(scores.tasks) ^ set(first.tasks))
            raise ValueError(f"stages: {name!r} was scored on other tasks than the first stage (differing: {other}).")
    rows = {mean: [scores.means[mean] for scores in stages.values()] for mean in first.means}
    return _table("hit@1 (%)", list(stages), rows)


def _task_warnings(name: str, task: TaskScore) -> Iterable[str]:
    if task.undefined:
        yield (
            f"{name}: {task.undefined:.1%} of the queries have a similarity that is not a number; they count as "
            "misses. The vectors overflow: load the model in bfloat16 or float32."
        )
    if task.all_tied == 1:
        yield (
            f"{name}: every candidate is as similar to its query as every other, and ties count as hits, so that "
            f"{task.hit_at_1:.1%} is no score. The model gives the same vector to all documents."
        )
    elif task.all_tied:
        yield f"{name}: {task.all_tied:.1%} of the queries like all their candidates equally, which counts as hits."


def _mean(tasks: Iterable[TaskScore]) -> float | None:
    scores = [task.hit_at_1 for task in tasks]
    return sum(scores) / len(scores) if scores else None


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> str:
    """Write a Markdown table; the overall row is bold."""
    lines = [f"| {' | '.join([corner, *columns])} |", f"|{'|'.join([':--', *['--:'] * len(columns)])}|"]
    for name, values in rows.items():
        cells = ["–" if value is None else f"{100 * value:.1f}" for value in values]
        if name == OVERALL:
            name, cells = f"**{name}**", [f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)
