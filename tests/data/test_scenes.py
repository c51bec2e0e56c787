"""Scenes mean what they show and say; mini-MMEB has MMEB's layout; its answers come first, its concepts are true."""

import json
from collections import Counter
from random import Random

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from saha_st.data.scenes import (
    SUBSETS,
    Item,
    Scene,
    crop_item,
    draw,
    is_held_out,
    language,
    sample_scene,
    write_mini_mmeb,
)
from saha_st.data.scenes.changes import alter
from saha_st.data.scenes.examples import HANDWRITTEN_TRAIN, make_examples
from saha_st.data.scenes.mini_mmeb import _candidates, _pool
from saha_st.data.scenes.scene import COLOURS, KINDS, POSITIONS, SHAPES

TRAIN_COLUMNS = ["qry", "qry_image_path", "pos_text", "pos_image_path"]
EVAL_COLUMNS = ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"]


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return write_mini_mmeb(tmp_path_factory.mktemp("mini") / "mmeb", train_rows=30, eval_rows=6, candidates=20)


def rows_of(path):
    return parquet.read_table(path).to_pylist()


def eval_rows(mini, name):
    return rows_of(mini / "MMEB-eval" / name / "test-00000-of-00001.parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_renderings_of_a_scene_differ_by_seed_and_repeat_by_seed(kind):
    scene = sample_scene(Random(0), kind=kind)
    first, again, other = draw(scene, 1), draw(scene, 1), draw(scene, 2)
    assert first.size == (64, 64) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert draw(scene, 1, size=96).size == (96, 96)


def test_position_in_the_picture_is_the_position_in_the_scene():
    for index, position in enumerate(POSITIONS):
        picture = np.asarray(draw(Scene("spot", (Item("black", "square", position),), "paper"), 5)).mean(axis=2)
        y, x = np.nonzero(picture < 120)
        assert len(x), position
        assert (int(y.mean() * 3 // 64), int(x.mean() * 3 // 64)) == divmod(index, 3), position


def test_a_crop_shows_the_item_that_was_asked_for():
    items = (Item("red", "circle", "left"), Item("blue", "square", "right"))
    scene = Scene("pair", items, "paper")
    red, blue = (np.asarray(crop_item(scene, 3, index), int)[24:40, 24:40].reshape(-1, 3).mean(0) for index in (0, 1))
    assert red[0] > red[2] + 20
    assert blue[2] > blue[0] + 20


def test_concept_ignores_the_order_of_items_but_not_their_positions():
    red, blue = Item("red", "circle", "left"), Item("blue", "square", "right")
    assert Scene("pair", (red, blue), "sand").concept == Scene("pair", (blue, red), "sand").concept
    swapped = (Item("red", "circle", "right"), Item("blue", "square", "left"))
    assert Scene("pair", swapped, "sand").concept != Scene("pair", (red, blue), "sand").concept


def test_held_out_scenes_are_a_fixed_eighth_of_the_concepts():
    rng = Random(0)
    share = np.mean([is_held_out(sample_scene(rng)) for _ in range(4000)])
    assert 0.09 < share < 0.16
    assert all(is_held_out(sample_scene(rng, held_out=True)) for _ in range(20))
    assert not any(is_held_out(sample_scene(rng, held_out=False)) for _ in range(20))


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="kind must be one of .*'cube'"):
        sample_scene(Random(0), kind="cube")


@pytest.mark.parametrize("kind", KINDS)
def test_every_caption_says_every_content_word(kind):
    rng = Random(1)
    captions = set()
    scene = sample_scene(rng, kind=kind)
    for _ in range(30):
        captions.add(language.caption(scene, rng))
    assert len(captions) > 3
    for item in scene.items:
        assert all(item.colour in caption and item.name in caption for caption in captions)


def test_a_pair_is_told_from_both_sides():
    scene = Scene("pair", (Item("red", "circle", "left"), Item("blue", "square", "right")), "sand")
    told = {language.content(scene, Random(seed)) for seed in range(30)}
    assert {"a red circle left of a blue square", "a blue square right of a red circle"} <= told
    answers = {q.text: q.answer for seed in range(40) for q in language.questions(scene, Random(seed))}
    assert answers["What is left of the blue square?"] == "red circle"
    assert answers["What is right of the circle?"] == "blue square"


def test_presence_questions_are_answered_truly():
    rng = Random(2)
    asked = Counter()
    for _ in range(200):
        scene = sample_scene(rng, kind="scatter")
        question = next(q for q in language.questions(scene, rng) if q.topic == "presence")
        shown = {language.noun(item) for item in scene.items}
        name = question.text.removeprefix("Is there ").removeprefix("an ").removeprefix("a ").rstrip("?")
        assert (name in shown) == (question.answer == "yes")
        asked[question.answer] += 1
    assert min(asked.values()) > 50


def test_names_weigh_one_and_cover_the_content():
    scene = Scene("group", (Item("red", "circle"),) * 3, "sand")
    names = language.names(scene)
    assert sum(names.values()) == pytest.approx(1)
    assert set(names) == {"red", "circle", "three", "sand"}


def test_an_altered_scene_is_another_concept_and_the_change_is_told():
    rng = Random(3)
    for _ in range(100):
        scene = sample_scene(rng)
        changed, change = alter(scene, rng)
        assert changed.concept != scene.concept
        assert change


def test_registry_has_every_meta_task_in_and_out_of_distribution():
    cells = {(subset.meta_task, subset.ind) for subset in SUBSETS.values()}
    assert cells == {(m, i) for m in ("classification", "vqa", "retrieval", "grounding") for i in (True, False)}
    assert len(SUBSETS) >= 12
    assert all(bool(subset.paraphrases) == subset.ind for subset in SUBSETS.values())


def test_train_side_has_mmebs_files_columns_and_images(mini):
    side = mini / "mini-MMEB-train"
    ind = {name for name, subset in SUBSETS.items() if subset.ind}
    assert {path.name for path in side.iterdir()} == ind | {"images"}
    for name in ind:
        original = rows_of(side / name / "original-00000-of-00001.parquet")
        diverse = rows_of(side / name / "diverse_instruction-00000-of-00001.parquet")
        assert list(original[0]) == list(diverse[0]) == TRAIN_COLUMNS
        assert len(original) == len(diverse) == 30
        assert [row["pos_text"] for row in original] == [row["pos_text"] for row in diverse]
        assert [row["qry"] for row in original] != [row["qry"] for row in diverse]
        for row in (*original, *diverse):
            assert_placeholder_iff_image(side, row["qry"], row["qry_image_path"])
            assert_placeholder_iff_image(side, row["pos_text"], row["pos_image_path"])


def test_eval_side_has_mmebs_files_columns_and_images(mini):
    for name in SUBSETS:
        rows = eval_rows(mini, name)
        assert len(rows) == 6 and list(rows[0]) == EVAL_COLUMNS
        root = mini / "MMEB-eval" / "eval_images"
        for row in rows:
            assert 10 <= len(row["tgt_text"]) == len(row["tgt_img_path"]) <= 20
            assert len(set(zip(row["tgt_text"], row["tgt_img_path"], strict=True))) == len(row["tgt_text"])
            assert_placeholder_iff_image(root, row["qry_text"], row["qry_img_path"])
            for text, path in zip(row["tgt_text"], row["tgt_img_path"], strict=True):
                assert_placeholder_iff_image(root, text, path)


def assert_placeholder_iff_image(root, text, path):
    assert ("<|image_1|>" in text) == bool(path)
    assert text.strip() and "{text}" not in text
    if path:
        with Image.open(root / path) as picture:
            assert picture.size == (64, 64)


def test_first_candidate_is_the_answer_on_record(mini):
    concepts = json.loads((mini / "concepts.json").read_text())["eval"]
    for name in ("Objects", "CountVQA", "RelationVQA", "TextVQA", "PositionVQA"):
        for row, concept in zip(eval_rows(mini, name), concepts[name]["positive"], strict=True):
            assert row["tgt_text"][0] == concept
            assert concept not in row["tgt_text"][1:]


def readings(concept):
    """The concept, and of a single shape the one without its position: what a caption of either may say."""
    kind, _, rest = concept.partition(": ")
    shown, _, place = rest.partition(" / ")
    spot = kind == "spot"
    return {concept, f"group: {' '.join(shown.split()[:2])} / {place}"} if spot else {concept}


@pytest.mark.parametrize("name", SUBSETS)
def test_no_candidate_but_the_first_is_right(name):
    rng = Random(0)
    retrieval = SUBSETS[name].meta_task == "retrieval"
    examples = make_examples(name, rng, 300 if retrieval else 80, held_out=True)
    pool = _pool(name, examples, 150, rng)
    left_out = Counter()
    for example in examples:
        right = example.positive.concept
        first, *others = _candidates(example, pool, 150, rng)
        assert first == example.positive and len(others) >= 9
        for other in others:
            assert right not in readings(other.concept) and other.concept not in readings(right)
        left_out.update(right in readings(each.concept) and right != each.concept for each in pool)
    if retrieval:
        assert left_out[True], "no positive met a document that says more; the test shows nothing"


def drawn_sides(name, count, held_out):
    """On which side each picture lies that the subset's rows show: scenes by their concept."""
    examples = make_examples(name, Random(f"sides-{name}"), count, held_out=held_out)
    pictures = [each for example in examples for each in (example.picture, example.positive.picture) if each]
    assert len(examples) == count and len(pictures) >= count
    if name == "Digits":
        return {picture.digit >= HANDWRITTEN_TRAIN for picture in pictures}
    return {is_held_out(picture.scene) for picture in pictures}


@pytest.mark.parametrize("name", SUBSETS)
def test_training_shows_no_held_out_picture_and_evaluation_no_other(name):
    assert drawn_sides(name, 500, held_out=False) == {False}
    assert drawn_sides(name, 80, held_out=True) == {True}


def test_eval_queries_show_concepts_that_training_never_shows(mini):
    concepts = json.loads((mini / "concepts.json").read_text())
    shown = {concept for rows in concepts["train"].values() for concept in rows["query"] if concept}
    asked = {concept for rows in concepts["eval"].values() for concept in rows["query"] if concept}
    assert shown and asked
    assert not shown & asked


def test_training_rows_repeat_concepts_in_other_words_and_pictures(mini):
    concepts = json.loads((mini / "concepts.json").read_text())["train"]["Scenes_i2t"]["positive"]
    rows = rows_of(mini / "mini-MMEB-train" / "Scenes_i2t" / "original-00000-of-00001.parquet")
    repeated = [concept for concept, count in Counter(concepts).items() if count > 1]
    assert repeated
    captions = {row["pos_text"] for row, concept in zip(rows, concepts, strict=True) if concept in repeated}
    assert len(captions) > len(repeated)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path):
    few = {"train_rows": 4, "eval_rows": 3, "candidates": 5, "subsets": ["Crops", "Scenes_t2i"]}
    first, again = write_mini_mmeb(tmp_path / "a", **few), write_mini_mmeb(tmp_path / "b", **few)
    other = write_mini_mmeb(tmp_path / "c", seed=1, **few)

    def contents(root):
        return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert len(contents(first)) > 20
    assert contents(first) == contents(again)
    assert contents(first) != contents(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_rows": 0}, "train_rows must be at least 1; got 0"),
        ({"candidates": 1}, "candidates must be at least 2; got 1"),
        ({"subsets": ["Cats"]}, r"subsets must name at least one of Objects.*got \['Cats'\]"),
    ],
)
def test_bad_numbers_and_names_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_mini_mmeb(tmp_path / "mini", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        write_mini_mmeb(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_colours_of_items_are_told_apart_by_their_pixels():
    means = []
    for colour in COLOURS:
        picture = np.asarray(draw(Scene("group", (Item(colour, "heart"),), "paper"), 0), float)
        means.append(picture[24:40, 24:40].reshape(-1, 3).mean(0))
    gaps = [np.abs(one - two).max() for i, one in enumerate(means) for two in means[:i]]
    assert len(SHAPES) == len(COLOURS) == 8 and min(gaps) > 5
