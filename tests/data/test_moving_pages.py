"""mini-MMEB-V2 on disk: deterministic, whole or not there, read by the readers of pairs and of MMEB-V2."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from saha_st.data import load_pairs
from saha_st.data.mmeb_v2 import load_mmeb_v2_eval
from saha_st.data.mmeb_v2.subsets import PAGE_TARGET, VIDEO_TARGET
from saha_st.data.scenes import write_mini_mmeb_v2
from saha_st.data.scenes.mini_mmeb_v2 import TRAIN_DIR_V2
from saha_st.data.scenes.moving import MOTIONS, NUM_FRAMES
from saha_st.data.scenes.pages import EXACT, IN_PASSING, MAX_EVAL, MAX_TRAIN, PAGE_SIZE, held_out_facts, train_facts
from saha_st.data.scenes.subsets_v2 import MINI_PAGE_SUBSETS, MINI_VIDEO_SUBSETS
from saha_st.modules.videos import frame_files

ROWS = {"train_rows": 6, "eval_rows": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_mini_mmeb_v2(tmp_path_factory.mktemp("generated") / "v2", **ROWS)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_writes_the_same_bytes_and_another_one_others(root, tmp_path):
    first = digests(root)
    assert len(first) > 2 * NUM_FRAMES * (ROWS["train_rows"] + ROWS["eval_rows"])
    assert digests(write_mini_mmeb_v2(tmp_path / "again", **ROWS)) == first
    other = digests(write_mini_mmeb_v2(tmp_path / "other", seed=1, **ROWS))
    changed = [name for name, digest in other.items() if first.get(name) != digest]
    assert {Path(name).suffix for name in changed} == {".png", ".jsonl", ".parquet", ".json"}


def test_pairs_are_loaded_with_their_videos_and_pages(root):
    concepts = json.loads((root / "concepts.json").read_text())["train"]
    for task in ("Motions", "Moving_t2v", "Pages"):
        pairs = load_pairs(root / TRAIN_DIR_V2 / f"{task}.jsonl")
        assert len(pairs) == len(concepts[task]["positive"]) == ROWS["train_rows"]
        side = "anchor" if task == "Motions" else "positive"
        for cell in pairs[side]:
            if task == "Pages":
                assert cell["image"].size == PAGE_SIZE and cell["text"] == PAGE_TARGET
            else:
                assert len(frame_files(cell["video"])) == NUM_FRAMES and cell["text"]
        if task == "Motions":
            assert pairs["positive"] == concepts[task]["positive"]
            assert all(answer in said for answer, said in zip(pairs["positive"], concepts[task]["query"], strict=True))


def test_motions_rank_all_motions_and_captions_all_videos(root):
    motions = load_mmeb_v2_eval(MINI_VIDEO_SUBSETS["Motions"], root)
    assert set(motions.documents["text"]) == set(MOTIONS)
    assert all(len(listed) == len(MOTIONS) for listed in motions.candidates.values())
    assert len(motions.queries) == ROWS["eval_rows"] and len(motions.queries[0]["video"]) == 8
    moving = load_mmeb_v2_eval(MINI_VIDEO_SUBSETS["Moving_t2v"], root)
    assert moving.candidates is None and len(moving.documents) == len(moving.queries) == ROWS["eval_rows"]
    assert set(moving.documents["text"]) == {VIDEO_TARGET}
    assert len({tuple(grades) for grades in moving.relevant.values()}) == ROWS["eval_rows"]


def test_pages_are_graded_and_hold_what_is_asked(root):
    pages = load_mmeb_v2_eval(MINI_PAGE_SUBSETS["Pages"], root)
    assert len(pages.queries) == ROWS["eval_rows"] and len(pages.documents) == 15
    assert pages.documents[0]["image"].size == PAGE_SIZE
    assert all(max(grades.values()) == EXACT for grades in pages.relevant.values())
    facts, found = held_out_facts(Random(0), MAX_EVAL)
    assert len(facts) == len({fact.query for fact in facts}) == MAX_EVAL and len(found) == 120
    twice = [fact for fact in facts if len(fact.pages) == 2]
    assert len(twice) == 8 * 14
    for fact in twice:
        (page, grade), (later, lower) = fact.pages
        goods, count = later.looking_back
        assert (grade, lower) == (EXACT, IN_PASSING) and later.year == page.year + 1
        assert dict(page.sold)[goods] == count and goods in fact.query and str(page.year) in fact.query


def test_every_page_is_drawn_from_what_it_states():
    (fact, *_), _ = held_out_facts(Random(0), 5)
    page = fact.pages[0][0]
    picture = np.asarray(page.draw())
    np.testing.assert_array_equal(picture, np.asarray(page.draw()))
    changed = type(page)(page.town, page.year + 1, page.sold, page.looking_back, page.seed)
    assert (picture != np.asarray(changed.draw())).any()
    dark = (picture.min(axis=2) < 128).nonzero()
    assert min(dark[0].min(), dark[1].min()) > 20 and dark[1].max() < PAGE_SIZE[0] - 20
    assert dark[0].max() < PAGE_SIZE[1] - 5
    buffer = io.BytesIO()
    page.draw().save(buffer, format="png")
    assert Image.open(buffer).mode == "RGB"


def test_shops_of_the_evaluation_side_are_not_those_of_training():
    trained = {page.town for fact in train_facts(Random(0), MAX_TRAIN) for page, _ in fact.pages}
    asked = {page.town for page in held_out_facts(Random(0), MAX_EVAL)[1]}
    assert len(trained) == 24 and len(asked) == 8 and not trained & asked


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"train_rows": 1}, "train_rows must be from 2"), ({"eval_rows": 10**4}, "eval_rows must be from 1 to")],
)
def test_what_cannot_be_written_is_refused_at_once(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_mini_mmeb_v2(tmp_path / "v2", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(root):
    before = digests(root)
    with pytest.raises(FileExistsError, match="not empty"):
        write_mini_mmeb_v2(root, **ROWS)
    assert digests(root) == before


def test_nothing_is_left_of_a_benchmark_that_could_not_be_finished(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("saha_st.data.scenes.mini_mmeb_v2._write_pages", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_mini_mmeb_v2(tmp_path / "v2", **ROWS)
    assert not list(tmp_path.iterdir())
