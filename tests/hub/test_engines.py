"""Tokens and vectors are compared strictly, in a process that knows nothing of `saha_st`."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from saha_st.hub import engines
from saha_st.hub.engines import Comparison, Fixture, Output, Part, compare, first_difference
from saha_st.hub.errors import CheckFailedError
from saha_st.hub.publishing import check_in_clean_process


def fixture_of(vector: list[float]) -> Fixture:
    return Fixture(1, "query", (Part("text", "x"),), (1, 2), ("a", "b"), np.array(vector, dtype=np.float32))


@pytest.mark.parametrize("cosine", [float("nan"), float("-inf"), -1.0, 0.0, 1 - 2e-5])
def test_a_cosine_that_is_too_low_or_no_number_is_not_equal(cosine):
    comparison = Comparison("1. query: text", "x", cosine, None, 1e-5)
    assert not comparison.is_equal and "the cosine is" in comparison.problem


@pytest.mark.parametrize("cosine", [1.0, 1 - 0.5e-5, 1 + 1e-12])
def test_a_cosine_within_the_tolerance_is_equal(cosine):
    comparison = Comparison("1. query: text", "x", cosine, None, 1e-5)
    assert comparison.is_equal and comparison.problem is None


@pytest.mark.parametrize("vector", [[float("nan"), 0.0], [0.0, 0.0], [float("inf"), 0.0]], ids=str)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_vector_without_a_direction_is_equal_to_nothing(vector):
    assert compare(fixture_of([1.0, 0.0]), Output([1, 2], np.array([1.0, 0.0])), engine="x", tolerance=1e-5).is_equal
    assert not compare(fixture_of([1.0, 0.0]), Output([1, 2], np.array(vector)), engine="x", tolerance=1).is_equal
    assert not compare(fixture_of(vector), Output([1, 2], np.array(vector)), engine="x", tolerance=1).is_equal


def test_another_number_of_dimensions_is_said():
    found = compare(fixture_of([1.0, 0.0]), Output([1, 2], np.ones(3)), engine="x", tolerance=1)
    assert found.problem == "1. query: text (x): the vector has 3 dimensions instead of 2"


def test_equal_vectors_of_other_tokens_are_not_equal():
    found = compare(fixture_of([1.0, 0.0]), Output([1, 1], np.array([1.0, 0.0])), engine="x", tolerance=1)
    assert found.cosine == 1 and not found.is_equal


def test_the_process_that_checks_cannot_import_this_package(exported):
    """Sentence Transformers refuses to load a class of ours anyway; here nothing could."""
    run = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    for after, status in (("", 0), ("import saha_st", 1)):
        command = [sys.executable, "-c", run + after, engines.__file__, str(exported), "cpu"]
        finished = subprocess.run(command, capture_output=True, text=True)
        assert finished.returncode == status and finished.stdout == "[]\n"
        assert ("import of saha_st halted" in finished.stderr) == bool(after)


def test_the_check_finds_what_is_installed_and_fetches_nothing(exported, tmp_path, monkeypatch):
    script = tmp_path / "hub" / "engines.py"
    script.parent.mkdir()
    script.write_text(
        "import os, sys\nsys.exit(f'user site {not sys.flags.no_user_site}, "
        "own folder {os.path.dirname(os.path.abspath(__file__)) in sys.path}, "
        'libraries {os.environ["LIBRARIES"] in sys.path}, offline {os.environ["HF_HUB_OFFLINE"]}\')'
    )
    monkeypatch.setattr(engines, "__file__", str(script))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LIBRARIES", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(CheckFailedError, match="user site True, own folder False, libraries True, offline 1"):
        check_in_clean_process(exported)
    assert os.environ["HF_HUB_OFFLINE"] == "0"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 2, 3], None),
        ([1, 2, 3], "token 2 is 3 ('c') instead of 2 ('b')"),
        ([1, 2, 2, 9], "token 3 is 9 instead of 3 ('c')"),
        ([1, 2, 2], "token 3 is missing: 3 ('c')"),
        ([1, 2, 2, 3, 3], "1 tokens too many, from position 4"),
    ],
)
def test_the_first_difference_is_named(ids, message):
    fixture = Fixture(1, "query", (Part("text", "x"),), (1, 2, 2, 3), ("a", "b", "b", "c"), None)
    assert first_difference(fixture, ids) == message


def test_runs_of_equal_tokens_count_once_for_engines_that_do_not_unfold_images():
    fixture = Fixture(1, "query", (Part("text", "x"),), (1, 2, 2, 2, 3), ("a", "b", "b", "b", "c"), None)
    assert first_difference(fixture, [1, 2, 3], folded=True) is None
    assert first_difference(fixture, [1, 3], folded=True) == "token 1 is 3 ('c') instead of 2 ('b')"
