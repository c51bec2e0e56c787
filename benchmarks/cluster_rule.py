"""Speed of the cluster rule (saha_st/mining/clusters.py) with the top-k lists given, as a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/cluster_rule.py

Lists are not random: rows belong to topics, and a row's list holds the nearest documents of its own and of two other
topics. That is what makes owners scarce and the second phase busy. The last row of the table times the literal rule of
the tests (Python sets) and the package's on the same small data. "Bytes a row" is the peak beyond the arguments.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from saha_st.mining.clusters import assign_clusters, pool_size

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "mining"))
from literal_rule import literal_clusters  # noqa: E402

NUM_NEGATIVES, POOL_MULTIPLIER = 15, 3
POOL = pool_size(NUM_NEGATIVES, POOL_MULTIPLIER)


@dataclass(frozen=True)
class Scenario:
    """Arguments of `assign_clusters`, with a name for the table."""

    name: str
    neighbours: np.ndarray  # (rows, POOL)
    anchors: np.ndarray  # (rows, dim) float16
    document_of_row: np.ndarray  # (rows,)
    anchor_key: np.ndarray | None = None
    owner_filter: bool = True


@dataclass(frozen=True)
class TopicPairs:
    """Pairs of which each belongs to a topic."""

    anchors: np.ndarray  # (rows, dim) float16
    documents: np.ndarray  # (documents, dim) float16
    document_of_row: np.ndarray  # (rows,)
    anchor_of_row: np.ndarray  # (rows,)
    topic_of_row: np.ndarray  # (rows,)
    topic_of_document: np.ndarray  # (documents,)


def topic_pairs(rows: int, dim: int, *, seed: int, positives_per_anchor: int = 1) -> TopicPairs:
    """Topics of a thousand rows, and one document a row but for a fifth that share theirs."""
    rng = np.random.default_rng(seed)
    topics = max(rows // 1000, 3)
    anchors_count = rows // positives_per_anchor
    anchor_of_row = np.arange(rows) % anchors_count
    topic_of_row = rng.integers(topics, size=anchors_count)[anchor_of_row]
    centres = rng.standard_normal((topics, dim), dtype=np.float32)
    anchors = _around(centres, topic_of_row[:anchors_count], rng)[anchor_of_row]
    document_of_row = _share_some(topic_of_row, rng)
    topic_of_document = np.zeros(rows, dtype=np.int64)
    topic_of_document[document_of_row] = topic_of_row
    documents = _around(centres, topic_of_document, rng)
    return TopicPairs(anchors, documents, document_of_row, anchor_of_row, topic_of_row, topic_of_document)


def retrieval(rows: int, dim: int, *, seed: int, hubness: float = 0.0, positives_per_anchor: int = 1) -> Scenario:
    """Pairs of topics with their lists. Hubness makes a few documents near to everything."""
    pairs = topic_pairs(rows, dim, seed=seed, positives_per_anchor=positives_per_anchor)
    bonus = hubness * np.random.default_rng(seed + 1).exponential(size=rows).astype(np.float32)
    name = f"hubs (strength {hubness:g})" if hubness else "retrieval"
    key = None
    if positives_per_anchor > 1:
        name, key = f"{positives_per_anchor} positives an anchor", pairs.anchor_of_row
    return Scenario(name, _topic_lists(pairs, bonus), pairs.anchors, pairs.document_of_row, key)


def classification(rows: int, dim: int, *, labels: int, seed: int) -> Scenario:
    """Few documents (labels) with many owners each."""
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((labels, dim), dtype=np.float32)
    document_of_row = rng.integers(labels, size=rows)
    anchors = _around(documents, document_of_row, rng)
    lists = np.empty((rows, min(POOL, labels)), dtype=np.int32)
    for start in range(0, rows, 8192):
        scores = anchors[start : start + 8192].astype(np.float32) @ documents.T
        lists[start : start + 8192] = np.argsort(-scores, axis=1)[:, :POOL]
    return Scenario(f"classification, {labels} labels", lists, anchors, document_of_row, owner_filter=False)


def _around(centres: np.ndarray, topic: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vectors around their topic's centre, float16 as a cache would hold them."""
    vectors = np.empty((len(topic), centres.shape[1]), dtype=np.float16)
    for start in range(0, len(topic), 65536):
        block = centres[topic[start : start + 65536]]
        vectors[start : start + 65536] = block + rng.standard_normal(block.shape, dtype=np.float32)
    return vectors


