"""Encoding a column: each distinct input once, and a cache that is never taken for more than it is."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import gethostname

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from saha_st.encoding import VectorStore, columns, encode_column, engine, fingerprints, vector_fingerprint
from saha_st.encoding import store as store_module
from saha_st.files import write_whole
from saha_st.prompts import HierarchicalPrompt

RNG = np.random.default_rng(0)


@pytest.fixture
def encoded_inputs(embedder, monkeypatch) -> list:
    """Collects every input that reaches the model."""
    seen = []
    prepare = engine._Prompted.__call__
    monkeypatch.setattr(
        engine._Prompted, "__call__", lambda self, inputs: seen.extend(map(text_of, inputs)) or prepare(self, inputs)
    )
    return seen


def text_of(cell):
    return cell["text"] if isinstance(cell, dict) else cell


def texts(values: list[str]) -> Dataset:
    return Dataset.from_dict({"anchor": values})


QUIET = {"show_progress_bar": False}


def test_each_distinct_input_is_encoded_once_and_rows_find_their_vector(embedder, encoded_inputs):
    dataset = texts(["b", "a", "b", "c", "a"])
    column = encode_column(dataset, "anchor", embedder, task="query", **QUIET)
    assert sorted(encoded_inputs) == ["a", "b", "c"]
    assert column.distinct.index_of_row.tolist() == [0, 1, 0, 2, 1]
    expected = embedder.encode_query(["b", "a", "c"])
    np.testing.assert_allclose(column.embeddings, expected, atol=1e-6)


def test_structs_of_image_and_text_with_missing_parts_are_encoded(embedder, tmp_path):
    Image.radial_gradient("L").resize((32, 32)).save(tmp_path / "a.png")
    cells = [
        {"image": str(tmp_path / "a.png"), "text": "x"},
        {"image": None, "text": "x"},
        {"image": str(tmp_path / "a.png"), "text": None},
    ]
    features = {"anchor": {"image": ImageFeature(), "text": Value("string")}}
    dataset = Dataset.from_list([{"anchor": cell} for cell in cells], features=Features(features))
    column = encode_column(dataset, "anchor", embedder, task="document", **QUIET)
    image = Image.open(tmp_path / "a.png")
    expected = embedder.encode_document([{"image": image, "text": "x"}, {"text": "x"}, {"image": image}])
    np.testing.assert_allclose(column.embeddings, expected, atol=1e-6)


def test_a_second_run_encodes_only_what_is_new(embedder, encoded_inputs, tmp_path):
    first = encode_column(texts(["a", "b"]), "anchor", embedder, cache_folder=tmp_path, **QUIET)
    encoded_inputs.clear()
    second = encode_column(texts(["b", "new", "a"]), "anchor", embedder, cache_folder=tmp_path, **QUIET)
    assert encoded_inputs == ["new"]
    np.testing.assert_array_equal(second.embeddings[[2, 0]], first.embeddings)


def test_everything_that_changes_a_vector_changes_the_fingerprint(embedder):
    def fingerprint(**kwargs):
        return vector_fingerprint(embedder, **kwargs)

    unused = fingerprint()
    embedder.encode(["a text"])
    assert fingerprint() == unused
    seen = [fingerprint(), fingerprint(task="query"), fingerprint(task="document"), fingerprint(prompt="x")]
    embedder[0].max_seq_length = 77
    seen.append(fingerprint())
    embedder[0].processor.image_processor.size = {"shortest_edge": 1024, "longest_edge": 2048}
    seen.append(fingerprint())
    embedder[0].prompt = HierarchicalPrompt(system="Other.")
    seen.append(fingerprint())
    next(embedder[0].parameters()).data.reshape(-1)[0] += 1e-3
    seen.append(fingerprint())
    embedder.half()
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen) == 9
    assert fingerprint() == seen[-1]


def test_a_checkpoint_has_one_fingerprint_wherever_it_lies_and_so_has_its_adapter(embedder, tmp_path):
    from peft import LoraConfig

    from saha_st.modules import load_embedder

    embedder.save_pretrained(str(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    models = [load_embedder(str(tmp_path / name), device="cpu") for name in ("one", "two")]
    assert vector_fingerprint(models[0]) == vector_fingerprint(models[1]) == vector_fingerprint(embedder)
    models[0].add_adapter(LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    adapted = vector_fingerprint(models[0])
    assert adapted != vector_fingerprint(models[1])
    models[0].save_pretrained(str(tmp_path / "adapter"))
    assert vector_fingerprint(load_embedder(str(tmp_path / "adapter"), device="cpu")) == adapted
    shutil.copytree(tmp_path / "adapter", tmp_path / "moved")
    moved = [load_embedder(str(tmp_path / name), device="cpu") for name in ("adapter", "moved")]
    assert vector_fingerprint(moved[0]) == vector_fingerprint(moved[1])


def test_sets_in_settings_are_written_in_one_order_whatever_the_process():
    names = {f"layer{number}_proj" for number in range(20)}
    assert json.loads(json.dumps({"target_modules": names}, default=fingerprints._as_json)) == {
        "target_modules": sorted(names)
    }


def test_a_killed_run_keeps_its_whole_shards(embedder, encoded_inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "SHARD_SIZE", 4)
    monkeypatch.setattr(engine, "_MOST_LANES", 1)  # or what is computed beside the window that is killed is lost too
    dataset = texts([f"text {i}" for i in range(10)])
    original = engine._Prompted.__call__

    def stop_at_the_third_shard(self, inputs):
        if "text 8" in inputs:
            raise KeyboardInterrupt
        return original(self, inputs)

    with monkeypatch.context() as killed:
        killed.setattr(engine._Prompted, "__call__", stop_at_the_third_shard)
        with pytest.raises(KeyboardInterrupt):
            encode_column(dataset, "anchor", embedder, cache_folder=tmp_path, num_workers=0, **QUIET)
    encoded_inputs.clear()
    resumed = encode_column(dataset, "anchor", embedder, cache_folder=tmp_path, num_workers=0, **QUIET)
    assert sorted(encoded_inputs) == ["text 8", "text 9"]
    unbroken = encode_column(dataset, "anchor", embedder, **QUIET)
    np.testing.assert_array_equal(resumed.embeddings, unbroken.embeddings)


def test_a_full_disk_leaves_nothing_that_could_be_taken_for_whole(tmp_path, monkeypatch):
    store = VectorStore(tmp_path, "model")
    keys = np.array([b"0" * 32, b"1" * 32], dtype="S32")
    vectors = np.ones((2, 3), dtype=np.float32)

    for failing in ("vectors", "keys"):
        save = np.save

        def full(file, array, failing=failing, save=save, **kwargs):
            if (array.dtype == np.float32) == (failing == "vectors"):
                file.write(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            save(file, array, **kwargs)

        monkeypatch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            store.add(keys, vectors)
        monkeypatch.setattr(np, "save", save)
        assert not VectorStore(tmp_path, "model").contains(keys).any()
        assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".")]
    store.add(keys, vectors)
    np.testing.assert_array_equal(VectorStore(tmp_path, "model").get(keys[::-1]), vectors)
    assert not VectorStore(tmp_path, "other").contains(keys).any()


def test_a_full_disk_is_an_error_and_what_killed_processes_left_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "IN_MEMORY", 100)
    keys = np.array([f"{number:032d}".encode() for number in range(50)], dtype="S32")
    store = VectorStore(tmp_path, "m")
    store.add(keys, np.ones((50, 4), dtype=np.float32))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (store.folder / f"some.joined-{dead.pid}@{gethostname()}~1.part").touch()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        store.get(keys)
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.joined.npy"))


def test_vectors_that_exceed_the_memory_are_joined_on_the_disk_once(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "IN_MEMORY", 100)
    keys = np.array([f"{number:032d}".encode() for number in range(20)], dtype="S32")
    vectors = RNG.normal(size=(20, 3)).astype(np.float32)
    store = VectorStore(tmp_path, "model")
    for part in (slice(0, 7), slice(7, 20)):
        store.add(keys[part], vectors[part])
    order = RNG.permutation(20)
    found = store.get(keys[order])
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, vectors[order])
    monkeypatch.setattr(VectorStore, "_fill", lambda *args: pytest.fail("joined again"))
    np.testing.assert_array_equal(VectorStore(tmp_path, "model").get(keys[order]), vectors[order])
    assert len(list(tmp_path.rglob("*.joined.npy"))) == 1 and not list(tmp_path.rglob("*.part"))


def test_a_store_opens_one_file_at_a_time_and_keeps_no_vectors_in_memory(tmp_path):
    store, rows = VectorStore(tmp_path, "model"), 80
    keys = np.array([f"{number:032d}".encode() for number in RNG.permutation(rows)], dtype="S32")
    vectors = RNG.normal(size=(rows, 2)).astype(np.float32)
    for row in range(rows):
        store.add(keys[row : row + 1], vectors[row : row + 1])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, before[1]))
    try:
        for each in (store, VectorStore(tmp_path, "model")):
            np.testing.assert_array_equal(each.get(keys[::-1]), vectors[::-1])
            assert not any(isinstance(shard, np.ndarray) for shard in each._shards)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_keys_are_found_however_many_additions_they_came_in():
    index, keys = store_module._KeyIndex(), np.array([f"{number:032d}".encode() for number in range(500)], dtype="S32")
    order = RNG.permutation(400)
    for part in np.array_split(order, 90):
        index.add(keys[part])
    place_of = np.full(500, -1)
    place_of[order] = np.arange(400)
    np.testing.assert_array_equal(index.find(keys), place_of)
    assert len(index._runs) < 10


def test_writing_over_a_file_keeps_the_old_one_when_it_fails(tmp_path):
    (tmp_path / "file").write_bytes(b"old")

    def fail(file):
        file.write(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", fail)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("decoded", [True, False])
def test_an_input_that_fails_is_named_by_row_and_column(embedder, tmp_path, decoded):
    Image.new("RGB", (32, 32)).save(tmp_path / "fine.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    cells = [{"image": str(tmp_path / name)} for name in ("fine.png", "fine.png", "broken.png")]
    features = Features({"anchor": {"image": ImageFeature(decode=decoded)}})
    dataset = Dataset.from_list([{"anchor": cell} for cell in cells], features=features)
    with pytest.raises(ValueError, match=r"Row 2, column 'anchor' \(.*broken\.png'\): "):
        encode_column(dataset, "anchor", embedder, **QUIET)


def test_a_vector_that_is_not_finite_is_refused_with_its_row(embedder, tmp_path):
    embedder[0].model.language_model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="Row 0, column 'anchor': the vector is not finite"):
        encode_column(texts(["a", "b"]), "anchor", embedder, cache_folder=tmp_path, **QUIET)
    assert not list(tmp_path.rglob("*.npy"))


KILLED = """
import sys, time
from datasets import Dataset
from saha_st.encoding import columns, encode_column, engine
from saha_st.modules import load_embedder
columns.SHARD_SIZE = 32
prepare = engine._Prompted.__call__
def slowly(*args):
    time.sleep(float(sys.argv[3]))
    return prepare(*args)
