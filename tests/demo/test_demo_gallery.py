import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from saha_st.demo.gallery import MAX_SIDE, gallery_of_rows, open_gallery, scenes_gallery
from saha_st.demo.settings import DemoSettings
from saha_st.modules.sources import shown_name


def test_the_generated_gallery_is_the_same_every_time_and_holds_false_negatives():
    one, other = scenes_gallery(), scenes_gallery()
    assert [p.tobytes() for p in one.pictures] == [p.tobytes() for p in other.pictures]
    assert (one.texts, one.pairs, one.concepts) == (other.texts, other.pairs, other.concepts)
    assert len(one.pairs) == len(one.pictures) == len(one.names) == 120
    shared = [concept for concept in one.concepts if one.concepts.count(concept) > 1]
    assert len(shared) >= 24 * 3
    assert len(set(one.concepts)) > 24
    assert len({p.tobytes() for p in one.pictures}) == 120


def test_same_concept_is_known_for_scenes_and_unknown_for_other_pictures(gallery):
    same = [other for other in range(40) if gallery.same_concept(0, other)]
    assert 0 in same and len(same) < 40
    plain = gallery_of_rows("x", [("a", Image.new("RGB", (8, 8)), ""), ("b", Image.new("RGB", (8, 8), "red"), "")])
    assert plain.same_concept(0, 1) is None
    assert plain.is_answer(0, 0) and not plain.is_answer(0, 1)


@pytest.fixture
def folder(tmp_path):
    for name, size in (("a.png", (900, 300)), ("b.jpg", (60, 80)), ("c.png", (50, 50))):
        Image.new("RGB", size, "blue").save(tmp_path / name)
    return tmp_path


def test_a_folder_of_pictures_is_a_gallery_without_texts(folder):
    gallery = open_gallery(DemoSettings(gallery=str(folder)))
    assert list(gallery.names) == ["a.png", "b.jpg", "c.png"]
    assert gallery.pictures[0].size == (MAX_SIDE, 149)
    assert (gallery.texts, gallery.pairs) == ([], [])


def test_visitors_read_the_name_of_a_folder_and_not_where_it_is(folder):
    (folder / "photos").mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).rename(folder / "photos" / name)
    assert open_gallery(DemoSettings(gallery=str(folder / "photos"))).title == "photos"
    assert shown_name("org/photos") == "org/photos"


def test_pictures_that_cannot_be_read_are_left_out_and_named(folder, caplog):
    whole = (folder / "a.png").read_bytes()
    for name, content in (("0.png", b""), ("1.jpg", b"no picture"), ("2.png", whole[:-100]), ("b2.gif", b"GIF89a")):
        (folder / name).write_bytes(content)
    Image.new("RGB", (2000, 2)).save(folder / "long.png")
    assert list(open_gallery(DemoSettings(gallery=str(folder))).names) == ["a.png", "b.jpg", "c.png"]
    assert caplog.messages == ["Left out 5 of 8 pictures, which cannot be read: 0.png, 1.jpg, 2.png, …"]


def test_a_folder_in_which_no_picture_can_be_read_is_refused(folder, caplog):
    for file in folder.iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="can be read in the gallery .*: 0. A search needs two"):
        open_gallery(DemoSettings(gallery=str(folder)))
    assert "Left out 3 of 3 pictures" in caplog.text


def test_max_pictures_takes_the_first(folder):
    assert list(open_gallery(DemoSettings(gallery=str(folder), max_pictures=2)).names) == ["a.png", "b.jpg"]


def test_a_table_brings_captions_and_pairs_and_equal_captions_are_one_text(folder):
    rows = {"image": [str(folder / name) for name in ("a.png", "b.jpg", "c.png")], "text": ["sea", "sky", "sea"]}
    Dataset.from_dict(rows).cast_column("image", ImageFeature()).save_to_disk(folder / "table")
    gallery = open_gallery(DemoSettings(gallery=str(folder / "table")))
    assert list(gallery.texts) == ["sea", "sky"]
    assert list(gallery.pairs) == [(0, 0), (1, 1), (0, 2)]
    assert gallery.caption(2) == "sea"


def test_columns_may_have_other_names(folder):
    rows = {"photo": [str(folder / "a.png"), str(folder / "c.png")], "title": ["sea", "sky"]}
    Dataset.from_dict(rows).cast_column("photo", ImageFeature()).save_to_disk(folder / "table")
    settings = DemoSettings(gallery=str(folder / "table"), image_column="photo", text_column="title")
    assert list(open_gallery(settings).texts) == ["sea", "sky"]


def test_a_gallery_needs_two_pictures(tmp_path):
    (tmp_path / "texts.txt").write_text("a text\nanother\n")
    with pytest.raises(ValueError, match="'texts.txt': 0. A search needs two"):
        open_gallery(DemoSettings(gallery=str(tmp_path / "texts.txt")))


def test_settings_come_from_the_environment():
    environment = {"SAHA_DEMO_MODEL": "org/m", "SAHA_DEMO_MAX_PICTURES": "7", "SAHA_DEMO_SUBSET": "", "OTHER": "x"}
    settings = DemoSettings.from_environment(environment)
    assert (settings.model, settings.max_pictures, settings.subset, settings.gallery) == ("org/m", 7, None, "scenes")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SAHA_DEMO_MODLE": "x"}, "no setting SAHA_DEMO_MODLE"),
        ({"SAHA_DEMO_MAX_PICTURES": "many"}, "whole number"),
        ({"SAHA_DEMO_MAX_PICTURES": "1"}, "at least 2"),
    ],
)
def test_wrong_settings_are_named(environment, message):
    with pytest.raises(ValueError, match=message):
        DemoSettings.from_environment(environment)
