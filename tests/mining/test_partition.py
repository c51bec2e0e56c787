"""Dividing a graph whose communities are known."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest

from saha_st.mining.metis import metis_parts
from saha_st.mining.partition import Clusters, partition
from saha_st.mining.rank_windows import APART, Graph, Rivals

INITIAL = [
    pytest.param(None, id="greedy"),
    pytest.param(
        partial(metis_parts, seed=0),
        id="metis",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="there are no wheels of pymetis"),
    ),
]


def planted(*, communities=50, size=6, noise=600, seed=0):
    """Rows in random order, all pairs of a community, and pairs at random. Returns the graph and the communities."""
    rng = np.random.default_rng(seed)
    community = rng.permutation(np.repeat(np.arange(communities), size))
    rows = len(community)
    inside = np.argwhere(np.triu(community[:, None] == community, k=1))
    random = np.sort(rng.integers(rows, size=(noise, 2)), axis=1)
    pairs = np.unique(np.concatenate((inside, random[random[:, 0] < random[:, 1]])), axis=0)
    return Graph.of(pairs, np.ones(len(pairs)), rows=rows), community


def no_rivals(rows):
    return Rivals(np.arange(rows), np.arange(rows))


def inside(graph, clusters):
    """The number of edges within clusters."""
    cluster_of_row = np.full(graph.rows, -1)
    for number, rows in enumerate(clusters):
        cluster_of_row[rows] = number
    edges = graph.edges()
    return int((cluster_of_row[edges.ends()] == cluster_of_row[edges.others]).sum()) // 2


@pytest.mark.parametrize("initial", INITIAL)
def test_planted_communities_are_recovered(initial):
    graph, community = planted()
    clusters = partition(graph, no_rivals(300), size=6, initial=initial)
    assert [len(rows) for rows in clusters] == [6] * 50
    whole = sum(len(set(community[rows])) == 1 for rows in clusters)
    assert whole >= 48


def test_exchanges_recover_communities_from_any_start():
    graph, community = planted(noise=0)
    shuffled = partition(graph, no_rivals(300), size=6, initial=lambda edges, parts: np.arange(300) % parts)
    start = [np.flatnonzero(np.arange(300) % 50 == part) for part in range(50)]
    assert inside(graph, start) < 60 and inside(graph, shuffled) > 5 * inside(graph, start)


@pytest.mark.parametrize("initial", INITIAL)
def test_pairs_to_be_kept_apart_are_even_within_a_community(initial):
    graph, community = planted(noise=0)
    pairs = np.stack((graph.ends(), graph.others), axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    first = {}
    for row, group in enumerate(community.tolist()):
        first.setdefault(group, []).append(row)
    apart = np.array(
        [(pair[0] == first[community[pair[0]]][0]) & (pair[1] == first[community[pair[0]]][1]) for pair in pairs]
    )
    assert apart.sum() == 50
    graph = Graph.of(pairs, np.where(apart, APART, 1), rows=300)
    clusters = partition(graph, no_rivals(300), size=6, initial=initial)
    cluster_of_row = np.full(300, -1)
    for number, rows in enumerate(clusters):
        cluster_of_row[rows] = number
    assert (cluster_of_row >= 0).all()
    assert (cluster_of_row[pairs[apart, 0]] != cluster_of_row[pairs[apart, 1]]).all()
    assert inside(graph, clusters) > 0.6 * (~apart).sum()  # 10 of the 14 edges of a community, when one row leaves


@pytest.mark.parametrize("initial", INITIAL)
def test_rows_without_any_edge_are_spread_over_full_clusters(initial):
    graph = Graph.of(np.array([[0, 1]]), np.ones(1), rows=25)
    clusters = partition(graph, no_rivals(25), size=4, initial=initial)
    assert sorted(len(rows) for rows in clusters) == [2, 3, 4, 4, 4, 4, 4]
    assert sorted(np.concatenate(clusters).tolist()) == list(range(25))
    assert any({0, 1} <= set(rows.tolist()) for rows in clusters)


def test_a_row_alone_is_left_out_if_nobody_may_stand_beside_it():
    documents = np.array([0, 0, 0, 0, 1])
    clusters = partition(Graph.of(np.array([[0, 4]]), np.ones(1), rows=5), Rivals(documents, np.arange(5)), size=2)
    assert [rows.tolist() for rows in clusters] == [[0, 4]]


def test_the_seed_decides_and_nothing_else():
    rng = np.random.default_rng(0)
    documents = rng.integers(12, size=200)
    pairs = np.unique(np.sort(rng.integers(200, size=(2000, 2)), axis=1), axis=0)
    pairs = pairs[documents[pairs[:, 0]] != documents[pairs[:, 1]]]
    weights = np.where(rng.random(len(pairs)) < 0.5, APART, 1)  # many rows find no place, and some are tried
    graph, rivals = Graph.of(pairs, weights, rows=200), Rivals(documents, np.arange(200))
    first, second, other = (partition(graph, rivals, size=8, seed=seed) for seed in (5, 5, 6))
    assert [rows.tolist() for rows in first] == [rows.tolist() for rows in second]
    assert [rows.tolist() for rows in first] != [rows.tolist() for rows in other]


def test_every_swap_wins_weight():
    graph, _ = planted(noise=900, seed=3)
    clusters = Clusters(graph, no_rivals(300), 6, np.random.default_rng(0))
    clusters.adopt(np.arange(300) % 50)
    swap, weights = clusters._swap, [inside(graph, clusters.members)]

    def watched(row, other):
        swap(row, other)
        weights.append(inside(graph, clusters.members))

    clusters._swap = watched
    clusters.exchange()
    assert len(weights) > 50
    assert (np.diff(weights) > 0).all()


def test_a_graph_lists_each_pair_with_both_rows():
    graph = Graph.of(np.array([[0, 3], [1, 3], [0, 1]]), np.array([1, APART, 1]), rows=5)
    lists = [graph.others[start:end].tolist() for start, end in zip(graph.starts, graph.starts[1:], strict=False)]
    assert lists == [[1, 3], [0, 3], [], [0, 1], []]
    edges = graph.edges()
    assert edges.starts.tolist() == [0, 2, 3, 3, 4, 4] and edges.others.tolist() == [1, 3, 0, 0]
