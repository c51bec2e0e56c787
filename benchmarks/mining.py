"""Speed of mining: exact search, search and rule, and indexes, each beside what one would use instead; and its page.

    python benchmarks/mining.py                     # every section; about 20 minutes on two free cores
    python benchmarks/mining.py --sections search   # one of: search reference sentence-transformers faiss report
    python benchmarks/mining.py --quick             # all of them small, within two minutes: a smoke test

The data are pairs of topics, a thousand rows each (see `cluster_rule.py`). Ratios are those of rounds in turns in one
process, with their spread. The page of `--report` has no peer: "report" shows that it does not grow with the rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from cluster_rule import NUM_NEGATIVES, POOL, POOL_MULTIPLIER, TopicPairs, literal_clusters, topic_pairs
from datasets import Dataset
from known_vectors import KnownVectors
from measure import machine, peak_memory, side_by_side, table

from saha_st.encoding import DistinctInputs, EncodedColumn
from saha_st.mining import miner
from saha_st.mining.build import find_clusters
from saha_st.mining.clusters import ClusterAssignment, assign_clusters
from saha_st.mining.exact import candidates_for
from saha_st.mining.neighbours import top_k
from saha_st.mining.report import write_report

RULE = {"num_negatives": NUM_NEGATIVES, "pool_multiplier": POOL_MULTIPLIER}


def data(rows: int, dim: int, seed: int) -> TopicPairs:
    """Pairs of topics, in float32 and of length 1, so that nobody has to convert them."""
    pairs = topic_pairs(rows, dim, seed=seed)
    for name in ("anchors", "documents"):
        vectors = getattr(pairs, name).astype(np.float32)
        object.__setattr__(pairs, name, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return pairs


def mined(pairs: TopicPairs, **options: Any) -> ClusterAssignment:
    """Our search and rule."""
    return find_clusters(pairs.anchors, pairs.documents, pairs.document_of_row, **RULE, **options)


# Exact search ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def bare_product(queries: torch.Tensor, documents: torch.Tensor, k: int, shape: tuple[int, int]) -> torch.Tensor:
    """Float32 products in blocks, each with `topk`, and nothing else: equal scores come in any order.

    Args:
        queries: shape (queries, dim), of length 1.
        documents: shape (documents, dim), of length 1.
        k: neighbours a query.
        shape: queries and documents in a block.

    Returns:
        Shape (queries, k).
    """
    found = []
    buffer = torch.empty(shape[0] * min(shape[1], len(documents)), device=queries.device)
    for left in queries.split(shape[0]):
        best_scores = best = None
        start = 0
        for right in documents.split(shape[1]):
            out = buffer[: len(left) * len(right)].view(len(left), len(right))
            scores, indices = torch.mm(left, right.T, out=out).topk(min(k, len(right)), dim=1)
            indices += start
            if best is not None:
                scores, places = torch.cat((best_scores, scores), dim=1).topk(k, dim=1)
                indices = torch.cat((best, indices), dim=1).gather(1, places)
            best_scores, best = scores, indices
            start += len(right)
        found.append(best)
    return torch.cat(found)


def search(options: argparse.Namespace) -> None:
    """Our exact search once, with its memory and the rule's share, then beside the bare product."""
    rows, dim = options.search_rows, options.search_dim
    pairs = data(rows, dim, options.seed)
    _whole_search(pairs)  # first, as memory that was used before is not seen
    queries = pairs.anchors[: options.queries]
    where = "cuda" if torch.cuda.is_available() else "cpu"
    on_device = [torch.from_numpy(vectors).to(where) for vectors in (queries, pairs.documents)]
    shapes = {f"bare product, blocks of {a} x {b}": (a, b) for a, b in options.bare_blocks}
    contenders: dict[str, Callable[[], object]] = {"ours": lambda: top_k(queries, pairs.documents, POOL)}
    contenders |= {name: partial(bare_product, *on_device, POOL, shape) for name, shape in shapes.items()}
    timings = side_by_side(contenders, rounds=options.rounds, warm_up=False)
    print(f"\n### Exact search, {len(queries):,} of {rows:,} queries in {rows:,} documents x {dim}, k = {POOL}\n")
    rows_of_table = [[name, f"{timings.median(name):.1f}", timings.cost("ours", name)] for name in contenders]
    print(table(["", "s", "our time / its time"], rows_of_table))


