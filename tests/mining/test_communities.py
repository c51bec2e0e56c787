"""Communities against their definition: edges and suspects by brute force, and what every clustering guarantees."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from itertools import combinations
from math import ceil

import numpy as np
import pytest
from test_clusters import KINDS, a_case, plain, positives_by_anchor

from saha_st.mining import communities, rank_windows
from saha_st.mining.clusters import pool_size
from saha_st.mining.communities import assign_communities, window
from saha_st.mining.rank_windows import Rivals, listed_documents, mutual_pairs, suspected

PARTITIONERS = [
    "greedy",
    pytest.param("metis", marks=pytest.mark.skipif(sys.platform == "win32", reason="there are no wheels of pymetis")),
]
FEW_OWNERS = ["own anchors", "own anchors, ties", "repeated anchors", "wide pool"]


def window_of(case, *, range_min=0):
    return window(case["num_negatives"], case["pool_multiplier"], range_min, None)


def ranked(case):
    """For each row its documents in rank order, without positives of its anchor."""
    key, positives = positives_by_anchor(case)
    lists = case["neighbours"].tolist()
    return [[d for d in documents if d not in positives[anchor]] for documents, anchor in zip(lists, key, strict=True)]


def pairs_by_brute_force(case, first, behind):
    """Pairs of rows of which each one's document has a rank from `first` to before `behind` in the other's list."""
    lists = [set(documents[first:behind]) for documents in ranked(case)]
    document = case["document_of_row"].tolist()
    rows = range(len(document))
    return {(i, j) for i, j in combinations(rows, 2) if document[j] in lists[i] and document[i] in lists[j]}


def cosines(case):
    vectors = case["anchor_embeddings"].astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def suspects_by_brute_force(case):
    """Pairs of rows that list each other, and in which each is among the most similar that the other lists."""
    similarity, wanted = cosines(case), (case["num_negatives"] + 1) // 2
    mutual = pairs_by_brute_force(case, *window_of(case))
    of_row = {}
    for i, j in mutual:
        of_row.setdefault(i, []).append(j)
        of_row.setdefault(j, []).append(i)
    suspects = {i: set(sorted(others, key=lambda j: -similarity[i, j])[:wanted]) for i, others in of_row.items()}
    return {(i, j) for i, j in mutual if j in suspects[i] and i in suspects[j]}


def all_mutual_pairs(listed, document, *, most):
    return mutual_pairs(listed, document, most=100_000)


def together(clusters):
    return {pair for cluster in plain(clusters) for pair in combinations(sorted(cluster), 2)}


@pytest.mark.parametrize("range_min", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_edges_are_the_pairs_of_rows_in_each_others_window(kind, range_min, monkeypatch):
    monkeypatch.setattr(rank_windows, "_BLOCK", 37)
    case = a_case(0, **KINDS[kind])
    document = case["document_of_row"]
    rivals = Rivals(document, np.arange(len(document)) if case["anchor_key"] is None else case["anchor_key"])
    first, behind = range_min, pool_size(case["num_negatives"], case["pool_multiplier"])
    listed = listed_documents(case["neighbours"], document, rivals, range_min=first, range_max=behind)
    pairs, in_window = mutual_pairs(listed, document, most=100_000)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    assert {tuple(pair) for pair in pairs.tolist()} == pairs_by_brute_force(case, 0, behind)
    edges = pairs_by_brute_force(case, first, behind)
    assert {tuple(pair) for pair in pairs[in_window].tolist()} == edges
    assert len(edges) > 0 or (kind, range_min) in (("labels", 3), ("one negative", 3))


def test_a_label_with_many_owners_gives_each_row_a_few_edges_and_leaves_nobody_without():
    document = np.repeat(np.arange(4), [300, 200, 40, 5])
    lists = np.argsort(np.random.default_rng(0).random((len(document), 4)), axis=1)
    listed = listed_documents(lists, document, Rivals(document, np.arange(545)), range_min=0, range_max=3)
    pairs, _ = mutual_pairs(listed, document, most=24)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    for one, other in combinations(range(4), 2):
        between = pairs[np.isin(document[pairs], (one, other)).all(axis=1)]
        rows, degrees = np.unique(between, return_counts=True)
        assert len(rows) == np.isin(document, (one, other)).sum()
        many, few = sorted((one, other), key=lambda label: -np.sum(document == label))
        expected = min(np.sum(document == few), 24 // 3)
        assert set(degrees[document[rows] == many]) == {expected}
        spread = degrees[document[rows] == few]
        assert spread.max() - spread.min() <= expected


def rings(*, rows, documents, depth):
    """Documents on a ring, equally many owners of each, and lists of the next ones on either side."""
    document = np.random.default_rng(0).permutation(np.arange(rows) % documents)
    step = np.arange(1, depth // 2 + 1)
    return document, ((document[:, None] + np.concatenate((step, -step))) % documents).astype(np.int32)


def mutual(document, lists, *, most):
    listed = listed_documents(
        lists, document, Rivals(document, np.arange(len(document))), range_min=0, range_max=lists.shape[1]
    )
    return mutual_pairs(listed, document, most=most)[0]


@pytest.mark.parametrize("owners", [1, 2, 10, 50])
def test_pairs_are_no_more_than_the_entries_of_the_lists_however_many_own_a_document(owners):
    document, lists = rings(rows=1000, documents=1000 // owners, depth=18)
    pairs = mutual(document, lists, most=18)
    degrees = np.bincount(pairs.ravel(), minlength=1000)
    assert 0 < len(pairs) <= lists.size and degrees.min() >= 9 and degrees.max() <= 36
    shared = [len(set(document[pairs[(pairs == row).any(axis=1)]].ravel())) - 1 for row in range(0, 1000, 100)]
    assert shared == [18] * 10, "a row keeps its whole window"


def test_where_owners_fit_all_of_them_are_taken_and_one_owner_makes_no_difference():
    document, lists = rings(rows=300, documents=150, depth=6)
    alone, few = rings(rows=300, documents=300, depth=6)
    assert (
        len(mutual(document, lists, most=12)) == 300 * 12 // 2 > len(mutual(document, lists, most=11)) == 300 * 6 // 2
    )
    assert np.array_equal(mutual(alone, few, most=6), mutual(alone, few, most=1000))


def test_rows_that_nobody_lists_back_have_no_pairs():
    pairs = mutual(np.arange(3), np.array([[1], [2], [0]]), most=1)
    assert pairs.shape == (0, 2) and pairs.dtype == np.int32


def test_memory_does_not_grow_with_the_owners_of_a_document():
    peaks = []
    for documents in (4000, 400):
        document, lists = rings(rows=4000, documents=documents, depth=40)
        tracemalloc.start()
        mutual(document, lists, most=40)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("partitioner", PARTITIONERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_members_positive_is_a_positive_of_another_members_anchor(kind, partitioner):
    for seed, owner_filter in ((0, True), (1, False), (2, True)):
        case = a_case(seed, **KINDS[kind])
        key, positives = positives_by_anchor(case)
        result = assign_communities(**case, partitioner=partitioner, owner_filter=owner_filter)
        checked = 0
        for cluster in plain(result.clusters):
            for member in cluster:
                for other in cluster:
                    if member != other:
                        assert case["document_of_row"][other] not in positives[key[member]]
                        checked += 1
        assert checked > 90


@pytest.mark.parametrize("partitioner", PARTITIONERS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_in_one_cluster_and_counts_add_up(kind, partitioner):
    case = a_case(3, **KINDS[kind])
    result = assign_communities(**case, partitioner=partitioner)
    members, rows = np.concatenate(result.clusters), len(case["document_of_row"])
    assert len(np.unique(members)) == len(members)
    sizes = [len(cluster) for cluster in result.clusters]
    assert min(sizes) >= 2 and max(sizes) <= case["num_negatives"] + 1
    counts = result.counts
    assert counts.rows == rows and counts.clusters == len(sizes) and counts.members == len(members)
    assert counts.rows_left_out == rows - len(members) == 0
    assert counts.cluster_sizes == {size: sizes.count(size) for size in set(sizes)}


@pytest.mark.parametrize("partitioner", PARTITIONERS)
@pytest.mark.parametrize("rows", [160, 161, 162, 163])
def test_all_clusters_but_one_are_full_and_no_row_is_alone(rows, partitioner):
    case = a_case(0, rows=rows, documents=4000)
    sizes = [len(cluster) for cluster in assign_communities(**case, partitioner=partitioner).clusters]
    assert sum(sizes) == rows and len(sizes) == ceil(rows / 4)
    remainder = {160: [4], 161: [3, 2], 162: [2], 163: [3]}[rows]  # 161: a row alone gets a mate from a full one
    assert sizes == [4] * (len(sizes) - len(remainder)) + remainder


@pytest.mark.parametrize("partitioner", PARTITIONERS)
@pytest.mark.parametrize("kind", FEW_OWNERS)
def test_rows_that_suspect_each_other_never_share_a_cluster(kind, partitioner, monkeypatch):
    monkeypatch.setattr(communities, "mutual_pairs", all_mutual_pairs)
    kept_apart = set()

    def listening(pairs, *args, **options):
        found = suspected(pairs, *args, **options)
        kept_apart.update(map(tuple, pairs[found].tolist()))
        return found

    monkeypatch.setattr(communities, "suspected", listening)
    case = a_case(0, **KINDS[kind])
    suspects = suspects_by_brute_force(case)
    filtered = assign_communities(**case, partitioner=partitioner)
    assert len(suspects) > 20 and len(kept_apart) == filtered.counts.pairs_kept_apart
    assert not kept_apart & together(filtered.clusters)
    edges = pairs_by_brute_force(case, *window_of(case))
    if kind in ("own anchors, ties", "repeated anchors"):  # which of equals is suspected is the order's affair
        assert abs(filtered.counts.pairs_kept_apart - len(suspects)) < 0.2 * len(suspects)
    else:
        assert kept_apart == suspects
        assert filtered.counts.edges == len(edges - suspects)
        assert filtered.counts.edges_in_clusters == len((edges - suspects) & together(filtered.clusters))
    unfiltered = assign_communities(**case, partitioner=partitioner, owner_filter=False)
    assert unfiltered.counts.pairs_kept_apart == 0 and unfiltered.counts.edges == len(edges)
    assert suspects & together(unfiltered.clusters)


@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_clusters_hold_many_more_edges_than_clusters_by_chance(partitioner):
    case = a_case(0, rows=600, documents=600)
    result = assign_communities(**case, partitioner=partitioner, owner_filter=False)
    edges = pairs_by_brute_force(case, *window_of(case))
    rows = np.random.default_rng(0).permutation(600)
    by_chance = len(edges & together(np.split(rows, 150)))
    assert result.counts.edges_in_clusters > 20 * max(by_chance, 1)


@pytest.mark.parametrize("partitioner", PARTITIONERS)
@pytest.mark.parametrize("owner_filter", [False, True])
def test_planted_communities_come_out_of_embeddings(partitioner, owner_filter):
    """Groups of four point to each other, and with the filter pairs of one anchor meet in no cluster."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(60), 4))
    centres = rng.standard_normal((60, 64))
    anchors = centres[group] + 0.5 * rng.standard_normal((240, 64))
    documents = centres[group] + 0.5 * rng.standard_normal((240, 64))
    lists = np.argsort(-anchors @ documents.T, axis=1)
    options = {"num_negatives": 3, "range_max": 3, "owner_filter": owner_filter, "partitioner": partitioner}
    result = assign_communities(lists, anchors, np.arange(240), **options)
    found = sum(len(set(group[cluster])) == 1 and len(cluster) == 4 for cluster in result.clusters)
    assert found == 0 if owner_filter else found >= 57


