import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from literal_rule import literal_clusters

from saha_st.mining.clusters import assign_clusters, pool_size


def a_case(
    seed, *, rows=160, documents=110, ownerless=8, dim=12, anchors=None, ties=False, num_negatives=3, pool_multiplier=2
):
    """Random arguments of `assign_clusters`; with ties, whole numbers of equal length make many similarities equal."""
    rng = np.random.default_rng(seed)
    document_of_row = rng.integers(documents, size=rows)
    key = None if anchors is None else rng.integers(anchors, size=rows)
    own = np.arange(rows) if key is None else key
    vectors = rng.choice([-1.0, 1.0], size=(rows, 16)) if ties else rng.standard_normal((rows, dim))
    document_vectors = rng.standard_normal((documents + ownerless, vectors.shape[1]))
    document_vectors[document_of_row] += 0.7 * vectors[own]  # a positive is near, but seldom the nearest
    scores = vectors[own] @ document_vectors.T / np.sqrt(vectors.shape[1])
    depth = min(pool_size(num_negatives, pool_multiplier) + 5, scores.shape[1])
    neighbours = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return {
        "neighbours": neighbours.astype(np.int32),
        "anchor_embeddings": vectors[own].astype(np.float32),
        "document_of_row": document_of_row,
        "anchor_key": key,
        "num_negatives": num_negatives,
        "pool_multiplier": pool_multiplier,
        "neighbour_scores": np.take_along_axis(scores, neighbours, axis=1),
        "positive_scores": scores[np.arange(rows), document_of_row],
    }


KINDS = {
    "own anchors": {},
    "own anchors, one owner or none": {"rows": 90, "documents": 4000},
    "own anchors, ties": {"ties": True},
    "labels": {"rows": 200, "documents": 9, "ownerless": 1},
    "scarce owners": {"rows": 200, "documents": 60, "ownerless": 300},
    "wide pool": {"num_negatives": 5, "pool_multiplier": 3},
    "one negative": {"num_negatives": 1, "pool_multiplier": 1},
    "repeated anchors": {"anchors": 70},
    "repeated anchors, ties": {"anchors": 60, "ties": True},
    "few anchors": {"anchors": 12, "documents": 40},
    "few anchors, few documents": {"anchors": 25, "documents": 12},
}
OPTIONS = {
    "plain": {},
    "rank order": {"owner_filter": False},
    "owner similarity": {"max_owner_similarity": 0.25},
    "margin": {"relative_margin": 0.02},
}


def plain(clusters):
    return [cluster.tolist() for cluster in clusters]


def positives_by_anchor(case):
    key = case["anchor_key"] if case["anchor_key"] is not None else np.arange(len(case["document_of_row"]))
    positives = defaultdict(set)
    for anchor, document in zip(key.tolist(), case["document_of_row"].tolist(), strict=True):
        positives[anchor].add(document)
    return key.tolist(), positives


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_clusters_are_those_of_the_literal_rule(kind, options):
    phases = Counter()
    for seed in range(6):
        case = a_case(seed, **KINDS[kind]) | OPTIONS[options]
        one, two = literal_clusters(**case)
        result = assign_clusters(**case)
        assert plain(result.clusters) == one + two
        assert result.counts.phase_two_clusters == len(two)
        phases.update(one=len(one), two=len(two))
    assert phases["one"] > 0
    assert phases["two"] > 0 or kind in ("own anchors, one owner or none", "wide pool")


@pytest.mark.parametrize("kind", KINDS)
def test_no_members_positive_is_a_positive_of_another_members_anchor(kind):
    pairs = 0
    for seed in range(6):
        case = a_case(seed, **KINDS[kind])
        key, positives = positives_by_anchor(case)
        for cluster in plain(assign_clusters(**case).clusters):
            for member in cluster:
                for other in cluster:
                    if member != other:
                        assert case["document_of_row"][other] not in positives[key[member]]
                        pairs += 1
    assert pairs > 100


@pytest.mark.parametrize("kind", KINDS)
def test_phase_one_uses_a_row_once_and_no_row_anchors_two_clusters(kind):
    case = a_case(1, **KINDS[kind])
    result = assign_clusters(**case)
    first_phase = result.clusters[: len(result.clusters) - result.counts.phase_two_clusters]
    assert len(first_phase) > 0
    assert max(Counter(np.concatenate(first_phase).tolist()).values()) == 1
    assert max(Counter(cluster[0] for cluster in plain(result.clusters)).values()) == 1
    assert all(2 <= len(cluster) <= case["num_negatives"] + 1 for cluster in result.clusters)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_left_out_only_if_no_owner_in_its_pool_may_join(kind):
    left_out = 0
    for seed in range(6):
        case = a_case(seed, **KINDS[kind])
        key, positives = positives_by_anchor(case)
        document = case["document_of_row"].tolist()
        result = assign_clusters(**case)
        second_phase = plain(result.clusters)[len(result.clusters) - result.counts.phase_two_clusters :]
        members = set(np.concatenate(result.clusters).tolist())
        for row in set(range(len(document))) - members:
            reused = {mate for cluster in second_phase if cluster[0] < row for mate in cluster[1:]}
            others = positives[key[row]] - {document[row]}
            listed = [d for d in case["neighbours"][row].tolist() if d not in others]
            pool = set(listed[: pool_size(case["num_negatives"], case["pool_multiplier"])]) - {document[row]}
            owners = [r for r, d in enumerate(document) if d in pool and document[row] not in positives[key[r]]]
            assert set(owners) <= reused
            left_out += 1
        assert result.counts.rows_left_out == len(document) - len(members)
    assert left_out > 0 or kind not in ("scarce owners", "few anchors")


