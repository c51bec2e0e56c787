"""Processes over gloo, each with its share of the documents, against one process."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from saha_st import heartbeat
from saha_st.mining import build, exact, neighbours
from saha_st.mining.build import find_clusters
from saha_st.mining.neighbours import top_k
from saha_st.ranks import Ranks

pytestmark = pytest.mark.slow

K = 12
CASES = ["plain", "float32 first", "ties", "fewer documents than neighbours", "fewer documents than processes"]


def arguments_of(case: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    count = {"fewer documents than neighbours": 9, "fewer documents than processes": 1}.get(case, 301)
    documents = rng.standard_normal((count, 24)).astype(np.float32)
    if case == "ties":  # copies of a document in different shares
        documents = documents[rng.integers(20, size=count)]
    return rng.standard_normal((70, 24)).astype(np.float32), documents


def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    documents = rng.standard_normal((90, 16)).astype(np.float32)
    document_of_row = rng.integers(90, size=120)
    anchors = documents[document_of_row] + rng.standard_normal((120, 16)).astype(np.float32)
    return anchors, documents, document_of_row


def search(case: str, ranks: Ranks | None) -> tuple[np.ndarray, np.ndarray] | None:
    few = exact._DOCUMENTS_PER_CANDIDATE
    exact._DOCUMENTS_PER_CANDIDATE = 1 if case == "float32 first" else few
    try:
        return top_k(*arguments_of(case), K, block_size=16, ranks=ranks)
    finally:
        exact._DOCUMENTS_PER_CANDIDATE = few


def worker(rank: int, count: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(count))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    ranks = Ranks.current()
    heartbeat.announce_failure = lambda error: True  # as if one ran: who fails waits for the others
    for case in CASES:
        found = search(case, ranks)
        if rank == 0:
            np.savez(folder / f"{case}.npz", indices=found[0], scores=found[1])
        else:
            assert found is None
    mapped = top_k(*arguments_of("plain"), K, ranks=ranks, output_folder=folder / f"maps-{rank}")
    assert (mapped is None) == (rank > 0)
    built_here = []
    original = neighbours.FaissSearch
    neighbours.FaissSearch = lambda *arguments, **options: built_here.append(rank) or original(*arguments, **options)
    top_k(*arguments_of("plain"), K, backend="faiss", ranks=ranks)
    assert built_here == [0] * (rank == 0)
    mined = find_clusters(*pairs(), num_negatives=3, block_size=10, ranks=ranks)
    assert (mined is None) == (rank > 0)
    if rank == 0:
        (folder / "clusters.json").write_text(json.dumps([cluster.tolist() for cluster in mined.clusters]))
    communities = find_clusters(*pairs(), num_negatives=3, block_size=10, ranks=ranks, builder="communities")
    assert (communities is None) == (rank > 0)
    if rank == 0:
        (folder / "communities.json").write_text(json.dumps([each.tolist() for each in communities.clusters]))
    if rank == 0:
        build.assign_communities = lambda *_, **__: 1 / 0
    with pytest.raises((ZeroDivisionError, RuntimeError), match="division by zero"), ranks.together():
        find_clusters(*pairs(), num_negatives=3, ranks=ranks, builder="communities")  # nor here
    if rank == 0:
        build.assign_clusters = lambda *_, **__: 1 / 0
    with pytest.raises((ZeroDivisionError, RuntimeError), match="division by zero"), ranks.together():
        find_clusters(*pairs(), num_negatives=3, ranks=ranks)  # the others do not wait for it
    with pytest.raises((ValueError, RuntimeError), match="hold NaN"):  # noqa: PT012
        queries, documents = arguments_of("plain")
        if rank == count - 1:
            documents[3] = np.nan
        top_k(queries, documents, K, ranks=ranks)
    distributed.barrier()  # who is first to leave would break the others' connections
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def found_together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what the first of two or three processes found."""
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, args=(request.param, port, folder), nprocs=request.param)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_lists_and_scores_are_those_of_one_process_to_the_bit(found_together: Path, case: str):
    indices, scores = search(case, ranks=None)
    together = np.load(found_together / f"{case}.npz")
    assert indices.shape == (70, min(K, len(arguments_of(case)[1])))
    np.testing.assert_array_equal(together["indices"], indices)
    np.testing.assert_array_equal(together["scores"], scores)


def test_only_the_first_process_writes_files(found_together: Path):
    assert [folder.name for folder in found_together.glob("maps-*")] == ["maps-0"]
    np.testing.assert_array_equal(np.load(found_together / "maps-0" / "neighbours.npy"), search("plain", None)[0])


def test_clusters_are_those_of_one_process(found_together: Path):
    expected = [cluster.tolist() for cluster in find_clusters(*pairs(), num_negatives=3).clusters]
    assert len(expected) > 20
    assert json.loads((found_together / "clusters.json").read_text()) == expected


def test_communities_are_those_of_one_process(found_together: Path):
    expected = find_clusters(*pairs(), num_negatives=3, builder="communities").clusters
    assert len(expected) == 30
    found = json.loads((found_together / "communities.json").read_text())
    assert found == [cluster.tolist() for cluster in expected]
