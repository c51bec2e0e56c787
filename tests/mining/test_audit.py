"""The audit counts what the truth says: by hand, and against loops over all pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saha_st.mining.audit import Truth, audit_filter, audit_negatives, paired_cosines, truth_codes
from saha_st.mining.cluster_pairs import cluster_pairs, sample_clusters, worst_pairs

# Rows 0 and 1 show a cat, 2 and 4 a dog, 3 is not known; rows 0 and 4 have the same document.
VALUES = ["cat", "cat", "dog", None, "dog"]
DOCUMENT_OF_ROW = np.array([0, 1, 2, 3, 0])
ANCHORS = np.array([[2, 0], [0, 1], [1, 1], [1, 0], [0, 3]], dtype=np.float32)
DOCUMENTS = np.array([[1, 0], [0, 5], [3, 4], [1, 0]], dtype=np.float32)


def random_case(seed: int, rows: int = 60, documents: int = 40, dim: int = 6):
    rng = np.random.default_rng(seed)
    values = [None if value == 0 else f"truth {value}" for value in rng.integers(8, size=rows)]
    document_of_row = rng.integers(documents, size=rows)
    vectors = (rng.standard_normal((count, dim)).astype(np.float32) for count in (rows, documents))
    return values, document_of_row, *vectors


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def judged_by_loops(values: list, document_of_row: np.ndarray, row: int, document: int) -> bool | None:
    truths = {values[other] for other in range(len(values)) if document_of_row[other] == document} - {None}
    return None if values[row] is None or not truths else values[row] in truths


def test_contamination_and_hardness_by_hand():
    truth = Truth.of(VALUES, DOCUMENT_OF_ROW)
    # cat beside the other cat, cat beside dog, dog beside the document of both, cat beside what is not known
    rows, documents = np.array([0, 1, 2, 0]), np.array([1, 2, 0, 3])
    audit = audit_negatives(ANCHORS, DOCUMENTS, rows, documents, truth)
    assert (audit.negatives, audit.judged, audit.contaminated) == (4, 3, 2)
    assert audit.contamination == pytest.approx(2 / 3)
    assert audit.hardness == pytest.approx(0.8)  # (0, 1) and (3, 4) / 5
    assert (truth.values, truth.rows_without) == (2, 1)


def test_a_filter_by_hand():
    truth = Truth.of(VALUES, DOCUMENT_OF_ROW)
    rows, documents = np.array([0, 0, 1, 1]), np.array([1, 2, 0, 2])
    found = audit_filter(ANCHORS, DOCUMENTS, rows, documents, np.array([False, False, True, True]), truth)
    assert found.before.contamination == found.after.contamination == found.precision == found.recall == 0.5
    assert found.before.hardness == pytest.approx((0.6 + 0.8) / 2) and found.after.hardness == pytest.approx(0.8)
    nothing = audit_filter(ANCHORS, DOCUMENTS, rows[1:2], documents[1:2], np.array([True]), truth)
    assert nothing.precision is None and nothing.recall is None and nothing.after.contamination == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_audit_is_that_of_a_loop_over_all_pairs(seed):
    values, document_of_row, anchors, documents = random_case(seed)
    truth = Truth.of(values, document_of_row)
    rng = np.random.default_rng(seed + 100)
    rows, named = rng.integers(len(anchors), size=9000), rng.integers(len(documents), size=9000)
    verdicts = [judged_by_loops(values, document_of_row, row, document) for row, document in zip(rows, named)]  # noqa: B905
    true = [cosine(anchors[row], documents[doc]) for row, doc, said in zip(rows, named, verdicts) if said is False]  # noqa: B905
    audit = audit_negatives(anchors, documents, rows, named, truth)
    assert 0 < audit.contaminated == verdicts.count(True)
    assert 0 < audit.judged == len(verdicts) - verdicts.count(None) < audit.negatives
    assert audit.hardness == pytest.approx(np.mean(true), abs=1e-6)


def test_an_anchor_of_several_rows_has_the_truths_of_all_of_them():
    values, documents, anchors = ["a", "b", "b", "c", None, "a"], np.arange(6), np.array([0, 0, 1, 1, 2, 3])
    rows, named = np.array([0, 1, 0, 2, 4, 5]), np.array([2, 5, 3, 1, 1, 4])
    alone, keyed = Truth.of(values, documents), Truth.of(values, documents, anchors)
    judged, positive = keyed.judge(rows, named)
    assert judged.tolist() == alone.judge(rows, named)[0].tolist() == [True, True, True, True, False, False]
    assert positive.tolist() == [True, True, False, True, False, False]  # row 0 has b by row 1, and row 1 a by row 0
    assert alone.judge(rows, named)[1].tolist() == [False, False, False, True, False, False]
    every = Truth.of(values, documents, np.arange(6))
    assert all(np.array_equal(one, two) for one, two in zip(every.judge(rows, named), alone.judge(rows, named)))  # noqa: B905
    with pytest.raises(ValueError, match="6 values for 2 rows"):
        Truth.of(values, documents, anchors[:2])


def test_documents_that_no_row_owns_are_not_judged():
    truth = Truth.of(VALUES, DOCUMENT_OF_ROW)
    judged, positive = truth.judge(np.array([0, 0]), np.array([4, 99]))
    assert not judged.any() and not positive.any()


@pytest.mark.parametrize("seed", range(3))
def test_chance_is_the_share_of_anchors_beside_the_documents_of_others(seed, monkeypatch):
    values, document_of_row, *_ = random_case(seed)
    pairs = [(i, j) for i in range(60) for j in range(60) if document_of_row[i] != document_of_row[j]]
    verdicts = [judged_by_loops(values, document_of_row, i, document_of_row[j]) for i, j in pairs]
    expected = np.mean([verdict for verdict in verdicts if verdict is not None])
    assert 0.1 < expected < 0.9
    truth = Truth.of(values, document_of_row)
    assert truth.chance() == pytest.approx(expected)
    monkeypatch.setattr("saha_st.mining.audit._MOST_RANDOM", 3000)  # of 3,600
    assert truth.chance() == truth.chance() != truth.chance(seed=1)
    assert truth.chance() == pytest.approx(expected, abs=0.05)


def test_chance_counts_as_contamination_does():
    values, documents = ["yes", "no", "yes", "no"], np.array([0, 0, 1, 1])
    truth = Truth.of(values, documents)
    assert truth.judge(np.arange(4), np.array([1, 1, 0, 0]))[1].all() and truth.chance() == 1
    one_anchor = Truth.of(values, documents, np.array([0, 1, 0, 2]))  # has both documents, so others' negatives alone
    assert one_anchor.chance() == 1 and Truth.of(["a", "b", "c"], np.arange(3), np.array([0, 0, 1])).chance() == 0
    assert Truth.of(["a", "a"], np.array([0, 0])).chance() is None


def test_truths_are_numbered_and_what_is_no_truth_is_left_out():
    assert truth_codes(["b", None, "a", "", float("nan"), "b"]).tolist() == [0, -1, 1, -1, -1, 0]
    assert truth_codes([3, np.int64(3), 4.5, True]).tolist() == [0, 0, 1, 2]
    assert truth_codes([pd.NA, "a", np.nan]).tolist() == [-1, 0, -1]
    with pytest.raises(ValueError, match="row 0: .*ndarray"):
        truth_codes([np.array([1, 2])])
    with pytest.raises(ValueError, match="row 1: .*list"):
        truth_codes(["a", ["b"]])
    with pytest.raises(ValueError, match="none of 2 rows"):
        truth_codes([None, ""])
    with pytest.raises(ValueError, match="2 values for 3 rows"):
        Truth.of(["a", "b"], np.arange(3))


@pytest.mark.parametrize("seed", range(2))
def test_pairs_of_clusters_are_all_ordered_pairs_with_their_cosines(seed):
    _, document_of_row, anchors, documents = random_case(seed)
    clusters = [np.array([5, 3, 9]), np.array([1, 2]), np.array([7, 3, 8, 0])]
    pairs = cluster_pairs(anchors, documents, document_of_row, clusters)
    expected = [(int(i), int(j)) for cluster in clusters for i in cluster for j in cluster if i != j]
    found = list(zip(pairs.rows[pairs.member].tolist(), pairs.rows[pairs.mate].tolist(), strict=True))
    assert sorted(found) == sorted(expected) and len(found) == 6 + 2 + 12
    for at, (row, mate) in enumerate(found):
        own, other = documents[document_of_row[row]], documents[document_of_row[mate]]
        assert pairs.anchor_document[at] == pytest.approx(cosine(anchors[row], other), abs=1e-5)
        assert pairs.anchor_anchor[at] == pytest.approx(cosine(anchors[row], anchors[mate]), abs=1e-5)
        assert pairs.document_document[at] == pytest.approx(cosine(own, other), abs=1e-5)
        assert pairs.margin[at] == pytest.approx(cosine(anchors[row], other) - cosine(anchors[row], own), abs=1e-5)
    again = paired_cosines(anchors, documents, pairs.rows, document_of_row[pairs.rows])
    assert pairs.positive == pytest.approx(again, abs=1e-5)


def test_the_worst_pairs_come_first_and_are_named_once():
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 1]], dtype=np.float32)
    clusters = [np.array([0, 1, 2]), np.array([3, 0, 1]), np.array([2, 3])]
    pairs = cluster_pairs(vectors, vectors, np.arange(4), clusters)

    def named(**options):
        worst = worst_pairs(pairs, pairs.anchor_anchor, **options)
        return [(int(pairs.rows[pairs.member[at]]), int(pairs.rows[pairs.mate[at]])) for at in worst]

    assert named(above=0.9, limit=9, both_ways=True) == [(2, 3), (0, 1)]
    assert named(above=0.9, limit=9, both_ways=False) == [(2, 3), (3, 2), (0, 1), (1, 0)]
    assert named(above=-1, limit=3, both_ways=True)[:2] == [(2, 3), (0, 1)]
    assert named(above=1.1, limit=9, both_ways=True) == []


def test_a_sample_of_clusters_is_drawn_by_the_seed_and_bounded():
    clusters = [np.arange(4 * number, 4 * number + 4) for number in range(100)]
    sample = sample_clusters(clusters, most_pairs=120, seed=1)
    assert len(sample) == 10 and len({cluster[0] for cluster in sample}) == 10
    assert [c[0] for c in sample] == [c[0] for c in sample_clusters(clusters, most_pairs=120, seed=1)]
    assert [c[0] for c in sample] != [c[0] for c in sample_clusters(clusters, most_pairs=120, seed=2)]
    assert len(sample_clusters(clusters, most_pairs=1, seed=1)) == 1
    assert len(sample_clusters(clusters, most_pairs=1200, seed=1)) == 100
