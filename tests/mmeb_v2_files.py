"""Write a small MMEB-V2 as the Hub has it: folders of frames, rows of every video task, and repositories of pages.

The columns and folders are written out here, and not taken from the table that is tested. All tasks are there, with
few queries each; videos and pages are of noise, so that no two are alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, Value
from PIL import Image as PIL

MVBENCH = (
    "episodic_reasoning action_sequence action_prediction action_antonym fine_grained_action unexpected_action "
    "object_existence object_interaction object_shuffle moving_direction action_localization scene_transition "
    "action_count moving_count moving_attribute state_change fine_grained_pose character_order "
    "egocentric_navigation counterfactual_inference"
).split()
SIZE = 16


def picture(*seed: int) -> PIL.Image:
    return PIL.fromarray(np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8))


class Folder:
    """The folder that holds `video-tasks` and `visdoc-tasks`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._videos = 0

    def frames(self, folder: str, count: int = 3) -> None:
        """A video: `frame_1.jpg`, …, not padded, so that their order is not that of their names."""
        self._videos += 1
        path = self.root / "video-tasks" / "frames" / folder
        path.mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            picture(self._videos, number).save(path / f"frame_{number}.jpg")

    def rows(self, file: str, rows: Iterable[dict[str, Any]]) -> None:
        path = self.root / "video-tasks" / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps(list(rows)))
        else:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def rows_of(self, file: str) -> Any:
        """The rows that were written to a file, or by configuration to a folder."""
        path = self.root / "video-tasks" / "data" / file
        if path.is_dir():
            return {each.stem: json.loads(each.read_text()) for each in path.iterdir()}
        return [json.loads(line) for line in path.read_text().splitlines()]

    def pages(
        self,
        repo: str,
        split: str,
        queries: Sequence[tuple[Any, str]],
        pages: Sequence[Any],
        qrels: Sequence[tuple[Any, Any, int]],
        *,
        seed: int = 0,
        **more: Sequence[Any],
    ) -> None:
        """A repository in the form of BEIR: a folder for each configuration, pictures in the Parquet files."""
        folder = self.root / "visdoc-tasks" / "data" / repo
        names, texts = zip(*queries, strict=True)
        asked = {"query-id": list(names), "query": list(texts), **more}
        judged = dict(zip(("query-id", "corpus-id", "score"), map(list, zip(*qrels, strict=True)), strict=True))
        for config, columns in (("queries", asked), ("qrels", judged)):
            (folder / config).mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), folder / config / f"{split}-00000-of-00001.parquet")
        (folder / "corpus").mkdir(exist_ok=True)
        kind = "string" if isinstance(pages[0], str) else "int64"
        corpus = Dataset.from_dict(
            {"corpus-id": list(pages), "image": [picture(seed, number) for number in range(len(pages))]},
            Features({"corpus-id": Value(kind), "image": Image()}),
        )
        corpus.to_parquet(folder / "corpus" / f"{split}-00000-of-00001.parquet")


def write_video_tasks(root: Path, *, videos: int = 2) -> Folder:
    """The 18 video tasks with so many videos each (20 for MVBench, which has as many configurations)."""
    folder = Folder(root)
    numbers = range(videos)
    for name, file, labels in (
        ("K700", "k700", ["yoga", "zumba"]),
        ("HMDB51", "hmdb51", ["wave", "dive"]),
        ("UCF101", "ucf101", ["YoYo", "Biking"]),
        ("Breakfast", "breakfast", ["tea", "milk"]),
    ):
        for number in numbers:
            folder.frames(f"video_cls/{name}/v{number}")
        rows = [{"video_id": f"v{number}", "pos_text": labels[number % 2]} for number in numbers]
        folder.rows(f"{file}.jsonl", rows)
    for number in numbers:
        folder.frames(f"video_cls/SSv2/{number}", count=8)
    listed = ["Folding something", "Opening something", "Holding something"]
    folder.rows("ssv2.jsonl", [{"video_id": n, "pos_text": listed[n % 3], "neg_text": listed} for n in numbers])
    _write_questions(folder, numbers)
    _write_retrieval(folder, numbers)
    _write_moments(folder, numbers)
    return folder