def _whole_search(pairs: TopicPairs) -> None:
    """Peak memory of the search for all queries, the time of the rule after it, and of both as mining runs them."""
    (rows, dim), block = pairs.anchors.shape, 1024
    start = time.perf_counter()
    peak, (neighbours, scores) = peak_memory(lambda: top_k(pairs.anchors, pairs.documents, POOL))
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    result = assign_clusters(neighbours, pairs.anchors, pairs.document_of_row, **RULE)
    rule = time.perf_counter() - start
    start = time.perf_counter()
    mined(pairs)
    both = time.perf_counter() - start
    lists = neighbours.nbytes + scores.nbytes
    blocks = 16 * block * (block + dim) * 4 + 2**21 * (8 + 4) + block * candidates_for(POOL) * 40
    print(f"\n### All {rows:,} queries once, and the cluster rule after them\n")
    cells = [
        ["search of all rows", f"{seconds:.1f} s"],
        ["rule, given their lists", f"{rule:.1f} s, {rule / seconds:.1%} of the search"],
        ["both, as mining does it: only rows that the rule comes to are searched", f"{both:.1f} s"],
        ["clusters", f"{len(result.clusters):,}"],
        ["peak memory of the search", _mb(peak)],
        [f"of it the result, {rows:,} x {POOL} x 8 bytes", _mb(lists)],
        ["lengths, 8 bytes a query and 16 a document", _mb(8 * rows + 16 * len(pairs.documents))],
        ["blocks on the CPU", _mb(blocks)],
        ["all scores would be", _mb(rows * len(pairs.documents) * 4)],
    ]
    print(table(["", ""], cells))


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


# The reference way -------------------------------------------------------------------------------------------------


class OneByOne(Sequence):
    """Lists that FAISS looks up for one row at a time, when the rule asks for them."""

    def __init__(self, pairs: TopicPairs) -> None:
        import faiss

        self._index = faiss.IndexFlatIP(pairs.documents.shape[1])
        self._index.add(pairs.documents)
        self._anchors, self._known = pairs.anchors, {}

    def __len__(self) -> int:
        return len(self._anchors)

    def __getitem__(self, row: int) -> np.ndarray:
        if row not in self._known:
            self._known[row] = self._index.search(self._anchors[row : row + 1], POOL)[1][0]
        return self._known[row]


def one_by_one(pairs: TopicPairs, *, every_row: bool) -> list[list[int]]:
    """Design 1.2 to the letter: a search a row, Python sets for the rule.

    Args:
        pairs: the pairs.
        every_row: search for all rows first; False: only for those that the rule comes to.
    """
    lists = OneByOne(pairs)
    if every_row:
        lists = [lists[row] for row in range(len(lists))]
    return sum(literal_clusters(lists, pairs.anchors, pairs.document_of_row, **RULE), [])


def reference(options: argparse.Namespace) -> None:
    """Search and rule beside the reference way, at growing sizes."""
    cells = []
    for rows in options.reference_rows:
        pairs = data(rows, options.reference_dim, options.seed)
        results: dict[str, Any] = {}
        contenders = {
            "ours": lambda pairs=pairs, results=results: results.update(ours=mined(pairs)),
            "every": lambda pairs=pairs, results=results: results.update(theirs=one_by_one(pairs, every_row=True)),
            "asked": lambda pairs=pairs, results=results: results.update(theirs=one_by_one(pairs, every_row=False)),
        }
        timings = side_by_side(contenders, rounds=options.reference_rounds, warm_up=False)
        ours = [tuple(cluster.tolist()) for cluster in results["ours"].clusters]
        same = len(set(ours) & set(map(tuple, results["theirs"]))) / len(ours)
        seconds = [f"{timings.median(name):.1f}" for name in contenders]
        ratios = [timings.speed_up("ours", name) for name in ("every", "asked")]
        cells.append([f"{rows:,}", *seconds, *ratios, f"{same:.2%}"])
    print(
        f"\n### Search and rule beside IndexFlatIP one query at a time and Python sets, {options.reference_dim} dims\n"
    )
    columns = ["rows", "ours, s", "every row searched, s", "rows that are asked for, s"]
    print(table([*columns, "we are faster than the first", "than the second", "same clusters"], cells))


# Sentence Transformers ---------------------------------------------------------------------------------------------


def texts_of(pairs: TopicPairs) -> tuple[Dataset, KnownVectors]:
    """The pairs as texts, and what knows their vectors."""
    anchors = [f"query {row}" for row in range(len(pairs.anchors))]
    documents = [f"document {number}" for number in range(len(pairs.documents))]
    vectors = dict(zip(anchors + documents, [*pairs.anchors, *pairs.documents], strict=True))
    positives = [documents[number] for number in pairs.document_of_row]
    return Dataset.from_dict({"anchor": anchors, "positive": positives}), KnownVectors(vectors)


