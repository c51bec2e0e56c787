"""The commands in several processes, over gloo: the files of one process, and an end for all when one ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saha_st.cli import main
from saha_st.encoding import columns
from saha_st.heartbeat import LOST

pytestmark = pytest.mark.slow

# Small shards; a process stops short for so many seconds before it writes its fourth.
RUN = """
import os, sys, time
from saha_st.cli import main
from saha_st.encoding import columns
from saha_st.encoding.store import VectorStore
columns.SHARD_SIZE = 8
add, pauses = VectorStore.add, [0, 0, 0, float(os.environ.get("PAUSE", 0))]
def slowly(self, keys, vectors):
    time.sleep(pauses.pop(0) if pauses else 0)
    add(self, keys, vectors)
VectorStore.add = slowly
sys.exit(main())
"""

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch):
    """Makes this process compute as each of several does."""
    monkeypatch.setattr(columns, "SHARD_SIZE", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "run.py"
    path.write_text(RUN)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred pairs of texts, a few anchors and positives of which occur twice."""
    rows = [{"anchor": f"query {max(i, 3)}", "positive": f"document {i % 97}"} for i in range(100)]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


# What goes wrong in one process alone, before or while the other waits for something else.
FAILING = """
import os, sys, time
import saha_st.cli.options
from saha_st import launch
from saha_st.cli import encode, main
rank, what = int(os.environ["RANK"]), os.environ["FAILS"]
def fail(*args, **options):
    if rank == 1:
        raise OSError("no model") if what == "model" else ZeroDivisionError("a defect")
    return load(*args, **options)
if what == "early":
    load, launch._has_accelerator = launch._has_accelerator, fail
elif what == "computing":
    load = lambda *args, **options: time.sleep(600)
    encode.load_model = fail
else:
    load, encode.load_model = encode.load_model, fail
sys.exit(main())
"""

# The same under plain torchrun, without the command line: nobody beats.
PLAIN = """
import sys, torch
from saha_st.ranks import Ranks
torch.distributed.init_process_group("gloo")
ranks = Ranks.current()
with ranks.together():
    if ranks.rank == 1:
        raise ValueError("row 3")
    torch.distributed.barrier()
"""