def test_rows_of_a_repeated_anchor_all_get_clusters_when_owners_are_at_hand():
    case = a_case(3, rows=300, documents=300, anchors=60, num_negatives=3, pool_multiplier=4)
    result = assign_clusters(**case)
    assert max(Counter(case["anchor_key"].tolist()).values()) > 4
    assert result.counts.rows_left_out == 0
    assert set(np.concatenate(result.clusters).tolist()) == set(range(300))


def test_owner_filter_keeps_the_owners_that_ask_something_else():
    anchors = np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0]], dtype=np.float32)
    neighbours = np.tile([0, 1, 2, 3], (4, 1))
    case = {"num_negatives": 1, "pool_multiplier": 2}
    filtered = assign_clusters(neighbours, anchors, np.arange(4), **case)
    # two owners are looked at for row 0, of rows 1 and 2; row 1 asks nearly the same
    assert plain(filtered.clusters) == [[0, 2], [1, 3]]
    assert filtered.counts.owners_filtered == 1
    by_rank = assign_clusters(neighbours, anchors, np.arange(4), owner_filter=False, **case)
    assert plain(by_rank.clusters) == [[0, 1], [2, 3]]
    assert by_rank.counts.owners_filtered == 0


def test_of_several_owners_the_most_similar_joins_and_the_first_row_of_equals():
    anchors = np.array([[1, 0], [0, 1], [1, 1], [1, 1], [-1, 1]], dtype=np.float32)
    result = assign_clusters(np.tile([1, 0], (5, 1)), anchors, [0, 1, 1, 1, 1], num_negatives=1)
    assert plain(result.clusters)[0] == [0, 2]


def test_phase_two_takes_mates_of_phase_one_but_none_twice():
    anchors = np.eye(4, dtype=np.float32)
    neighbours = np.array([[0, 1], [1, 0], [2, 1], [3, 1]])  # documents 2 and 3 are in nobody else's list
    result = assign_clusters(neighbours, anchors, np.arange(4), num_negatives=1, pool_multiplier=1)
    assert plain(result.clusters) == [[0, 1], [2, 1]]
    assert result.counts.phase_two_clusters == 1
    assert result.counts.rows_left_out == 1  # row 3: its one owner is a mate of phase 2 already
    assert result.counts.members == 4
    assert result.counts.cluster_sizes == {2: 2}


def test_longer_lists_fill_up_the_pool_of_an_anchor_with_several_positives():
    anchors = np.array([[1, 0]] * 3 + [[0, 1]], dtype=np.float32)
    neighbours = np.array([[0, 1, 2, 3]] * 3 + [[3, 0, 1, 2]])
    arguments = {"num_negatives": 1, "pool_multiplier": 1, "anchor_key": ["a", "a", "a", "b"]}
    assert plain(assign_clusters(neighbours, anchors, np.arange(4), **arguments).clusters)[0] == [0, 3]
    short = assign_clusters(neighbours[:, :2], anchors, np.arange(4), **arguments)
    assert plain(short.clusters)[0] == [3, 0]  # the lists of the first three hold nothing but their own positives


def test_clashing_owners_are_passed_over_and_counted():
    # rows 1 and 2 share an anchor, so that each is the other's false negative; row 3 takes the place
    anchors = np.array([[1, 0], [0, 1], [0, 1], [0.5, 0.5]], dtype=np.float32)
    neighbours = np.array([[0, 1, 2, 3]] * 4)
    result = assign_clusters(neighbours, anchors, np.arange(4), num_negatives=2, anchor_key=[0, 1, 1, 2])
    assert plain(result.clusters)[0] == [0, 1, 3]
    assert result.counts.owners_clashing >= 1


def test_the_same_call_gives_the_same_clusters():
    case = a_case(5, anchors=80, ties=True)
    assert plain(assign_clusters(**case).clusters) == plain(assign_clusters(**case).clusters)


@pytest.mark.parametrize("kind", ["own anchors", "labels", "repeated anchors", "repeated anchors, ties"])
def test_numbering_of_documents_and_names_of_anchors_do_not_matter(kind):
    case = a_case(2, **KINDS[kind])
    expected = plain(assign_clusters(**case).clusters)
    new_number = np.random.default_rng(0).permutation(int(case["neighbours"].max()) + 1)
    case["neighbours"] = new_number[case["neighbours"]]
    case["document_of_row"] = new_number[case["document_of_row"]]
    if case["anchor_key"] is not None:
        case["anchor_key"] = [f"anchor {(7 * key) % 100:03d}" for key in case["anchor_key"].tolist()]
    assert plain(assign_clusters(**case).clusters) == expected


