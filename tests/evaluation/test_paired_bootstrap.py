"""Intervals hold as often as they say: for a share, and for all differences of many rows at once."""

from __future__ import annotations

import numpy as np
import pytest

from saha_st.evaluation.paired_bootstrap import difference_margins, resampled_means, wilson_interval


@pytest.mark.parametrize(
    ("hits", "queries", "interval"),
    [  # from the formula, solved for the share by hand: p = (hits + z²/2 ± …) / (queries + z²)
        (0, 5, (0.0, 0.4345)),
        (5, 5, (0.5655, 1.0)),
        (5, 10, (0.2366, 0.7634)),
        (300, 1000, (0.2724, 0.3291)),
    ],
)
def test_the_interval_of_a_share_is_wilson_s(hits, queries, interval):
    assert wilson_interval(hits / queries, queries) == pytest.approx(interval, abs=1e-4)


def test_the_interval_of_a_share_holds_in_95_percent_of_splits():
    for share, queries in ((0.5, 40), (0.9, 60), (0.1, 200)):
        found = np.random.default_rng(0).binomial(queries, share, size=2000) / queries
        holds = [low <= share <= high for low, high in (wilson_interval(each, queries) for each in found)]
        assert 0.93 <= np.mean(holds) <= 0.985


def test_the_same_queries_are_drawn_for_every_row():
    values = np.random.default_rng(1).random((1, 40))
    means = resampled_means(np.concatenate([values, values, 1 - values]), samples=130, seed=3)
    assert means.shape == (130, 3) and means[:, 0].std() > 0.01
    np.testing.assert_allclose(means[:, 1], means[:, 0])
    np.testing.assert_allclose(means[:, 2], 1 - means[:, 0])
    np.testing.assert_allclose(resampled_means(values, samples=130, seed=3), means[:, :1])
    assert not np.allclose(resampled_means(values, samples=130, seed=4), means[:, :1])


def test_resampled_means_scatter_as_means_do():
    values = (np.arange(200) < 60).astype(float)[None]
    means = resampled_means(values)[:, 0]
    assert means.mean() == pytest.approx(0.3, abs=0.003)
    assert means.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 200), rel=0.06)


def wrongly_marked(draw, *, queries, splits=300, rows=6):
    """How often some row of equal ones is told from the best."""
    random, marked = np.random.default_rng(5), 0
    for split in range(splits):
        hits = draw(random, rows, queries).astype(float)
        means, margins = hits.mean(axis=1), difference_margins(hits, samples=500, seed=split)
        best = means.argmax()
        marked += bool((means + margins[best] < means[best]).any())
    return marked / splits


def independent(random, rows, queries):
    return random.random((rows, queries)) < 0.3


def alike(random, rows, queries):
    """Rows that hit the same queries, all but a tenth."""
    own = random.random((rows, queries)) < 0.1
    return np.where(own, random.random((rows, queries)) < 0.4, random.random(queries) < 0.4)


@pytest.mark.parametrize(("draw", "queries"), [(independent, 50), (independent, 200), (alike, 50), (alike, 200)])
def test_of_six_equal_rows_one_is_told_from_the_best_in_5_percent_of_splits_at_most(draw, queries):
    assert wrongly_marked(draw, queries=queries) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_differences_of_pairs_alone_would_be_told_much_more_often():
    """So that the test above can fail: with 1.96 standard errors each, a third of the splits is marked."""
    random, marked = np.random.default_rng(5), 0
    for _ in range(300):
        hits = independent(random, 6, 200).astype(float)
        means, best = hits.mean(axis=1), hits.mean(axis=1).argmax()
        errors = (hits - hits[best]).std(axis=1) / np.sqrt(200)
        marked += bool((means + 1.96 * errors < means[best]).any())
    assert marked / 300 > 0.2


def test_real_differences_are_seen_among_many():
    """40 % against 30 % on 800 queries, four rows each way, is seen in nearly all splits; 60 % in all."""
    random, seen, large = np.random.default_rng(6), 0, 0
    for split in range(40):
        shares = np.array([0.6, 0.4, 0.4, 0.3, 0.3, 0.3])
        hits = (random.random((6, 800)) < shares[:, None]).astype(float)
        means, margins = hits.mean(axis=1), difference_margins(hits, samples=500, seed=split)
        seen += means[1] - means[3] > margins[1, 3]
        large += (means[0] - means[1:] > margins[0, 1:]).all()
    assert large == 40 and seen > 30


def test_margins_are_one_for_both_ways_and_never_nothing():
    same = np.ones((3, 40))
    margins = difference_margins(same)
    assert (margins.diagonal() == 0).all() and (margins[~np.eye(3, dtype=bool)] > 1 / 40).all()
    hits = (np.random.default_rng(0).random((4, 60)) < 0.5).astype(float)
    np.testing.assert_array_equal(difference_margins(hits), difference_margins(hits).T)
    assert difference_margins(hits[:1]).tolist() == [[0.0]]
