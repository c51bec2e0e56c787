"""The numbers people quote: the main score of each task and the means over them, and which of them are no scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from saha_st.card.tables import CHANCE_MARK, CHANCE_NOTE

OVERALL = "Overall"
MEAN_TASK, MEAN_TASK_TYPE = "Mean (Task)", "Mean (TaskType)"  # as mteb's leaderboard calls them

NO_SCORE = "no score"
"""Stands in tables for a number that was computed but measures nothing."""


@dataclass(frozen=True)
class TaskScore:
    """The result of one task.

    Args:
        score: The task's main score, mostly between 0 and 1.
        metric: What it is called, such as `hit@1`.
        meta_task: The group it is averaged in.
        in_distribution: Whether there is training data for it; `None` where benchmarks make no such difference.
        modality: The modality whose mean it is part of, if its benchmark has several.
        num_queries: Number of queries, or of rows, that it is a mean over.
        chance: The score of guessing, `None` where it is not known.
        all_tied: Share of queries whose several candidates all got the same similarity.
        undefined: Share of queries with a similarity, or of inputs with a vector, that is not a number.
        collapsed: Whether all inputs of a side got the same vector.
    """

    score: float
    metric: str
    meta_task: str
    in_distribution: bool | None = None
    modality: str | None = None
    num_queries: int | None = None
    chance: float | None = None
    all_tied: float = 0.0
    undefined: float = 0.0
    collapsed: bool = False

    @property
    def is_degenerate(self) -> bool:
        """Whether the number says nothing about the model's judgement."""
        return bool(math.isnan(self.score) or self.undefined or self.collapsed or self.all_tied == 1)

    @property
    def is_at_chance(self) -> bool:
        """Whether guessing does as well, within two standard deviations."""
        if self.chance is None or not self.num_queries:
            return False
        return self.score <= self.chance + 2 * math.sqrt(self.variance_of_guessing)

    @property
    def variance_of_guessing(self) -> float:
        """Variance of the score of guessing, at most.

        Guessing scores 0 only where the score is a correlation, whose variance is 1 / (n - 1).
        """
        if self.chance == 0:
            return 1 / max(self.num_queries - 1, 1)
        return self.chance * (1 - self.chance) / self.num_queries


