import sys

import numpy as np
import pytest
import torch

from saha_st.mining.checks import inverse_norms
from saha_st.mining.grid import on_grid
from saha_st.mining.neighbours import paired_scores, top_k

BLOCK_SIZES = [1, 2, 3, 7, 50, None]


def vectors(rows, dim=24, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(dtype)


def by_sorting(queries, documents, k):
    """The plain way: all cosines in float64, rounded so that duplicates tie, then a stable sort."""
    queries, documents = (np.asarray(x, dtype=np.float64) for x in (queries, documents))
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    documents = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    scores = (queries @ documents.T).round(7)
    indices = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return indices, np.take_along_axis(scores, indices, axis=1)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_equals_a_full_sort(block_size):
    queries, documents = vectors(61), vectors(131, seed=1)
    indices, scores = top_k(queries, documents, 10, block_size=block_size)
    expected, expected_scores = by_sorting(queries, documents, 10)
    assert indices.dtype == np.int32
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-7)


@pytest.mark.parametrize("k", [1, 5, 40, 200])
def test_equal_documents_come_in_their_order_with_every_block_size(k):
    distinct = vectors(9, seed=2)
    which = np.random.default_rng(3).integers(9, size=200)
    documents = distinct[which] * 2.0 ** np.random.default_rng(4).integers(-3, 3, size=(200, 1)).astype(np.float32)
    queries = vectors(33)
    expected, _ = by_sorting(queries, documents, k)
    assert len(np.unique(which[expected[:, :1]])) > 1
    for block_size in BLOCK_SIZES:
        indices, _ = top_k(queries, documents, k, block_size=block_size)
        np.testing.assert_array_equal(indices, expected)


def test_result_is_the_same_to_the_bit_with_every_block_size():
    # low precision and few directions: scores that differ in the last bits only
    queries = vectors(40, dim=96, dtype=np.float16)
    documents = (vectors(1, dim=96) + 1e-3 * vectors(300, dim=96, seed=1)).astype(np.float16)
    results = [top_k(queries, documents, 30, block_size=block_size) for block_size in BLOCK_SIZES]
    assert len(np.unique(results[0][0])) > 30
    for indices, scores in results[1:]:
        np.testing.assert_array_equal(indices, results[0][0])
        np.testing.assert_array_equal(scores, results[0][1])


def test_products_of_vectors_on_the_grid_are_exact():
    queries, documents = vectors(5, dim=1536), vectors(7, dim=1536, seed=1)
    documents[0] = queries[0]  # the greatest sum that occurs
    left, right = (on_grid(x, inverse_norms(x, "x")) for x in (queries, documents))
    whole_left, whole_right = ([[int(v) for v in row] for row in x.tolist()] for x in (left, right))
    exact = [[sum(a * b for a, b in zip(q, d, strict=True)) for d in whole_right] for q in whole_left]
    assert max(map(max, exact)) > 0.999 * 2**52
    for order in (slice(None), torch.randperm(1536, generator=torch.manual_seed(0))):
        assert [[int(v) for v in row] for row in (left[:, order] @ right[:, order].T).tolist()] == exact


def test_lengths_of_vectors_do_not_matter():
    queries, documents = vectors(20), vectors(50, seed=1)
    lengths = np.random.default_rng(5).uniform(1e-20, 1e20, size=(50, 1)).astype(np.float32)
    np.testing.assert_array_equal(top_k(queries, documents, 8)[0], top_k(queries, documents * lengths, 8)[0])


def test_scores_stay_within_one():
    documents = vectors(64, dim=7)
    _, scores = top_k(documents, documents, 1)
    assert scores.max() == 1.0
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)


def test_k_is_cut_to_the_number_of_documents():
    indices, _ = top_k(vectors(4), vectors(6, seed=1), 90, block_size=2)
    assert indices.shape == (4, 6)
    assert (np.sort(indices, axis=1) == np.arange(6)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_give_what_arrays_give(dtype):
    queries, documents = (torch.from_numpy(vectors(n, seed=n)).to(dtype) for n in (11, 29))
    indices, scores = top_k(queries.requires_grad_(), documents, 5)
    expected = top_k(queries.detach().double().numpy(), documents.double().numpy(), 5)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


def test_memory_maps_are_read(tmp_path):
    documents = vectors(37, dtype=np.float16)
    np.save(tmp_path / "documents.npy", documents)
    mapped = np.load(tmp_path / "documents.npy", mmap_mode="r")
    np.testing.assert_array_equal(top_k(mapped, mapped, 4, block_size=2)[0], top_k(documents, documents, 4)[0])


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_results_can_be_written_into_memory_maps(tmp_path, backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    queries, documents = vectors(50), vectors(90, seed=1)
    expected = top_k(queries, documents, 7, backend=backend)
    folder = tmp_path / "not" / "there yet"
    found = top_k(queries, documents, 7, backend=backend, output_folder=folder, block_size=8)
    for name, array, other in zip(("neighbours", "scores"), found, expected, strict=True):
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, other)
        array.flush()
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), other)
    assert top_k(queries[:0], documents, 7, backend=backend, output_folder=folder)[0].shape == (0, 7)


