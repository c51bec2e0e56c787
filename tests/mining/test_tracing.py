"""A trace tells what the rule did: checked against the clusters of the rule, over random data."""

import numpy as np
import pytest

from saha_st.mining import build_clusters
from saha_st.mining.clusters import assign_clusters
from saha_st.mining.tracing import Fate, Tracer

K, M = 3, 2


def random_data(seed, *, rows=120, documents=80, anchors=None, dim=8):
    """Anchors near their documents; several own the same one, and with `anchors` some rows ask the same."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((documents, dim)).astype(np.float32)
    document_of_row = rng.integers(documents, size=rows)
    key = np.arange(rows) if anchors is None else rng.integers(anchors, size=rows)
    noise = rng.standard_normal((rows, dim)).astype(np.float32)
    asked = vectors[document_of_row] + noise
    asked = asked[np.unique(key, return_index=True)[1][np.unique(key, return_inverse=True)[1]]]
    asked, vectors = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, vectors))
    scores = asked @ vectors.T
    order = np.argsort(-scores, axis=1, kind="stable")
    return order, np.take_along_axis(scores, order, axis=1), asked, document_of_row, key


OPTIONS = [{}, {"owner_filter": False}, {"max_owner_similarity": 0.4}, {"relative_margin": 0.1}]


@pytest.mark.parametrize("anchors", [None, 60])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_mates_of_a_trace_are_the_cluster_of_the_rule(seed, options, anchors):
    order, scores, asked, document_of_row, key = random_data(seed, anchors=anchors)
    options = {**options, "num_negatives": K, "pool_multiplier": M, "anchor_key": key}
    if "relative_margin" in options:
        own = [scores[row][order[row] == document][0] for row, document in enumerate(document_of_row)]
        options["positive_scores"] = np.array(own)
    tracer = Tracer(order, scores, asked, document_of_row, **options)
    assignment = assign_clusters(order, asked, document_of_row, neighbour_scores=scores, **options)
    assert assignment.counts.clusters - assignment.counts.phase_two_clusters > 5
    assert assignment.counts.phase_two_clusters > 0 or "relative_margin" in options
    assert tracer.assignment.counts == assignment.counts
    for number, cluster in enumerate(assignment.clusters):
        trace = tracer.trace(int(cluster[0]))
        assert trace.cluster.tolist() == cluster.tolist()
        mates = {c.owner for c in trace.candidates if c.fate is Fate.MATE}
        assert mates == set(cluster[1:].tolist())
        assert trace.phase == 1 + (number >= assignment.counts.clusters - assignment.counts.phase_two_clusters)


def test_mates_of_a_trace_are_those_of_build_clusters():
    order, scores, asked, document_of_row, _ = random_data(0)
    documents = np.linalg.lstsq(asked, np.take_along_axis(scores, np.argsort(order, axis=1), axis=1), rcond=None)[0].T
    clusters = build_clusters(asked, documents, document_of_row, num_negatives=K, pool_multiplier=M)
    tracer = Tracer(order, scores, asked, document_of_row, num_negatives=K, pool_multiplier=M)
    assert [tracer.trace(int(c[0])).cluster.tolist() for c in clusters] == [c.tolist() for c in clusters]


@pytest.mark.parametrize("seed", range(4))
def test_the_owner_filter_throws_out_the_owners_that_ask_most_nearly_the_same(seed):
    order, scores, asked, document_of_row, _ = random_data(seed)
    tracer = Tracer(order, scores, asked, document_of_row, num_negatives=K, pool_multiplier=M)
    thrown_out = 0
    for cluster in tracer.assignment.clusters:
        candidates = tracer.trace(int(cluster[0])).candidates
        out = [c.owner_similarity for c in candidates if c.fate is Fate.SUSPECTED]
        kept = [c.owner_similarity for c in candidates if c.fate is Fate.MATE]
        thrown_out += len(out)
        assert min(out, default=1) >= max(kept)
    assert thrown_out > 20


def test_ranks_scores_and_similarities_are_those_of_the_vectors():
    order, scores, asked, document_of_row, _ = random_data(1)
    tracer = Tracer(order, scores, asked, document_of_row, num_negatives=K, pool_multiplier=M)
    row = int(tracer.assignment.clusters[0][0])
    trace = tracer.trace(row)
    assert [c.document for c in trace.candidates] == order[row][: 2 * K * M].tolist()
    assert [c.rank for c in trace.candidates] == list(range(1, 2 * K * M + 1))
    for c in trace.candidates:
        assert c.score == pytest.approx(scores[row, c.rank - 1])
        assert (c.fate is Fate.OWN_POSITIVE) == (c.document == document_of_row[row])
        if c.owner is not None:
            assert document_of_row[c.owner] == c.document
            assert c.owner_similarity == pytest.approx(float(asked[row] @ asked[c.owner]), abs=1e-5)


def test_owners_taken_by_earlier_clusters_are_named_and_are_taken():
    order, scores, asked, document_of_row, _ = random_data(2)
    tracer = Tracer(order, scores, asked, document_of_row, num_negatives=K, pool_multiplier=M)
    clusters = tracer.assignment.clusters
    first_of_phase_two = len(clusters) - tracer.assignment.counts.phase_two_clusters
    seen = 0
    for number in range(first_of_phase_two):
        for c in tracer.trace(int(clusters[number][0])).candidates:
            if c.fate is Fate.NO_FREE_OWNER and c.owner is not None:
                assert tracer.cluster_of[c.owner] < number
                seen += 1
    assert seen > 0


def test_a_row_that_joined_before_its_turn_has_no_trace_of_its_own():
    order, scores, asked, document_of_row, _ = random_data(3)
    tracer = Tracer(order, scores, asked, document_of_row, num_negatives=K, pool_multiplier=M)
    anchor, mate = tracer.assignment.clusters[0][:2]
    assert tracer.is_anchor(int(anchor)) and not tracer.is_anchor(int(mate))
    with pytest.raises(ValueError, match=f"trace row {anchor}"):
        tracer.trace(int(mate))
