import inspect

import numpy as np
import pytest
import torch

import saha_st.mining
from saha_st.mining import build, build_clusters
from saha_st.mining.build import find_clusters
from saha_st.mining.clusters import assign_clusters
from saha_st.mining.communities import assign_communities
from saha_st.ranks import Ranks


def embeddings(rows=120, documents=90, dim=16, seed=0):
    """Anchors lie near their documents, as embeddings do; every fourth document or so has several owners."""
    rng = np.random.default_rng(seed)
    document_vectors = rng.standard_normal((documents, dim)).astype(np.float32)
    document_of_row = rng.integers(documents, size=rows)
    anchors = document_vectors[document_of_row] + rng.standard_normal((rows, dim)).astype(np.float32)
    return anchors, document_vectors, document_of_row


def nearest(anchors, documents):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (anchors.astype(float), documents.astype(float))]
    scores = unit[0] @ unit[1].T
    order = np.argsort(-scores, axis=1, kind="stable")
    return order, np.take_along_axis(scores, order, axis=1), scores


def plain(clusters):
    return [cluster.tolist() for cluster in clusters]


def test_the_signature_is_the_published_one():
    assert saha_st.mining.build_clusters is build_clusters
    names = list(inspect.signature(build_clusters).parameters)
    assert names[:3] == ["anchor_embeddings", "document_embeddings", "document_of_row"]
    assert names[3:] == ["num_negatives", "pool_multiplier", "owner_filter", "anchor_key", "builder"]
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = saha_st.mining.no_such_name


