"""The tasks of MMEB-V2 are read as VLM2Vec reads them: columns, words, candidates, and which of them are right."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Image, List
from mmeb_v2_files import PAGE_REPOS, Folder, picture, write_page_tasks, write_video_tasks

from saha_st.data.mmeb_v2 import PAGE_SUBSETS, VIDEO_SUBSETS, RankingSplit, load_mmeb_v2_eval, open_mmeb_v2
from saha_st.data.mmeb_v2.frames import folder_states, sample_frames
from saha_st.data.mmeb_v2.subsets import class_labels

QUESTION = (
    "Given a video and a question, select the most accurate answer from the provided candidates. Return only the "
    "exact text of your chosen answer. Question:  "
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mmeb-v2")
    write_video_tasks(root)
    write_page_tasks(root)
    return root


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(root, tmp_path / "copy")


def texts(split: RankingSplit) -> list[str]:
    return list(split.queries["text"])


def documents(split: RankingSplit) -> dict[str, str]:
    return dict(zip(split.documents["id"], split.documents["text"], strict=True))


def right(split: RankingSplit) -> list[list[str]]:
    """The texts of the right documents of each query."""
    found = documents(split)
    return [[found[name] for name in relevant] for relevant in split.relevant.values()]


def frames_of(split: RankingSplit, row: int, side: str = "queries") -> list[str]:
    """The last two parts of the paths of the frames of a query or document."""
    stored = getattr(split, side).cast_column("video", List(Image(decode=False)))[row]["video"]
    return ["/".join(Path(frame["path"]).parts[-2:]) for frame in stored]


def test_the_tables_have_the_leaderboards_tasks():
    schema = Path(__file__).parents[2] / "saha_st" / "evaluation" / "submission" / "mmeb.schema.json"
    metrics = json.loads(schema.read_text())["properties"]["metrics"]["properties"]
    assert set(VIDEO_SUBSETS) == set(metrics["video"]["required"]) and len(VIDEO_SUBSETS) == 18
    assert {each.leaderboard_name or name for name, each in PAGE_SUBSETS.items()} == set(metrics["visdoc"]["required"])
    assert set(PAGE_SUBSETS) == set(PAGE_REPOS)
    groups = [each.meta_task for each in (*VIDEO_SUBSETS.values(), *PAGE_SUBSETS.values())]
    assert {name: groups.count(name) for name in groups} == {
        "Video classification": 5,
        "Video QA": 5,
        "Video retrieval": 5,
        "Moment retrieval": 3,
        "ViDoRe v1": 10,
        "ViDoRe v2": 4,
        "VisRAG": 6,
        "VisDoc OOD": 4,
    }
    labels = {name: class_labels(name) for name in ("K700", "UCF101", "HMDB51", "Breakfast")}
    assert [len(each) for each in labels.values()] == [700, 101, 51, 10]
    assert all(len(set(each)) == len(each) for each in labels.values())
    assert not class_labels("SmthSmthV2")  # its rows name all of them
    own = [name for name, each in VIDEO_SUBSETS.items() if not each.has_own_candidates]
    assert own == ["K700", "HMDB51", "UCF101", "Breakfast", "DiDeMo", "MSR-VTT", "MSVD", "VATEX", "YouCook2"]


@pytest.mark.parametrize("name", VIDEO_SUBSETS)
def test_every_video_task_is_read(name: str, root: Path):
    split, subset = load_mmeb_v2_eval(name, root), VIDEO_SUBSETS[name]
    assert len(split.queries) == len(split.relevant) == {"MVBench": 20, "MomentSeeker": 3}.get(name, 2)
    assert (split.candidates is not None) == subset.has_own_candidates
    ids = set(split.documents["id"])
    assert len(ids) == len(split.documents)
    for query, relevant in split.relevant.items():
        assert relevant and relevant.keys() <= ids
        assert split.candidates is None or relevant.keys() < set(split.candidates[query]) <= ids
    assert ("video" in split.documents.column_names) == subset.target_is_video
    assert ("video" in split.queries.column_names) == (subset.meta_task != "Video retrieval")


@pytest.mark.parametrize(
    ("name", "query", "target"),
    [
        ("K700", "Recognize the category of the video content.", "yoga"),
        (
            "SmthSmthV2",
            "What actions or object interactions are being performed by the person in the video?",
            "Folding something",
        ),
        ("HMDB51", "What actions or objects interactions are the person in the video doing?", "wave"),
        ("UCF101", "What activities or sports are being performed by the person in the video?", "YoYo"),
        ("Breakfast", "Recognize the breakfast type that the person is cooking in the video. ", "tea"),
        ("MVBench", f"{QUESTION}What 0?\nOptions:\n(A) one\n(B) two", "(B) two"),
        (
            "Video-MME",
            f"{QUESTION}Which 0?\nA. Red.\nB. Blue.\nC. 2.5 m.\nD. None. At all.",
            "2.5 m",
        ),
        ("NExTQA", f"{QUESTION}why 0\nOptions:\n(A) eat\n(B) run\n(C) jump\n(D) eat\n(E) sing", "eat"),
        ("EgoSchema", f"{QUESTION}What 0?A. C cooks. B. C reads. C. C sleeps. D. C walks. E. C sits.", "C reads"),
        ("ActivityNetQA", f"{QUESTION}is it day? (A) yes; (B) no.", "no"),
        (
            "DiDeMo",
            "Find a video that includes the following described scenes: a dog 0",
            "Understand the content of the provided video.",
        ),
        ("MSR-VTT", "Find a video that contains the following visual content: a man 0", None),
        ("MSVD", "Find the video snippet that corresponds to the given summary: a cat 0", None),
        ("VATEX", "Select a video that fits the description provided: a bird 0", None),
        ("YouCook2", "Find a video that demonstrates the following action while making a recipe: cut it 0", None),
        (
            "QVHighlight",
            "Find the clip that corresponds to the described scene in the given video: someone 0",
            "Understand the content of the provided video.",
        ),
        ("Charades-STA", "Find the clip that corresponds to the described scene in the given video: someone 0", None),
        (
            "MomentSeeker",
            "Find the clip that corresponds to the given text: the moment 0",
            "Understand the content of the provided video clip.",
        ),
    ],
)
def test_the_words_are_those_of_vlm2vec(name: str, query: str, target: str | None, root: Path):
    split = load_mmeb_v2_eval(name, root)
    assert texts(split)[0] == query
    assert right(split)[0] == [target or "Understand the content of the provided video."]


def test_all_classes_are_candidates_and_those_of_the_rows_stand_first(root: Path):
    split = load_mmeb_v2_eval("UCF101", root)
    found = list(split.documents["text"])
    assert found[:2] == ["YoYo", "Biking"] and sorted(found) == sorted(class_labels("UCF101"))
    assert right(split) == [["YoYo"], ["Biking"]]


def test_answers_of_the_same_text_are_one_and_letters_tell_them_apart(copy: Path):
    split = load_mmeb_v2_eval("NExTQA", copy)
    (candidates, _) = split.candidates.values()
    assert [documents(split)[each] for each in candidates] == ["eat", "run", "jump", "sing"]
    row = {"video": "1.mp4", "question": "{Which}?", "candidates": ["same", "other", "same"], "answer": "same"}
    Folder(copy).rows("mvbench/action_sequence.json", [row])
    split = load_mmeb_v2_eval("MVBench", copy)
    assert texts(split)[1].endswith("Question:  {Which}?\nOptions:\n(A) same\n(B) other\n(C) same")
    assert right(split)[1] == ["(C) same"]


def test_an_answer_among_no_candidates_is_a_miss_and_said_to_be(copy: Path, caplog: pytest.LogCaptureFixture):
    listed = ["Folding something", "Opening something"]
    rows = [{"video_id": n, "pos_text": text, "neg_text": listed} for n, text in enumerate(["Eating", listed[1]])]
    Folder(copy).rows("ssv2.jsonl", rows)
    with caplog.at_level(logging.WARNING, "saha_st"):
        split = load_mmeb_v2_eval("SmthSmthV2", copy)
    assert "right answers of 1 queries" in caplog.text
    first, second = split.relevant.values()
    assert not first.keys() & set(split.documents["id"]) and second.keys() <= set(split.documents["id"])


def test_eight_frames_are_taken_from_first_to_last_in_their_natural_order(root: Path):
    split = load_mmeb_v2_eval("VATEX", root)
    assert frames_of(split, 0, "documents") == [f"x0/frame_{number}.jpg" for number in (1, 2, 3, 4, 5, 6, 7, 9)]
    assert frames_of(load_mmeb_v2_eval("K700", root), 1) == [f"v1/frame_{number}.jpg" for number in (1, 2, 3)]
    for count in (8, 9, 64, 65, 100):
        found = sample_frames([str(number) for number in range(count)])
        assert [int(each) for each in found] == np.linspace(0, count - 1, 8, dtype=int).tolist()


def test_moments_rank_the_clips_of_their_own_video(root: Path):
    split = load_mmeb_v2_eval("Charades-STA", root)
    assert [len(each) for each in split.candidates.values()] == [3, 3] and len(split.documents) == 6
    assert frames_of(split, 1)[0] == "query/frame_1.jpg"
    ids = list(split.documents["id"])
    for query, relevant in split.relevant.items():
        (name,) = relevant
        assert frames_of(split, ids.index(name), "documents")[0] == "positive_0/frame_1.jpg"
        assert split.candidates[query].index(name) == 2  # of those that tie, wrong ones stand first


def test_queries_of_momentseeker_have_a_picture_a_video_or_nothing_beside_the_text(root: Path):
    split = load_mmeb_v2_eval("MomentSeeker", root)
    rows = split.queries.to_list()
    assert [row["image"]["path"] is None if row["image"] else True for row in rows] == [True, False, True]
    assert [bool(row["video"]) for row in rows] == [False, False, True]
    assert split.queries[1]["image"].size == (16, 16)
    assert frames_of(split, 2)[0] == "videos_movie101_77/frame_1.jpg"
    assert texts(split)[1:] == [
        "Select the video clip that aligns with the given text and image: the moment 1",
        "Find the clip that corresponds to the given sentence and video segment: the moment 2",
    ]
    assert [len(each) for each in split.relevant.values()] == [1, 2, 1]


def test_videos_that_can_be_had_no_more_are_left_out_where_that_is_known(copy: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "saha_st"):
        assert len(load_mmeb_v2_eval("MSVD", copy).queries) == 2
    assert "MSVD: 1 of 3 rows have no frames" in caplog.text
    frames = copy / "video-tasks" / "frames"
    shutil.rmtree(frames / "video_ret" / "VATEX" / "x1")
    with pytest.raises(FileNotFoundError, match="VATEX: 1 of 2 folders have no frames, the first is .*x1.*Unpack"):
        load_mmeb_v2_eval("VATEX", copy)
    for folder in (frames / "video_ret" / "MSVD").iterdir():
        shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="MSVD: 3 of 3"):
        load_mmeb_v2_eval("MSVD", copy)
    shutil.rmtree(frames / "video_cls")
    with pytest.raises(FileNotFoundError, match="K700.*is not there.*holds video-tasks"):
        load_mmeb_v2_eval("K700", copy)
    (frames / "video_mret" / "MomentSeeker" / "query_ego.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 pictures of queries .*query_ego.jpg"):
        load_mmeb_v2_eval("MomentSeeker", copy)
    shutil.rmtree(frames / "video_mret" / "QVHighlight" / "q1" / "positive_0")
    with pytest.raises(FileNotFoundError, match="QVHighlight: .*q1.*no folder 'positive"):
        load_mmeb_v2_eval("QVHighlight", copy)


@pytest.mark.parametrize("name", PAGE_SUBSETS)
def test_every_visual_document_task_is_read(name: str, root: Path):
    split = load_mmeb_v2_eval(name, root)
    assert len(split.queries) == 3 and len(split.documents) == 12 and split.candidates is None
    assert texts(split)[1] == "Find a document image that matches the given query: which page is 1?"
    assert set(split.documents["text"]) == {"Understand the content of the provided document image."}
    several = name.endswith(("_v2", "_v2_multilingual", "-doc"))
    grades = [list(each.values()) for each in split.relevant.values()]
    assert [len(each) for each in grades] == ([4] * 3 if several else [1] * 3)
    assert {grade for each in grades for grade in each} == ({1, 2} if several else {1})
    seed = list(PAGE_REPOS).index(name)
    assert np.array_equal(np.asarray(split.documents[7]["image"]), np.asarray(picture(seed, 7)))


def test_judgements_that_do_not_fit_are_refused(tmp_path: Path):
    def read(pages: list, qrels: list[tuple], queries=((0, "a"), (1, "b"))) -> RankingSplit:
        shutil.rmtree(tmp_path / "visdoc-tasks", ignore_errors=True)
        Folder(tmp_path).pages("tatdqa_test_beir", "test", queries, pages, qrels)
        return load_mmeb_v2_eval("ViDoRe_tatdqa", tmp_path, cache_dir=str(tmp_path / "cache"))

    with pytest.raises(ValueError, match="no right page for the query 1"):
        read([7, 8], [(0, 7, 1), (1, 8, 0)])
    with pytest.raises(ValueError, match=r"corpus lacks the pages \['9'\], right for the query 1"):
        read([7, 8], [(0, 7, 1), (1, 9, 1)])
    split = read([7, 8, 7], [(0, 7, 1), (0, 7, 2), (1, 8, 1)])  # judged twice, and one page of the same name
    assert len(split.documents) == 2 and list(split.relevant["q000000"].values()) == [2]
    split = read([7, 7, 8], [(0, 7, 1), (1, 8, 1)])
    assert split.documents["id"][:] == ["d000000", "d000001"] and split.relevant["q000001"] == {"d000001": 1}
    assert [np.asarray(page).tolist() for page in split.documents["image"]] == [
        np.asarray(picture(0, row)).tolist() for row in (0, 2)
    ]
    assert split.documents.cache_files and len(split.documents.data) == 3  # a view of the file, not a copy of rows
    with pytest.raises(ValueError, match="queries lacks the columns"):
        Folder(tmp_path).pages("tatdqa_test_beir", "test", [(0, "a")], [7], [(0, 7, 1)])
        folder = tmp_path / "visdoc-tasks" / "data" / "tatdqa_test_beir"
        shutil.copy(folder / "qrels" / "test-00000-of-00001.parquet", folder / "queries")
        load_mmeb_v2_eval("ViDoRe_tatdqa", tmp_path, cache_dir=str(tmp_path / "cache2"))


def test_a_repository_that_says_in_its_readme_where_its_files_are_is_read_by_that(root: Path, tmp_path: Path):
    source = root / "visdoc-tasks" / "data" / "VisRAG-Ret-Test-ChartQA"
    folder = tmp_path / "visdoc-tasks" / "data" / "VisRAG-Ret-Test-ChartQA"
    (folder / "data").mkdir(parents=True)
    lines = ["---", "configs:"]
    for config in ("queries", "corpus", "qrels"):
        shutil.copy(source / config / "train-00000-of-00001.parquet", folder / "data" / f"{config}.parquet")
        lines += [f"- config_name: {config}", "  data_files:", "  - split: train", f"    path: data/{config}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    found = load_mmeb_v2_eval("VisRAG_ChartQA", tmp_path, cache_dir=str(tmp_path / "cache"))
    expected = load_mmeb_v2_eval("VisRAG_ChartQA", root)
    assert found.relevant == expected.relevant and list(found.queries["text"]) == list(expected.queries["text"])


def test_pages_stay_where_they_are_on_disk(root: Path):
    """They are gigabytes: the documents are views of the memory-mapped file, not copies."""
    pages = load_mmeb_v2_eval("VisRAG_PlotQA", root).documents
    assert pages.cache_files and pages._indices is None


def test_rows_without_a_column_are_refused(copy: Path):
    Folder(copy).rows("k700.jsonl", [{"video_id": "v0", "label": "yoga"}])
    with pytest.raises(ValueError, match=r"K700: a row lacks the column 'pos_text'; it has \['label', 'video_id'\]"):
        load_mmeb_v2_eval("K700", copy)
    Folder(copy).rows("k700.jsonl", [])
    with pytest.raises(ValueError, match="K700 has no rows"):
        load_mmeb_v2_eval("K700", copy)


def test_an_instruction_without_a_text_stands_alone(copy: Path):
    captions = "Select a video that fits the description provided:"
    Folder(copy).rows(
        "vatex.jsonl", [{"videoID": f"x{n % 2}", "enCap": text} for n, text in enumerate(("", None, [], ["", "a"]))]
    )
    assert texts(load_mmeb_v2_eval("VATEX", copy)) == [captions] * 4
    rows = Folder(copy).rows_of("qvhighlight.jsonl")
    Folder(copy).rows("qvhighlight.jsonl", [rows[0] | {"query": None}, rows[1] | {"query": ""}])
    found = texts(load_mmeb_v2_eval("QVHighlight", copy))
    assert found == ["Find the clip that corresponds to the described scene in the given video:"] * 2
    rows = Folder(copy).rows_of("momentseeker_1k6.jsonl")
    Folder(copy).rows("momentseeker_1k6.jsonl", [row | {"query": ""} for row in rows])
    assert texts(load_mmeb_v2_eval("MomentSeeker", copy))[0] == "Find the clip that corresponds to the given text:"
    folder = copy / "visdoc-tasks" / "data" / "tatdqa_test_beir"
    shutil.rmtree(folder)
    Folder(copy).pages(folder.name, "test", [(0, ""), (1, None)], [7, 8], [(0, 7, 1), (1, 8, 1)])
    found = texts(load_mmeb_v2_eval("ViDoRe_tatdqa", copy))
    assert found == ["Find a document image that matches the given query:"] * 2


@pytest.mark.parametrize("name", ["UCF101", "VATEX"])
def test_frames_are_found_without_the_folder_of_their_group(name: str, copy: Path):
    """As they are when video_cls.tar.gz and video_ret.tar.gz are unpacked in video-tasks/frames."""
    expected = load_mmeb_v2_eval(name, copy)
    frames = copy / "video-tasks" / "frames"
    for group in ("video_cls", "video_ret"):
        for folder in (frames / group).iterdir():
            folder.rename(frames / folder.name)
        (frames / group).rmdir()
    found = load_mmeb_v2_eval(name, copy)
    side = "documents" if VIDEO_SUBSETS[name].target_is_video else "queries"
    assert [frames_of(found, row, side) for row in (0, 1)] == [frames_of(expected, row, side) for row in (0, 1)]
    assert open_mmeb_v2(copy).local_frames(VIDEO_SUBSETS[name]) == frames / name


def test_unknown_names_and_places_are_refused(root: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="no 'Kinetics'"):
        load_mmeb_v2_eval("Kinetics", root)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_mmeb_v2(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="does not hold MMEB-V2"):
        open_mmeb_v2(tmp_path)


def test_rows_that_a_copy_lacks_come_from_the_hub(copy: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    class Rows(list):
        def to_list(self) -> list:
            return list(self)

    def load_dataset(
        repo: str, config: str | None, *, split: str, revision: str | None, cache_dir: str | None
    ) -> Rows:
        asked.append((repo, config, split, revision))
        return Rows([{"video_id": "video0", "video": "video0.mp4", "caption": "a man"}])

    monkeypatch.setattr("saha_st.data.mmeb_v2.places.load_dataset", load_dataset)
    monkeypatch.setattr("saha_st.data.mmeb_v2.places.commit_of", lambda repo, cache_dir: f"commit of {repo}")
    (copy / "video-tasks" / "data" / "msr-vtt.jsonl").unlink()
    assert len(load_mmeb_v2_eval("MSR-VTT", copy).queries) == 1
    assert asked == [("VLM2Vec/MSR-VTT", "test_1k", "test", "commit of VLM2Vec/MSR-VTT")]


def test_the_state_of_frames_changes_when_a_video_does(copy: Path):
    frames = copy / "video-tasks" / "frames" / "video_qa" / "MVBench"
    before = folder_states(frames)
    assert before == folder_states(frames) and len(before) == 1 + 20 + 20
    picture(1).save(frames / "action_count" / "12.mp4" / "frame_9.jpg")
    assert len(set(before) ^ set(folder_states(frames))) == 2
