"""Visits that are told again are those of the mining: for all rules, and from lists of the sampled rows alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from saha_st.mining.build import find_clusters
from saha_st.mining.tracing import Fate
from saha_st.mining.visits import replay_visits, sample_visits

SETTINGS = {"num_negatives": 4, "pool_multiplier": 2}
OPTIONS = [{}, {"owner_filter": False}, {"max_owner_similarity": 0.4}, {"relative_margin": 0.1}]


def mined(seed: int, **options):
    """Pairs of which some share anchors and documents, and their clusters."""
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((300, 8)).astype(np.float32)
    document_of_row, key = rng.integers(300, size=500), rng.integers(300, size=500)
    first = np.unique(key, return_index=True)[1][np.unique(key, return_inverse=True)[1]]
    anchors = (documents[document_of_row] + rng.standard_normal((500, 8)).astype(np.float32))[first]
    data = (anchors, documents, document_of_row)
    return data, key, find_clusters(*data, anchor_key=key, **SETTINGS, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_visit_ends_in_the_cluster_that_was_mined_and_all_drops_are_counted(options):
    data, key, assignment = mined(0, **options)
    rows = sample_visits(assignment, most=10**6)
    clusters = {int(cluster[0]): cluster.tolist() for cluster in assignment.clusters}
    assert len(rows) == len(clusters) + assignment.counts.rows_left_out
    traces = list(replay_visits(*data, assignment, rows, settings=SETTINGS | options, anchor_key=key))
    assert sorted(trace.row for trace in traces) == rows.tolist()
    for trace in traces:
        assert trace.cluster.tolist() == clusters.get(trace.row, [trace.row])
    fates = Counter(candidate.fate for trace in traces for candidate in trace.candidates)
    if not options:  # rows that were left out in phase 1 had a second visit, which alone is told
        assert assignment.counts.rows_left_out == 0
        in_phase_one = [trace for trace in traces if trace.phase == 1]
        assert 0 < len(in_phase_one) < len(traces)
        assert fates[Fate.SUSPECTED] == assignment.counts.owners_filtered > 0


def test_a_sample_of_visits_is_drawn_by_the_seed_and_says_the_same_of_each_row():
    data, key, assignment = mined(1)
    options = {"settings": SETTINGS, "anchor_key": key}
    rows = sample_visits(assignment, most=20, seed=3)
    assert len(rows) == 20 == len(set(rows.tolist()))
    assert rows.tolist() == sample_visits(assignment, most=20, seed=3).tolist()
    assert rows.tolist() != sample_visits(assignment, most=20, seed=4).tolist()
    everything = sample_visits(assignment, most=10**6)
    of_all = {trace.row: trace for trace in replay_visits(*data, assignment, everything, **options)}
    for trace in replay_visits(*data, assignment, rows, **options):
        assert trace.candidates == of_all[trace.row].candidates and trace.phase == of_all[trace.row].phase
    assert list(replay_visits(*data, assignment, [], **options)) == []


def test_a_row_that_joined_another_has_no_visit_to_tell():
    data, key, assignment = mined(2)
    with pytest.raises(ValueError, match="before its turn"):
        list(replay_visits(*data, assignment, [assignment.clusters[0][1]], settings=SETTINGS, anchor_key=key))
