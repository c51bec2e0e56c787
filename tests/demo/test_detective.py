from collections import Counter

import numpy as np
import pytest

from saha_st.demo.detective import Detective
from saha_st.demo.errors import UserError
from saha_st.mining import build_clusters
from saha_st.mining.tracing import Fate


@pytest.fixture(scope="module")
def detective(engine):
    return Detective(engine)


@pytest.mark.parametrize(("mates", "pool"), [(4, 2), (3, 1), (8, 4)])
def test_the_cluster_that_is_shown_is_the_one_that_mining_forms(detective, engine, mates, pool):
    text, picture = np.array(engine.gallery.pairs).T
    clusters = build_clusters(
        engine.texts(task="query")[text],
        engine.pictures(),
        picture,
        num_negatives=mates,
        pool_multiplier=pool,
        anchor_key=text,
    )
    assert len(clusters) > 2
    for cluster in clusters:
        case = detective.investigate(int(cluster[0]), num_negatives=mates, pool_multiplier=pool)
        assert case.cluster == cluster.tolist()


def test_a_pair_that_joined_before_its_turn_shows_the_cluster_it_joined(detective):
    case = detective.investigate(0)
    mate = case.cluster[1]
    assert detective.investigate(mate).anchor == case.anchor
    assert detective.investigate(mate).row == mate


def test_counts_and_truth_are_those_of_the_candidates(detective, engine):
    case = detective.investigate(detective.most_telling())
    assert case.counts == Counter(suspect.candidate.fate for suspect in case.suspects)
    assert case.counts[Fate.MATE] == len(case.cluster) - 1
    assert case.counts[Fate.OWN_POSITIVE] >= 1
    assert case.caught > 0
    own = engine.gallery.pairs[case.anchor][1]
    for suspect in case.suspects:
        assert suspect.same == (engine.gallery.concepts[suspect.candidate.document] == engine.gallery.concepts[own])


def test_scores_and_similarities_are_cosines_of_the_engines_vectors(detective, engine):
    case = detective.investigate(0)
    anchor = engine.texts(task="query")[engine.gallery.pairs[case.anchor][0]]
    for suspect in case.suspects:
        candidate = suspect.candidate
        assert candidate.score == pytest.approx(float(anchor @ engine.pictures()[candidate.document]), abs=1e-5)
    assert case.similarities.shape == (len(case.cluster),) * 2
    assert case.similarities[0, 0] == pytest.approx(
        float(anchor @ engine.pictures()[engine.gallery.pairs[case.anchor][1]]), abs=1e-5
    )


def test_impossible_requests_are_explained(detective):
    with pytest.raises(UserError, match="no anchor 999"):
        detective.investigate(999)
    with pytest.raises(UserError, match="too many"):
        detective.investigate(0, num_negatives=400)
