"""The modality gap in closed form, and that one way of bringing vectors to length one serves all."""

from __future__ import annotations

import numpy as np
import pytest

from saha_st.encoding.modality_gap import modality_gap, unit_vectors


@pytest.mark.parametrize(
    ("pictures", "texts", "gap"),
    [
        ([[3.0, 0.0]], [[0.0, 0.5]], np.sqrt(2)),  # at right angles
        ([[2.0, 0.0], [1.0, 0.0]], [[-4.0, 0.0]], 2.0),  # opposite: the most there is
        ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 7.0], [7.0, 0.0]], 0.0),  # the same directions
        ([[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0]], 1.0),  # one cloud around nothing, one far from it
    ],
)
def test_the_gap_is_the_distance_of_the_centroids_of_unit_vectors(pictures, texts, gap):
    assert modality_gap(np.array(pictures), np.array(texts)) == pytest.approx(gap, abs=1e-12)
    assert modality_gap(np.array(texts, dtype=np.float32), np.array(pictures)) == pytest.approx(gap, abs=1e-6)


def test_unit_vectors_keep_their_kind_and_zeros():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]], dtype=np.float32)
    unit = unit_vectors(vectors)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0], [-1, 0]], atol=1e-7)
