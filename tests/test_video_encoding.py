"""Videos through the engine, the miner and the commands: equal vectors, few frames in memory, keys that tell."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset, Value
from PIL import Image
from safetensors.numpy import load_file
from video_clips import clip, pictures, write_folder, write_video

from saha_st.cli import main
from saha_st.data.cells import VIDEO_CELL_FEATURE
from saha_st.data.inputs import load_inputs
from saha_st.encoding import Encoder, encode_column, encode_iterable, engine, vector_fingerprint
from saha_st.mining import mine_saha_clusters
from saha_st.modules import load_embedder
from saha_st.modules.video_frames import set_num_frames

PARTS = ("image", "video", "text")


@pytest.fixture
def frames(tmp_path) -> list[list[str]]:
    """Paths of the frames of twelve videos."""
    folders = [write_folder(tmp_path / str(i), clip(i, 10, size=(48 + 16 * (i % 3), 48))) for i in range(12)]
    return [[str(folder / f"frame_{number}.png") for number in range(10)] for folder in folders]


@pytest.fixture
def mixed(frames) -> Dataset:
    """Twenty cells: videos with and without text, pictures, texts; one video twice."""
    cells = [dict.fromkeys(PARTS) | {"video": paths} for paths in frames]
    for i in range(0, 12, 3):
        cells[i]["text"] = f"clip {i}"
    cells += [dict.fromkeys(PARTS) | {"text": f"a text of number {i}"} for i in range(4)]
    cells += [dict.fromkeys(PARTS) | {"image": {"path": paths[0], "bytes": None}} for paths in frames[:3]]
    cells.append(dict(cells[1]))
    return Dataset.from_list([{"cell": cell} for cell in cells]).cast_column("cell", VIDEO_CELL_FEATURE)


def parts_of(dataset: Dataset) -> list[dict]:
    return [{name: value for name, value in cell.items() if value is not None} for cell in dataset["cell"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_column_gives_the_vectors_of_the_models_own_method(embedder, mixed, workers):
    found = encode_column(mixed, "cell", embedder, task="query", show_progress_bar=False, num_workers=workers)
    np.testing.assert_allclose(found.of_rows, embedder.encode_query(parts_of(mixed)), atol=1e-6)
    assert len(found.distinct) == len(mixed) - 1


def test_inputs_at_hand_and_streams_give_them_too(embedder, mixed):
    rows = parts_of(mixed)
    expected = embedder.encode_document(rows)
    np.testing.assert_allclose(Encoder(embedder, task="document")(rows), expected, atol=1e-6)
    streamed = encode_iterable(iter(rows), embedder, task="document", show_progress_bar=False)
    np.testing.assert_allclose(np.concatenate(list(streamed)), expected, atol=1e-6)
    arrays = [{"video": clip(3)}, clip(4), "a text"]
    np.testing.assert_allclose(Encoder(embedder)(arrays), embedder.encode(arrays), atol=1e-6)


def test_frames_that_are_not_shown_are_never_opened_and_few_videos_are_decoded_at_a_time(
    embedder, mixed, frames, monkeypatch
):
    opened, real = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file, *args: opened.append(str(file)) or real(file, *args))
    sizes, prepare = [], engine._Prompted.__call__
    monkeypatch.setattr(
        engine._Prompted, "__call__", lambda self, rows: sizes.append(len(rows)) or prepare(self, rows)
    )
    set_num_frames(embedder[0].processor, 2)
    encode_column(mixed, "cell", embedder, show_progress_bar=False, num_workers=0)
    shown = {path for path in opened if path.endswith("frame_5.png")}
    assert len(shown) == 12 and not [path for path in opened if path.endswith(("frame_1.png", "frame_9.png"))]
    assert max(sizes) == engine._VIDEO_WINDOW < len(mixed)


def test_a_batch_holds_as_many_videos_as_its_tokens_allow(embedder, frames):
    rows = [{"video": paths} for paths in frames[:6]] + [{"text": "short"}] * 2
    prompted = Encoder(embedder, task="document", batch_tokens=220)._prepare
    batches = prompted(rows)
    for positions, features in batches:
        assert len(positions) == 1 or features["input_ids"].size <= 220
        assert features["attention_mask"].sum(axis=1).max() <= 220
    assert sorted(position for positions, _ in batches for position in positions) == list(range(8))
    assert 1 < len(batches) < 8


def test_a_row_that_cannot_be_read_is_named(embedder, mixed, frames):
    broken = frames[4][2]
    Image.new("RGB", (10, 10)).save(broken)
    with pytest.raises(ValueError, match=r"Row 4, column 'cell': frame 2 of the video .* Give all frames one size"):
        encode_column(mixed, "cell", embedder, show_progress_bar=False)


def test_vectors_of_another_number_of_frames_are_never_found(embedder, tiny_mllm):
    names = {vector_fingerprint(embedder)}
    for number in (4, 16):
        set_num_frames(embedder[0].processor, number)
        names.add(vector_fingerprint(embedder))
    embedder[0].processor.video_processor.size = {"shortest_edge": 1024, "longest_edge": 8192}
    assert len(names | {vector_fingerprint(embedder)}) == 4
    tiny = load_embedder("saha-tiny", device="cpu")
    without = vector_fingerprint(tiny)
    del tiny[0].processor.video_processor.max_frames  # says nothing of pictures, and no frame is chosen
    assert vector_fingerprint(tiny) == without


def test_pairs_with_videos_are_mined(embedder, mixed):
    captions = [f"caption {i}" for i in range(len(mixed))]
    pairs = mixed.rename_column("cell", "positive").add_column("anchor", captions)
    mined = mine_saha_clusters(pairs, embedder, num_negatives=3, show_progress_bar=False)
    assert len(mined) > 4 and mined.column_names == ["anchor", "positive", "label"]
    videos = [row["positive"]["video"] for row in mined if row["positive"]["video"]]
    assert videos and all(isinstance(frame, dict) for frame in videos[0]), "frames stay closed"
    assert embedder.encode_document([mined[0]["positive"]]).shape == (1, 32)


def test_the_command_encodes_a_folder_and_a_table_of_videos(embedder, tiny_mllm, tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(2):
        write_video(folder / f"{number}.mp4", clip(number, 12))
    pictures(clip(5))[0].save(folder / "photo.png")
    rows = [{"film": f"clips/{number}.mp4", "id": f"row {number}"} for number in range(2)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--model", str(tiny_mllm), "--device", "cpu", "--quiet", "--num_frames", "4"]
    assert main(["encode", str(folder), "--output", str(tmp_path / "folder.safetensors"), *options]) == 0
    table = [str(tmp_path / "rows.jsonl"), "--video_column", "film", "--output", str(tmp_path / "table.safetensors")]
    assert main(["encode", *table, *options]) == 0
    found = load_file(tmp_path / "folder.safetensors")["embeddings"]
    set_num_frames(embedder[0].processor, 4)
    inputs = [{"video": clip(0, 12)}, {"video": clip(1, 12)}, pictures(clip(5))[0]]
    np.testing.assert_allclose(found, embedder.encode_document(inputs), atol=1e-6)
    np.testing.assert_array_equal(load_file(tmp_path / "table.safetensors")["embeddings"].shape, (2, 32))
    assert load_inputs(folder).features["input"]["video"] == Value("string")


# --- page images ----------------------------------------------------------------------------------------------------


def test_pages_go_through_encoding_and_mining_within_a_budget_of_tokens(tiny_mllm):
    pages = [Image.new("RGB", (1500, 2000), (20 * i, 0, 255 - 20 * i)) for i in range(6)]
    model = load_embedder(str(tiny_mllm), image_tokens=(4, 64), device="cpu")
    sizes = model[0].preprocess([{"image": page} for page in pages])["image_grid_thw"].prod(dim=1) // 4
    assert (sizes <= 64).all() and (sizes > 32).all()
    prompted = Encoder(model, task="document", batch_tokens=250)._prepare
    for positions, features in prompted([{"image": page} for page in pages] + [{"text": "short"}] * 6):
        assert len(positions) == 1 or features["input_ids"].size <= 250
    pairs = Dataset.from_dict({"anchor": [f"page {i}" for i in range(6)], "positive": pages})
    mined = mine_saha_clusters(pairs, model, num_negatives=2, show_progress_bar=False)
    assert len(mined) >= 3 and mined[0]["positive"].size == (1500, 2000)
