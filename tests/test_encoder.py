"""The engine behind every command that encodes: the stock module's vectors, in batches of equal cost, read ahead."""

from __future__ import annotations

import io
import multiprocessing
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset
from PIL import Image
from sentence_transformers import SentenceTransformer

from saha_st.encoding import Encoder, RowReader, columns, encode_column, encode_iterable, engine
from saha_st.errors import MemoryFullError
from saha_st.modules.inputs import canonical_inputs
from saha_st.modules.token_counts import count_tokens

RNG = np.random.default_rng(0)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 255, (height, width, 3), dtype=np.uint8))


MIXED = [
    *("red", "a text of some more words than the others have", "", "two words"),
    *({"image": picture(56, 28)}, {"image": picture(140, 84), "text": "beside it"}, picture(28, 28)),
    {"image": [picture(28, 28), picture(56, 56)], "text": "two"},
]
TASKS = {"query": "encode_query", "document": "encode_document", None: "encode"}


def reader_of(cells) -> RowReader:
    return RowReader(lambda rows: [cells[row] for row in rows], lambda row: f"Row {row}")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("prompt", [None, "Another system text."])
def test_vectors_are_those_of_the_models_own_methods(embedder, task, prompt):
    expected = getattr(embedder, TASKS[task])(MIXED, **({} if prompt is None else {"prompt": prompt}))
    np.testing.assert_allclose(Encoder(embedder, task=task, prompt=prompt)(MIXED), expected, atol=1e-6)


def test_other_names_of_prompts_and_a_smaller_dimension_are_heeded(embedder):
    embedder.prompts = {"passage": "For passages.", "own": "By default."}
    embedder.default_prompt_name = "own"
    embedder.truncate_dim = 8
    for task, method in TASKS.items():
        found = Encoder(embedder, task=task)(MIXED)
        assert found.shape == (len(MIXED), 8)
        np.testing.assert_allclose(found, getattr(embedder, method)(MIXED), atol=1e-6)


def test_a_model_that_is_not_ours_encodes_by_its_own_method(embedder, tmp_path):
    embedder.save_pretrained(str(tmp_path / "model"))
    stock = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    texts = [cell for cell in MIXED if isinstance(cell, str)]
    np.testing.assert_array_equal(Encoder(stock, task="query")(texts), stock.encode_query(texts))


@pytest.mark.parametrize("has_media", [True, False])
def test_workers_change_nothing(embedder, has_media):
    cells = [f"text {number} " + "word " * (number % 7) for number in range(60)]
    if has_media:
        cells = [{"image": picture(28 + 28 * (number % 3), 28), "text": text} for number, text in enumerate(cells)]
    windows = np.split(np.arange(60), [20, 40])
    runs = []
    for workers in (0, 1, 3):
        advanced = []
        vectors = Encoder(embedder, task="query", num_workers=workers).encode_windows(
            reader_of(cells), windows, advanced.append
        )
        runs.append(np.concatenate(list(vectors)))
        assert sum(advanced) == 60
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
    np.testing.assert_allclose(runs[0], embedder.encode_query(cells), atol=1e-6)
    assert not multiprocessing.active_children()


