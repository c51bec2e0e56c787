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
        nested: what the inner one has told, the outer one lets pass.

        Raises:
            OtherProcessFailedError: Another process failed, with its number and reason; without this, the others
                would wait for it for ever.
            LostProcessError: Another process has ended without a word.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            if isinstance(error, (OtherProcessFailedError, LostProcessError)) or getattr(error, "is_told", False):
                raise
            if isinstance(error, RuntimeError) and "by peer" in str(error):  # gloo's words, as in DDP's collectives
                raise self._lost() from error
            failure = error
        reasons = self.gather(None) if failure is None else self._tell(f"{type(failure).__name__}: {failure}")
        failed = [rank for rank, reason in enumerate(reasons) if reason is not None]
        if failure is not None:
            failed = [rank for rank in failed if reasons[rank] == reasons[self.rank]]
            if failed[0] == self.rank:
                failure.is_told = True
                raise failure
        if failed:
            raise OtherProcessFailedError(
                f"Process {failed[0]} of {self.count} failed. {reasons[failed[0]]}"
            ) from failure

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
        """Return the value of every process, in order; all of them must call this.

        Raises:
            LostProcessError: Another process has ended without a word.
        """
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        with self._or_lost():
            distributed.all_gather_object(values, value, group=_control_group(distributed.group.WORLD))
        return values

    def share(self, value: Any) -> Any:
        """Return the first process's value everywhere; all of them must call this, what others give is not looked at.

        Raises:
            LostProcessError: Another process has ended without a word.
        """
        if self.count == 1:
            return value
        from torch import distributed

        values = [value]
        with self._or_lost():
            distributed.broadcast_object_list(values, src=0, group=_control_group(distributed.group.WORLD))
        return values[0]

    def share_array(self, array: np.ndarray | None) -> np.ndarray:
        """As `share`, for an array of numbers of any size, which is not pickled.

        Raises:
            LostProcessError: Another process has ended without a word.
        """
        if self.count == 1:
            return array
        import numpy as np
        import torch

        shape, dtype = self.share((array.shape, array.dtype.str) if self.is_main else None)
        array = np.array(array, order="C") if self.is_main else np.empty(shape, dtype)  # torch wants to write to it
        with self._or_lost():
            group = _control_group(torch.distributed.group.WORLD)
            torch.distributed.broadcast(torch.from_numpy(array), src=0, group=group)
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

    def _tell(self, reason: str) -> list[str | None]:
        """Return the failures of all processes, of which this one has its own; others are told wherever they are."""
        if self.count > 1:
            heartbeat.announce_failure(reason)
        try:
            reasons = self.gather(reason)
        except LostProcessError:  # which have heard of it
            reasons = [None] * self.count
        reasons[self.rank] = reason
        return reasons

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


@lru_cache(maxsize=1)
def _control_group(world: Any) -> Any:
    """The group of all processes in which they wait for each other, made when it is first needed.

    Args:
        world: The default group, by which a later one is told from an earlier.
    """
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=PATIENCE)
