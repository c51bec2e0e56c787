"""The heartbeat on a store of our own: who is silent is found, who is busy is not."""

from __future__ import annotations

import threading
import time

import pytest

from saha_st.errors import MemoryFullError
from saha_st.heartbeat import FAILED, LOST, SILENT_ROUNDS, End, Heartbeat, _end_process


class Store(dict):
    """A store as torch's are, in memory; out of reach when it is told so."""

    is_gone = False

    def set(self, key: str, value: str) -> None:
        if self.is_gone:
            raise RuntimeError("Broken pipe\nC++ frames follow")
        self[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self[key]

    def add(self, key: str, amount: int) -> int:
        if self.is_gone:
            raise RuntimeError("Broken pipe")
        self[key] = self.get(key) + amount if key in self else amount
        return self[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


def no_end(end: End, says_why: bool) -> None:
    raise AssertionError(end)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def three(store: Store) -> list[Heartbeat]:
    return [Heartbeat(store, rank, 3, interval=0.01, grace=0.1, end=no_end) for rank in range(3)]


def rounds(beats: list[Heartbeat], count: int) -> list[End | None]:
    """What each says last."""
    found = [None] * len(beats)
    for _ in range(count):
        found = [each.beat() for each in beats]
    return found


def test_nobody_is_taken_for_dead_while_all_beat(three):
    assert rounds(three, 5 * SILENT_ROUNDS) == [None, None, None]


def test_who_falls_silent_is_named_to_all_after_forty_seconds_of_rounds(three):
    assert rounds(three, 3) == [None, None, None]
    assert rounds(three[:2], SILENT_ROUNDS) == [None, None]
    first, second = rounds(three[:2], 1)
    assert first == second and first.reason.startswith("Process 2 of 3 has not been heard of")
    assert first.status == LOST
    assert Heartbeat(three[0]._store, 0, 3).interval * SILENT_ROUNDS == 40


def test_all_notice_when_the_first_process_falls_silent(three):
    rounds(three, 3)
    last = rounds(three[1:], SILENT_ROUNDS)
    assert [end.reason[:16] for end in last] == ["Process 0 of 3 h"] * 2


def test_who_beats_seldom_but_beats_raises_no_alarm(three):
    for _ in range(20):
        assert rounds([three[0], three[2]], SILENT_ROUNDS - 1)[0] is None
        assert three[1].beat() is None  # after a long call that let no other thread run


def test_a_store_out_of_reach_is_the_end_in_one_line(three, store):
    store.is_gone = True
    assert three[1].beat() == End("Process 1 of 3 cannot reach the first one any more (Broken pipe).", LOST)
    three[1].announce_failure(ValueError("row 7"))


def wait_for(ends: list[End]) -> list[End]:
    deadline = time.monotonic() + 20
    while not ends and time.monotonic() < deadline:
        time.sleep(0.01)
    return ends


def test_a_store_that_never_answers_is_the_end(store, monkeypatch):
    ends, forever = [], threading.Event()
    beat = Heartbeat(store, 1, 2, interval=0.01, grace=0.01, end=lambda end, says_why: ends.append(end))
    monkeypatch.setattr(store, "check", lambda keys: not forever.wait())
    beat.start()
    assert wait_for(ends) == [End("Process 1 of 2 cannot reach the first one any more (no answer).", LOST)]
    forever.set()
    beat.stop()


def test_the_others_hear_of_a_failure_in_their_next_round_and_who_failed_has_time_to_say_why(three):
    three[1].announce_failure(ValueError("row 7"))
    failed = End("Process 1 of 3 failed. ValueError: row 7", FAILED)
    assert rounds(three, 1) == [failed, None, failed]
    assert rounds(three[1:], SILENT_ROUNDS)[0].reason.startswith("Process 0 of 3 has not been heard of")


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_who_hears_of_an_end_has_time_to_end_by_itself(store, ends_by_itself):
    ends = []
    beat = Heartbeat(store, 0, 2, interval=0.01, grace=1, end=lambda end, says_why: ends.append(end))
    beat.start()
    Heartbeat(store, 1, 2).announce_failure(ValueError("row 7"))
    time.sleep(0.1)
    assert ends == []
    if ends_by_itself:
        beat.stop()
        time.sleep(1.2)
        assert ends == []
    else:
        assert wait_for(ends) == [End("Process 1 of 2 failed. ValueError: row 7", FAILED)]
    assert len(ends) == (not ends_by_itself)


def test_what_several_meet_alike_is_reported_by_one_of_them_and_what_they_do_not_by_each(store):
    reported: list[tuple[int, str]] = []
    three = [Heartbeat(store, r, 3, report=lambda error, r=r: reported.append((r, str(error)))) for r in range(3)]
    errors = [FileNotFoundError("no x"), FileNotFoundError("no x"), ValueError("row 3")]
    for beat, error in zip(three, errors, strict=True):
        beat.announce_failure(error)
        beat.announce_failure(error)  # again, further out
    assert reported == [(0, "no x"), (2, "row 3")]
    assert all(error.is_reported for error in errors)
    full = [MemoryFullError("rows 3, 4"), MemoryFullError("rows 5, 6")]
    three[1].announce_failure(full[0])
    three[2].announce_failure(full[1])
    assert reported[2:] == [(1, "rows 3, 4")] and full[1].is_reported
    three[0].announce_failure(KeyboardInterrupt())
    assert len(reported) == 3 and store["failed"] == b"Process 0 of 3 failed. KeyboardInterrupt"
    store.is_gone = True
    three[0].announce_failure(ValueError("row 3"))
    assert reported[3:] == [(0, "row 3")]  # better twice than never


def test_by_default_a_failure_is_one_line_in_the_log(store, caplog):
    Heartbeat(store, 1, 2).announce_failure(ValueError("row 7"))
    assert caplog.messages == ["Process 1 of 2 failed. ValueError: row 7"]


def test_one_of_those_who_hear_of_a_failure_says_so_before_they_end(store):
    ends: list[tuple[End, bool]] = []
    others = [
        Heartbeat(store, rank, 3, interval=0.01, grace=0.05, end=lambda *end: ends.append(end)) for rank in (0, 2)
    ]
    for beat in others:
        beat.start()
    Heartbeat(store, 1, 3).announce_failure(ValueError("row 7"))
    deadline = time.monotonic() + 20
    while len(ends) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    for beat in others:
        beat.stop()
    assert sorted(says_why for _, says_why in ends) == [False, True]
    assert {end for end, _ in ends} == {End("Process 1 of 3 failed. ValueError: row 7", FAILED)}


@pytest.mark.parametrize("reason", ["Process 1 of 2 failed. ValueError: row 7", "Process 1 of 2 failed. No room."])
def test_reason_and_end_are_two_sentences(reason, monkeypatch, caplog):
    statuses = []
    monkeypatch.setattr("os._exit", statuses.append)
    _end_process(End(reason, FAILED), True)
    _end_process(End(reason, FAILED), False)
    assert caplog.messages == [f"{reason.removesuffix('.')}. This process ends."]
    assert statuses == [FAILED, FAILED]


def test_after_a_stop_nothing_is_said_and_no_thread_is_left(store):
    beat = Heartbeat(store, 0, 1, interval=0.01, end=no_end)
    beat.start()
    time.sleep(0.05)
    beat.stop()
    said = store["0"]
    time.sleep(0.05)
    assert store["0"] == said and int(said) > 1 and not any(each.is_alive() for each in beat._threads)
