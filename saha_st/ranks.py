"""The processes of a run under `torchrun` or `accelerate launch`: they share work, and they fail together.

What they tell each other here is small, and goes over a group of its own on the CPU: whoever has done his share waits
there for the others, for days if need be, and no GPU spins meanwhile.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from saha_st import heartbeat

if TYPE_CHECKING:
    import numpy as np

PATIENCE = timedelta(days=7)
"""How long one process waits for another that lives; for one that has died, see `saha_st.heartbeat`."""


class OtherProcessFailedError(RuntimeError):
    """Another process failed, and says itself why."""


class LostProcessError(RuntimeError):
    """Another process has ended without a word."""


@dataclass(frozen=True)
class _Failure:
    """What a process that has failed gives the others, whatever they exchange."""

    rank: int
    reason: str


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
    def launched(cls) -> Ranks:
        """Return this process's place by what its launcher says, before there is a process group."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @classmethod
    def current(cls) -> Ranks:
        """Return this process's place in the process group, or one process alone where there is none."""
        if "torch" not in sys.modules:  # nobody can have formed a group
            return cls()
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

        What several raise alike, as they do when a file is missing, the first of them raises for all. Blocks may be
        nested: what the inner one has told, the outer one lets pass. Others hear of a failure wherever they exchange
        something; outside of `saha_st.launch.joined` nothing ends those who do not, and so nobody waits for them.

        Raises:
            OtherProcessFailedError: Another process failed, with its number and reason; without this, the others
                would wait for it for ever.
            LostProcessError: Another process has ended without a word.
        """
        if self.count == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            if isinstance(error, (OtherProcessFailedError, LostProcessError)) or getattr(error, "is_told", False):
                raise
            if isinstance(error, RuntimeError) and "by peer" in str(error):  # gloo's words, as in DDP's collectives
                raise self._lost() from error
            failure = error
        if failure is None:
            self.gather(None)
            return
        reason = heartbeat.reason_of(failure)
        alike = [each for each in self._tell(failure, reason) if each.reason == reason]
        if alike[0].rank != self.rank:
            raise self._other(alike[0]) from failure
        failure.is_told = True
        raise failure

    @contextmanager
    def first(self) -> Iterator[None]:
        """Let the first process run the block while the others wait, then the others."""
        if self.is_main:
            with self.together():
                yield
        else:
            self.gather(None)
            yield

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, in order; all of them must call this.

        Raises:
            OtherProcessFailedError: Another process failed before it came here.
            LostProcessError: Another process has ended without a word.
        """
        values = self._exchange(value)
        for other in values:
            if isinstance(other, _Failure):
                raise self._other(other)
        return values

    def share(self, value: Any) -> Any:
        """Return the first process's value everywhere; all of them must call this, what others give is not looked at.

        Raises:
            OtherProcessFailedError: Another process failed before it came here.
            LostProcessError: Another process has ended without a word.
        """
        return self.gather(value if self.is_main else None)[0]  # a broadcast would not meet who has failed

    def share_array(self, array: np.ndarray | None) -> np.ndarray:
        """As `share`, for an array of numbers of any size, which is not pickled.

        Raises:
            OtherProcessFailedError: Another process failed before it came here.
            LostProcessError: Another process has ended without a word.
        """
        if self.count == 1:
            return array
        import numpy as np
        import torch

        array = np.array(array, order="C") if self.is_main else None  # a copy: torch wants to write to it
        shape, dtype = self.share((array.shape, array.dtype.str) if self.is_main else None)
        if not self.is_main:
            array = np.empty(shape, dtype)
        with self._or_lost():
            torch.distributed.broadcast(torch.from_numpy(array), src=0, group=control_group())
        return array

    def require_same(self, name: str, value: str) -> None:
        """See that a value is the same in all processes, before they share work that depends on it.

        Raises:
            ValueError: It is not.
        """
        if len(set(found := self.gather(value))) > 1:
            raise ValueError(
                f"{name}: the processes have different ones, and so cannot share the work: {found}. Give all of them "
                "the same files and versions."
            )

    def require_common_folder(self, folder: str | os.PathLike[str] | None, name: str) -> None:
        """Make a folder, and see that all processes see the same one.

        Args:
            folder: The folder.
            name: The argument that names it, for the error.

        Raises:
            ValueError: There is none, or a process does not see what the first one writes there.
        """
        if self.count == 1:
            return
        if folder is None:
            raise ValueError(f"{name}: {self.count} processes exchange files through a folder; name one that all see.")
        trial = self.share(f".seen-by-all-{uuid4().hex}")
        with self.together():
            Path(folder).mkdir(parents=True, exist_ok=True)
            if self.is_main:
                (Path(folder) / trial).touch()
        seen = self.gather((Path(folder) / trial).exists())
        if self.is_main:
            (Path(folder) / trial).unlink(missing_ok=True)
        if not all(seen):
            raise ValueError(
                f"{name}: {self.count} processes exchange files through {str(folder)!r}, but process "
                f"{seen.index(False)} sees another folder of that name. Name one on a disk that all machines share, "
                "or run on one machine."
            )

    def _tell(self, failure: Exception, reason: str) -> list[_Failure]:
        """Return the failures of all processes, of which this one has its own; others are told wherever they are."""
        own = _Failure(self.rank, reason)
        if not heartbeat.announce_failure(failure):  # nothing ends others, who may wait for something else for days
            return [own]
        try:
            return [each for each in self._exchange(own) if isinstance(each, _Failure)]
        except LostProcessError:  # they have heard of it
            return [own]

    def _exchange(self, value: Any) -> list[Any]:
        """As `gather`, with failures among the values."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        with self._or_lost():
            distributed.all_gather_object(values, value, group=control_group())
        return values

    def _other(self, failure: _Failure) -> OtherProcessFailedError:
        return OtherProcessFailedError(f"Process {failure.rank} of {self.count} failed. {failure.reason}")

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        """Say in plain words what a broken connection means."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost() from error

    def _lost(self) -> LostProcessError:
        return LostProcessError(
            f"Process {self.rank} of {self.count} has lost another one, which has ended without a word: killed, or "
            f"out of memory. {heartbeat.REMEDY}"
        )


def control_group() -> Any:
    """Return the group of all processes in which they wait for each other; the first call, made by all, forms it."""
    from torch import distributed

    return _group_beside(distributed.group.WORLD)


def forget_control_group() -> None:
    """Let go of the control group, after the process group is no more."""
    _group_beside.cache_clear()


@lru_cache(maxsize=1)
def _group_beside(world: Any) -> Any:
    """Form the control group; a later default group is told from an earlier one by the argument."""
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=PATIENCE)
