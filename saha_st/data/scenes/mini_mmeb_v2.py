"""mini-MMEB-V2 on disk: moving shapes and rendered pages, in the layout of MMEB-V2, and pairs to train on.

The evaluation side, as `saha_st.data.mmeb_v2.places` describes it:

* ``video-tasks/data/{motions,moving_t2v}.jsonl``, the rows of ``Motions`` and ``Moving_t2v``;
* ``video-tasks/frames/{video_cls/Motions,video_ret/Moving_t2v}/<video>/frame_00.png``, their frames;
* ``visdoc-tasks/data/Pages/{queries,corpus,qrels}/test-00000-of-00001.parquet``, with grades 2 and 1.

The training side, in ``mini-MMEB-V2-train``: ``<task>.jsonl`` with columns ``anchor`` and ``positive``, as
`load_pairs` reads them; videos are folders of frames beside it.

Beside them, ``concepts.json``: what every row's query and positive stand for. It is never for a model.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from saha_st.data.mmeb_v2.subsets import PAGE_QUERY, PAGE_TARGET, VIDEO_TARGET
from saha_st.data.scenes.mini_mmeb import CONCEPTS_FILE
from saha_st.data.scenes.moving import MAX_HELD_OUT, MOTIONS, MovingScene, held_out_scenes, sample_moving
from saha_st.data.scenes.new_folder import new_folder, require_new
from saha_st.data.scenes.pages import MAX_EVAL, MAX_TRAIN, Page, held_out_facts, train_facts
from saha_st.data.scenes.subsets_v2 import EVAL_ROWS, MINI_PAGE_SUBSETS, MINI_VIDEO_SUBSETS

TRAIN_DIR_V2 = "mini-MMEB-V2-train"

_MOTIONS, _MOVING = MINI_VIDEO_SUBSETS.values()
(_PAGES,) = MINI_PAGE_SUBSETS.values()

Concepts = dict[str, list[str]]


def write_mini_mmeb_v2(root: str | Path, *, seed: int = 0, train_rows: int = 200, eval_rows: int = EVAL_ROWS) -> Path:
    """Generate mini-MMEB-V2 under ``root``.

    Args:
        root: Folder to make; it must not exist, or be empty. It appears complete or not at all.
        seed: The same seed writes the same benchmark.
        train_rows: Training pairs of each task.
        eval_rows: Queries of each task. There are as many videos, and about as many pages.

    Returns:
        The root folder.

    Raises:
        FileExistsError: If ``root`` exists and is not empty.
        ValueError: If a number is too small, or larger than there are things to ask for.
    """
    root = Path(root)
    for name, value, lowest, highest in (
        ("train_rows", train_rows, 2, MAX_TRAIN),
        ("eval_rows", eval_rows, 1, min(MAX_HELD_OUT, MAX_EVAL)),
    ):
        if not lowest <= value <= highest:
            raise ValueError(f"{name} must be from {lowest} to {highest}: no more of them differ; got {value}.")
    require_new(root)
    with new_folder(root) as made:
        concepts = {"train": _write_train(made / TRAIN_DIR_V2, seed, train_rows), "eval": {}}
        concepts["eval"] |= _write_videos(made / "video-tasks", seed, eval_rows)
        concepts["eval"] |= _write_pages(made / "visdoc-tasks" / "data" / _PAGES.name, seed, eval_rows)
        (made / CONCEPTS_FILE).write_text(json.dumps(concepts, indent=1), encoding="utf-8")
    return root


def _write_train(folder: Path, seed: int, rows: int) -> dict[str, Concepts]:
    """Write the training pairs; returns the hidden concepts, row by row."""
    concepts = {}
    for subset in (_MOTIONS, _MOVING):
        rng = Random(f"train-{seed}-{subset.name}")
        scenes = [sample_moving(rng) for _ in range(rows)]
        paths = _draw_videos(scenes, folder / "frames" / subset.name, f"train-{seed}")
        videos = [{"video": f"frames/{subset.name}/{path}"} for path in paths]
        words = subset.rows.instruction
        if subset is _MOTIONS:
            pairs = [(video | {"text": words}, scene.motion) for video, scene in zip(videos, scenes, strict=True)]
        else:
            asked = [f"{words} {scene.caption(rng)}" for scene in scenes]
            pairs = [(text, video | {"text": VIDEO_TARGET}) for text, video in zip(asked, videos, strict=True)]
        _write_rows(folder / f"{subset.name}.jsonl", ({"anchor": a, "positive": p} for a, p in pairs))
        concepts[subset.name] = _concepts(subset.name, scenes)
    return concepts | {_PAGES.name: _write_train_pages(folder, seed, rows)}


def _write_train_pages(folder: Path, seed: int, rows: int) -> Concepts:
    facts = train_facts(Random(f"train-{seed}-{_PAGES.name}"), rows, seed=seed)
    best = [fact.pages[0][0] for fact in facts]
    (folder / "pages").mkdir(parents=True)
    for page in dict.fromkeys(best):
        page.draw().save(folder / "pages" / f"{page.name}.png", compress_level=1)
    pages = [{"image": f"pages/{page.name}.png", "text": PAGE_TARGET} for page in best]
    pairs = zip((f"{PAGE_QUERY} {fact.query}" for fact in facts), pages, strict=True)
    _write_rows(folder / f"{_PAGES.name}.jsonl", ({"anchor": a, "positive": p} for a, p in pairs))
    return _page_concepts(best)


def _write_videos(folder: Path, seed: int, rows: int) -> dict[str, Concepts]:
    """Write the video tasks; returns the hidden concepts, row by row."""
    concepts = {}
    for subset in (_MOTIONS, _MOVING):
        rng = Random(f"eval-{seed}-{subset.name}")
        scenes = held_out_scenes(rng, rows)
        paths = _draw_videos(scenes, folder / "frames" / subset.frames, f"eval-{seed}")
        if subset is _MOTIONS:
            said = [{"pos_text": scene.motion, "neg_text": list(MOTIONS)} for scene in scenes]
        else:
            said = [{"caption": scene.caption(rng)} for scene in scenes]
        found = ({"video_id": path} | each for path, each in zip(paths, said, strict=True))
        _write_rows(folder / "data" / subset.file, found)
        concepts[subset.name] = _concepts(subset.name, scenes)
    return concepts


def _write_pages(folder: Path, seed: int, rows: int) -> dict[str, Concepts]:
    """Write the task of pages in the form of BEIR; returns the hidden concepts, row by row."""
    facts, pages = held_out_facts(Random(f"eval-{seed}-{_PAGES.name}"), rows, seed=seed)
    names = [f"q{number:05d}" for number in range(len(facts))]
    judged = [(name, page.name, grade) for name, fact in zip(names, facts, strict=True) for page, grade in fact.pages]
    columns = dict(zip(("query-id", "corpus-id", "score"), map(list, zip(*judged, strict=True)), strict=True))
    pictures = [{"bytes": _png(page.draw()), "path": f"{page.name}.png"} for page in pages]
    _write_table(folder / "queries", {"query-id": names, "query": [fact.query for fact in facts]})
    _write_table(folder / "corpus", {"corpus-id": [page.name for page in pages], "image": pictures})
    _write_table(folder / "qrels", columns)
    return {_PAGES.name: _page_concepts([fact.pages[0][0] for fact in facts])}


def _draw_videos(scenes: Sequence[MovingScene], folder: Path, seed: str) -> list[str]:
    """Draw a video for each scene and return the names of their folders."""
    names = [f"{number:05d}" for number in range(len(scenes))]
    for name, scene in zip(names, scenes, strict=True):
        (folder / name).mkdir(parents=True)
        for number, frame in enumerate(scene.draw(f"{seed}-{name}")):
            frame.save(folder / name / f"frame_{number:02d}.png", compress_level=1)
    return names


def _concepts(task: str, scenes: Sequence[MovingScene]) -> Concepts:
    shown = [scene.concept for scene in scenes]
    if task == _MOTIONS.name:
        return {"query": shown, "positive": [scene.motion for scene in scenes]}
    return {"query": [""] * len(scenes), "positive": shown}


def _page_concepts(pages: Sequence[Page]) -> Concepts:
    return {"query": [""] * len(pages), "positive": [page.concept for page in pages]}


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _write_table(folder: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), folder / "test-00000-of-00001.parquet")
