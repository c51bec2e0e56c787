"""Candidates in float32 and exact scores after all, against integers that are added up without any rounding."""

import numpy as np
import pytest
import torch

from saha_st.mining import exact
from saha_st.mining.checks import inverse_norms
from saha_st.mining.exact import ExactSearch, candidates_for, full_float32, largest_error
from saha_st.mining.grid import GRID, cosines_of, documents_of, on_grid
from saha_st.mining.neighbours import top_k

CPU = torch.device("cpu")


def vectors(rows, dim=24, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(dtype)


def clustered(rows, dim, *, seed, spread=1.0, topics=7):
    """In the order of their topics, as files often are: the best documents of a query come in one block."""
    rng = np.random.default_rng(seed)
    topic = np.sort(rng.integers(topics, size=rows))
    return (vectors(topics, dim, seed=99)[topic] + spread * rng.standard_normal((rows, dim))).astype(np.float32)


def by_brute_force(queries, documents, k):
    """Integers of the grid, multiplied as Python and NumPy multiply integers; then a stable sort."""
    left, right = (on_grid(x, inverse_norms(x, "x")).long().numpy() for x in (queries, documents))
    sums = left @ right.T  # whole multiples of 2^-52: below 2^53
    steps = np.rint(sums / GRID)  # exact: both are powers of two apart
    order = np.argsort(-steps, axis=1, kind="stable")[:, :k]
    return order, np.clip(np.take_along_axis(steps, order, axis=1) / GRID, -1, 1).astype(np.float32)


def search(queries, documents, k, *, block_size=64, query_block=17, approximate_first=True, **options):
    norms = inverse_norms(documents, "documents")
    engine = ExactSearch(
        documents, norms, k, device=CPU, block_size=block_size, approximate_first=approximate_first, **options
    )
    found = [
        engine.nearest(queries[start : start + query_block], inverse_norms(queries[start : start + query_block], "q"))
        for start in range(0, len(queries), query_block)
    ]
    packed = torch.cat(found)
    return documents_of(packed).numpy(), cosines_of(packed).numpy(), engine.searched_again


def assert_exact(found, queries, documents, k):
    expected, expected_scores = by_brute_force(queries, documents, k)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], expected_scores)


def types_of_scans(monkeypatch):
    """A list that grows by the type of the product with each pass over the documents."""
    types, original = [], ExactSearch._scan

    def recorded(self, left, k):
        types.append(left.dtype)
        return original(self, left, k)

    monkeypatch.setattr(ExactSearch, "_scan", recorded)
    return types


@pytest.mark.parametrize("approximate_first", [True, False])
@pytest.mark.parametrize("block_size", [1, 31, 32, 100, 1000])
@pytest.mark.parametrize(("rows", "dim", "k"), [(300, 1, 3), (300, 2, 5), (411, 24, 1), (411, 24, 40), (90, 1536, 7)])
def test_lists_and_scores_are_those_of_integer_arithmetic(rows, dim, k, block_size, approximate_first):
    queries, documents = vectors(40, dim), vectors(rows, dim, seed=1)
    found = search(queries, documents, k, block_size=block_size, approximate_first=approximate_first)
    assert_exact(found, queries, documents, k)


@pytest.mark.parametrize("approximate_first", [True, False])
@pytest.mark.parametrize("order", ["topics", "topics backwards", "best last", "best first", "shuffled"])
def test_no_order_of_the_documents_changes_what_is_found(order, approximate_first):
    queries, documents = clustered(60, 32, seed=1), clustered(900, 32, seed=2)
    if order == "topics backwards":
        documents = documents[::-1].copy()
    elif order.startswith("best"):  # nearest to the first query; every later block brings better ones
        closeness = documents @ queries[0] / np.linalg.norm(documents, axis=1)
        documents = documents[np.argsort(closeness if order == "best last" else -closeness)]
    elif order == "shuffled":
        documents = documents[np.random.default_rng(3).permutation(900)]
    for block_size in (50, 256):
        found = search(queries, documents, 30, block_size=block_size, approximate_first=approximate_first)
        assert_exact(found, queries, documents, 30)
        assert found[2] == 0


def duplicates():
    documents = vectors(9, seed=2)[np.random.default_rng(3).integers(9, size=400)]
    return documents * 2.0 ** np.random.default_rng(4).integers(-3, 3, size=(400, 1)).astype(np.float32)


DOUBTFUL = {
    "duplicates": duplicates,
    "all equal": lambda: np.repeat(vectors(1, seed=5), 300, axis=0),
    "nearly equal": lambda: vectors(1, seed=6) + 1e-6 * vectors(300, seed=7),
    "signs only": lambda: np.random.default_rng(8).choice([-1.0, 1.0], size=(500, 24)).astype(np.float32),
}


@pytest.mark.parametrize("block_size", [37, 128, 1000])
@pytest.mark.parametrize("kind", DOUBTFUL)
def test_queries_without_a_gap_behind_the_last_neighbour_are_searched_again(kind, block_size):
    documents = DOUBTFUL[kind]()
    queries = documents[:33] if kind == "signs only" else vectors(33)
    found = search(queries, documents, 20, block_size=block_size, query_block=33)
    assert_exact(found, queries, documents, 20)
    assert 10 < found[2] <= 33


