"""The embedded model takes every kind of task that mteb has for images and texts, and means what it says."""

from __future__ import annotations

import itertools
from pathlib import Path

import mteb
import numpy as np
import pytest
from mocks import GRID, IMAGE_TEXT, mock, pairs_of_modalities
from mteb.results.task_result import TaskResult
from mteb.types import PromptType
from PIL import Image
from sentence_transformers import SentenceTransformer

from saha_st.data.scenes import draw, sample_scene
from saha_st.evaluation import Embedder, evaluate
from saha_st.evaluation.encoder import modalities_of
from saha_st.modules import load_embedder
from saha_st.prompts import QUERY_SUFFIX, SYSTEM

QUIET = {"show_progress_bar": False}
CONSTANT_LABELS = {"MockVisualSTS"}  # a correlation with them is not a number, whatever the model
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def saha_tiny() -> SentenceTransformer:
    return load_embedder("saha-tiny", device="cpu")


@pytest.fixture(scope="module")
def inputs() -> list:
    """Pictures, texts and both, of many lengths; some equal but for one part."""
    from random import Random

    pictures = [draw(sample_scene(Random(seed)), seed=seed) for seed in range(3)]
    texts = ["a red circle", "two yellow stars left of a blue square and a green triangle " * 3, "7", "Which is it?\n"]
    both = [{"image": picture, "text": text} for picture, text in itertools.product(pictures, texts[2:])]
    return [*pictures, *texts, *both]


@pytest.fixture(scope="module")
def vectors(saha_tiny, inputs) -> dict[str, np.ndarray]:
    return {
        "query": np.stack([saha_tiny.encode_query([each])[0] for each in inputs]),
        "document": np.stack([saha_tiny.encode_document([each])[0] for each in inputs]),
    }


@pytest.mark.slow
def test_mtebs_mock_run_passes_each_of_its_tasks_for_images_and_texts(saha_tiny):
    encoder = Embedder(saha_tiny, name="org/m", revision="abc", **QUIET)
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": modalities_of(saha_tiny)})
    results = mteb.mock_run(encoder)
    ran = {name: status for name, status in results.items() if status is not None}
    assert set(ran) == set(IMAGE_TEXT) and len(ran) >= 43
    failed = {name: status.exception for name, status in ran.items() if not isinstance(status, TaskResult)}
    assert not failed
    for name in set(ran) - CONSTANT_LABELS:
        scores = [each["main_score"] for split in ran[name].scores.values() for each in split]
        assert scores and all(-1 <= score <= 100 for score in scores), name
    assert results.all_passed


@pytest.mark.parametrize("category", ["it2t", "t2it", "it2it"])
def test_pairs_of_modalities_that_mteb_has_no_mock_for(category: str, saha_tiny, tmp_path: Path):
    task = pairs_of_modalities(tmp_path)[category]
    assert category not in {each.metadata.category for each in GRID.values()}
    scores = evaluate(saha_tiny, [task], **QUIET)
    assert len(scores.tasks) == 1 and not any(each.is_degenerate for each in scores.tasks.values())


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_are_float32_of_unit_length(role: str, vectors):
    assert vectors[role].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[role].astype(np.float64), axis=1), 1, atol=TOLERANCE)


@pytest.mark.parametrize("role", ["query", "document"])
def test_different_inputs_get_different_vectors_and_so_do_different_pictures(role: str, vectors, inputs):
    for first, second in itertools.combinations(range(len(inputs)), 2):
        assert np.abs(vectors[role][first] - vectors[role][second]).max() > 1e-3, (first, second)


def test_query_and_document_differ(vectors):
    assert np.abs(vectors["query"] - vectors["document"]).max(axis=1).min() > 1e-3


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
def test_order_and_batch_size_do_not_matter(role: str, batch_size: int, saha_tiny, vectors, inputs):
    order = np.random.default_rng(batch_size).permutation(len(inputs))
    encode = getattr(saha_tiny, f"encode_{role}")
    found = encode([inputs[index] for index in order], batch_size=batch_size, show_progress_bar=False)
    assert np.abs(found - vectors[role][order]).max() <= TOLERANCE


ONE_OF_EACH_TYPE = sorted({GRID[name].metadata.type: name for name in IMAGE_TEXT}.values())


@pytest.mark.parametrize("name", ONE_OF_EACH_TYPE)
def test_both_levels_of_the_prompt_reach_the_model_for_every_type_of_task(name: str, embedder, rendered, monkeypatch):
    """Of each text that is rendered for a side, the system level is in front and the user level, if due, behind."""
    encoder = Embedder(embedder, **QUIET)
    encode, seen = encoder.encode, set()

    def watched(inputs, *, prompt_type=None, **options):
        rendered.clear()
        found = encode(inputs, prompt_type=prompt_type, **options)
        side = "document" if prompt_type is PromptType.document else "query"  # what knows no sides is a query
        for text in rendered:
            assert text.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"), text
            suffix = QUERY_SUFFIX["image" if "<image>" in text else "text"]
            end = "<|im_end|>\n<|im_start|>assistant\n"
            assert text.endswith(end) and (text.removesuffix(end).endswith(suffix)) == (side == "query"), text
            seen.add(side)
        return found

    monkeypatch.setattr(encoder, "encode", watched)
    evaluate(encoder, [mock(name)], **QUIET)
    assert seen


def test_a_picture_of_any_mode_is_encoded(saha_tiny):
    picture = Image.radial_gradient("L").resize((48, 48))
    vectors = [saha_tiny.encode_document([picture.convert(mode)])[0] for mode in ("L", "RGB", "RGBA", "P", "1")]
    assert all(np.isfinite(vector).all() for vector in vectors)
    assert np.abs(vectors[0] - vectors[1]).max() < TOLERANCE