def look_up(
    dataset: Dataset, column: str, model: KnownVectors, *, distinct: DistinctInputs, **_: Any
) -> EncodedColumn:
    """Known vectors in the place of `encode_column`."""
    texts = dataset[column][:]
    return EncodedColumn(model.encode_query([texts[row] for row in distinct.first_row]), distinct)


def mined_clusters(dataset: Dataset, model: KnownVectors, **options: Any) -> miner.MinedClusters:
    """`find_saha_clusters`, with what it asks of a model answered by the known vectors."""
    known = {"vector_fingerprint": lambda *_, **__: "known", "weights_digest": lambda *_, **__: "known"}
    with patch.multiple(miner, encode_column=look_up, **known):
        return miner.find_saha_clusters(dataset, model, **RULE, **options, show_progress_bar=False)


def sentence_transformers(options: argparse.Namespace) -> None:
    """From the same texts and vectors to a dataset, beside `mine_hard_negatives`."""
    from sentence_transformers.util import mine_hard_negatives

    dataset, model = texts_of(data(options.st_rows, options.st_dim, options.seed))
    results: dict[str, Any] = {}
    theirs = {"num_negatives": NUM_NEGATIVES, "output_format": "n-tuple", "verbose": False}
    peer = partial(mine_hard_negatives, dataset, model, **theirs)
    contenders = {
        "ours: mine_saha_clusters": lambda: mined_clusters(dataset, model).of(dataset),
        "mine_hard_negatives": peer,
        "mine_hard_negatives, use_faiss": partial(peer, use_faiss=True),
    }
    kept = {name: lambda name=name, call=call: results.update({name: call()}) for name, call in contenders.items()}
    with patch("sentence_transformers.util.hard_negatives.trange", lambda *span, **_: range(*span)):  # no bars
        timings = side_by_side(kept, rounds=options.rounds)
    print(f"\n### From {options.st_rows:,} pairs of texts and their vectors x {options.st_dim} to a dataset\n")
    print("Encoding is a look-up in a dictionary for all.\n")
    ours = next(iter(contenders))
    cells = [
        [name, f"{timings.median(name):.2f}", timings.speed_up(ours, name), f"{len(results[name]):,}"]
        for name in contenders
    ]
    print(table(["", "s", "its time / our time", "rows"], cells))


# Indexes -----------------------------------------------------------------------------------------------------------


def anchors_and_mates(result: ClusterAssignment) -> set[tuple[int, int]]:
    """Pairs of a cluster's anchor and one of its mates."""
    return {(int(cluster[0]), mate) for cluster in result.clusters for mate in cluster[1:].tolist()}


def hardness(pairs: TopicPairs, result: ClusterAssignment) -> float:
    """Mean cosine of an anchor and its mates' documents: how hard the negatives are."""
    anchors, mates = np.array(sorted(anchors_and_mates(result))).T
    documents = pairs.documents[pairs.document_of_row[mates]]
    return float(np.einsum("nd,nd->n", pairs.anchors[anchors], documents).mean())


def indexes(options: argparse.Namespace) -> None:
    """Time of FAISS indexes and what they find of the exact lists and clusters."""
    pairs = data(options.faiss_rows, options.faiss_dim, options.seed)
    exact_lists, exact, cells = None, None, []
    for name, arguments in _indexes_to_try(options.faiss_rows):
        start = time.perf_counter()
        lists, _ = top_k(pairs.anchors, pairs.documents, POOL, **arguments)
        seconds = time.perf_counter() - start
        result = assign_clusters(lists, pairs.anchors, pairs.document_of_row, **RULE)
        if exact is None:
            exact_lists, exact = lists, anchors_and_mates(result)
        found = np.mean([np.isin(a, b).mean() for a, b in zip(exact_lists, lists, strict=True)])
        again = len(exact & anchors_and_mates(result)) / len(exact)
        quality = f"{hardness(pairs, result):.4f}"
        cells.append([name, f"{seconds:.1f}", f"{found:.2%}", f"{again:.2%}", quality, f"{len(result.clusters):,}"])
    print(f"\n### Indexes of {options.faiss_rows:,} rows x {options.faiss_dim}, k = {POOL}; built and searched once\n")
    columns = ["", "s", "neighbours found", "(anchor, mate) pairs found", "mean cosine of mates", "clusters"]
    print(table(columns, cells))