def test_only_the_queries_in_doubt_are_searched_again():
    documents = np.concatenate((vectors(500), np.repeat(vectors(1, seed=5), 100, axis=0)))
    queries = np.concatenate((vectors(20, seed=1), documents[-1:]))
    found = search(queries, documents, 10, query_block=21)
    assert found[2] == 1
    assert_exact(found, queries, documents, 10)


def test_blocks_after_one_in_which_most_queries_failed_do_not_try_float32():
    documents, queries = np.repeat(vectors(1, seed=5), 300, axis=0), vectors(40)
    found = search(queries, documents, 5, query_block=10)
    assert found[2] == 10
    assert_exact(found, queries, documents, 5)


@pytest.mark.parametrize("dim", [1, 3, 64, 700, 1536])
def test_float32_errs_by_less_than_the_bound_and_not_by_much_less_than_a_step(dim):
    rng = np.random.default_rng(dim)
    documents = np.abs(vectors(400, dim)) * rng.uniform(1e-9, 1e9, size=(400, 1))  # of one sign: errors add up
    queries = np.abs(vectors(50, dim, seed=1))
    left, right = (on_grid(x, inverse_norms(x, "x")) for x in (queries, documents))
    exact_steps = (left / GRID @ right.T).round()
    scale = torch.from_numpy(inverse_norms(documents, "documents") * GRID).float()
    rounded = torch.from_numpy(documents).float() * scale[:, None]
    errors = ((left.float() / GRID @ rounded.T).double().round() - exact_steps).abs()
    assert 0 < errors.max() <= largest_error(dim) / 2
    assert candidates_for(90) > 100


def test_vectors_that_float32_cannot_scale_are_searched_exactly(monkeypatch):
    monkeypatch.setattr(exact, "_DOCUMENTS_PER_CANDIDATE", 1)
    queries, documents = vectors(9, dtype=np.float64), vectors(300, seed=1, dtype=np.float64)
    expected = top_k(queries, documents, 5)
    scans = []
    original = ExactSearch._scan
    monkeypatch.setattr(
        ExactSearch, "_scan", lambda self, left, k: scans.append(left.dtype) or original(self, left, k)
    )
    for length in (2.0**-500, 2.0**300):
        found = top_k(queries, documents * length, 5)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    assert scans == [torch.float64] * 2
    top_k(queries, documents * 2.0**60, 5)
    assert scans[2:] == [torch.float32]


def test_many_documents_for_each_candidate_are_searched_in_float32_first(monkeypatch):
    types = []
    original = ExactSearch._scan
    monkeypatch.setattr(
        ExactSearch, "_scan", lambda self, left, k: types.append(left.dtype) or original(self, left, k)
    )
    enough = 256 * candidates_for(1)
    queries, documents = vectors(30, dim=12), vectors(enough, dim=12, seed=1)
    found = top_k(queries, documents, 1)
    assert types == [torch.float32]
    few = top_k(queries, documents[:-1], 1)
    assert types == [torch.float32, torch.float64]
    expected = by_brute_force(queries, documents, 1)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert (few[0] == found[0]).mean() > 0.9


@pytest.mark.parametrize("block_size", [1, 5, 64, None])
def test_float32_first_or_not_the_search_gives_the_same_bits(block_size, monkeypatch):
    queries, documents = clustered(70, 48, seed=1, spread=0.2), clustered(1200, 48, seed=2, spread=0.2)
    expected = top_k(queries, documents, 25)
    monkeypatch.setattr(exact, "_DOCUMENTS_PER_CANDIDATE", 1)
    for dtype in (np.float32, np.float64):
        found = top_k(queries.astype(dtype), documents.astype(dtype), 25, block_size=block_size)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("approximate_first", [True, False])
@pytest.mark.parametrize("kind", ["clustered", *DOUBTFUL])
def test_streamed_documents_give_what_resident_ones_give(kind, approximate_first):
    documents = clustered(410, 24, seed=2) if kind == "clustered" else DOUBTFUL[kind]()
    queries = vectors(50)
    for block_size in (30, 64, 1000):
        found = search(
            queries, documents, 12, block_size=block_size, approximate_first=approximate_first, streamed=True
        )
        assert_exact(found, queries, documents, 12)


def test_a_share_of_the_documents_keeps_their_numbers():
    queries, documents = vectors(20), vectors(200, seed=1)
    indices, scores, _ = search(queries, documents[50:], 8, first_document=50)
    expected = by_brute_force(queries, documents[50:], 8)
    np.testing.assert_array_equal(indices, expected[0] + 50)
    np.testing.assert_array_equal(scores, expected[1])


def test_fewer_documents_than_neighbours_fill_up_with_nothing():
    engine = ExactSearch(
        vectors(3), inverse_norms(vectors(3), "documents"), 5, device=CPU, block_size=2, approximate_first=False
    )
    best = engine.nearest(vectors(4), inverse_norms(vectors(4), "queries"))
    assert best.shape == (4, 5)
    assert torch.isinf(best[:, 3:]).all() and torch.isfinite(best[:, :3]).all()


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_low_precision_that_was_set_before_is_lifted_and_put_back(setting):
    before = torch.get_float32_matmul_precision()
    left, right = (torch.from_numpy(vectors(64, 256, seed=seed)) for seed in (1, 2))
    try:
        torch.set_float32_matmul_precision(setting)
        with full_float32():
            product = left @ right.T
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(product, left @ right.T)