def test_range_min_skips_the_nearest_and_range_max_ends_the_window():
    case = a_case(0)
    for first, behind in ((0, 5), (2, 9), (4, 12)):
        result = assign_communities(**case, owner_filter=False, range_min=first, range_max=behind)
        assert result.counts.edges == len(pairs_by_brute_force(case, first, behind)) > 0


@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_max_owner_similarity_keeps_similar_rows_apart(partitioner):
    case = a_case(0)
    options = {"partitioner": partitioner, "owner_filter": False}
    limited = assign_communities(**case, max_owner_similarity=0.2, **options)
    mutual, similarity = pairs_by_brute_force(case, *window_of(case)), cosines(case)
    similar = {(i, j) for i, j in mutual if similarity[i, j] > 0.2}
    assert limited.counts.pairs_too_similar == len(similar) > 20
    assert not similar & together(limited.clusters)
    assert similar & together(assign_communities(**case, **options).clusters)


def test_relative_margin_takes_documents_out_of_windows():
    case = a_case(0)
    limited = assign_communities(**case, owner_filter=False, relative_margin=0.3)
    limits = case["positive_scores"] - 0.3 * np.abs(case["positive_scores"])
    document = case["document_of_row"].tolist()
    score = [
        dict(zip(documents, scores, strict=True))
        for documents, scores in zip(case["neighbours"].tolist(), case["neighbour_scores"].tolist(), strict=True)
    ]
    mutual = pairs_by_brute_force(case, *window_of(case))
    edges = {(i, j) for i, j in mutual if score[i][document[j]] <= limits[i] and score[j][document[i]] <= limits[j]}
    assert 0 < limited.counts.edges == len(edges) < len(mutual)
    assert limited.counts.documents_in_margin > 0


