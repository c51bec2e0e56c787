"""Communities: what their partitioners are worth, and what is in their clusters where the truth is known.

    OMP_NUM_THREADS=1 python benchmarks/communities.py              # all sections; about 12 minutes on a free core
    python benchmarks/communities.py --sections truth               # one of: partitioners owners truth
    python benchmarks/communities.py --quick                        # all small: a smoke test

Memory that was freed and not given back to the system hides what is used next. Where the memory of small cases
matters, run one section a process, with `MALLOC_MMAP_THRESHOLD_=131072` in the environment of glibc.

"partitioners" divides pairs of topics (see `cluster_rule.py`) by the greedy partitioner, by METIS, and in their order,
each with the owner filter and without. "owners" has documents with several owners each, down to a few labels, among
them some of very different frequency. "truth" mines a subset of mini-MMEB with saha-tiny-base: contamination is the
share of negatives that are positives in truth, as their concepts are equal; hardness is the mean cosine of an anchor
and its true negatives. Every ordered pair of rows in a cluster counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cluster_rule import POOL, Scenario, retrieval
from measure import machine, peak_memory, table

from saha_st.mining.audit import Truth, audit_negatives
from saha_st.mining.build import find_clusters
from saha_st.mining.communities import assign_communities

PARTITIONERS = ("greedy", "metis")


def partitioners(options: argparse.Namespace) -> None:
    """Share of the edges inside clusters, seconds and memory, at growing sizes."""
    cells = []
    for rows in options.rows:
        scenario = retrieval(rows, options.dim, seed=options.seed)
        for owner_filter in (False, True):
            for name in PARTITIONERS:
                cells.append(_divided(scenario, options, owner_filter=owner_filter, partitioner=name))
    print(f"\n### Partition into clusters of 16; windows of {options.range_max} ranks, {options.dim} dims\n")
    print(table(COLUMNS, cells))
    print("\nWithout lists, which are given. Clusters drawn at random have 0.00% of the edges.")


def owners(options: argparse.Namespace) -> None:
    """The same where documents have several owners each."""
    cells = []
    for documents in options.documents:
        for skewed in (False, True) if documents < 100 else (False,):
            scenario = shared_documents(options.owned_rows, documents, options.dim, seed=options.seed, skewed=skewed)
            for owner_filter in (False, True):
                cells.append(_divided(scenario, options, owner_filter=owner_filter, partitioner="greedy"))
    print(f"\n### Several owners a document: {options.owned_rows:,} rows; windows of {options.range_max} ranks\n")
    print(table(COLUMNS, cells))


COLUMNS = ["rows", "owner filter", "partitioner", "edges a row", "edges inside", "s", "CPU s", "peak MB"]
COLUMNS += ["full clusters", "rows left out"]


def _divided(scenario: Scenario, options: argparse.Namespace, *, owner_filter: bool, partitioner: str) -> list[str]:
    """One row of a table."""
    lists = scenario.neighbours[:, : options.range_max]
    arguments = {"range_max": options.range_max, "owner_filter": owner_filter, "partitioner": partitioner}
    start = time.perf_counter(), time.process_time()
    peak, result = peak_memory(
        lambda: assign_communities(lists, scenario.anchors, scenario.document_of_row, **arguments)
    )
    clock, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    counts, rows = result.counts, len(lists)
    full = counts.cluster_sizes.get(16, 0) / counts.clusters
    print(f"{scenario.name}, {rows:,} rows, {partitioner}: {clock:.0f} s", file=sys.stderr)
    return [
        f"{rows:,}, {scenario.name}",
        "on" if owner_filter else "off",
        partitioner,
        f"{2 * counts.edges / rows:.1f}",
        f"{counts.edges_in_clusters / counts.edges:.2%}",
        f"{clock:.1f}",
        f"{processor:.1f}",
        f"{peak / 1e6:,.0f}",
        f"{full:.1%}",
        f"{counts.rows_left_out:,}",
    ]


def shared_documents(rows: int, documents: int, dim: int, *, seed: int, skewed: bool = False) -> Scenario:
    """Rows around documents of topics, equally many owners of each; skewed: half as many as the one before have."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(documents // 200, 1), dim), dtype=np.float32)
    vectors = centres[np.arange(documents) % len(centres)] + rng.standard_normal((documents, dim), dtype=np.float32)
    share = 0.5 ** np.arange(documents) if skewed else np.ones(documents)
    sizes = np.maximum(rows * share / share.sum(), 1).astype(int)
    sizes[0] += rows - sizes.sum()
    document_of_row = rng.permutation(np.repeat(np.arange(documents), sizes))
    anchors = (vectors[document_of_row] + rng.standard_normal((rows, dim), dtype=np.float32)).astype(np.float16)
    lists = np.empty((rows, min(POOL, documents)), dtype=np.int32)
    for start in range(0, rows, 4096):
        scores = anchors[start : start + 4096].astype(np.float32) @ vectors.T
        lists[start : start + 4096] = np.argsort(-scores, axis=1)[:, : lists.shape[1]]
    name = f"{documents:,} documents" + (", each half as frequent" if skewed else "")
    return Scenario(name, lists, anchors, document_of_row)


@dataclass(frozen=True)
class Known:
    """Vectors of pairs whose truth is known."""

    anchors: np.ndarray  # (rows, dim)
    documents: np.ndarray  # (documents, dim)
    document_of_row: np.ndarray  # (rows,)
    anchor_of_row: np.ndarray  # (rows,)
    concept_of_row: np.ndarray  # (rows,)


