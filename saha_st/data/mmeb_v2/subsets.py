"""What MMEB-V2 adds to MMEB: 18 video tasks and 24 visual document tasks, and how the rows of each are read.

A row of the table says where the annotations and the frames are, which columns hold what, and the words that are put
around them. The words are those of VLM2Vec's evaluation, to the letter (its double spaces too): a query of another
wording is another query, and a score on it is not comparable. What was not seen here is the data themselves, which are
only on the Hub; columns and folders are those that VLM2Vec's readers use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

import yaml

VideoMetaTask = Literal["Video classification", "Video QA", "Video retrieval", "Moment retrieval"]
PageMetaTask = Literal["ViDoRe v1", "ViDoRe v2", "VisRAG", "VisDoc OOD", "Generated pages"]

NUM_FRAMES = 8
"""How many frames of a video are looked at, spread evenly over those in its folder."""

QUESTION_PROMPT = (
    "Given a video and a question, select the most accurate answer from the provided candidates. Return only the "
    "exact text of your chosen answer. Question: "
)
VIDEO_TARGET = "Understand the content of the provided video."
PAGE_QUERY = "Find a document image that matches the given query:"
PAGE_TARGET = "Understand the content of the provided document image."


@dataclass(frozen=True)
class Labels:
    """Rows of a video and its class; the candidates are the classes.

    Args:
        instruction: The text of every query, beside the video.
        folder: Folder of a video's frames: a format string over the row's columns, as in `Choices`.
        label: Column of the class.
        candidates: Column of the row's own candidates; `None` if all classes are candidates of all rows.
    """

    instruction: str
    folder: str = "{video_id}"
    label: str = "pos_text"
    candidates: str | None = None


@dataclass(frozen=True)
class Choices:
    """Rows of a video, a question and answers to choose from.

    Args:
        folder: Folder of a video's frames: a format string over the row's columns, each of which has the attribute
            `stem`, the name of the file that it is a path of.
        question: Column of the question.
        options: Column with the list of answers, or a column for each, or the answers themselves (`fixed`).
        fixed: The answers, if they are the same for all rows.
        text: The query after the prompt: a format string over `question` and the answers, which are `lettered` with
            "(A)" on lines of their own, or, as they stand in the data, on `lines` or `inline`.
        candidates: How an answer is written as a candidate: "plain"; "lettered", as in the query; or "unlettered",
            without the "A." that it has in the data.
        answer_is: What the column of the answer holds: the answer's "text", "letter", or "index".
    """

    folder: str
    text: str
    question: str = "question"
    options: str | tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    candidates: Literal["plain", "lettered", "unlettered"] = "plain"
    answer: str = "answer"
    answer_is: Literal["text", "letter", "index"] = "text"


@dataclass(frozen=True)
class Captions:
    """Rows of a text and the video it describes; the candidates are the videos of all rows.

    Args:
        instruction: Stands before the text.
        folder: As `Choices`.
        text: Column of the text, or of a list of texts, of which the first is taken.
    """

    instruction: str
    folder: str
    text: str = "caption"


@dataclass(frozen=True)
class Moments:
    """Rows of a text and a video; the candidates are clips of this video, in folders beside that of its own frames.

    Args:
        instruction: Stands before the text.
        folder: As `Choices`; in it are `query`, and a folder for each clip, those of right ones named `positive…`.
        text: Column of the text.
    """

    instruction: str
    folder: str = "{video_path.stem}"
    text: str = "query"


@dataclass(frozen=True)
class MomentSeeker:
    """Rows of a text, which may have a picture or a video beside it, and clips that are right or wrong.

    Args:
        text_instruction: Stands before the text, if there is nothing beside it.
        image_instruction: If there is a picture.
        video_instruction: If there is a video.
        target: The text of a clip.
    """

    text_instruction: str = "Find the clip that corresponds to the given text:"
    image_instruction: str = "Select the video clip that aligns with the given text and image:"
    video_instruction: str = "Find the clip that corresponds to the given sentence and video segment:"
    target: str = "Understand the content of the provided video clip."


VideoRows = Labels | Choices | Captions | Moments | MomentSeeker


@dataclass(frozen=True)
class VideoSubset:
    """One video task.

    Args:
        name: Its name on the leaderboard.
        meta_task: The group it is averaged in.
        repo: Dataset on the Hub with its rows.
        frames: Folder of its frames, below `video-tasks/frames`; the first part names the archive.
        file: File with its rows in a local copy, below `video-tasks/data`; for several configurations a folder of
            `<configuration>.json`.
        rows: What the rows hold.
        num_queries: How many queries published results are of.
        configs: Configurations of the dataset, one after the other; each is a column `subset` of its rows.
        split: Split of the dataset.
        max_rows: Only the first so many rows are asked.
        skips_missing: Whether videos are known to be missing; rows without frames are left out.
    """

    name: str
    meta_task: VideoMetaTask
    repo: str
    frames: str
    file: str
    rows: VideoRows
    num_queries: int
    configs: tuple[str, ...] = ()
    split: str = "test"
    max_rows: int | None = None
    skips_missing: bool = False

    @property
    def has_own_candidates(self) -> bool:
        """Whether each query ranks a list of its own, and not the candidates of all."""
        rows = self.rows
        return not isinstance(rows, Captions) and not (isinstance(rows, Labels) and rows.candidates is None)

    @property
    def has_image_queries(self) -> bool:
        """Whether some of the queries have a picture, and not a video."""
        return isinstance(self.rows, MomentSeeker)

    @property
    def target_is_video(self) -> bool:
        """Whether the candidates are videos, and not texts."""
        return isinstance(self.rows, Captions | Moments | MomentSeeker)


@dataclass(frozen=True)
class PageSubset:
    """One visual document task: queries, pages (`corpus`) and judgements (`qrels`), a configuration of a dataset each.

    Args:
        name: Its name.
        meta_task: The group it is averaged in.
        repo: The dataset on the Hub.
        num_queries: How many queries published results are of.
        split: Split of the dataset.
        leaderboard_name: Its name in the files of the leaderboard, `None` if that is `name`.
    """

    name: str
    meta_task: PageMetaTask
    repo: str
    num_queries: int
    split: str = "test"
    leaderboard_name: str | None = None


@lru_cache
def class_labels(subset: str) -> tuple[str, ...]:
    """Return all classes of a video classification task, `()` if the rows name all of them."""
    text = (resources.files(__package__) / "labels.yaml").read_text(encoding="utf8")
    return tuple(yaml.safe_load(text).get(subset, "").split())


_MVBENCH_CONFIGS = (
    "episodic_reasoning action_sequence action_prediction action_antonym fine_grained_action unexpected_action "
    "object_existence object_interaction object_shuffle moving_direction action_localization scene_transition "
    "action_count moving_count moving_attribute state_change fine_grained_pose character_order "
    "egocentric_navigation counterfactual_inference"
)
_LISTED = "{question}\nOptions:\n{lettered}"
_CLS: VideoMetaTask = "Video classification"
_QA: VideoMetaTask = "Video QA"
_RET: VideoMetaTask = "Video retrieval"
_MRET: VideoMetaTask = "Moment retrieval"
_MOMENT = "Find the clip that corresponds to the described scene in the given video:"

_VIDEO = (
    VideoSubset(
        "K700",
        _CLS,
        "VLM2Vec/Kinetics-700",
        "video_cls/K700",
        "k700.jsonl",
        Labels("Recognize the category of the video content."),
        1000,
    ),
    VideoSubset(
        "SmthSmthV2",
        _CLS,
        "VLM2Vec/SmthSmthV2",
        "video_cls/SSv2",
        "ssv2.jsonl",
        Labels(
            "What actions or object interactions are being performed by the person in the video?",
            candidates="neg_text",
        ),
        1000,
        max_rows=1000,
    ),
    VideoSubset(
        "HMDB51",
        _CLS,
        "VLM2Vec/HMDB51",
        "video_cls/HMDB51",
        "hmdb51.jsonl",
        Labels("What actions or objects interactions are the person in the video doing?"),
        1000,
    ),
    VideoSubset(
        "UCF101",
        _CLS,
        "VLM2Vec/UCF101",
        "video_cls/UCF101",
        "ucf101.jsonl",
        Labels("What activities or sports are being performed by the person in the video?"),
        1000,
    ),
    VideoSubset(
        "Breakfast",
        _CLS,
        "VLM2Vec/Breakfast",
        "video_cls/Breakfast",
        "breakfast.jsonl",
        Labels("Recognize the breakfast type that the person is cooking in the video. "),
        433,
    ),
    VideoSubset(
        "MVBench",
        _QA,
        "VLM2Vec/MVBench",
        "video_qa/MVBench",
        "mvbench",
        Choices("{subset}/{video}", _LISTED, options="candidates", candidates="lettered"),
        4000,
        configs=tuple(_MVBENCH_CONFIGS.split()),
        split="train",
    ),
    VideoSubset(
        "Video-MME",
        _QA,
        "VLM2Vec/Video-MME",
        "video_qa/Video-MME",
        "video-mme.jsonl",
        Choices("{videoID}", "{question}\n{lines}", options="options", candidates="unlettered", answer_is="letter"),
        2700,
    ),
    VideoSubset(
        "NExTQA",
        _QA,
        "VLM2Vec/NExTQA",
        "video_qa/NExTQA",
        "nextqa.jsonl",
        Choices("{video}", _LISTED, options=("a0", "a1", "a2", "a3", "a4"), answer_is="index"),
        8564,
        configs=("MC",),
    ),
    VideoSubset(
        "EgoSchema",
        _QA,
        "VLM2Vec/EgoSchema",
        "video_qa/EgoSchema",
        "egoschema.jsonl",
        Choices("{video_idx}", "{question}{inline}", options="option", candidates="unlettered", answer_is="index"),
        500,
        configs=("Subset",),
    ),
    VideoSubset(
        "ActivityNetQA",
        _QA,
        "VLM2Vec/ActivityNetQA",
        "video_qa/ActivityNetQA",
        "activitynetqa.jsonl",
        Choices("v_{video_name}", "{question}? (A) yes; (B) no.", fixed=("yes", "no")),
        1000,
    ),
    VideoSubset(
        "DiDeMo",
        _RET,
        "VLM2Vec/DiDeMo",
        "video_ret/DiDeMo",
        "didemo.jsonl",
        Captions("Find a video that includes the following described scenes:", "{video.stem}"),
        1004,
    ),
    VideoSubset(
        "MSR-VTT",
        _RET,
        "VLM2Vec/MSR-VTT",
        "video_ret/MSR-VTT",
        "msr-vtt.jsonl",
        Captions("Find a video that contains the following visual content:", "{video_id}"),
        1000,
        configs=("test_1k",),
    ),
    VideoSubset(
        "MSVD",
        _RET,
        "VLM2Vec/MSVD",
        "video_ret/MSVD",
        "msvd.jsonl",
        Captions("Find the video snippet that corresponds to the given summary:", "{video_id}"),
        670,
        skips_missing=True,
    ),
    VideoSubset(
        "VATEX",
        _RET,
        "VLM2Vec/VATEX",
        "video_ret/VATEX",
        "vatex.jsonl",
        Captions("Select a video that fits the description provided:", "{videoID}", text="enCap"),
        4478,
    ),
    VideoSubset(
        "YouCook2",
        _RET,
        "lmms-lab/YouCook2",
        "video_ret/YouCook2",
        "youcook2-val.jsonl",
        Captions(
            "Find a video that demonstrates the following action while making a recipe:", "{id}", text="sentence"
        ),
        3179,
        split="val",
        skips_missing=True,
    ),
    VideoSubset(
        "QVHighlight",
        _MRET,
        "VLM2Vec/QVHighlight",
        "video_mret/QVHighlight",
        "qvhighlight.jsonl",
        Moments(_MOMENT),
        1083,
    ),
    VideoSubset(
        "Charades-STA",
        _MRET,
        "VLM2Vec/Charades-STA",
        "video_mret/Charades_STA",
        "charades_sta.jsonl",
        Moments(_MOMENT),
        727,
    ),
    VideoSubset(
        "MomentSeeker",
        _MRET,
        "VLM2Vec/MomentSeeker",
        "video_mret/MomentSeeker",
        "momentseeker_1k6.jsonl",
        MomentSeeker(),
        1602,
    ),
)

VIDEO_SUBSETS: dict[str, VideoSubset] = {subset.name: subset for subset in _VIDEO}
"""The 18 video tasks by name."""

_V1, _V2, _VISRAG, _OOD = "ViDoRe v1", "ViDoRe v2", "VisRAG", "VisDoc OOD"
_PAGES = (
    PageSubset("ViDoRe_arxivqa", _V1, "vidore/arxivqa_test_subsampled_beir", 500),
    PageSubset("ViDoRe_docvqa", _V1, "vidore/docvqa_test_subsampled_beir", 451),
    PageSubset("ViDoRe_infovqa", _V1, "vidore/infovqa_test_subsampled_beir", 494),
    PageSubset("ViDoRe_tabfquad", _V1, "vidore/tabfquad_test_subsampled_beir", 280),
    PageSubset("ViDoRe_tatdqa", _V1, "vidore/tatdqa_test_beir", 1646),
    PageSubset("ViDoRe_shiftproject", _V1, "vidore/shiftproject_test_beir", 100),
    *(
        PageSubset(f"ViDoRe_syntheticDocQA_{topic}", _V1, f"vidore/syntheticDocQA_{topic}_test_beir", 100)
        for topic in ("artificial_intelligence", "energy", "government_reports", "healthcare_industry")
    ),
    PageSubset("ViDoRe_esg_reports_human_labeled_v2", _V2, "vidore/esg_reports_human_labeled_v2", 52),
    PageSubset("ViDoRe_biomedical_lectures_v2_multilingual", _V2, "vidore/biomedical_lectures_v2", 640),
    PageSubset("ViDoRe_economics_reports_v2_multilingual", _V2, "vidore/economics_reports_v2", 232),
    PageSubset("ViDoRe_esg_reports_v2_multilingual", _V2, "vidore/esg_reports_v2", 228),
    PageSubset("VisRAG_ArxivQA", _VISRAG, "openbmb/VisRAG-Ret-Test-ArxivQA", 816, "train"),
    PageSubset("VisRAG_ChartQA", _VISRAG, "openbmb/VisRAG-Ret-Test-ChartQA", 63, "train"),
    PageSubset("VisRAG_MP-DocVQA", _VISRAG, "openbmb/VisRAG-Ret-Test-MP-DocVQA", 591, "train"),
    PageSubset("VisRAG_SlideVQA", _VISRAG, "openbmb/VisRAG-Ret-Test-SlideVQA", 556, "train"),
    PageSubset("VisRAG_InfoVQA", _VISRAG, "openbmb/VisRAG-Ret-Test-InfoVQA", 718, "train"),
    PageSubset("VisRAG_PlotQA", _VISRAG, "openbmb/VisRAG-Ret-Test-PlotQA", 863, "train"),
    PageSubset("ViDoSeek-page", _OOD, "VLM2Vec/ViDoSeek-page-fixed", 1142, leaderboard_name="ViDoSeek-page-fixed"),
    PageSubset("ViDoSeek-doc", _OOD, "VLM2Vec/ViDoSeek", 1142),
    PageSubset(
        "MMLongBench-page", _OOD, "VLM2Vec/MMLongBench-page-fixed", 838, leaderboard_name="MMLongBench-page-fixed"
    ),
    PageSubset("MMLongBench-doc", _OOD, "VLM2Vec/MMLongBench-doc", 838),
)

PAGE_SUBSETS: dict[str, PageSubset] = {subset.name: subset for subset in _PAGES}
"""The 24 visual document tasks by name. The two `-page` ones are of the datasets that were corrected in 2025."""