def _indexes_to_try(rows: int) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "exact (torch)", {}
    yield "exact (FAISS Flat)", {"backend": "faiss"}
    lists = int(rows**0.5)
    tries = [(f"IVF{lists},Flat", f"nprobe={probes}") for probes in (1, 4, 16)]
    tries += [("HNSW32", f"efSearch={depth}") for depth in (128, 512)]
    for index, parameters in tries:
        arguments = {"backend": "faiss", "faiss_index": index, "faiss_parameters": parameters}
        yield f"{index}, {parameters}", arguments


# The page ----------------------------------------------------------------------------------------------------------


def report(options: argparse.Namespace) -> None:
    """Size, seconds and memory of the page about clusters, at growing sizes."""
    cells = []
    for rows in options.report_rows:
        dataset, model = texts_of(data(rows, options.report_dim, options.seed))
        index = {"faiss_index": f"IVF{int(rows**0.5)},Flat"} if rows > options.report_rows[0] else {}
        mined = mined_clusters(dataset, model, **index)
        sides = zip(("anchor", "positive"), mined.inputs, strict=True)
        vectors = tuple(look_up(dataset, column, model, distinct=distinct) for column, distinct in sides)
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            start = time.perf_counter()
            peak, findings = peak_memory(lambda: write_report(page, dataset, vectors, mined))  # noqa: B023
            seconds = time.perf_counter() - start
            size = page.stat().st_size
        shares = [
            f"{part:,} of {whole:,}"
            for part, whole in (
                (findings.clusters, mined.statistics["clusters"]),
                (findings.visits, findings.of_visits),
            )
        ]
        cells.append([f"{rows:,}", *shares, f"{size / 1000:,.0f} KB", f"{seconds:.1f}", _mb(peak)])
    print(f"\n### The page about clusters, vectors of {options.report_dim} given\n")
    print(table(["rows", "clusters looked at", "visits told again", "page", "s", "peak memory"], cells))


SECTIONS = {
    "search": search,
    "reference": reference,
    "sentence-transformers": sentence_transformers,
    "faiss": indexes,
    "report": report,
}
QUICK = {
    "search_rows": 20_000,
    "search_dim": 64,
    "queries": 4096,
    "rounds": 2,
    "reference_rows": [1000, 3000],
    "reference_dim": 256,
    "reference_rounds": 1,
    "st_rows": 3000,
    "st_dim": 128,
    "faiss_rows": 5000,
    "faiss_dim": 32,
    "report_rows": [2000, 5000],
    "report_dim": 32,
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    parser.add_argument("--quick", action="store_true", help="small sizes, whatever the other options say")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a comparison")
    parser.add_argument("--search-rows", type=int, default=200_000, help="queries and documents of the exact search")
    parser.add_argument("--search-dim", type=int, default=256, help="size of its vectors")
    parser.add_argument("--queries", type=int, default=16_384, help="queries that are timed beside the bare product")
    parser.add_argument(
        "--bare-blocks",
        type=_shape,
        nargs="+",
        default=[(4096, 65_536) if torch.cuda.is_available() else (1024, 16_384)],
        help="queries and documents in a block of the bare product, such as 1024x16384",
    )
    parser.add_argument("--reference-rows", type=int, nargs="+", default=[5000, 20_000], help="sizes, ascending")
    parser.add_argument("--reference-dim", type=int, default=1536, help="size of the vectors there")
    parser.add_argument("--reference-rounds", type=int, default=2, help="rounds there (a slow peer)")
    parser.add_argument("--st-rows", type=int, default=20_000, help="pairs for Sentence Transformers")
    parser.add_argument("--st-dim", type=int, default=768, help="size of their vectors")
    parser.add_argument("--faiss-rows", type=int, default=50_000, help="rows for the indexes")
    parser.add_argument("--faiss-dim", type=int, default=128, help="size of their vectors")
    parser.add_argument("--report-rows", type=int, nargs="+", default=[50_000, 500_000], help="sizes of the report")
    parser.add_argument("--report-dim", type=int, default=64, help="size of the vectors there")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated data")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    print(machine())
    for section in options.sections:
        start = time.perf_counter()
        SECTIONS[section](options)
        sys.stdout.flush()
        print(f"\n{section}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def _shape(text: str) -> tuple[int, int]:
    queries, documents = text.lower().split("x")
    return int(queries), int(documents)


if __name__ == "__main__":
    main()