def _write_questions(folder: Folder, numbers: range) -> None:
    for number, config in enumerate(MVBENCH):
        folder.frames(f"video_qa/MVBench/{config}/{number}.mp4")
        row = {"video": f"{number}.mp4", "question": f"What {number}?", "candidates": ["one", "two"], "answer": "two"}
        folder.rows(f"mvbench/{config}.json", [row])
    for number in numbers:
        for place in ("Video-MME/m", "NExTQA/10", "EgoSchema/e", "ActivityNetQA/v_a"):
            folder.frames(f"video_qa/{place}{number}")
    options = ["A. Red.", "B. Blue.", "C. 2.5 m.", "D. None. At all."]
    about = {"domain": "Knowledge", "sub_category": "Biology"}
    folder.rows(
        "video-mme.jsonl",
        [
            {"videoID": f"m{n}", "question_id": f"{n}-1", "question": f"Which {n}?", "options": options, "answer": "C"}
            | about
            for n in numbers
        ],
    )
    answers = {"a0": "eat", "a1": "run", "a2": "jump", "a3": "eat", "a4": "sing"}
    folder.rows(
        "nextqa.jsonl",
        [
            {"video": int(f"10{n}"), "question": f"why {n}", "answer": 3, "qid": n, "type": "CW"} | answers
            for n in numbers
        ],
    )
    options = ["A. C cooks.", "B. C reads.", "C. C sleeps.", "D. C walks.", "E. C sits."]
    folder.rows(
        "egoschema.jsonl",
        [
            {"video_idx": f"e{n}", "question_idx": str(n), "question": f"What {n}?", "option": options, "answer": "1"}
            for n in numbers
        ],
    )
    folder.rows(
        "activitynetqa.jsonl",
        [{"video_name": f"a{n}", "question_id": f"a{n}_1", "question": "is it day", "answer": "no"} for n in numbers],
    )


def _write_retrieval(folder: Folder, numbers: range) -> None:
    for number in numbers:
        for place in ("DiDeMo/d", "MSR-VTT/video", "MSVD/s", "VATEX/x", "YouCook2/y"):
            folder.frames(f"video_ret/{place}{number}", count=9)
    folder.rows("didemo.jsonl", [{"video": f"test/d{n}.mp4", "caption": f"a dog {n}"} for n in numbers])
    folder.rows(
        "msr-vtt.jsonl",
        [{"video_id": f"video{n}", "video": f"video{n}.mp4", "caption": f"a man {n}"} for n in numbers],
    )
    # of one video there is nothing any more, of these two tasks
    folder.rows(
        "msvd.jsonl",
        [{"video_id": f"s{n}", "video": f"s{n}.avi", "caption": [f"a cat {n}", "an animal"]} for n in [*numbers, 99]],
    )
    folder.rows("vatex.jsonl", [{"videoID": f"x{n}", "enCap": [f"a bird {n}", "wings"]} for n in numbers])
    folder.rows(
        "youcook2-val.jsonl",
        [{"id": f"y{n}", "video_path": f"val/y{n}.mp4", "sentence": f"cut it {n}"} for n in [*numbers, 99]],
    )


def _write_moments(folder: Folder, numbers: range) -> None:
    for name, file in (("QVHighlight", "qvhighlight"), ("Charades_STA", "charades_sta")):
        for number in numbers:
            for clip in ("query", "positive_0", "negative_0", "negative_1"):
                folder.frames(f"video_mret/{name}/q{number}/{clip}")
        rows = [{"query": f"someone {n}", "video_path": f"videos/q{n}.mp4"} for n in numbers]
        folder.rows(f"{file}.jsonl", rows)
    base = "video_mret/MomentSeeker"
    for number in range(8):
        folder.frames(f"{base}/video_frames/clips_ego_{number}")
    folder.frames(f"{base}/video_frames/videos_movie101_77")
    picture(9).save(folder.root / "video-tasks" / "frames" / base / "query_ego.jpg")

    def clips(*numbers: int) -> list[dict[str, str]]:
        return [{"output_path": f"clips/ego_{number}.mp4"} for number in numbers]

    rows = [
        ("", clips(0), clips(1, 2)),
        ("ego.jpg", clips(3, 4), clips(5)),
        ("videos/movie101_77.mp4", clips(6), clips(7)),
    ]
    folder.rows(
        "momentseeker_1k6.jsonl",
        [
            {"query": f"the moment {n}", "input_frames": beside, "positive_frames": right, "negative_frames": wrong}
            for n, (beside, right, wrong) in enumerate(rows)
        ],
    )


