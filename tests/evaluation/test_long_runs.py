"""Long runs: killed and started again, or shared by two processes, they end with the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mmeb_folder import write_mmeb

from saha_st.card.run_folders import find_run
from saha_st.encoding import DistinctInputs, VectorStore, encode_distinct
from saha_st.evaluation import evaluate, mmeb_tasks, run
from saha_st.evaluation.checks import Checks
from saha_st.ranks import OtherProcessFailedError, Ranks, _Failure

SUBSETS = ["OK-VQA", "MSCOCO_t2i", "CIRR", "WebQA"]

# Small shards, slowly encoded; says on stdout how many inputs this process has encoded.
RUN = """
import sys, time
from saha_st.encoding import columns, engine
columns.SHARD_SIZE = 8
prepare_or_name, encoded = engine._prepare_or_name, []
def slowly(prepare, reader, rows):
    time.sleep(float(sys.argv[1]))
    encoded.extend(rows)
    return prepare_or_name(prepare, reader, rows)
engine._prepare_or_name = slowly
engine.Encoder._workers = lambda self, *windows: 0
from saha_st.cli import main
status = main(sys.argv[2:])
print(f"\\nencoded {len(encoded)}", flush=True)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mmeb(tmp_path_factory.mktemp("data") / "MMEB-eval")


def arguments(model: Path, data: Path, out: Path, seconds: float = 0) -> list[str]:
    tasks = [f"MMEB_{subset}" for subset in SUBSETS]
    flags = ["--data_dir", str(data), "--output_dir", str(out), "--batch_size", "4", "--name", "org/m", "--quiet"]
    return [str(seconds), "evaluate", str(model), "--benchmark", *tasks, "--device", "cpu", *flags]


def scores_in(out: Path) -> dict[str, Any]:
    files = sorted(find_run(out).results.glob("MMEB_*.json"))
    return {file.name: json.loads(file.read_text())["scores"] for file in files}