@pytest.mark.parametrize("options", [{}, {"owner_filter": False}, {"anchor_key": np.arange(120) // 2}])
def test_clusters_are_those_of_a_full_sort(options):
    anchors, documents, document_of_row = embeddings()
    options = options | {"num_negatives": 3, "pool_multiplier": 2}
    order, _, _ = nearest(anchors, documents)
    expected = assign_clusters(order, anchors, document_of_row, **options).clusters
    assert len(expected) > 20
    assert plain(build_clusters(anchors, documents, document_of_row, **options)) == plain(expected)


def test_tensors_and_other_lengths_of_vectors_give_the_same_clusters():
    anchors, documents, document_of_row = embeddings()
    expected = plain(build_clusters(anchors, documents, document_of_row, num_negatives=3))
    tensors = torch.from_numpy(anchors) * 4, torch.from_numpy(documents) / 8
    assert plain(build_clusters(*tensors, document_of_row, num_negatives=3)) == expected


def test_options_reach_the_search_and_the_rule():
    anchors, documents, document_of_row = embeddings()
    _, _, scores = nearest(anchors, documents)
    result = find_clusters(
        anchors,
        documents,
        document_of_row,
        num_negatives=3,
        relative_margin=0.1,
        max_owner_similarity=0.3,
        block_size=5,
    )
    assert result.counts.documents_in_margin > 0
    assert result.counts.owners_too_similar > 0
    for anchor, *mates in plain(result.clusters):
        limit = scores[anchor, document_of_row[anchor]]
        assert (scores[anchor, document_of_row[mates]] <= limit - 0.1 * abs(limit) + 1e-6).all()


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("options", [{}, {"relative_margin": 0.1}, {"anchor_key": np.arange(600) // 2}])
def test_rows_that_join_a_cluster_before_their_turn_are_not_searched(options, backend, monkeypatch):
    if backend == "faiss":
        pytest.importorskip("faiss")
    anchors, documents, document_of_row = embeddings(rows=600, documents=700)  # some documents have no owner
    options = options | {"num_negatives": 5, "backend": backend}
    searched, call = [], build.NeighbourSearch.__call__
    monkeypatch.setattr(
        build.NeighbourSearch, "__call__", lambda self, rows: searched.append(rows) or call(self, rows)
    )
    results = {}
    for block_size in (1, 7, 100, 600):
        searched.clear()
        results[block_size] = find_clusters(anchors, documents, document_of_row, **options, block_size=block_size)
        rows = np.concatenate(searched)
        assert len(np.unique(rows)) == len(rows)
        assert max(map(len, searched)) <= block_size
        assert len(rows) == 600 if block_size == 600 else len(rows) < 500
    expected = results.pop(600)
    assert expected.counts.phase_two_clusters > 0
    for result in results.values():
        assert plain(result.clusters) == plain(expected.clusters)
        assert result.counts == expected.counts


def test_the_other_processes_are_told_of_the_end_if_there_is_no_room_for_the_lists(monkeypatch):
    monkeypatch.setattr(Ranks, "_exchange", lambda self, value: [value, None])
    shared = []
    monkeypatch.setattr(Ranks, "share_array", lambda self, rows: shared.append(len(rows)))

    def room(self, output_folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(build.NeighbourSearch, "room", room)
    with pytest.raises(OSError, match="No space left"):
        find_clusters(*embeddings(), num_negatives=3, ranks=Ranks(0, 2))
    assert shared == [0]


def test_the_rule_reads_lists_from_files(tmp_path):
    anchors, documents, document_of_row = embeddings()
    options = {"num_negatives": 3, "relative_margin": 0.1}
    expected = find_clusters(anchors, documents, document_of_row, **options)
    found = find_clusters(anchors, documents, document_of_row, **options, output_folder=tmp_path)
    assert plain(found.clusters) == plain(expected.clusters)
    assert found.counts == expected.counts
    assert np.load(tmp_path / "neighbours.npy").shape == (120, 18)


def test_lists_are_longer_where_an_anchor_has_several_positives(monkeypatch):
    asked = []
    search = build.NeighbourSearch
    monkeypatch.setattr(
        build, "NeighbourSearch", lambda q, d, k, **options: asked.append(k) or search(q, d, k, **options)
    )
    anchors, documents, document_of_row = embeddings()
    for key in (None, np.arange(120) // 4, np.arange(120) // 40):
        build_clusters(anchors, documents, document_of_row, num_negatives=2, pool_multiplier=3, anchor_key=key)
    assert asked == [12, 12 + 3, 12 + 12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_negatives": 90}, "num_negatives=90 is larger than the data"),
        ({"anchor_embeddings": np.ones((119, 16))}, "anchor_embeddings has 119 rows"),
        ({"document_embeddings": np.ones((80, 16))}, "document_embeddings has 80 rows"),
        ({"document_of_row": np.array([], dtype=int)}, "at least one mate"),
        ({"anchor_key": [1, 2]}, "each of the 120 rows"),
    ],
)
def test_what_cannot_work_is_refused_before_the_search(change, message, monkeypatch):
    monkeypatch.setattr(build, "NeighbourSearch", lambda *_, **__: pytest.fail("searched"))
    anchors, documents, document_of_row = embeddings()
    arguments = {
        "anchor_embeddings": anchors,
        "document_embeddings": documents,
        "document_of_row": document_of_row,
    }
    with pytest.raises(ValueError, match=message):
        build_clusters(**arguments | change)


def test_nan_is_refused_by_argument_and_row():
    anchors, documents, document_of_row = embeddings()
    documents[5, 5] = np.nan
    with pytest.raises(ValueError, match="documents: 1 of 90 rows hold NaN.*row 5"):
        build_clusters(anchors, documents, document_of_row)


@pytest.mark.parametrize("key", [np.arange(120), np.arange(120) // 2])
@pytest.mark.parametrize("range_max", [1, 5, 20])
def test_windows_of_communities_are_as_deep_as_asked_beside_a_row_s_own_positives(range_max, key):
    anchors, documents, document_of_row = embeddings()
    options = {"num_negatives": 1, "range_max": range_max, "owner_filter": False, "anchor_key": key}
    order, _, _ = nearest(anchors, documents)
    expected = assign_communities(order, anchors, document_of_row, **options)
    found = find_clusters(anchors, documents, document_of_row, builder="communities", **options)
    assert found.counts == expected.counts and found.counts.edges > 0
    assert plain(found.clusters) == plain(expected.clusters)
