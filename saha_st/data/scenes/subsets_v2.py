"""The tasks of mini-MMEB-V2, as rows of the tables that MMEB-V2 is read by: the same layout, the same readers."""

from __future__ import annotations

from saha_st.data.mmeb_v2.subsets import Captions, Labels, PageSubset, VideoSubset

EVAL_ROWS = 80
"""Queries of each task, unless told otherwise."""

MINI_VIDEO_SUBSETS: dict[str, VideoSubset] = {
    subset.name: subset
    for subset in (
        VideoSubset(
            "Motions",
            "Video classification",
            "generated/Motions",
            "video_cls/Motions",
            "motions.jsonl",
            Labels("What does the shape in the video do?", candidates="neg_text"),
            EVAL_ROWS,
        ),
        VideoSubset(
            "Moving_t2v",
            "Video retrieval",
            "generated/Moving_t2v",
            "video_ret/Moving_t2v",
            "moving_t2v.jsonl",
            Captions("Find a video that shows the described motion:", "{video_id}"),
            EVAL_ROWS,
        ),
    )
}

MINI_PAGE_SUBSETS: dict[str, PageSubset] = {
    subset.name: subset for subset in (PageSubset("Pages", "Generated pages", "generated/Pages", EVAL_ROWS),)
}