def launched(script: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = ENVIRONMENT | environment
    return subprocess.run([*launch, *command], capture_output=True, text=True, timeout=400, env=environment)


def started_by_hand(script: Path, *command: str, pauses: tuple[float, float]) -> list[subprocess.Popen]:
    """Start two processes that no launcher looks after."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = ENVIRONMENT | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, str(script), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PAUSE": str(pause)},
        )
        for rank, pause in enumerate(pauses)
    ]


def mine(pairs: Path, output_dir: Path) -> list[str]:
    options = ["--num_negatives", "3", "--device", "cpu", "--quiet"]
    return ["mine", str(pairs), "--model", "saha-tiny-base", "--output_dir", str(output_dir), *options]


@pytest.fixture
def mined_by_one(pairs: Path, tmp_path: Path, one_process: None) -> Path:
    assert main(mine(pairs, tmp_path / "one")) == 0
    return tmp_path / "one"


def shards_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.keys.npy"))


def wait_for_shards(folder: Path, count: int, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 240
    while len(shards_in(folder)) < count and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), [each.communicate() for each in processes]
        time.sleep(0.05)


def test_two_processes_write_the_bytes_of_one(script: Path, tmp_path: Path, one_process: None):
    (tmp_path / "texts.txt").write_text("\n".join(f"text number {i % 90}" for i in range(100)))
    command = ["encode", str(tmp_path / "texts.txt"), "--model", "saha-tiny-base", "--device", "cpu", "--output"]
    assert main([*command, str(tmp_path / "one.safetensors"), "--quiet"]) == 0
    finished = launched(script, *command, str(tmp_path / "two.safetensors"))
    assert finished.returncode == 0, finished.stderr[-5000:]
    assert (tmp_path / "two.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert finished.stdout.count("Wrote 100 vectors") == 1
    assert finished.stderr.count("100 rows, 90 distinct, 90 to encode") == 1
    assert len(set(re.findall(r"Encode input: .*?(\d+)/\d+ ", finished.stderr))) > 1  # one bar, of which we see steps
    assert len(set(re.findall(r"Encode input: .*?/(\d+) ", finished.stderr))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "texts.txt", "two.safetensors"]


def test_a_process_killed_while_the_other_computes_ends_it_and_the_next_run_goes_on(
    script: Path, pairs: Path, mined_by_one: Path, tmp_path: Path
):
    two = tmp_path / "two"
    processes = started_by_hand(script, *mine(pairs, two), pauses=(600, 600))
    wait_for_shards(two, 6, processes)
    kept = {file: file.stat().st_mtime_ns for file in shards_in(two)}
    assert 6 <= len(kept) < len(shards_in(mined_by_one))
    processes[1].send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    _, said = processes[0].communicate(timeout=100)
    assert time.monotonic() - killed_at < 60
    assert processes[0].returncode == LOST
    assert "Process 1 of 2 has not been heard of for 40 seconds" in said and "Start the same command again" in said
    processes[1].communicate()
    assert not (two / "mining.json").exists()

    finished = launched(script, *mine(pairs, two))
    assert finished.returncode == 0, finished.stderr[-5000:]
    for name in ("clusters.parquet", "mining.json"):
        assert (two / name).read_bytes() == (mined_by_one / name).read_bytes(), name
    assert finished.stdout == (two / "mining.json").read_text() + "\n"  # one of them prints
    assert len(shards_in(two)) == len(shards_in(mined_by_one))
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_when_the_first_process_is_killed_one_that_waits_for_it_says_so_and_ends(
    script: Path, pairs: Path, tmp_path: Path
):
    processes = started_by_hand(script, *mine(pairs, tmp_path / "two"), pauses=(600, 0))
    wait_for_shards(tmp_path / "two", 9, processes)  # three of the first, and all that the second has of this column
    processes[0].send_signal(signal.SIGKILL)
    _, said = processes[1].communicate(timeout=60)
    assert processes[1].returncode == LOST
    assert "Process 1 of 2" in said and "Start the same command again" in said and "Traceback" not in said
    processes[0].communicate()


def test_an_unreadable_picture_in_one_process_ends_both_and_is_named_once(script: Path, tmp_path: Path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(24):
        Image.fromarray(np.full((32, 32, 3), 10 * i, dtype=np.uint8)).save(pictures / f"{i:02}.png")
    (pictures / "12.png").write_bytes(b"no picture")  # in the second of three shards, and so in the second process
    output = tmp_path / "vectors.parquet"
    finished = launched(
        script, "encode", str(pictures), "--model", "saha-tiny-base", "--device", "cpu", "--output", str(output)
    )
    assert finished.returncode != 0 and not output.exists()
    assert finished.stderr.count("saha-st encode: error: ") == 1, finished.stderr
    assert re.search(
        r"saha-st encode: error: Row 12, column 'input' \('.*12\.png'\): cannot identify", finished.stderr
    ), finished.stderr
    assert "This process ends" not in finished.stderr


@pytest.fixture
def failing(tmp_path: Path):
    """Lets one of two processes fail."""

    def start(what: str) -> subprocess.CompletedProcess:
        (tmp_path / "failing.py").write_text(FAILING)
        (tmp_path / "texts.txt").write_text("one\ntwo\n")
        output = str(tmp_path / "vectors.parquet")
        command = ["encode", str(tmp_path / "texts.txt"), "--model", "saha-tiny-base", "--output", output]
        finished = launched(tmp_path / "failing.py", *command, FAILS=what)
        assert finished.returncode != 0 and not Path(output).exists()
        return finished

    return start


def test_a_model_that_one_process_cannot_load_is_named_once_by_that_process(failing):
    said = failing("model").stderr
    assert said.count("no model") == said.count("saha-st encode: error: no model\n") == 1, said
    assert "the processes have different ones" not in said and 'raise OSError("no model")' not in said


@pytest.mark.parametrize("what", ["early", "computing"])
def test_a_defect_shows_its_traceback_once_and_ends_the_others_wherever_they_are(failing, what):
    said = failing(what).stderr
    raised = 'raise OSError("no model") if what == "model" else ZeroDivisionError("a defect")'
    assert said.count(raised) == said.count("\nZeroDivisionError: a defect\n") == 1, said
    heard = "Process 1 of 2 failed. ZeroDivisionError: a defect. This process ends."
    assert said.count(heard) <= 1  # unless the launcher, who saw the first one end, was faster
    assert heard not in said or said.index(raised) < said.index(heard)


def test_under_plain_torchrun_who_fails_waits_for_nobody(tmp_path: Path):
    (tmp_path / "plain.py").write_text(PLAIN)
    begun = time.monotonic()
    finished = launched(tmp_path / "plain.py")
    assert finished.returncode != 0 and "ValueError: row 3" in finished.stderr
    assert time.monotonic() - begun < 60
