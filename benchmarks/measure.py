"""What the benchmarks share: contenders side by side in one process, peak memory, and Markdown tables.

Machines are noisy, so contenders take turns and each round starts with another one: what slows the machine for a
while slows all of them. A ratio is the median of the rounds' ratios, with the smallest and the largest of them.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import psutil
from scipy.stats import t as student


@dataclass(frozen=True)
class Timings:
    """Seconds of each contender in each round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return median(self.seconds[name])

    def ratios(self, name: str, peer: str) -> list[float]:
        """How often a contender's time goes into the peer's, round by round: above 1 it is the faster one."""
        return [theirs / ours for ours, theirs in zip(self.seconds[name], self.seconds[peer], strict=True)]

    def speed_up(self, name: str, peer: str) -> str:
        """The median ratio and its spread, such as ``2.31x (2.25-2.40)``."""
        ratios = self.ratios(name, peer)
        return f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"

    def cost(self, name: str, base: str) -> str:
        """How often the base's time goes into a contender's, and its spread: above 1 it is the slower one."""
        return self.speed_up(base, name)


def half_interval(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean of few values (Student's t)."""
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def side_by_side(contenders: Mapping[str, Callable[[], object]], *, rounds: int = 5, warm_up: bool = True) -> Timings:
    """Run contenders in turns.

    Args:
        contenders: Their names, and what to time; it must leave nothing behind that would help the next round.
        rounds: How often each is timed.
        warm_up: Run each once before.
    """
    names = list(contenders)
    if warm_up:
        for name in names:
            contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            synchronize()
            start = time.perf_counter()
            contenders[name]()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return Timings(seconds)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(call: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes by which this process grows at most while it makes a call, and what the call returns.

    Resident memory, read every 5 ms; memory that was freed before and not given back to the system is not seen, so
    measure the small case first. On a GPU it is the most that torch allocates there.
    """
    import torch

    from saha_st.training.preflight.memory import PeakMemory

    with PeakMemory("cuda" if torch.cuda.is_available() else "cpu") as peak:
        result = call()
        synchronize()
    return peak.growth, result


def machine() -> str:
    """A line on what was measured: processors, threads, GPU, and versions of the libraries."""
    import sentence_transformers
    import torch
    import transformers

    threads = torch.get_num_threads()
    parts = [f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}), {threads} thread{'s' * (threads > 1)}"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    parts += [
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"transformers {transformers.__version__}",
        f"sentence-transformers {sentence_transformers.__version__}",
        f"NumPy {np.__version__}",
    ]
    return "Measured on " + ", ".join(parts) + "."


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is aligned to the left, the others to the right."""
    lines = ["| " + " | ".join(columns) + " |", "|:--|" + "--:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