@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_a_window_that_holds_nobody_is_said_and_clusters_are_arbitrary_but_allowed(partitioner, caplog):
    document = np.arange(40) % 10
    lists = np.tile(np.arange(10), (40, 1))
    anchors = np.random.default_rng(0).standard_normal((40, 8))
    options = {"num_negatives": 4, "range_min": 30, "owner_filter": False, "partitioner": partitioner}
    result = assign_communities(lists, anchors, document, **options)
    assert "ranks, 30 to 53: communities are arbitrary" in caplog.text
    assert result.counts.edges == result.counts.rows_left_out == 0 and result.counts.cluster_sizes[5] >= 6
    assert all(len(set(document[cluster])) == len(cluster) for cluster in result.clusters)


@pytest.mark.parametrize(
    ("options", "by_filter", "by_limit"), [({}, 1, 0), ({"owner_filter": False, "max_owner_similarity": -1.0}, 0, 1)]
)
def test_edges_that_all_end_at_a_filter_are_not_blamed_on_the_window(options, by_filter, by_limit, caplog):
    result = assign_communities(np.array([[1], [0]]), np.eye(2), np.arange(2), num_negatives=1, range_max=1, **options)
    assert result.clusters == [] and result.counts.edges == 0
    assert f"All 1 pairs of rows in each other's window are kept apart ({by_filter} by owner_filter" in caplog.text
    assert f"{by_limit} by max_owner_similarity" in caplog.text and "range_min" not in caplog.text