@pytest.fixture(scope="module")
def unbroken(_embedder, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    tasks = mmeb_tasks(data, SUBSETS)
    evaluate(_embedder, tasks, output_dir=out, batch_size=4, model_name="org/m", show_progress_bar=False)
    return out


@pytest.mark.slow
def test_a_run_killed_with_sigkill_goes_on_inside_the_task_and_ends_with_the_same_files(
    tiny_mllm: Path, data: Path, unbroken: Path, tmp_path: Path
):
    command = [sys.executable, "-c", RUN, *arguments(tiny_mllm, data, tmp_path, 0.4)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240

    def done() -> tuple[int, int]:
        return len(list(tmp_path.glob("results/*/*/MMEB_*.json"))), len(list(tmp_path.rglob("*.keys.npy")))

    while (done()[0] < 1 or done()[1] < 8) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    tasks, shards = done()
    assert 1 <= tasks < len(SUBSETS)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("results/*/*/MMEB_*.json")}
    vectors = sum(len(np.load(file)) for file in tmp_path.rglob("*.keys.npy"))

    again = [sys.executable, "-c", RUN, *arguments(tiny_mllm, data, tmp_path)]
    finished = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    total = sum(len(np.load(file)) for file in unbroken.rglob("*.keys.npy"))
    assert 0 < vectors < total
    assert f"encoded {total - vectors}" in finished.stdout
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert scores_in(tmp_path) == scores_in(unbroken) and len(scores_in(tmp_path)) == len(SUBSETS)
    for file in find_run(unbroken).rankings.iterdir():
        assert (find_run(tmp_path).rankings / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_work_and_give_the_numbers_of_one(
    tiny_mllm: Path, data: Path, unbroken: Path, tmp_path: Path
):
    (tmp_path / "rank.py").write_text(RUN)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [*launch, str(tmp_path / "rank.py"), *arguments(tiny_mllm, data, tmp_path / "out")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert finished.returncode == 0, finished.stderr[-3000:]
    encoded = [int(line.split()[1]) for line in finished.stdout.splitlines() if line.startswith("encoded ")]
    total = sum(len(np.load(file)) for file in unbroken.rglob("*.keys.npy"))
    assert len(encoded) == 2 and sum(encoded) == total and min(encoded) > total / 6
    assert finished.stdout.count("| **Overall** |") == 1  # one of them prints
    assert scores_in(tmp_path / "out") == scores_in(unbroken)
    for file in find_run(unbroken).rankings.iterdir():
        assert (find_run(tmp_path / "out").rankings / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_an_error_in_one_process_ends_both_and_names_the_input(tiny_mllm: Path, data: Path, tmp_path: Path):
    broken = Path(shutil.copytree(data, tmp_path / "data"))
    (broken / "eval_images" / "pictures" / "7.png").write_bytes(b"no picture")
    (tmp_path / "rank.py").write_text(RUN)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29672"]
    command = [*launch, str(tmp_path / "rank.py"), *arguments(tiny_mllm, broken, tmp_path / "out")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert finished.returncode != 0
    assert "7.png" in finished.stderr and "MMEB_OK-VQA, query" in finished.stderr
    assert not list((tmp_path / "out").glob("results/*/*/MMEB_OK-VQA.json"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_is_encoded_together_does_not_depend_on_the_number_of_processes_or_on_a_kill(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("saha_st.encoding.columns.SHARD_SIZE", 16)
    monkeypatch.setattr("saha_st.encoding.columns._take_up", lambda store, keys: None)  # the others come after it
    keys = np.array([f"{number:032d}".encode() for number in range(70)], dtype="S32")
    distinct, calls = DistinctInputs.of_keys(keys), []

    def encode(windows: list[np.ndarray], advance: Any) -> Iterator[np.ndarray]:
        for rows in windows:
            calls.append(rows.tolist())
            yield np.ones((len(rows), 2), dtype=np.float32)

    VectorStore(tmp_path, "m").add(keys[16:32], np.ones((16, 2), dtype=np.float32))  # a shard of a run that was killed
    missing = np.r_[0:16, 32:70]
    monkeypatch.setattr(Ranks, "_exchange", lambda self, value: [value])
    monkeypatch.setattr(Ranks, "share_array", lambda self, array: missing)  # as the first process has found it
    for rank in range(count):
        ranks = Ranks(rank, count)
        encode_distinct(distinct, VectorStore(tmp_path, "m"), encode, window=8, title="x", ranks=ranks)
    expected = [list(range(start, min(start + 8, 70))) for start in [0, 8, *range(32, 70, 8)]]
    assert sorted(calls) == expected
    assert VectorStore(tmp_path, "m").contains(keys).all()


def test_what_fails_in_one_process_ends_the_others_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    given = [None, _Failure(1, "ValueError: row 7 is broken")]
    monkeypatch.setattr(Ranks, "_exchange", lambda self, value: given)
    with pytest.raises(RuntimeError, match="Process 1 of 2 failed. ValueError: row 7 is broken"):
        with Ranks(0, 2).together():
            pass
    with pytest.raises(ValueError, match="own"):
        with Ranks(0, 2).together():
            raise ValueError("own")


def test_an_unreadable_row_is_not_put_down_to_a_limit_nor_told_twice():
    task = SimpleNamespace(metadata=SimpleNamespace(name="MMEB_CIRR"), is_aggregate=False)
    scoring = SimpleNamespace(_checks_of=lambda task: Checks(), limit=3)
    told = ValueError("row 3")
    told.is_told = True
    for error in (ValueError("MMEB_CIRR, query 7: not a picture"), told, OtherProcessFailedError("Process 1 failed")):
        with pytest.raises(type(error)) as caught, run._Run._explained(scoring, task):
            raise error
        assert caught.value is error
    with pytest.raises(ValueError, match="MMEB_CIRR: too few. With --limit 3"), run._Run._explained(scoring, task):
        raise IndexError("too few")


def test_several_processes_without_a_common_folder_are_refused(embedder, monkeypatch: pytest.MonkeyPatch):
    from saha_st.evaluation import Embedder

    monkeypatch.setattr(Ranks, "current", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(ValueError, match="cache_folder: 2 processes exchange vectors through a folder"):
        Embedder(embedder)