ORPHANS = """
import os, signal, sys, numpy as np
from PIL import Image
from saha_st.encoding import Encoder, RowReader
from saha_st.modules import load_embedder
cells = [{"image": Image.new("RGB", (280, 280))}] * 32
reader = RowReader(lambda rows: [cells[row % 32] for row in rows], str)
encoder = Encoder(load_embedder(sys.argv[1], device="cpu", image_tokens=(4, 100)), num_workers=2)
windows = encoder.encode_windows(reader, [np.arange(32)] * 12)
next(windows)
from multiprocessing import active_children
print(*(child.pid for child in active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tiny_mllm):
    command = [sys.executable, "-c", ORPHANS, str(tiny_mllm)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)
    workers = [int(number) for number in finished.stdout.split()]
    assert finished.returncode == -signal.SIGKILL and len(workers) == 2
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(psutil.pid_exists(worker) for worker in workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_encoding_draws_no_random_number(embedder, workers):
    before = torch.get_rng_state()
    list(Encoder(embedder, num_workers=workers).encode_windows(reader_of(["a", "b", "c"]), np.split(np.arange(3), 3)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_breaks_in_a_processor_is_told_with_its_row_whatever_it_raises(embedder, workers, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a decompression bomb is neither a ValueError nor an OSError
    stream = io.BytesIO()
    Image.new("RGB", (40, 40)).save(stream, "PNG")
    cells = ["a", "b", {"image": {"bytes": stream.getvalue(), "path": None}}, "d"]
    with pytest.raises(ValueError, match="Row 2: DecompressionBombError: .* exceeds limit"):
        list(Encoder(embedder, num_workers=workers).encode_windows(reader_of(cells), np.split(np.arange(4), 2)))


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_windows_side_by_side_give_the_vectors_of_one_after_another(embedder, monkeypatch, lanes):
    monkeypatch.setattr(torch, "get_num_threads", lambda: lanes)
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    cells, windows = [f"text {number}" for number in range(40)], np.split(np.arange(40), 8)
    found = np.concatenate(list(Encoder(embedder, num_workers=0).encode_windows(reader_of(cells), windows)))
    one_by_one = [Encoder(embedder)([cells[row] for row in window]) for window in windows]
    np.testing.assert_array_equal(found, np.concatenate(one_by_one))
    assert (lanes == 1 and not threads) or (set(threads[:-1]) == {1} and threads[-1] == lanes)


@pytest.mark.parametrize("windows", [1, 2, 6])
def test_every_batch_has_as_many_threads_however_many_windows_are_left(embedder, monkeypatch, windows):
    before, found, forward = torch.get_num_threads(), set(), Encoder._forward
    monkeypatch.setattr(
        Encoder, "_forward", lambda self, features: found.add(torch.get_num_threads()) or forward(self, features)
    )
    cells = [f"text {number}" for number in range(24)]
    torch.set_num_threads(2)
    try:
        list(Encoder(embedder, num_workers=0).encode_windows(reader_of(cells), np.split(np.arange(24), windows)))
        assert found == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_that_cannot_be_read_is_named_wherever_it_was_read(embedder, workers, tmp_path):
    cells = ["fine"] * 30
    cells[17] = {"image": str(tmp_path / "missing.png")}
    encoder = Encoder(embedder, num_workers=workers)
    with pytest.raises(ValueError, match=r"^Row 17: .*missing\.png"):
        list(encoder.encode_windows(reader_of(cells), np.split(np.arange(30), 3)))


def test_batches_hold_every_input_once_longest_first_and_within_the_budget(embedder):
    texts = ["word " * int(length) for length in RNG.integers(0, 60, size=80)]
    prepare = Encoder(embedder, task="query", batch_tokens=700)._prepare
    batches = prepare(texts)
    assert sorted(np.concatenate([positions for positions, _ in batches])) == list(range(80))
    widths = [features["input_ids"].shape[1] for _, features in batches]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) > 3
    for positions, features in batches:
        assert features["input_ids"].size <= 1.1 * 700 or len(positions) == 1
    shares = [float(features["attention_mask"].mean()) for _, features in batches]
    assert np.mean(shares) > 0.9  # hardly any padding
    assert max(len(p) for p, _ in Encoder(embedder, batch_size=3)._prepare(texts)) == 3


def test_tokens_are_counted_as_the_processor_makes_them(embedder):
    cells = canonical_inputs(MIXED, supported=embedder[0].modalities)
    counted = count_tokens(embedder[0], cells)
    actual = np.array([int(embedder.preprocess([cell])["attention_mask"].sum()) for cell in cells])
    images = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    assert len(set((actual - counted - 2 * images).tolist())) == 1  # the frame of the prompt; each image has two marks


def test_pictures_in_messages_and_videos_count(embedder):
    image = {
        "role": "user",
        "content": [{"type": "image", "image": picture(140, 84)}, {"type": "text", "text": "a b"}],
    }
    video = {"video": np.zeros((4, 56, 56, 3), dtype=np.uint8), "text": "a b"}
    alone = {"image": picture(140, 84), "text": "a b"}
    cells = canonical_inputs([[image], alone, {"text": "a b"}], supported=embedder[0].modalities)
    message, same, text = count_tokens(embedder[0], [*cells[:2], cells[2]])
    assert message == same > text
    placeholders = embedder.preprocess([video])["input_ids"] == embedder.tokenizer.convert_tokens_to_ids(
        "<|video_pad|>"
    )
    with_video = count_tokens(embedder[0], canonical_inputs([video], supported=embedder[0].modalities))
    assert with_video[0] - text == placeholders.sum() > 20


def test_many_pictures_at_hand_are_not_all_prepared_at_once(embedder, monkeypatch):
    sizes, prepare = [], engine._Prompted.__call__
    monkeypatch.setattr(
        engine._Prompted, "__call__", lambda self, cells: sizes.append(len(cells)) or prepare(self, cells)
    )
    Encoder(embedder)([picture(28, 28)] * 70)
    assert sizes == [64, 6]


def test_what_runs_out_of_memory_says_what_to_lower(embedder, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(embedder[0].model), "forward", full)
    with pytest.raises(MemoryFullError, match="batch of 2 inputs of up to .* lower batch_tokens=4096"):
        Encoder(embedder)(["a", "b"])


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"batch_tokens": 0}, {"num_workers": -1}])
def test_options_out_of_range_are_refused(embedder, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be at least"):
        Encoder(embedder, **option)


def test_no_inputs_give_no_vectors(embedder):
    assert Encoder(embedder)([]).shape == (0, embedder.get_embedding_dimension())


def test_a_stream_is_encoded_in_pieces_and_equal_inputs_once(embedder, monkeypatch, tmp_path):
    monkeypatch.setattr(columns, "SHARD_SIZE", 4)
    seen, prepare = [], engine._Prompted.__call__
    monkeypatch.setattr(engine._Prompted, "__call__", lambda self, cells: seen.extend(cells) or prepare(self, cells))
    texts = ["a", "b", "a", "c", "d", "b", "e", "f", "a", "g"]
    options = {"task": "document", "cache_folder": tmp_path, "num_workers": 0, "show_progress_bar": False}
    pieces = list(encode_iterable((text for text in texts), embedder, **options))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert sorted(seen) == sorted(set(texts))
    np.testing.assert_allclose(np.concatenate(pieces), embedder.encode_document(texts), atol=1e-6)
    seen.clear()
    again = np.concatenate(list(encode_iterable(iter(texts), embedder, **options)))
    assert not seen
    np.testing.assert_array_equal(again, np.concatenate(pieces))


def test_a_bad_input_of_a_stream_is_named_by_its_place(embedder, monkeypatch, tmp_path):
    monkeypatch.setattr(columns, "SHARD_SIZE", 2)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    stream = iter(["a", "b", "c", {"image": str(tmp_path / "bad.png")}])
    with pytest.raises(ValueError, match="Input 3: .*bad.png"):
        list(encode_iterable(stream, embedder, show_progress_bar=False))


def test_several_processes_without_a_common_folder_are_refused_before_anything_is_encoded(embedder):
    from saha_st.ranks import Ranks

    with pytest.raises(ValueError, match="cache_folder: 2 processes exchange vectors"):
        encode_column(Dataset.from_dict({"a": ["x"]}), "a", embedder, ranks=Ranks(0, 2), show_progress_bar=False)


@pytest.mark.parametrize(
    "cores, ranks, windows, expected", [(8, 1, 100, 7), (8, 4, 100, 1), (64, 1, 100, 8), (1, 1, 100, 0), (8, 1, 2, 0)]
)
def test_workers_are_as_many_as_there_are_free_cores(embedder, monkeypatch, cores, ranks, windows, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert Encoder(embedder)._workers(windows, has_media=False) == expected
    assert Encoder(embedder)._workers(windows, has_media=True) == max(
        0, min(cores // ranks - torch.get_num_threads(), expected)
    )
