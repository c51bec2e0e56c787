"""Every kind of task that mteb knows for images and texts takes a Sentence Transformer through the encoder."""

from __future__ import annotations

import pytest

from saha_st.evaluation import Embedder

CONSTANT_LABELS = {"MockVisualSTS"}  # a correlation with them is not a number, whatever the model


@pytest.mark.slow
def test_each_mock_task_of_mteb_for_images_and_texts_runs(embedder):
    import mteb
    from mteb.mocks import ALL_MOCK_TASK_TEST_GRID
    from mteb.results.task_result import TaskResult

    expected = {
        task.metadata.name for task in ALL_MOCK_TASK_TEST_GRID if set(task.metadata.modalities) <= {"image", "text"}
    }
    results = mteb.mock_run(Embedder(embedder, name="org/m", revision="abc", show_progress_bar=False))
    ran = dict(results.items())
    assert len(expected) >= 43
    assert {name for name, status in ran.items() if status is not None} == expected
    failed = {name: ran[name].exception for name in expected if not isinstance(ran[name], TaskResult)}
    assert not failed
    for name in expected - CONSTANT_LABELS:
        scores = [each["main_score"] for split in ran[name].scores.values() for each in split]
        assert scores and all(-1 <= score <= 100 for score in scores), name