def test_padding_lengths_of_vectors_and_float_types_do_not_matter():
    case = a_case(4, ties=True)
    expected = plain(assign_clusters(**case).clusters)
    pad = np.full((len(case["neighbours"]), 3), -1)
    case["neighbours"] = np.hstack((case["neighbours"], pad))
    for dtype in (np.float16, np.float32, np.float64):
        lengths = 2.0 ** np.arange(-3, 5)[np.arange(len(pad)) % 8, None]
        vectors = (case["anchor_embeddings"] * lengths).astype(dtype)
        assert (
            plain(assign_clusters(**case | {"anchor_embeddings": vectors, "neighbour_scores": None}).clusters)
            == expected
        )


def test_max_owner_similarity_is_never_exceeded_and_changes_something():
    case = a_case(0)
    limited = assign_clusters(**case, max_owner_similarity=0.0)
    vectors = case["anchor_embeddings"] / np.linalg.norm(case["anchor_embeddings"], axis=1, keepdims=True)
    for cluster in limited.clusters:
        assert (vectors[cluster[1:]] @ vectors[cluster[0]] <= 1e-6).all()
    assert limited.counts.owners_too_similar > 0
    assert plain(limited.clusters) != plain(assign_clusters(**case).clusters)


def test_relative_margin_keeps_negatives_below_the_positive():
    case = a_case(0)
    limited = assign_clusters(**case, relative_margin=0.2)
    for cluster in limited.clusters:
        anchor, positive = cluster[0], case["positive_scores"][cluster[0]]
        score_of = dict(zip(case["neighbours"][anchor], case["neighbour_scores"][anchor], strict=True))
        for mate in cluster[1:]:
            assert score_of[case["document_of_row"][mate]] <= positive - 0.2 * abs(positive)
    assert limited.counts.documents_in_margin > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"pool_multiplier": -1}, "pool_multiplier must be at least 1"),
        (
            {"num_negatives": 500},
            r"num_negatives=500 .* 160 rows with 88 different positives .* Set num_negatives to 87",
        ),
        ({"document_of_row": np.array([], dtype=int)}, "document_of_row has 0 rows"),
        ({"document_of_row": np.array([0])}, "document_of_row has 1 rows"),
        ({"document_of_row": np.zeros(160)}, "must hold integers"),
        ({"document_of_row": np.zeros((160, 2), dtype=int)}, r"shape \(rows,\)"),
        ({"document_of_row": np.arange(160) - 2}, "2 of 160 rows are negative.*first is row 0"),
        ({"anchor_key": np.arange(159)}, "each of the 160 rows"),
        ({"anchor_embeddings": np.ones((159, 4))}, "anchor_embeddings has 159 rows"),
        ({"anchor_embeddings": np.ones((160, 4), dtype=int)}, "must hold floats"),
        ({"neighbours": np.zeros((160, 4))}, "neighbours must hold integers"),
        ({"neighbours": np.zeros((159, 20), dtype=int)}, r"\(160, k\)"),
        ({"neighbours": np.zeros((160, 20), dtype=int)}, "160 of 160 rows name a document twice"),
        ({"neighbours": np.full((160, 20), -2)}, "the id -2"),
        ({"neighbours": np.arange(160 * 5).reshape(160, 5)}, "lists 5 documents a row, but the pool is 12"),
        ({"max_owner_similarity": 1.5}, "max_owner_similarity"),
        ({"relative_margin": -0.1}, "relative_margin"),
        ({"relative_margin": 0.1, "neighbour_scores": None}, "relative_margin needs scores"),
        ({"relative_margin": 0.1, "positive_scores": np.zeros(3)}, "positive_scores the shape"),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        assign_clusters(**a_case(0) | change)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused_by_row(bad):
    case = a_case(0)
    case["anchor_embeddings"][[17, 40], 3] = bad
    with pytest.raises(ValueError, match="anchor_embeddings: 2 of 160 rows hold NaN or infinity.*first is row 17"):
        assign_clusters(**case)


def test_zero_vectors_are_refused_by_row():
    case = a_case(0)
    case["anchor_embeddings"][9] = 0
    with pytest.raises(ValueError, match="1 of 160 rows are zero vectors.*first is row 9"):
        assign_clusters(**case)


def test_arguments_are_left_as_they_were():
    case = a_case(0, anchors=50)
    before = {name: np.array(value, copy=True) for name, value in case.items()}
    assign_clusters(**case)
    assert all(np.array_equal(before[name], value) for name, value in case.items())


def test_the_rule_imports_no_torch():
    code = (
        "import sys, saha_st.mining, saha_st.mining.clusters; print('torch' in sys.modules, 'datasets' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]
