"""Videos in datasets: what a cell with one is, its key, how tables give it, and what is wrong with it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from video_clips import clip, pictures, write_folder, write_video

from saha_st.data import check_pairs, load_pairs
from saha_st.data.cells import VIDEO_CELL_FEATURE, cell_kind, cell_parts, cell_video, stored_cells, with_closed_videos
from saha_st.data.inputs import load_inputs
from saha_st.data.keys import cell_key, column_keys

PATH_CELL = VIDEO_CELL_FEATURE | {"video": Value("string")}


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """A file and a folder of frames of each of two videos, and a picture."""
    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", clip(number, frames=6))
        write_folder(tmp_path / str(number), clip(number, frames=6))
    pictures(clip(9))[0].save(tmp_path / "photo.png")
    return tmp_path


def of_files(dataset: Dataset, column: str = "positive") -> list:
    return [cell_video(cell) for cell in stored_cells(dataset, column)]


# --- cells and keys -------------------------------------------------------------------------------------------------


def test_a_cell_with_a_video_keeps_its_other_parts():
    cell = {"image": {"bytes": b"x", "path": None}, "video": ["a.png", "b.png"], "text": "a"}
    assert cell_parts(cell) == ([cell["image"]], "a") and cell_video(cell) == ["a.png", "b.png"]
    assert cell_video("clip.mp4") is None and cell_video({"image": None, "video": None, "text": "a"}) is None
    assert cell_kind(VIDEO_CELL_FEATURE) == cell_kind(PATH_CELL) == "video"
    assert cell_kind({"video": Value("int64")}) is None and cell_kind({"video": Value("string")}) == "video"


def test_a_videos_key_is_that_of_its_files(folder):
    paths = [folder / "0" / f"frame_{number}.png" for number in range(6)]
    key = cell_key({"video": str(folder / "0")})
    assert key == cell_key({"video": [str(path) for path in paths], "image": None, "text": None})
    assert key == cell_key({"video": [{"bytes": None, "path": str(path)} for path in paths]})
    assert cell_key({"video": str(folder / "0.mp4")}) != cell_key({"image": str(folder / "0.mp4")})
    others = [
        {"video": [str(path) for path in reversed(paths)]},
        {"video": [str(path) for path in paths[:5]]},
        {"video": str(folder / "0"), "text": ""},
        {"image": [str(path) for path in paths]},
        {"image": str(paths[0]), "video": [str(path) for path in paths[1:]]},
        {"video": str(folder / "0.mp4")},
    ]
    assert len({key, *map(cell_key, others)}) == 1 + len(others)
    os.utime(paths[3], ns=(1, 1))
    assert cell_key({"video": str(folder / "0")}) != key, "a frame that was rewritten is another video"


def test_videos_in_memory_have_the_key_of_their_pixels():
    frames = clip(frames=4)
    keys = [cell_key({"video": video}) for video in (frames, torch.from_numpy(frames), frames.copy())]
    assert len(set(keys)) == 1 and cell_key({"video": frames[:3]}) != keys[0]
    assert cell_key({"video": pictures(frames)}) == cell_key({"video": pictures(frames)})
    timed = {"array": frames, "video_metadata": {"fps": 2.0}}
    assert cell_key({"video": timed}) not in (keys[0], cell_key({"video": timed | {"video_metadata": {"fps": 3.0}}}))


def test_a_video_that_is_not_there_has_no_key(folder):
    with pytest.raises(ValueError, match="the video has no frames"):
        cell_key({"video": []})
    with pytest.raises(ValueError, match="frame 1 of the video is missing"):
        cell_key({"video": [clip()[0], None]})
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        cell_key({"video": str(folder / "gone.mp4")})


def test_frames_stay_closed_until_they_are_wanted(folder):
    frames = [str(folder / "0" / f"frame_{number}.png") for number in range(6)]
    rows = [{"image": None, "video": frames, "text": "a"}, {"image": None, "video": None, "text": "b"}]
    dataset = Dataset.from_dict({"cell": rows, "other": ["x", "y"]}).cast_column("cell", VIDEO_CELL_FEATURE)
    closed = with_closed_videos(dataset)
    assert [frame["path"] for frame in closed[0]["cell"]["video"]] == frames and closed[1]["cell"]["video"] is None
    assert dataset[0]["cell"]["video"][0].size == (64, 48), "the dataset itself is left as it was"
    assert (column_keys(closed, "cell") == column_keys(dataset, "cell")).all()
    assert with_closed_videos(closed.select_columns("other")).features == Features({"other": Value("string")})


# --- tables ---------------------------------------------------------------------------------------------------------


def test_json_lines_give_videos_as_paths_below_their_folder(folder):
    rows = [
        {"anchor": "a", "positive": {"video": "0.mp4"}},
        {"anchor": "b", "positive": {"text": "words", "video": "1"}},
        {"anchor": "c", "positive": {"image": "photo.png"}},
        {"anchor": "d", "positive": "words alone"},
    ]
    pairs = load_pairs(lines(folder / "pairs.jsonl", rows), cache_dir=str(folder / "cache"))
    assert pairs.features["positive"] == PATH_CELL
    assert of_files(pairs) == [str(folder / "0.mp4"), str(folder / "1"), None, None]
    assert pairs[1]["positive"] == {"image": None, "video": str(folder / "1"), "text": "words"}
    assert pairs[2]["positive"]["image"].size == (64, 48) and pairs[3]["positive"]["text"] == "words alone"
    elsewhere = load_pairs(
        lines(folder / "cache" / "pairs.jsonl", rows), image_root=folder, cache_dir=str(folder / "cache")
    )
    assert of_files(elsewhere) == of_files(pairs)


def test_json_lines_give_videos_as_lists_of_frames(folder):
    names = [f"0/frame_{number}.png" for number in range(6)]
    rows = [{"anchor": "a", "positive": {"video": names}}, {"anchor": "b", "positive": {"text": "words"}}]
    pairs = load_pairs(lines(folder / "pairs.jsonl", rows), cache_dir=str(folder / "cache"))
    assert pairs.features["positive"] == VIDEO_CELL_FEATURE
    assert of_files(pairs) == [[{"bytes": None, "path": str(folder / name)} for name in names], None]
    rows = [{"anchor": "a", "positive_video": names}, {"anchor": "b", "positive_video": None}]
    rows = [row | {"positive_text": "words"} for row in rows]
    columns = load_pairs(lines(folder / "columns.jsonl", rows), cache_dir=str(folder / "cache"))
    assert of_files(columns) == of_files(pairs) and columns[1]["positive"]["text"] == "words"


def test_paths_and_lists_of_frames_in_one_column_are_refused(folder):
    rows = [{"anchor": "a", "positive": {"video": ["0/frame_1.png"]}}, {"anchor": "b", "positive": {"video": "1"}}]
    with pytest.raises(ValueError, match="some videos as paths and others as lists of frames. Give all"):
        load_pairs(lines(folder / "pairs.jsonl", rows), cache_dir=str(folder / "cache"))


def test_columns_of_any_name_and_type_become_cells(folder):
    names = [str(folder / "0" / f"frame_{number}.png") for number in range(6)]
    columns = {"caption": ["a", "b"], "clip": [str(folder / "0.mp4"), ""], "shots": [names, None]}
    given = Dataset.from_dict(columns)
    by_path = load_pairs(given, anchor="caption", positive={"video": "clip", "text": "caption"})
    assert of_files(by_path) == [str(folder / "0.mp4"), None] and by_path[1]["positive"]["text"] == "b"
    by_frames = load_pairs(given, anchor="caption", positive={"video": "shots", "text": "caption"})
    stored = Features(given.features | {"shots": List(Image())})
    passed = load_pairs(given.cast(stored), anchor="caption", positive={"video": "shots", "text": "caption"})
    assert of_files(by_frames) == of_files(passed) == [[{"bytes": None, "path": name} for name in names], None]
    assert by_frames.features == passed.features
    assert load_pairs(passed).features == passed.features and of_files(load_pairs(passed)) == of_files(passed)
    with pytest.raises(ValueError, match="videos are a column <name>_video or the part 'video'"):
        load_pairs(given, anchor="caption", positive="shots")


def test_what_is_not_there_is_found_at_loading(folder):
    def load(video, **options):
        rows = [{"anchor": "a", "positive": {"video": "0.mp4" if isinstance(video, str) else ["0/frame_0.png"]}}]
        rows += [{"anchor": "b", "positive": {"video": video}}]
        return load_pairs(lines(folder / "pairs.jsonl", rows), cache_dir=str(folder / "cache"), **options)

    (folder / "empty").mkdir()
    for video, error, words in (
        (
            "gone.mp4",
            FileNotFoundError,
            "Row 1, column 'positive': the video file .*gone.mp4' does not exist.*image_root",
        ),
        ("empty", FileNotFoundError, "Row 1, column 'positive': the video file .*empty' has no frames in it"),
        (["0/frame_1.png", "0/gone.png"], FileNotFoundError, "Row 1, .* the image file .*gone.png' does not exist"),
        ("https://example.org/clip.mp4", ValueError, "behind a URL .* nothing is fetched unasked"),
        ("file:///clip.mp4", ValueError, "the video is given as 'file:///clip.mp4'"),
    ):
        with pytest.raises(error, match=words):
            load(video)
    assert len(load("gone.mp4", check_files=False)) == 2
    with pytest.raises(ValueError, match="Download the videos"):
        load("https://example.org/clip.mp4", allow_urls=True)


# --- checks and single inputs ---------------------------------------------------------------------------------------


def test_the_check_lists_what_is_wrong_with_videos(folder):
    (folder / "empty").mkdir()
    (folder / "text.mp4").write_text("no video")
    broken = write_folder(folder / "broken", clip(5, frames=3))
    (broken / "frame_1.png").write_bytes((broken / "frame_1.png").read_bytes()[:60])
    videos = ["0.mp4", "1", "gone.mp4", "empty", "text.mp4", "broken", "https://example.org/clip.mp4", "0.mp4"]
    rows = [{"anchor": f"number {i}", "positive": {"video": video}} for i, video in enumerate(videos)]
    rows[1]["positive"]["text"] = "words"
    pairs = load_pairs(lines(folder / "p.jsonl", rows), check_files=False, cache_dir=str(folder / "cache"))
    problems, summary = check_pairs(pairs, show_progress_bar=False)
    assert {(problem.row, problem.problem) for problem in problems} == {
        (2, "missing video"), (3, "video without frames"), (4, "unreadable video"), (5, "unreadable video"),
        (6, "video behind a URL"),
    }  # fmt: skip
    assert summary.errors == 5 and summary.modalities["positive"]["video"] == 7
    assert summary.modalities["positive"]["video + text"] == 1
    (frame,) = [problem.value for problem in problems if problem.row == 5]
    assert "frame 1" in frame


def test_the_check_looks_at_lists_of_frames(folder):
    names = [f"0/frame_{number}.png" for number in range(6)]
    rows = [{"anchor": f"{i}", "positive": {"video": names[i:]}} for i in range(3)]
    rows += [{"anchor": "3", "positive": {"video": ["0/gone.png"]}}, {"anchor": "4", "positive": {"text": "words"}}]
    pairs = load_pairs(lines(folder / "p.jsonl", rows), check_files=False, cache_dir=str(folder / "cache"))
    problems, summary = check_pairs(pairs, show_progress_bar=False)
    assert [(problem.row, problem.problem) for problem in problems] == [(3, "missing video")]
    assert summary.modalities["positive"]["video"] == 4 and summary.distinct["positive"] == 4


def test_the_check_tells_which_frame_is_none(folder):
    name = "0/frame_0.png"
    videos = [[name, name], [name, None, name], [None, None, name]]
    rows = [{"anchor": str(number), "positive": {"video": video}} for number, video in enumerate(videos)]
    written = load_pairs(lines(folder / "p.jsonl", rows), check_files=False, cache_dir=str(folder / "cache"))
    stored = {"path": str(folder / name), "bytes": None}
    cells = [{"image": None, "video": video, "text": None} for video in ([stored], [None, None], [])]
    features = Features({"anchor": Value("string"), "positive": VIDEO_CELL_FEATURE})
    made = Dataset.from_dict({"anchor": list("abc"), "positive": cells}, features=features)
    found = [
        sorted((problem.row, problem.problem, problem.value) for problem in check_pairs(pairs)[0])
        for pairs in (written, made)
    ]
    assert found == [
        [
            (1, "unreadable video", "frame 1 of 3 is None"),
            (2, "unreadable video", "frame 0 of 3 is None, and 1 more"),
        ],
        [(1, "unreadable video", "frame 0 of 2 is None, and 1 more"), (2, "video without frames", "[]")],
    ]


def test_single_inputs_are_videos_pictures_and_texts(folder):
    (folder / "album" / "more").mkdir(parents=True)
    (folder / "0.mp4").rename(folder / "album" / "clip.mp4")
    (folder / "1.mp4").rename(folder / "album" / "more" / "b.mp4")
    (folder / "photo.png").rename(folder / "album" / "a.png")
    inputs = load_inputs(folder / "album")
    assert inputs["id"] == ["a.png", "clip.mp4", "more/b.mp4"] and inputs.features["input"] == PATH_CELL
    assert of_files(inputs, "input") == [None, str(folder / "album" / "clip.mp4"), str(folder / "album/more/b.mp4")]
    assert inputs[0]["input"]["image"].size == (64, 48)
    assert load_inputs(folder / "album" / "clip.mp4")["id"] == ["clip.mp4"]
    rows = [{"video": "0", "text": "words", "id": "first"}, {"video": "1", "text": None, "id": "second"}]
    table = load_inputs(lines(folder / "rows.jsonl", rows))
    assert table["id"] == ["first", "second"] and of_files(table, "input") == [str(folder / "0"), str(folder / "1")]
    named = load_inputs(lines(folder / "named.jsonl", [{"film": "0"}, {"film": "1"}]), video="film")
    assert of_files(named, "input") == of_files(table, "input")
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        load_inputs(folder / "gone.mp4")


def test_many_long_videos_are_known_by_their_files_in_no_time(folder):
    paths = sorted(str(path) for path in (folder / "0").iterdir())
    cell = {"image": None, "video": [{"bytes": None, "path": path} for path in paths * 100], "text": None}
    dataset = Dataset.from_list([{"cell": cell}] * 20, features=Features({"cell": VIDEO_CELL_FEATURE}))
    start = time.perf_counter()
    assert len(np.unique(column_keys(dataset, "cell"))) == 1
    assert time.perf_counter() - start < 5, "12,000 frames that are not opened"