PAGE_REPOS = {
    "ViDoRe_arxivqa": "arxivqa_test_subsampled_beir",
    "ViDoRe_docvqa": "docvqa_test_subsampled_beir",
    "ViDoRe_infovqa": "infovqa_test_subsampled_beir",
    "ViDoRe_tabfquad": "tabfquad_test_subsampled_beir",
    "ViDoRe_tatdqa": "tatdqa_test_beir",
    "ViDoRe_shiftproject": "shiftproject_test_beir",
    "ViDoRe_syntheticDocQA_artificial_intelligence": "syntheticDocQA_artificial_intelligence_test_beir",
    "ViDoRe_syntheticDocQA_energy": "syntheticDocQA_energy_test_beir",
    "ViDoRe_syntheticDocQA_government_reports": "syntheticDocQA_government_reports_test_beir",
    "ViDoRe_syntheticDocQA_healthcare_industry": "syntheticDocQA_healthcare_industry_test_beir",
    "ViDoRe_esg_reports_human_labeled_v2": "esg_reports_human_labeled_v2",
    "ViDoRe_biomedical_lectures_v2_multilingual": "biomedical_lectures_v2",
    "ViDoRe_economics_reports_v2_multilingual": "economics_reports_v2",
    "ViDoRe_esg_reports_v2_multilingual": "esg_reports_v2",
    "VisRAG_ArxivQA": "VisRAG-Ret-Test-ArxivQA",
    "VisRAG_ChartQA": "VisRAG-Ret-Test-ChartQA",
    "VisRAG_MP-DocVQA": "VisRAG-Ret-Test-MP-DocVQA",
    "VisRAG_SlideVQA": "VisRAG-Ret-Test-SlideVQA",
    "VisRAG_InfoVQA": "VisRAG-Ret-Test-InfoVQA",
    "VisRAG_PlotQA": "VisRAG-Ret-Test-PlotQA",
    "ViDoSeek-page": "ViDoSeek-page-fixed",
    "ViDoSeek-doc": "ViDoSeek",
    "MMLongBench-page": "MMLongBench-page-fixed",
    "MMLongBench-doc": "MMLongBench-doc",
}
"""Folders of the visual document tasks."""


def write_page_tasks(root: Path, *, queries: int = 3, pages: int = 12) -> Folder:
    """The 24 visual document tasks: names are numbers in some and words in others, grades are several in ViDoRe v2."""
    folder = Folder(root)
    for seed, (name, repo) in enumerate(PAGE_REPOS.items()):
        rng = np.random.default_rng(seed)
        names: list[Any] = list(range(pages))
        if name.startswith(("VisRAG", "MMLongBench", "ViDoSeek")):
            names = [f"page {number}.png" for number in names]
        asked = [(f"{name}-{n}" if isinstance(names[0], str) else n, f"which page is {n}?") for n in range(queries)]
        graded = name.endswith(("_v2", "_v2_multilingual", "-doc"))
        qrels = []
        for query, _ in asked:
            for page in rng.permutation(pages)[: 4 if graded else 1]:
                qrels.append((query, names[page], int(rng.integers(1, 3)) if graded else 1))
        qrels.append((asked[0][0], names[int(rng.integers(pages))], 0))  # judged, and found to be no answer
        languages = [("french", "english", "german")[n % 3] for n in range(queries)]
        more = {"language": languages} if name.endswith("_multilingual") else {}
        split = "train" if name.startswith("VisRAG") else "test"
        folder.pages(repo, split, asked, names, qrels, seed=seed, **more)
    return folder
