"""What the command line does with processes, before any are joined."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from contextlib import contextmanager

import pytest

from saha_st.cli import COMMANDS, _report, encode, main
from saha_st.errors import MemoryFullError
from saha_st.heartbeat import LOST
from saha_st.launch import _check, _form_group
from saha_st.ranks import LostProcessError, OtherProcessFailedError, Ranks


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch):
    """Makes this process one of two, as a launcher would, without joining them."""

    @contextmanager
    def joined(device=None, report=None):
        yield "cpu"

    def start(rank: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr("saha_st.cli.joined", joined)

    return start


@pytest.mark.parametrize("module", ["saha_st", "saha_st.cli"])
def test_launchers_find_the_commands_as_a_module(module):
    finished = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert finished.stdout.startswith("saha-st ") and finished.returncode == 0


def test_four_commands_run_in_several_processes():
    assert [each.NAME for each in COMMANDS if getattr(each, "IN_PROCESSES", False)] == [
        "encode", "mine", "train", "evaluate"
    ]  # fmt: skip


@pytest.mark.parametrize("rank", [0, 1])
def test_a_command_for_one_process_is_refused_once(rank, as_process, capsys):
    as_process(rank)
    assert main(["publish", "saha-tiny", "org/name", "--dry-run"]) == 2
    said = capsys.readouterr()
    line = "saha-st publish: error: 2 processes were started (WORLD_SIZE=2), but publish is for one."
    assert said.out == "" and said.err.count(line) == (rank == 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_prints_and_the_others_are_quiet(rank, as_process, capsys, monkeypatch):
    as_process(rank)
    seen = []

    def run(args):
        seen.append((args.quiet, args.device))
        sys.stdout.write("Wrote it.\n")
        return 0

    monkeypatch.setattr(encode, "run", run)
    assert main(["encode", "x.txt", "--model", "saha-tiny", "--output", "x.parquet"]) == 0
    assert seen == [(rank == 1, "cpu")]
    assert capsys.readouterr().out == ("" if rank else "Wrote it.\n")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("row 3"), 2, "saha-st encode: error: row 3\n"),
        (OtherProcessFailedError("Process 0 of 2 failed."), 2, ""),
        (
            LostProcessError("Process 1 has lost another one."),
            LOST,
            "saha-st encode: Process 1 has lost another one.\n",
        ),
    ],
)
def test_each_process_says_what_is_wrong_with_it_and_nothing_else(
    error, status, said, as_process, capsys, monkeypatch
):
    as_process(1)

    def run(args):
        raise error

    monkeypatch.setattr(encode, "run", run)
    assert main(["encode", "x.txt", "--model", "saha-tiny", "--output", "x.parquet"]) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("error", "status"), [(ValueError("row 3"), 2), (RuntimeError("defect"), 1)])
def test_what_was_reported_where_it_failed_is_not_said_again(error, status, as_process, capsys, monkeypatch):
    as_process(1)
    error.is_reported = True

    def run(args):
        raise error

    monkeypatch.setattr(encode, "run", run)
    assert main(["encode", "x.txt", "--model", "saha-tiny", "--output", "x.parquet"]) == status
    assert capsys.readouterr().err == ""


def test_a_report_is_one_line_or_the_traceback_of_a_defect(capsys):
    args = Namespace(command="train", traceback=False, flags={})
    for error in (MemoryFullError("Out of memory in row 3."), OSError("disk full"), KeyError("no column")):
        error.__cause__ = RuntimeError("CUDA out of memory")
        _report(error, args)
        said = capsys.readouterr().err
        assert said.startswith("saha-st train: error: ") and said.count("\n") == 1
    _report(RuntimeError("defect"), args)
    assert capsys.readouterr().err == "RuntimeError: defect\n"
    _report(OSError("disk full"), Namespace(command="train", traceback=True))
    assert capsys.readouterr().err == "OSError: disk full\n"


def test_deepspeed_is_refused_before_a_group_is_formed(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="--use_deepspeed: .* with --multi_gpu instead.$"):
        _form_group(None, Ranks(0, 2), on_cpu=False)


def test_a_device_by_number_and_a_group_that_lacks_processes_are_refused():
    for device in (None, "cpu", "cuda"):
        _check(device, Ranks(1, 2), Ranks(1, 2))
    with pytest.raises(ValueError, match="--device cuda:1: each of the 2 processes has a device of its own"):
        _check("cuda:1", Ranks(1, 2), Ranks(1, 2))
    with pytest.raises(ValueError, match="started 2 processes.*the process group has 1.*LOCAL_RANK"):
        _check(None, Ranks(), Ranks(1, 2))


def test_the_folder_of_processes_lies_beside_the_output_and_only_their_vectors_are_removed(tmp_path):
    output = tmp_path / "photos.parquet"
    folder = tmp_path / "photos.parquet.vectors"
    assert encode._folder_of_processes(output, Ranks()) is None
    assert encode._folder_of_processes(output, Ranks(0, 2)) == folder
    (folder / "fingerprint").mkdir(parents=True)
    (folder / "fingerprint" / "shard.keys.npy").touch()
    (folder / "notes.txt").touch()
    assert encode._folder_of_processes(output, Ranks()) == folder  # one process goes on where several were killed
    encode._remove(folder, "fingerprint")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    encode._remove(folder, "fingerprint")
    assert not folder.exists()
