"""The processes of a run under `torchrun` or `accelerate launch`: they share work, and they fail together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is.

    Args:
        rank: Number of this process, from 0.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Return this process's place in the process group, or one process alone where there is none."""
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait for all processes at the end of the block; what one of them raises ends it in all.

        Raises:
            RuntimeError: Another process failed, with its number and reason; without this, the others would wait for
                it for ever.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        reasons = self.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, reason in enumerate(reasons):
            if reason is not None:
                raise RuntimeError(f"Process {rank} of {self.count} failed. {reason}")

    @contextmanager
    def first(self) -> Iterator[None]:
        """Let the first process run the block while the others wait, then the others."""
        if not self.is_main:
            self.gather(None)
        try:
            yield
        finally:
            if self.is_main:
                self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, in order; all of them must call this."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values