engine._Prompted.__call__ = slowly
model = load_embedder(sys.argv[1], device="cpu")
dataset = Dataset.from_dict({"anchor": [f"text number {i}" for i in range(320)]})
encode_column(dataset, "anchor", model, task="query", cache_folder=sys.argv[2])
"""


@pytest.mark.slow
def test_a_run_killed_with_sigkill_resumes_to_the_same_vectors(
    tiny_mllm, embedder, encoded_inputs, tmp_path, monkeypatch
):
    command = [sys.executable, "-c", KILLED, str(tiny_mllm), str(tmp_path), "0.6"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while len(list(Path(tmp_path).rglob("*.keys.npy"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(Path(tmp_path).rglob("*.keys.npy")))
    assert 3 <= done < 10
    monkeypatch.setattr(columns, "SHARD_SIZE", 32)
    dataset = Dataset.from_dict({"anchor": [f"text number {i}" for i in range(320)]})
    options = {"task": "query", "num_workers": 0, **QUIET}
    resumed = encode_column(dataset, "anchor", embedder, cache_folder=tmp_path, **options)
    assert len(encoded_inputs) == 320 - 32 * done
    encoded_inputs.clear()
    unbroken = encode_column(dataset, "anchor", embedder, **options)
    assert len(encoded_inputs) == 320
    np.testing.assert_array_equal(resumed.embeddings, unbroken.embeddings)