def truth(options: argparse.Namespace) -> None:
    """Contamination and hardness of the builders on mini-MMEB."""
    known = _mini_mmeb(options.subset, options.train_rows, options.seed)
    rows = len(known.document_of_row)
    false_negatives = (known.concept_of_row[:, None] == known.concept_of_row).sum() / rows - 1
    cells = []
    for name, arguments in _builders():
        result = find_clusters(
            known.anchors,
            known.documents,
            known.document_of_row,
            anchor_key=known.anchor_of_row,
            num_negatives=options.num_negatives,
            **arguments,
        )
        contamination, hardness = _measured(known, result.clusters)
        counts = result.counts
        size = counts.members / counts.clusters
        cells.append([name, f"{contamination:.2%}", f"{hardness:.4f}", f"{size:.2f}", f"{counts.rows_left_out}"])
    cells.append(["random clusters", *_by_chance(known, options), f"{options.num_negatives + 1:.2f}", "0"])
    print(f"\n### {options.subset}, {rows:,} pairs, K = {options.num_negatives}, vectors of saha-tiny-base\n")
    print(f"In truth {false_negatives:.2f} other rows have a row's positive as well.\n")
    print(table(["", "contamination", "hardness", "rows a cluster", "rows left out"], cells))


def _builders() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "owners (the paper)", {}
    yield "owners, no filter", {"owner_filter": False}
    for range_min in (0, 2, 5, 10, 30):
        arguments = {"builder": "communities", "range_min": range_min, "owner_filter": False}
        yield f"communities, range_min={range_min}, no filter", arguments
    for range_min in (0, 2, 5, 10):
        yield f"communities, range_min={range_min}, owner filter", {"builder": "communities", "range_min": range_min}
    arguments = {"builder": "communities", "partitioner": "metis"}
    yield "communities, METIS, range_min=0, no filter", arguments | {"owner_filter": False}
    yield "communities, METIS, range_min=0, owner filter", arguments


def _measured(known: Known, clusters: Sequence[np.ndarray]) -> tuple[float, float]:
    """Contamination and hardness of clusters, as the report has them."""
    one, other = _ordered_pairs(clusters)
    judge = Truth(known.concept_of_row, known.document_of_row, known.anchor_of_row)
    audit = audit_negatives(known.anchors, known.documents, one, known.document_of_row[other], judge)
    return audit.contamination, audit.hardness


def _by_chance(known: Known, options: argparse.Namespace) -> list[str]:
    rows = np.random.default_rng(options.seed).permutation(len(known.document_of_row))
    contamination, hardness = _measured(known, np.array_split(rows, len(rows) // (options.num_negatives + 1)))
    return [f"{contamination:.2%}", f"{hardness:.4f}"]


def _ordered_pairs(clusters: Sequence[np.ndarray]) -> np.ndarray:
    """All pairs of two members of one cluster, in both orders. Shape (2, pairs)."""
    return np.concatenate(
        [np.stack([np.repeat(rows, len(rows)), np.tile(rows, len(rows))])[:, ~np.eye(len(rows), dtype=bool).ravel()]
         for rows in clusters],
        axis=1,
    )  # fmt: skip


def _mini_mmeb(subset: str, rows: int, seed: int) -> Known:
    """Generates the pairs and encodes them."""
    from saha_st import load_embedder
    from saha_st.data import load_mmeb
    from saha_st.data.scenes import concepts_of, write_mini_mmeb
    from saha_st.encoding import DistinctInputs, encode_column

    model = load_embedder("saha-tiny-base")
    with tempfile.TemporaryDirectory() as folder:
        train = (
            write_mini_mmeb(Path(folder) / "made", seed=seed, train_rows=rows, subsets=[subset]) / "mini-MMEB-train"
        )
        dataset = dict(load_mmeb(train, [subset], split="original"))[subset]
        concepts = np.unique(concepts_of(train, subset), return_inverse=True)[1]
        anchors, documents = (DistinctInputs.of(dataset, name) for name in ("anchor", "positive"))
        vectors = {
            task: encode_column(dataset, column, model, task=task, distinct=inputs)
            for column, task, inputs in (("anchor", "query", anchors), ("positive", "document", documents))
        }
    return Known(
        np.asarray(vectors["query"].of_rows),
        np.asarray(vectors["document"].embeddings),
        documents.index_of_row,
        anchors.index_of_row,
        concepts,
    )


SECTIONS = {"partitioners": partitioners, "owners": owners, "truth": truth}
QUICK = {"rows": [2000], "owned_rows": 800, "documents": [800, 80, 16], "train_rows": 60}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 500_000], help="rows to divide")
    parser.add_argument("--owned_rows", type=int, default=20_000, help="rows to divide in section owners")
    documents = [20_000, 2000, 400, 16]
    parser.add_argument("--documents", type=int, nargs="+", default=documents, help="documents that they share")
    parser.add_argument("--dim", type=int, default=64, help="dimensions of the generated vectors")
    parser.add_argument("--range_max", type=int, default=POOL, help="ranks in a window")
    parser.add_argument("--subset", default="Scenes_t2i", help="training subset of mini-MMEB")
    parser.add_argument("--train_rows", type=int, default=500, help="pairs of the subset")
    parser.add_argument("--num_negatives", type=int, default=7, help="mates of a full cluster in section truth")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated data")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    print(machine())
    for section in options.sections:
        SECTIONS[section](options)


if __name__ == "__main__":
    main()
