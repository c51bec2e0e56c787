"""Processes that notice when one of them has died, wherever they are: in a collective, computing, or in Python.

A collective tells at best the process that waits in it, and on GPUs only after its timeout, which must be long since
shares of work differ. So a thread of each process shows every few seconds that it lives, in the store by which the
processes have found each other. The first process looks at all others, they look at it; who finds one silent says so
in the store and ends, and the others, who read that, end too. Silence is counted in rounds of the one who listens: who
was stopped himself, with his machine, has not listened. A second thread guards the first, whose requests to the store
may remain unanswered.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

LOST, FAILED = 75, 1
"""Exit status of a process that ends because another one has died (EX_TEMPFAIL: starting again may help) or failed."""

INTERVAL = 4.0
"""Seconds between two rounds."""

SILENT_ROUNDS = 10
"""After so many rounds, 40 seconds, a process counts as dead: longer than any call that keeps threads from running."""

GRACE = 5.0
"""Seconds in which a process that hears of an end may end by itself, with its own message."""

Report = Callable[[Exception], None]
"""Says in the log of this process what has failed in it."""

REMEDY = "Start the same command again (train: with --resume), and it goes on from what is on disk."

_DIED, _FAILED, _HEARD = "died", "failed", "heard"


class End(NamedTuple):
    """Why a process must end, and with which exit status."""

    reason: str
    status: int


class Heartbeat:
    """Tells the other processes that this one lives, and ends it when one of them does not.

    Args:
        store: Where the processes leave word for each other: `set`, `get` and `check` as torch's stores have them. On
            a connection of its own, as others are blocked for as long as somebody waits for a key.
        rank: Number of this process.
        count: Number of processes.
        report: Says what has failed in this process, at once: the others may not come to wait with it for long. By
            default one line in the log. What several meet alike is reported by one of them.
        interval: Seconds between two rounds.
        grace: Seconds between hearing of an end and ending this process.
        end: Ends this process; is told whether it is the one to say why.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        count: int,
        *,
        report: Report | None = None,
        interval: float = INTERVAL,
        grace: float = GRACE,
        end: Callable[[End, bool], None] | None = None,
    ) -> None:
        self.rank, self.count = rank, count
        self.interval, self.grace = interval, grace
        self._store = store
        self._end, self._report = end or _end_process, report or self._log
        self._beats, self._has_failed = 0, False
        self._heard: dict[int, bytes] = {}
        self._silent_rounds = dict.fromkeys(range(1, count) if rank == 0 else (0,), 0)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"saha_st.heartbeat{work.__name__}", daemon=True)
            for work in (self._run, self._guard)
        ]

    def start(self) -> None:
        """Begin to show that this process lives, and to look at the others."""
        global _running
        _running = self
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop when all processes have done their work, or when this one ends by itself."""
        global _running
        _running = None
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=self.interval)

    def announce_failure(self, error: BaseException) -> None:
        """Say to all that this process has failed, and why; itself it ends when the others have heard it.

        Reports the error too, unless another process has reported the same one. Either way it has the attribute
        ``is_reported`` then. With an attribute ``is_of_all``, errors of one class count as the same.
        """
        self._has_failed = True
        reason = reason_of(error)
        self._announce(_FAILED, f"Process {self.rank} of {self.count} failed. {reason}")
        if isinstance(error, Exception) and not getattr(error, "is_reported", False):
            if self._is_first_to(type(error).__name__ if getattr(error, "is_of_all", False) else reason):
                self._report(error)
            error.is_reported = True

    def beat(self) -> End | None:
        """Do one round; returns why this is the end, if it is."""
        self._beats += 1
        try:
            self._store.set(str(self.rank), str(self._beats))
            return self._announced() or self._first_silent()
        except RuntimeError as error:
            return self._unreachable(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def _run(self) -> None:
        while not self._stopped.wait(self.interval):
            if end := self.beat():
                self._end_unless_stopped(end, says_why=lambda: self._is_first_to(_HEARD))
                return

    def _guard(self) -> None:
        """See that rounds come to an end: a store may leave a request unanswered, as when its machine is gone."""
        beats, rounds = self._beats, 0
        while not self._stopped.wait(self.interval) and rounds < SILENT_ROUNDS:
            rounds = rounds + 1 if self._beats == beats else 0
            beats = self._beats
        self._end_unless_stopped(self._unreachable("no answer"))

    def _end_unless_stopped(self, end: End, says_why: Callable[[], bool] = lambda: True) -> None:
        if not self._stopped.wait(self.grace):
            is_to_say = says_why()  # while the guard looks on: the store may not answer
            self._stopped.set()
            self._end(end, is_to_say)

    def _is_first_to(self, say: str) -> bool:
        """Whether no other process has come before with the same words; each must ask before it says them."""
        try:
            return self._store.add(f"said/{say}", 1) == 1
        except RuntimeError:  # the store is gone: better twice than never
            return True

    def _log(self, error: Exception) -> None:
        logger.error("Process %d of %d failed. %s", self.rank, self.count, reason_of(error))

    def _unreachable(self, reason: str) -> End:
        return End(f"Process {self.rank} of {self.count} cannot reach the first one any more ({reason}).", LOST)

    def _announce(self, key: str, reason: str) -> None:
        try:
            self._store.set(key, reason)
        except RuntimeError:  # the store is gone, and with it the first process
            logger.debug("Could not announce: %s", reason, exc_info=True)

    def _announced(self) -> End | None:
        for key, status in ((_DIED, LOST), (_FAILED, FAILED)):
            if self._store.check([key]) and not (key == _FAILED and self._has_failed):
                return End(self._store.get(key).decode(), status)
        return None

    def _first_silent(self) -> End | None:
        """Listen to those whom this process looks at; say to all if one has been silent for too long."""
        for rank in self._silent_rounds:
            value = self._store.get(str(rank)) if self._store.check([str(rank)]) else b""
            is_new = value != self._heard.get(rank)
            self._heard[rank] = value
            self._silent_rounds[rank] = 0 if is_new else self._silent_rounds[rank] + 1
            if self._silent_rounds[rank] >= SILENT_ROUNDS:
                reason = (
                    f"Process {rank} of {self.count} has not been heard of for {SILENT_ROUNDS * self.interval:.0f} "
                    "seconds: killed, out of memory, or its machine is gone."
                )
                self._announce(_DIED, reason)
                return End(reason, LOST)
        return None


_running: Heartbeat | None = None


def announce_failure(error: Exception) -> bool:
    """Say to all processes that this one has failed, and why; returns whether a heartbeat lets them hear it."""
    if _running is None:
        return False
    _running.announce_failure(error)
    return True


def reason_of(error: BaseException) -> str:
    """Return an error in words, with its kind."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _end_process(end: End, says_why: bool) -> None:
    """End this process at once: what it does may never return."""
    from multiprocessing import active_children

    if says_why:
        stop = "" if end.reason.endswith((".", "!", "?")) else "."
        logger.error("%s%s This process ends.%s", end.reason, stop, f" {REMEDY}" if end.status == LOST else "")
    for child in active_children():  # they would wait for work for ever
        child.kill()
    os._exit(end.status)
