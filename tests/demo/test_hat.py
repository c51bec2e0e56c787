import numpy as np
import pytest

from saha_st.demo.engine import Level, Query
from saha_st.demo.gallery import Gallery
from saha_st.demo.hat import Hat, right_first
from saha_st.demo.scatter import HEIGHT, WIDTH, draw_planes, fit_plane, modality_gap
from saha_st.prompts import QUERY_SUFFIX, SYSTEM


def clouds(seed=0, shift=0.5):
    rng = np.random.default_rng(seed)
    pictures, texts = rng.standard_normal((30, 12)), rng.standard_normal((25, 12))
    pictures[:, 0] += shift * 12
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pictures, texts))


def test_the_modality_gap_is_the_distance_of_the_centres_of_unit_vectors():
    pictures, texts = np.array([[2.0, 0], [0, 3]]), np.array([[-1.0, 0], [0, -5]])
    assert modality_gap(pictures, texts) == pytest.approx(np.sqrt(2))
    assert modality_gap(pictures, pictures * 7) == pytest.approx(0)


def test_the_plane_shows_the_gap_in_full_and_pictures_above():
    pictures, texts = clouds()
    plane = fit_plane(pictures, texts)
    difference = plane.pictures.mean(axis=0) - plane.texts.mean(axis=0)
    assert plane.gap > 0.3
    assert difference == pytest.approx([0, plane.gap], abs=1e-9)
    assert plane.axes @ plane.axes.T == pytest.approx(np.eye(2), abs=1e-9)
    assert plane.place(pictures) == pytest.approx(plane.pictures)


def test_drawings_share_one_scale_and_fit():
    planes = [fit_plane(*clouds(seed, shift)) for seed, shift in ((0, 0.5), (1, 0.05))]
    drawings = draw_planes(planes, [clouds()[0][0], clouds()[1][0]])
    lengths = []
    for plane, drawing in zip(planes, drawings, strict=True):
        points = np.array([*drawing.pictures, *drawing.texts, drawing.query])
        assert (points >= 0).all() and (points <= [WIDTH, HEIGHT]).all()
        (x, y), (other_x, other_y) = drawing.centres
        assert x == pytest.approx(other_x, abs=0.2) and y < other_y
        lengths.append((other_y - y) / plane.gap)
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)


def test_clouds_without_a_gap_are_drawn_too():
    pictures = clouds()[0]
    assert draw_planes([fit_plane(pictures, pictures)], [pictures[0]])[0].centres[0] is not None


def test_right_first_counts_own_pictures_and_equal_concepts():
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.1, 0.7], [0.1, 0.9, 0.2]])
    gallery = Gallery("x", [None] * 3, "abc", ["t", "u", "v"], [(0, 0), (1, 1), (2, 2)])
    assert right_first(scores, gallery) == pytest.approx(1 / 3)
    known = Gallery("x", [None] * 3, "abc", ["t", "u", "v"], [(0, 0), (1, 1), (2, 2)], ["k", "m", "m"])
    assert right_first(scores, known) == pytest.approx(2 / 3)


def test_each_panel_shows_its_own_prompt_verbatim_and_its_own_numbers(engine):
    none, system, both = Hat(engine).compare(Query("a red circle"), 4)
    assert [panel.level for panel in (none, system, both)] == list(Level)
    assert SYSTEM not in none.prompt and SYSTEM in system.prompt and SYSTEM in both.prompt
    assert QUERY_SUFFIX["text"] not in system.prompt and f"a red circle{QUERY_SUFFIX['text']}" in both.prompt
    assert all("a red circle" in panel.prompt and len(panel.hits) == 4 for panel in (none, system, both))
    assert len({panel.gap for panel in (none, system, both)}) == 3
    expected = modality_gap(engine.pictures(Level.NONE), engine.texts(Level.NONE, task="query"))
    assert none.gap == pytest.approx(expected)


def test_a_picture_query_gets_the_suffix_of_pictures(engine):
    both = Hat(engine).compare(Query("", engine.gallery.pictures[0]), 1)[2]
    assert QUERY_SUFFIX["image"] in both.prompt
