"""What processes tell each other, with the others played by what an exchange returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saha_st import heartbeat
from saha_st.ranks import LostProcessError, OtherProcessFailedError, Ranks, _Failure


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch):
    """Lets a list of values, one a process, be exchanged; this process's own value replaces its place."""
    monkeypatch.setattr(heartbeat, "announce_failure", lambda error: True)

    def say(values: list[Any]) -> list[Any]:
        said = []

        def exchange(self: Ranks, value: Any) -> list[Any]:
            said.append(value)
            return [value if rank == self.rank else other for rank, other in enumerate(values)]

        monkeypatch.setattr(Ranks, "_exchange", exchange)
        return said

    return say


def test_without_a_group_a_process_is_alone_and_torch_is_not_imported():
    code = (
        "import sys; from saha_st.ranks import Ranks; assert Ranks.current() == Ranks(0, 1)\n"
        "with Ranks.current().together(): assert Ranks.current().share(3) == 3\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_launcher_tells_the_place_before_there_is_a_group(monkeypatch):
    assert Ranks.launched() == Ranks()
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Ranks.launched() == Ranks(3, 4) and Ranks.current() == Ranks()


def test_an_error_of_all_is_raised_by_the_first_and_by_the_others_as_that_of_another(others):
    others([_Failure(rank, "FileNotFoundError: no x") for rank in (0, 1)])
    with pytest.raises(FileNotFoundError, match="no x"):
        with Ranks(0, 2).together():
            raise FileNotFoundError("no x")
    with pytest.raises(OtherProcessFailedError, match="Process 0 of 2 failed. FileNotFoundError: no x"):
        with Ranks(1, 2).together():
            raise FileNotFoundError("no x")


def test_two_different_errors_are_both_raised(others):
    others([_Failure(0, "ValueError: row 3"), None])
    with pytest.raises(ValueError, match="row 4"):
        with Ranks(1, 2).together():
            raise ValueError("row 4")


@pytest.mark.parametrize("rank", [0, 1])
def test_what_an_inner_block_has_told_an_outer_one_lets_pass(others, rank):
    said = others([_Failure(0, "ValueError: row 3"), None])
    with pytest.raises((ValueError, OtherProcessFailedError), match="row 3"):
        with Ranks(rank, 2).together(), Ranks(rank, 2).together():
            if rank == 0:
                raise ValueError("row 3")
    assert said == [None if rank else _Failure(0, "ValueError: row 3")]  # once


def test_who_waits_for_something_else_takes_a_failure_for_no_value(others):
    others([None, _Failure(1, "OSError: no model")])
    first = Ranks(0, 2)
    for exchange in (
        lambda: first.require_same("--model", "abc"),
        lambda: first.gather(3),
        lambda: first.share(3),
        lambda: first.share_array(np.zeros(2)),
        lambda: first.first().__enter__() or first.gather(None),
    ):
        with pytest.raises(OtherProcessFailedError, match="Process 1 of 2 failed. OSError: no model"):
            with first.together():
                exchange()


def test_the_others_hear_what_failed_in_the_first_process_where_they_wait_for_their_turn(others):
    said = others([_Failure(0, "OSError: disk full"), None])
    with pytest.raises(OSError, match="disk full"), Ranks(0, 2).first():
        raise OSError("disk full")
    assert said == [_Failure(0, "OSError: disk full")]
    with pytest.raises(OtherProcessFailedError, match="disk full"), Ranks(1, 2).first():
        pytest.fail("the turn of the others has not come")


def test_without_a_heartbeat_who_fails_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(Ranks, "_exchange", lambda self, value: pytest.fail("waits for others"))
    with pytest.raises(ValueError, match="row 3") as caught, Ranks(1, 2).together():
        raise ValueError("row 3")
    assert caught.value.is_told


def test_who_fails_says_so_where_those_hear_it_who_wait_elsewhere_and_keeps_his_own_error(monkeypatch):
    announced = []
    monkeypatch.setattr(heartbeat, "announce_failure", lambda error: announced.append(error) or True)

    def exchange(self: Ranks, value: Any) -> list[Any]:
        assert len(announced) == 1  # before it waits
        raise LostProcessError("they have gone")

    monkeypatch.setattr(Ranks, "_exchange", exchange)
    with pytest.raises(ValueError, match="row 3"):
        with Ranks(1, 2).together():
            raise ValueError("row 3")
    assert list(map(str, announced)) == ["row 3"]


def test_processes_with_different_models_are_refused(others):
    others(["abc", "abd"])
    with pytest.raises(ValueError, match="model: the processes have different ones.*'abc', 'abd'"):
        Ranks(0, 2).require_same("model", "abc")
    others(["abc", "abc"])
    Ranks(0, 2).require_same("model", "abc")


def test_a_folder_that_one_machine_has_for_itself_is_refused(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(Ranks, "_exchange", lambda self, value: [value, None if value is None else False])
    with pytest.raises(ValueError, match="cache_folder: 2 processes .* process 1 sees another folder"):
        Ranks(0, 2).require_common_folder(tmp_path / "new", "cache_folder")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(ValueError, match="cache_folder: 2 processes exchange files through a folder; name one"):
        Ranks(0, 2).require_common_folder(None, "cache_folder")
    Ranks().require_common_folder(None, "cache_folder")
