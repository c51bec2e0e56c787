"""What the tabs answer, without gradio: the HTML, a visitor's own pictures, and what is refused."""

import re
from types import SimpleNamespace

import gradio
import numpy as np
import pytest
from PIL import Image

from saha_st.demo import views
from saha_st.demo.detective import Detective
from saha_st.demo.engine import Engine, Hit
from saha_st.demo.errors import UserError
from saha_st.demo.gallery import Gallery
from saha_st.demo.limits import MAX_PICTURES
from saha_st.demo.show import OWN, PICTURES, TEXTS, Show


@pytest.fixture(scope="module")
def uploads(tmp_path_factory, gallery):
    folder = tmp_path_factory.mktemp("uploads")
    for number in range(4):
        gallery.pictures[number].save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def show(engine, uploads):
    return Show(engine, uploads)


def cards(html):
    return re.findall(r'<img src="data:image/webp[^"]*" alt="([^"]*)"', html)


def test_results_carry_rank_name_score_and_caption_twice(show, engine):
    html = show.search(engine.gallery.texts[0], None, PICTURES, 3, None)
    assert len(cards(html)) == 3
    rank, name, score = re.match(r"(\d)\. (scene \d+), score (0\.\d{3}): ", cards(html)[0]).groups()
    assert rank == "1"
    table = html[html.index("<table") :]
    assert f'<td>{score}</td><th scope="row">{name}</th>' in table


def test_texts_are_found_and_shown_as_texts(show, engine, uploads):
    html = show.search("", uploads / "3.png", TEXTS, 2, None)
    assert not cards(html)
    assert sum(f"{text}</span>" in html for text in engine.gallery.texts) == 2


def test_own_pictures_are_searched_alone_and_add_up(show, uploads):
    own, shown = show.adopt([uploads / "0.png", uploads / "1.png"], None)
    own, shown = show.adopt([uploads / "2.png"], own)
    assert len(cards(shown)) == len(own.sources) == len(own.vectors) == 3
    html = show.search("", uploads / "2.png", OWN, 10, own)
    assert len(cards(html)) == 3
    assert cards(html)[0].startswith("1. your picture 3, ")


def test_own_pictures_are_limited_together(show, uploads):
    own, _ = show.adopt([uploads / "0.png"] * (MAX_PICTURES - 1), None)
    with pytest.raises(UserError, match="of which 1 are left"):
        show.adopt([uploads / "0.png"] * 2, own)
    with pytest.raises(UserError, match="at least one"):
        show.adopt([], own)


def test_what_is_missing_is_said(show):
    for arguments, message in (
        (("", None, PICTURES, 3, None), "Type a text or add a picture"),
        (("  ", None, PICTURES, 3, None), "Type a text or add a picture"),
        (("a", None, OWN, 3, None), "no pictures here yet"),
        (("a", None, "Elsewhere", 3, None), "Find must be one of"),
        (("a", "/etc/passwd", PICTURES, 3, None), "not uploaded here"),
    ):
        with pytest.raises(UserError, match=message):
            show.search(*arguments)


def test_texts_of_visitors_and_galleries_are_escaped(show):
    evil = "<script>alert(1)</script>\"'"
    html = show.compare(evil, None, 3)
    assert "<script>" not in html and "&lt;script&gt;" in html
    pictures = [Image.new("RGB", (8, 8))] * 2
    shown = views.Views(Gallery("x", pictures, [evil, "b"], [evil], [(0, 0)]))
    for html in (shown.pictures([Hit(0, 0.5)]), shown.texts([Hit(0, 0.5)])):
        assert "<script>" not in html and "&lt;script&gt;" in html


def test_the_hat_shows_three_prompts_and_three_clouds(show, engine):
    html = show.compare("a red circle", None, 3)
    assert html.count("<svg class=") == html.count("<pre") == 3
    assert html.count("<circle cx=") >= 3 * len(engine.gallery.pictures)
    assert html.count('role="img" aria-label="The embedding space') == 3


def test_the_detective_shows_every_candidate_and_a_square_matrix(show):
    case = show.detective.investigate(show.detective.most_telling())
    html = show.investigate(case.row, 4, 2)
    assert html.count("<tr class=") == len(case.suspects)
    assert html.count("--heat") == len(case.cluster) ** 2
    assert f"{case.caught} of " in html
    for row in (-1, 10**6, 0.5, None, "0"):
        with pytest.raises(UserError):
            show.investigate(row, 4, 2)


def test_a_gallery_without_texts_has_empty_states(engine, uploads):
    from saha_st.modules import load_embedder

    pictures = engine.gallery.pictures[:3]
    bare = Engine(load_embedder("saha-tiny", device="cpu"), Gallery("bare", pictures, list("abc")), name="saha-tiny")
    show = Show(bare, uploads)
    assert len(cards(show.search("a", None, PICTURES, 9, None))) == 3
    assert "no second cloud" in show.compare("a", None, 3)
    assert bare.texts().shape == (0, bare.pictures().shape[1])
    assert np.isfinite(bare.pictures()).all()
    with pytest.raises(UserError, match="no texts to find"):
        show.search("a", None, TEXTS, 3, None)
    for investigate in (show.investigate, show.case):
        with pytest.raises(UserError, match="no captions, so there is nothing to investigate"):
            investigate(0, 4, 2)


def test_too_few_captions_are_counted(engine):
    pictures = engine.gallery.pictures[:6]
    few = Gallery("few", pictures, list("abcdef"), ["x", "y"], [(0, 0), (1, 1)])
    assert "have captions: 2. Mining needs 5" in Detective(SimpleNamespace(gallery=few)).obstacle
    assert not Detective(engine).obstacle


def test_an_app_for_a_gallery_without_captions_says_so_and_offers_what_works(engine, tmp_path):
    from saha_st.demo.app import lay_out
    from saha_st.modules import load_embedder

    gallery = Gallery("bare", engine.gallery.pictures[:3], list("abc"))
    bare = Engine(load_embedder("saha-tiny", device="cpu"), gallery, name="<b>saha</b>")
    demo = lay_out(bare, str(tmp_path))
    page = str(demo.get_config_file())
    assert "no captions, so there is nothing to investigate" in page
    assert "<b>saha</b>" not in page
    (find,) = [block for block in demo.blocks.values() if getattr(block, "label", "") == "Find"]
    assert [value for _, value in find.choices] == [PICTURES, OWN]
    assert "more like this" in page and "texts for this" not in page
    assert "api_name=&quot;/hat&quot;" in page and "api_name=&quot;/detective&quot;" not in page
    answers = {function.api_name: function.fn for function in demo.fns.values()}
    with pytest.raises(gradio.Error, match="no captions, so there are no texts to find"):
        answers["search"]("a", None, "texts", 3)
    with pytest.raises(gradio.Error, match="no captions, so there is nothing to investigate"):
        answers["detective"](0, 4, 2)