def _share_some(topic_of_row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Row i owns document i; every fifth row owns the document of another row of its topic instead."""
    document_of_row = np.arange(len(topic_of_row))
    by_topic = np.argsort(topic_of_row, kind="stable")
    sharing = rng.random(len(by_topic) - 1) < 0.2
    same_topic = topic_of_row[by_topic[1:]] == topic_of_row[by_topic[:-1]]
    chosen = np.flatnonzero(sharing & same_topic)
    document_of_row[by_topic[chosen + 1]] = by_topic[chosen]
    return document_of_row


def _topic_lists(pairs: TopicPairs, bonus: np.ndarray) -> np.ndarray:
    """The exact nearest documents among three topics: the row's own and the next two."""
    topics = int(pairs.topic_of_row.max()) + 1
    rows_by_topic = _members(pairs.topic_of_row, topics)
    documents_by_topic = _members(pairs.topic_of_document, topics)
    lists = np.full((len(pairs.anchors), POOL), -1, dtype=np.int32)
    for topic, rows in enumerate(rows_by_topic):
        near = np.concatenate([documents_by_topic[(topic + step) % topics] for step in range(3)])
        scores = pairs.anchors[rows].astype(np.float32) @ pairs.documents[near].astype(np.float32).T + bonus[near]
        best = np.argpartition(-scores, POOL, axis=1)[:, :POOL]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1), axis=1)
        lists[rows] = near[best]
    return lists


def _members(topic: np.ndarray, topics: int) -> list[np.ndarray]:
    """What belongs to each topic."""
    return np.split(np.argsort(topic, kind="stable"), np.cumsum(np.bincount(topic, minlength=topics))[:-1])


def scenarios(options: argparse.Namespace) -> Iterator[Scenario]:
    """One after another, since each holds some GB."""
    dim, seed = options.dims[-1], options.seed
    for each_dim in options.dims:
        yield retrieval(options.rows, each_dim, seed=seed)
    yield retrieval(options.rows, dim, seed=seed, hubness=0.1 * dim)
    yield retrieval(options.rows, dim, seed=seed, positives_per_anchor=5)
    yield classification(options.classification_rows, dim, labels=options.labels, seed=seed)


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """Median seconds by the clock and of the processor, which a busy machine distorts less; and the last result."""
    clock, processor = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = call()
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return median(clock), median(processor), result


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that a call holds at one time beyond its arguments, its result included."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def run(scenario: Scenario, repeats: int, memory: bool) -> str:
    """One row of the table."""
    clock, processor, result = timed(lambda: _assign(scenario), repeats)
    rows, dim = scenario.anchors.shape
    extra = f"{peak_bytes(lambda: _assign(scenario)) / rows:.0f}" if memory else "-"
    counts = result.counts
    size = counts.members / max(counts.clusters, 1)
    return (
        f"| {scenario.name} | {rows:,} | {dim} | {clock:.1f} | {processor:.1f} | {extra} | {counts.clusters:,} "
        f"| {counts.phase_two_clusters:,} | {size:.1f} | {counts.rows_left_out:,} |"
    )


def _assign(scenario: Scenario):  # noqa: ANN202
    return assign_clusters(
        scenario.neighbours,
        scenario.anchors,
        scenario.document_of_row,
        num_negatives=NUM_NEGATIVES,
        pool_multiplier=POOL_MULTIPLIER,
        owner_filter=scenario.owner_filter,
        anchor_key=scenario.anchor_key,
    )


def ratio_to_literal(rows: int, dim: int, seed: int, repeats: int) -> str:
    """A sentence that compares the package with the literal rule on the same data."""
    small = retrieval(rows, dim, seed=seed)
    _, ours, result = timed(lambda: _assign(small), repeats)
    _, literal, (one, two) = timed(
        lambda: literal_clusters(
            small.neighbours,
            small.anchors,
            small.document_of_row,
            num_negatives=NUM_NEGATIVES,
            pool_multiplier=POOL_MULTIPLIER,
        ),
        1,
    )
    same = [cluster.tolist() for cluster in result.clusters] == one + two
    return (
        f"{rows:,} rows: literal rule {literal:.2f} CPU s, package {ours:.2f} CPU s, "
        f"{literal / ours:.1f} times as fast; same clusters: {'yes' if same else 'no'}."
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the retrieval scenarios")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 256], help="sizes of the embeddings")
    parser.add_argument("--classification-rows", type=int, default=200_000, help="rows of the classification scenario")
    parser.add_argument("--labels", type=int, default=1000, help="documents of the classification scenario")
    parser.add_argument("--literal-rows", type=int, default=5000, help="rows of the comparison with the literal rule")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is shown")
    parser.add_argument("--memory", action="store_true", help="run once more under tracemalloc (slow)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated data")
    options = parser.parse_args()

    print("| data | rows | dim | s | CPU s | bytes a row | clusters | phase 2 | rows a cluster | rows left out |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for scenario in scenarios(options):
        print(run(scenario, options.repeats, options.memory), flush=True)
    print("\n" + ratio_to_literal(options.literal_rows, options.dims[-1], options.seed, options.repeats))


if __name__ == "__main__":
    main()