@dataclass(frozen=True)
class Scores:
    """The results of a model on the tasks of a benchmark; all means over tasks are unweighted.

    Args:
        tasks: Results by task; those of MMEB go by the name of the subset.
        totals: Which means over all tasks the benchmark quotes: `OVERALL` or `MEAN_TASK` for the mean of the tasks
            (the same under two names), `MEAN_TASK_TYPE` for that of the groups' means.
        left_out: Tasks of the benchmark that could not be run, because their data are not public.
        limit: So many queries or rows of each task were scored, if this was a quick look.
    """

    tasks: Mapping[str, TaskScore]
    totals: tuple[str, ...] = (OVERALL,)
    left_out: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks: there is no result of any task; give one at least.")
        if unknown := set(self.totals) - {OVERALL, MEAN_TASK, MEAN_TASK_TYPE}:
            raise ValueError(
                f"totals: {sorted(unknown)} are no means; there are Overall, Mean (Task), Mean (TaskType)."
            )

    @property
    def by_task(self) -> dict[str, float]:
        """The main score by task."""
        return {name: task.score for name, task in self.tasks.items()}

    @property
    def groups(self) -> dict[str, list[TaskScore]]:
        """The tasks that each mean is over, by the mean's name, in the order of tables."""
        tasks = list(self.tasks.values())
        found = {name: [task for task in tasks if task.meta_task == name] for name in self.meta_tasks}
        modalities = dict.fromkeys(task.modality for task in tasks if task.modality is not None)
        if len(modalities) > 1:  # then only some of the tasks have training data, or are known to have none
            found |= {name: [task for task in tasks if task.modality == name] for name in modalities}
        elif any(task.in_distribution is not None for task in tasks):
            found |= {name: [task for task in tasks if task.in_distribution is (name == "IND")] for name in _DOMAINS}
        return found | dict.fromkeys(self.totals, tasks)

    @property
    def meta_tasks(self) -> dict[str, float]:
        """Mean by meta-task, in the order of the tasks."""
        names = dict.fromkeys(task.meta_task for task in self.tasks.values())
        return {name: _mean(task for task in self.tasks.values() if task.meta_task == name) for name in names}

    @property
    def ind(self) -> float | None:
        """Mean over the tasks that have training data, `None` if there are none."""
        return _mean(task for task in self.tasks.values() if task.in_distribution)

    @property
    def ood(self) -> float | None:
        """Mean over the tasks without training data, `None` if there are none."""
        return _mean(task for task in self.tasks.values() if task.in_distribution is False)

    @property
    def overall(self) -> float:
        """Mean over all tasks: neither the mean of IND and OOD nor that of the meta-tasks."""
        return _mean(self.tasks.values())

    @property
    def means(self) -> dict[str, float | None]:
        """All means under the names they have in tables."""
        found = {name: _mean(tasks) for name, tasks in self.groups.items()}
        if MEAN_TASK_TYPE in found:
            found[MEAN_TASK_TYPE] = sum(self.meta_tasks.values()) / len(self.meta_tasks)
        return found

    @property
    def metric(self) -> str:
        """What the main scores are called, if all tasks have the same."""
        metrics = {task.metric for task in self.tasks.values()}
        return metrics.pop() if len(metrics) == 1 else "main score"

    @property
    def is_at_chance(self) -> bool:
        """Whether the mean over all tasks is no better than guessing, where that is known of all of them."""
        tasks = self.tasks.values()
        if any(task.chance is None or not task.num_queries for task in tasks):
            return False
        deviation = math.sqrt(sum(task.variance_of_guessing for task in tasks)) / len(tasks)
        return self.overall <= self.chance + 2 * deviation

    @property
    def chance(self) -> float | None:
        """Mean over all tasks of the score of guessing, `None` if it is not known of all of them."""
        chances = [task.chance for task in self.tasks.values()]
        return None if None in chances else sum(chances) / len(chances)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why some of these numbers are no scores: similarities all equal or not numbers, or no better than chance.

        That of a `limit`, which was asked for, is not among them: `limit_notice`.
        """
        found = [message for name, task in self.tasks.items() for message in _task_warnings(name, task)]
        if not found and self.is_at_chance:
            found.append(
                f"The overall {self.metric} of {self.overall:.1%} is at chance level ({self.chance:.1%}): the model "
                "does not tell candidates apart."
            )
        if self.left_out:
            found.append(
                f"Left out, as their data are not public: {', '.join(self.left_out)}. Means are over the others."
            )
        return tuple(found)

    @property
    def limit_notice(self) -> str | None:
        """Says that these are no results, as not all rows were scored; `None` if they were."""
        if self.limit is None:
            return None
        return f"A quick look at {self.limit} queries or rows of each task, which is no result."

    def to_markdown(self, columns: Sequence[str] | None = None, *, tasks: bool = False) -> str:
        """Return a table in percent; what is no score is not shown as one.

        Args:
            columns: Which means, by the names in `means`; all by default.
            tasks: Also list every task.

        Raises:
            ValueError: A column that there is not.
        """
        cells = self.cells(tasks=tasks)
        if unknown := [name for name in columns or () if name not in self.means]:
            raise ValueError(f"columns: there is no {unknown[0]!r}; there are {list(self.means)}.")
        shown = [name for name in cells if columns is None or name in columns or name not in self.means]
        table = as_table("", [self.metric], {name: [cells[name]] for name in shown})
        return table if self.limit is None else f"{table}\n\n{self.limit_notice}"

    def cells(self, *, tasks: bool = False) -> dict[str, str]:
        """Return what a table shows of the means, and of every task if wanted, by name."""
        found = {name: _cell(task.score, [task]) for name, task in self.tasks.items()} if tasks else {}
        return found | {name: _cell(self.means[name], members) for name, members in self.groups.items()}


_DOMAINS = ("IND", "OOD")


def comparison_table(
    stages: Mapping[str, Scores],
    *,
    published: Mapping[str, Mapping[str, float]] | None = None,
    tasks: bool = False,
) -> str:
    """Return a table in percent, a row each, with a column for every stage (zero-shot, fine-tuned, …).

    Args:
        stages: Scores by column.
        published: Figures in percent that others published, by column and row. Rows they lack show a dash.
        tasks: Also list every task.

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
    published = published or {}
    columns = [scores.cells(tasks=tasks) for scores in stages.values()]
    rows = {
        name: [cells[name] for cells in columns] + [_number(each.get(name)) for each in published.values()]
        for name in columns[0]
    }
    return as_table(f"{first.metric} (%)", [*stages, *published], rows)


def as_table(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Write a Markdown table; the rows of totals are bold, and marks are explained below it."""
    lines = [f"| {' | '.join([corner, *columns])} |", f"|{'|'.join([':--', *['--:'] * len(columns)])}|"]
    for name, cells in rows.items():
        if name in (OVERALL, MEAN_TASK, MEAN_TASK_TYPE):
            name, cells = f"**{name}**", [f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join([name, *cells])} |")
    if any(CHANCE_MARK in cell for cells in rows.values() for cell in cells):
        lines += ["", CHANCE_NOTE]
    return "\n".join(lines)


def _cell(value: float | None, members: Sequence[TaskScore]) -> str:
    if any(task.is_degenerate for task in members):
        return NO_SCORE
    at_chance = bool(members) and all(task.is_at_chance for task in members)
    return f"{_number(None if value is None else 100 * value)}{CHANCE_MARK if at_chance else ''}"


def _number(percent: float | None) -> str:
    return "–" if percent is None else f"{percent:.1f}"


def _task_warnings(name: str, task: TaskScore) -> Iterable[str]:
    if task.undefined:
        yield (
            f"{name}: {task.undefined:.1%} of the queries have a similarity that is not a number; they count as "
            "misses. The vectors overflow: load the model in bfloat16 or float32."
        )
    elif math.isnan(task.score):
        yield f"{name}: the {task.metric} is not a number, so that there is no score."
    if task.all_tied == 1 or task.collapsed:
        yield (
            f"{name}: every candidate is as similar to its query as every other, so that {task.score:.1%} is no "
            "score. The model gives the same vector to all inputs of a side."
        )
    elif task.all_tied:
        yield f"{name}: {task.all_tied:.1%} of the queries like all their candidates equally."


def _mean(tasks: Iterable[TaskScore]) -> float | None:
    scores = [task.score for task in tasks]
    return sum(scores) / len(scores) if scores else None