def test_no_matrix_is_larger_than_a_block(monkeypatch):
    sizes = []
    product = torch.mm

    def recorded(left, right, **options):
        sizes.append(left.shape[0] * right.shape[1])
        return product(left, right, **options)

    monkeypatch.setattr(torch, "mm", recorded)
    top_k(vectors(100), vectors(400, seed=1), 5, block_size=4)
    assert len(sizes) == 25 * 7
    assert max(sizes) <= 16 * 4**2


def test_queries_may_be_empty():
    indices, scores = top_k(vectors(0), vectors(5), 3)
    assert indices.shape == scores.shape == (0, 3)


def test_paired_scores_are_those_of_the_search():
    queries, documents = vectors(50, dim=33), vectors(20, dim=33, seed=1)
    indices, scores = top_k(queries, documents, 20)
    for rank in (0, 3, 19):
        np.testing.assert_array_equal(paired_scores(queries, documents, indices[:, rank]), scores[:, rank])


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("name", ["queries", "documents"])
def test_vectors_without_direction_are_refused_by_row(name, backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    for bad, message in ((np.nan, "1 of 9 rows hold NaN"), (0.0, "1 of 9 rows are zero vectors")):
        arguments = {"queries": vectors(9), "documents": vectors(9, seed=1)}
        arguments[name][6] = bad
        with pytest.raises(ValueError, match=f"{name}: {message}.*first is row 6"):
            top_k(**arguments, k=3, backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"block_size": 0}, "block_size=0"),
        ({"backend": "annoy"}, "'torch' or 'faiss', got 'annoy'"),
        ({"faiss_index": "HNSW32"}, "need backend='faiss'"),
        ({"faiss_parameters": "nprobe=4"}, "need backend='faiss'"),
        ({"device": "mps"}, "device='mps' has no float64"),
        ({"documents": vectors(5, dim=3)}, "do not fit"),
        ({"documents": vectors(0)}, "do not fit"),
        ({"queries": vectors(5)[0]}, "do not fit"),
        ({"queries": np.ones((5, 24), dtype=int)}, "queries must hold floats"),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        top_k(**{"queries": vectors(5), "documents": vectors(7, seed=1), "k": 3} | change)


def test_a_bar_is_shown_only_on_request(capsys):
    top_k(vectors(5), vectors(7), 3)
    assert capsys.readouterr().err == ""
    top_k(vectors(5), vectors(7), 3, show_progress_bar=True)
    assert "Neighbours" in capsys.readouterr().err


def test_faiss_finds_what_the_exact_search_finds():
    pytest.importorskip("faiss")
    queries, documents = vectors(40), vectors(90, seed=1)
    indices, scores = top_k(queries, documents, 12, backend="faiss", block_size=16)
    expected = top_k(queries, documents, 12)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_allclose(scores, expected[1], atol=1e-6)


def test_a_faiss_index_is_trained_and_searched_as_asked():
    pytest.importorskip("faiss")
    queries, documents = vectors(40), vectors(600, seed=1)
    expected = top_k(queries, documents, 5)[0]
    every_list = top_k(queries, documents, 5, backend="faiss", faiss_index="IVF8,Flat", faiss_parameters="nprobe=8")[0]
    one_list = top_k(queries, documents, 5, backend="faiss", faiss_index="IVF8,Flat", faiss_parameters="nprobe=1")[0]
    np.testing.assert_array_equal(every_list, expected)
    assert 0 < (one_list == expected).mean() < 1


def test_what_an_approximate_index_does_not_find_is_minus_one():
    pytest.importorskip("faiss")
    documents = vectors(400)
    indices, scores = top_k(vectors(30, seed=1), documents, 300, backend="faiss", faiss_index="IVF8,Flat")
    missing = indices == -1
    assert missing.any()
    assert (scores[missing] == -np.inf).all()
    assert (np.diff(missing.astype(int), axis=1) >= 0).all()  # at the end of the lists


def test_missing_faiss_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "saha-st\[faiss\]"'):
        top_k(vectors(3), vectors(4), 2, backend="faiss")
