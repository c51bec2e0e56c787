"""What `benchmarks/quantized.py` compares is what codes stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

ROWS, DIM = 200, 20


@pytest.fixture
def decode(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from quantized import decode

    return decode


@pytest.fixture
def vectors():
    drawn = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def ranges_of(vectors):
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def test_int8_is_off_by_half_a_step_at_most_whatever_the_range_of_a_dimension(decode, vectors):
    vectors = vectors * np.linspace(0.01, 3, DIM, dtype=np.float32) + 0.5
    ranges = ranges_of(vectors)
    decoded = decode(quantize_embeddings(vectors, "int8", ranges=ranges), "int8", DIM, ranges)
    steps = (ranges[1] - ranges[0]) / 255
    assert (np.abs(decoded - vectors) <= 0.51 * steps + (vectors == ranges[1]) * 0.5 * steps).all()


def test_what_lies_beyond_the_calibrated_range_is_cut_to_it(decode, vectors):
    ranges = ranges_of(vectors) / 2
    decoded = decode(quantize_embeddings(vectors, "int8", ranges=ranges), "int8", DIM, ranges)
    assert (decoded >= ranges[0]).all() and (decoded <= ranges[1] + (ranges[1] - ranges[0]) / 255).all()


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_binary_orders_as_the_hamming_distance_does(decode, vectors, precision):
    codes = quantize_embeddings(vectors, precision)
    assert codes.shape == (ROWS, 3), "twenty bits take three bytes, and the last four count for nothing"
    packed = codes.view(np.uint8) if precision == "ubinary" else (codes.astype(np.int16) + 128).astype(np.uint8)
    distances = np.unpackbits(packed[:1] ^ packed, axis=1).sum(axis=1).astype(int)
    decoded = decode(quantize_embeddings(vectors, "binary"), "binary", DIM, ranges_of(vectors))
    assert set(np.unique(decoded)) == {-1.0, 1.0} and (np.sign(vectors) == decoded).all()
    assert (decoded[0] @ decoded.T == DIM - 2 * distances).all()