def test_a_margin_that_empties_the_windows_is_named(caplog):
    lists, scores = np.tile(np.arange(4), (4, 1)), np.ones((4, 4))
    options = {"num_negatives": 1, "range_max": 3, "neighbour_scores": scores, "positive_scores": np.full(4, 0.5)}
    assign_communities(lists, np.eye(4), np.arange(4), relative_margin=0.1, **options)
    assert "or relax relative_margin, which took documents out of windows" in caplog.text


@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_skewed_labels_leave_nobody_out_where_pairs_would_place_everybody(partitioner, caplog):
    sizes = np.array([50, 20, 10, 5, 5, 4, 3, 2, 1])
    document = np.random.default_rng(0).permutation(np.repeat(np.arange(9), sizes))
    anchors = np.eye(9)[document] + 0.1
    lists = np.tile(np.arange(9), (100, 1))
    result = assign_communities(lists, anchors, document, num_negatives=7, owner_filter=False, partitioner=partitioner)
    assert result.counts.rows_left_out == 0 and result.counts.clusters == 50 and "in no cluster" not in caplog.text
    assert all(len(set(document[cluster])) == len(cluster) for cluster in result.clusters)


def test_rows_for_which_there_are_no_mates_are_counted_in_a_warning(caplog):
    document = np.repeat([0, 1], [90, 10])
    lists = np.tile([0, 1], (100, 1))
    anchors = np.eye(2)[document]
    assert assign_communities(lists, anchors, document, num_negatives=1).counts.rows_left_out == 80
    assert "80 of 100 rows are in no cluster" in caplog.text and "owners has 90 of them" in caplog.text


def test_labels_give_clusters_of_different_labels_and_scarce_mates_are_shared_out():
    document = np.repeat([0, 1, 2], [30, 12, 10])
    anchors = np.random.default_rng(0).standard_normal((52, 8))
    lists = np.tile([0, 1, 2], (52, 1))
    result = assign_communities(lists, anchors, document, num_negatives=2, owner_filter=False)
    assert all(len(set(document[cluster])) == len(cluster) for cluster in result.clusters)
    assert result.counts.rows_left_out == 30 - result.counts.clusters  # each cluster has one row of the first label
    assert 12 <= result.counts.clusters <= 22


@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_the_same_call_gives_the_same_clusters_and_leaves_its_arguments(partitioner):
    case = a_case(5, anchors=80, ties=True)
    before = {name: np.array(value, copy=True) for name, value in case.items()}
    first = assign_communities(**case, partitioner=partitioner, seed=3)
    assert plain(assign_communities(**case, partitioner=partitioner, seed=3).clusters) == plain(first.clusters)
    assert all(np.array_equal(before[name], value) for name, value in case.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1"),
        ({"num_negatives": 500}, "num_negatives=500 is larger than the data"),
        ({"range_min": -1}, "range_min is a rank and must be at least 0, got -1"),
        ({"range_min": 4, "range_max": 4}, "window is empty; got range_min=4 and range_max=4"),
        ({"range_max": 60}, "lists 17 documents a row, but the pool is 60"),
        ({"partitioner": "louvain"}, "partitioner must be 'greedy' or 'metis', got 'louvain'"),
        ({"anchor_embeddings": np.ones((159, 4))}, "anchor_embeddings has 159 rows"),
        ({"anchor_embeddings": np.full((160, 4), np.nan)}, "hold NaN"),
        ({"anchor_key": np.arange(159)}, "each of the 160 rows"),
        ({"relative_margin": 0.1, "neighbour_scores": None}, "relative_margin needs scores"),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        assign_communities(**a_case(0) | change)


def test_ranks_are_whole_numbers():
    with pytest.raises(TypeError, match="range_min must be an integer, got 1.5"):
        assign_communities(**a_case(0), range_min=1.5)


def test_metis_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(ImportError, match=r"saha-st\[metis\]"):
        assign_communities(**a_case(0), partitioner="metis")


def test_communities_import_no_torch():
    code = "import sys, saha_st.mining.communities; print('torch' in sys.modules, 'pymetis' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]
