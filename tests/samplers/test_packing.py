from __future__ import annotations

import numpy as np
import pytest

from saha_st.samplers.packing import plan_batches


def mined_like(rng: np.random.Generator) -> dict[int, int]:
    """Clusters as mining gives them: most are full (K + 1 rows), the others have any smaller size."""
    full = int(rng.integers(4, 17))
    return {full: int(rng.integers(100, 3000)), **{s: int(rng.integers(1, 60)) for s in range(2, full)}}


@pytest.mark.parametrize("seed", range(30))
def test_every_batch_has_exactly_batch_size_rows_and_no_cluster_is_used_twice(seed: int):
    rng = np.random.default_rng(seed)
    sizes = rng.permutation(np.arange(1, 17))[: rng.integers(2, 9)]
    batch_size = int(rng.choice(sizes, size=rng.integers(3, 9)).sum() + sizes.max())  # so that there is a fill
    plan = plan_batches({int(size): int(rng.integers(10, 200)) for size in sizes}, batch_size)
    assert plan.num_batches > 0
    assert (plan.recipes @ plan.sizes == plan.batch_size).all()
    assert (plan.used <= plan.counts).all()
    assert plan.num_batches * plan.batch_size + plan.dropped_rows == plan.num_rows


@pytest.mark.parametrize("seed", range(20))
def test_mined_clusters_fill_all_batches_there_are_rows_for(seed: int):
    rng = np.random.default_rng(seed)
    count_of_size = mined_like(rng)
    plan = plan_batches(count_of_size, batch_size=16 * max(count_of_size))
    assert plan.num_batches >= plan.num_rows // plan.batch_size - 1


def test_the_scarce_sizes_that_close_a_batch_are_not_wasted():
    # Only pairs close a batch of 250 beside clusters of 16: 15 x 16 + 5 x 2. Any other use of them costs a batch.
    plan = plan_batches({16: 1000, 2: 10}, 250)
    assert plan.num_batches == 2
    # Best are ten batches of 5 + 2 and twenty of 3 + 2 + 2; alike batches alone would give twenty-five.
    assert plan_batches({5: 10, 3: 50, 2: 50}, 7).num_batches == 30


def test_batches_are_alike_where_the_clusters_allow_it():
    plan = plan_batches({16: 800, 8: 400, 4: 400}, 256)
    average = plan.counts / plan.num_batches
    assert plan.dropped_rows < 256
    assert (np.abs(plan.recipes - average) <= 8).all()


def test_equal_clusters_are_all_used_where_the_batch_size_is_a_multiple():
    plan = plan_batches({16: 512}, 256)
    assert (plan.num_batches, plan.dropped_rows, plan.share_of_size) == (32, 0, {16: 1.0})


def test_what_cannot_be_packed_is_counted():
    plan = plan_batches({16: 33, 5: 3}, 64)
    assert plan.num_batches == 8
    assert plan.dropped_rows == 33 * 16 + 3 * 5 - 8 * 64
    assert plan.share_of_size == {5: 0.0, 16: pytest.approx(32 / 33)}


def test_the_plan_does_not_depend_on_the_order_of_the_counts():
    forward, backward = plan_batches({3: 40, 7: 90, 12: 50}, 50), plan_batches({12: 50, 7: 90, 3: 40}, 50)
    assert np.array_equal(forward.recipes, backward.recipes)
    assert np.array_equal(forward.repeats, backward.repeats)


def test_sixty_thousand_clusters_need_few_searches():
    plan = plan_batches({16: 50_000, **{size: 10_000 // 14 for size in range(2, 16)}}, 2048)
    assert len(plan.repeats) < 60
    assert plan.num_batches >= plan.num_rows // 2048 - 1


@pytest.mark.parametrize(
    ("count_of_size", "batch_size", "message"),
    [
        ({}, 8, r"has 0 rows \(clusters: none\)"),
        ({4: 2, 3: 1}, 16, r"batch_size=16 .* has 11 rows \(clusters: 1 of 3 rows, 2 of 4 rows\)"),
        ({4: 9, 16: 2}, 8, r"batch_size=8 .* 16 rows.*2 of 16 rows\).* at least 16.* num_negatives=7"),
        ({16: 100}, 250, r"exactly batch_size=250 rows \(clusters: 100 of 16 rows\).* 240 or 256"),
        ({16: 100}, 17, r"such as 16 or 32"),
    ],
)
def test_impossible_sizes_are_refused_with_the_counts_and_a_way_out(count_of_size, batch_size, message):
    with pytest.raises(ValueError, match=message):
        plan_batches(count_of_size, batch_size)
