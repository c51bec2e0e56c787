"""What larger data need: measures each stage on this machine, and writes benchmarks/SCALING.md with the arithmetic.

    python benchmarks/scaling.py            # about ten minutes on two cores

Times on GPUs are computed, not measured: operations over what a GPU is said to do at its peak, times a share of it.
Give the share that `benchmarks/encoding.py` measured on your GPU with --share, and its peak with --tflops.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cluster_rule import NUM_NEGATIVES, POOL, POOL_MULTIPLIER, topic_pairs
from datasets import Dataset
from encoding import QWEN2_VL_2B, captions
from measure import machine, table

from saha_st import load_embedder
from saha_st.encoding import IN_MEMORY, encode_column
from saha_st.mining.build import find_clusters
from saha_st.mining.clusters import assign_clusters
from saha_st.mining.neighbours import top_k

PAGE, TEMPLATE = (Path(__file__).with_name(name) for name in ("SCALING.md", "scaling_template.md"))
PICTURE_TOKENS, PATCHES = 256, 1024  # of a picture of 448x448
PROMPT_TOKENS, TEXT_TOKENS = 48, 20  # of the prompt, and of a question or caption
SIZES = {"MMEB-train, 662k": 662_000, "10M": 10_000_000, "1B": 1_000_000_000}
BLOCK = 10_000_000  # pairs that are mined together, beyond that


@dataclass(frozen=True)
class Shape:
    """A Qwen2-VL: its language model, and the vision tower that all sizes share."""

    name: str
    hidden: int
    inner: int
    layers: int
    key_value: int  # width of keys and of values

    @property
    def weights(self) -> int:
        """Weights of the language model's matrices, embeddings left out."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.key_value
        return self.layers * (attention + 3 * self.hidden * self.inner)

    def text(self, tokens: int) -> float:
        """Operations of the language model on so many tokens of one input: products with weights, and attention."""
        return 2.0 * self.weights * tokens + 4.0 * self.layers * tokens**2 * self.hidden

    @property
    def picture(self) -> float:
        """Operations of the vision tower on a picture of 448x448."""
        vision = QWEN2_VL_2B["vision_config"]
        width, depth = vision["embed_dim"], vision["depth"]
        weights = depth * (4 * width**2 + 2 * width * vision["mlp_ratio"] * width)
        return 2.0 * weights * PATCHES + 4.0 * depth * PATCHES**2 * width

    def pair(self, *, prompt: int = 0) -> float:
        """Operations of a pair: a picture with a question, and a picture with a caption.

        Args:
            prompt: Tokens of the prompt that each input brings along: none where a batch shares them.
        """
        return 2 * self.picture + 2 * self.text(PICTURE_TOKENS + TEXT_TOKENS + prompt)


SHAPES = (Shape("2B", 1536, 8960, 28, 256), Shape("7B", 3584, 18944, 28, 512))


@dataclass(frozen=True)
class Growth:
    """Seconds of a stage at growing sizes.

    Args:
        stage: What was timed.
        must: The exponent that its cost must have.
        sizes: Rows.
        seconds: Median seconds at each.
    """

    stage: str
    must: str
    sizes: list[int]
    seconds: list[float]

    @property
    def exponent(self) -> float:
        """Slope of the seconds over the sizes, on logarithmic scales."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])

    def row(self) -> list[str]:
        """Of the table."""
        times = ", ".join(f"{size:,}: {s:.2f}" for size, s in zip(self.sizes, self.seconds, strict=True))
        return [self.stage, times, f"{self.exponent:.2f}", self.must]


def timed(call: Callable[[], object], rounds: int) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def encoding_growth(sizes: list[int], rounds: int) -> Growth:
    """Captions with saha-tiny."""
    model = load_embedder("saha-tiny", device="cpu")
    texts = captions(max(sizes), seed=0)

    def encode(size: int) -> object:
        return encode_column(Dataset.from_dict({"t": texts[:size]}), "t", model, show_progress_bar=False)

    encode(sizes[0])
    seconds = [timed(lambda size=size: encode(size), rounds) for size in sizes]
    return Growth("encode captions (saha-tiny)", "1", sizes, seconds)


def mining_growth(sizes: list[int], dim: int, rounds: int) -> tuple[Growth, Growth]:
    """Exact search, and the cluster rule on its lists."""
    search, rule = [], []
    for size in sizes:
        pairs = topic_pairs(size, dim, seed=0)
        lists = top_k(pairs.anchors, pairs.documents, POOL)[0]
        search.append(timed(partial(top_k, pairs.anchors, pairs.documents, POOL), rounds))
        settings = {"num_negatives": NUM_NEGATIVES, "pool_multiplier": POOL_MULTIPLIER}
        rule.append(timed(partial(assign_clusters, lists, pairs.anchors, pairs.document_of_row, **settings), rounds))
    return (
        Growth(f"exact search (dim {dim})", "2", sizes, search),
        Growth("cluster rule", "1", sizes, rule),
    )


def rule_at(dim: int, rounds: int, rows: int = 10_000) -> float:
    """Seconds that the cluster rule takes a row, on vectors of so many dimensions."""
    pairs = topic_pairs(rows, dim, seed=0)
    lists = top_k(pairs.anchors, pairs.documents, POOL)[0]
    settings = {"num_negatives": NUM_NEGATIVES, "pool_multiplier": POOL_MULTIPLIER}
    return timed(partial(assign_clusters, lists, pairs.anchors, pairs.document_of_row, **settings), rounds) / rows


def visited_share(rows: int, dim: int) -> float:
    """Share of the rows whose neighbours mining searches for: the others have joined a cluster before their turn."""
    pairs = topic_pairs(rows, dim, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        options = {"num_negatives": NUM_NEGATIVES, "pool_multiplier": POOL_MULTIPLIER, "output_folder": folder}
        find_clusters(pairs.anchors, pairs.documents, pairs.document_of_row, **options)
        return float((np.load(Path(folder) / "scores.npy") != 0).any(axis=1).mean())


def product_speed(dtype: torch.dtype = torch.float32, size: int = 4096) -> float:
    """Operations a second of a large matrix product on this machine."""
    left, right = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    left @ right
    return 2.0 * size**3 / timed(lambda: left @ right, 5)


def disk_of_vectors(rows: int, dim: int) -> float:
    """Bytes a row of a store of vectors, as written."""
    from saha_st.encoding import VectorStore

    with tempfile.TemporaryDirectory() as folder:
        keys = np.array([f"{number:032d}".encode() for number in range(rows)], dtype="S32")
        VectorStore(folder, "m").add(keys, np.zeros((rows, dim), dtype=np.float32))
        return sum(file.stat().st_size for file in Path(folder).rglob("*.npy")) / rows


def needs(shape: Shape, rows: int, rule_seconds: dict[int, float], options: argparse.Namespace) -> list[str]:
    """A row of the table: what so many pairs need with a model."""
    speed, search_speed = options.tflops * 1e12 * options.share, options.search_tflops * 1e12 * options.search_share
    block = min(rows, BLOCK)
    hours = rows * shape.pair() / speed / 3600
    search = 2.0 * rows * block * shape.hidden / search_speed / 3600  # of all rows: the most that it can be
    column = 4 * rows * shape.hidden  # bytes of the vectors of one of the two
    vectors = 2 * (rows * (4 * shape.hidden + 32) + (column if column > IN_MEMORY else 0)) / 1e9
    lists = block * POOL * 8 / 1e9
    steps = (
        4 * rows * shape.pair(prompt=PROMPT_TOKENS) / speed / 3600
    )  # forward, again with gradients, and twice as much backward
    return [
        shape.name,
        f"{hours:,.0f}",
        f"{search:,.1f}" if search < 100 else f"{search:,.0f}",
        f"{rows * rule_seconds[shape.hidden] / 3600:,.1f}",
        f"{steps:,.0f}",
        f"{vectors:,.0f} GB",
        f"{2 * block * 4 * shape.hidden / 1e9:,.0f} GB",
        f"{lists:,.1f} GB",
    ]


def page(options: argparse.Namespace) -> str:
    """The whole page."""
    encoding = encoding_growth(options.encoding_rows, options.rounds)
    search, rule = mining_growth(options.mining_rows, options.dim, options.rounds)
    ceiling = product_speed()
    done = 2.0 * options.mining_rows[-1] ** 2 * options.dim / search.seconds[-1]
    options = argparse.Namespace(**vars(options) | {"search_share": round(done / ceiling, 2)})
    rule_seconds = {shape.hidden: rule_at(shape.hidden, options.rounds) for shape in SHAPES}
    two = SHAPES[0]
    rows = [[name, *needs(shape, size, rule_seconds, options)] for name, size in SIZES.items() for shape in SHAPES]
    columns = ["pairs", "model", "encode, GPU h", "search, GPU h", "rule, CPU h", "train an epoch, GPU h"]
    columns += ["vectors, disk", "vectors, memory", "lists"]
    return TEMPLATE.read_text(encoding="utf8").format(
        machine=machine(),
        command=" ".join(["python benchmarks/scaling.py", *sys.argv[1:]]),
        growth=table(["stage", "seconds by rows", "exponent", "must be"], [g.row() for g in (encoding, search, rule)]),
        needs=table(columns, rows),
        tflops=options.tflops,
        share=options.share,
        search_tflops=options.search_tflops,
        search_share=options.search_share,
        ceiling=ceiling / 1e9,
        done=done / 1e9,
        rule_us=1e6 * rule_seconds[two.hidden],
        visited=100 * visited_share(options.mining_rows[-1], options.dim),
        prompt=PROMPT_TOKENS,
        pool=POOL,
        k=NUM_NEGATIVES,
        m=POOL_MULTIPLIER,
        weights=two.weights / 1e9,
        picture=two.picture / 1e12,
        text=two.text(PICTURE_TOKENS + 20) / 1e12,
        pair=two.pair() / 1e12,
        bytes=disk_of_vectors(2048, two.hidden),
        expected=4 * two.hidden + 32,
        patches=PATCHES,
        tokens=PICTURE_TOKENS,
        block=f"{BLOCK:,}",
        hours=SIZES["MMEB-train, 662k"] * two.pair() / (options.tflops * 1e12 * options.share) / 3600,
    )


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--encoding_rows", type=int, nargs="+", default=[2048, 4096, 8192, 16384], help="sizes to time"
    )
    parser.add_argument(
        "--mining_rows", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000], help="likewise"
    )
    parser.add_argument("--dim", type=int, default=256, help="dimensions of the vectors that are searched")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the median counts")
    parser.add_argument("--tflops", type=float, default=989, help="the GPU's peak in bfloat16 (H100: 989)")
    parser.add_argument("--share", type=float, default=0.4, help="share of it that the model's forward reaches")
    parser.add_argument("--search_tflops", type=float, default=67, help="the GPU's peak in float32 (H100: 67)")
    parser.add_argument("--output", default=str(PAGE), help="file to write")
    options = parser.parse_args()
    Path(options.output).write_text(page(options), encoding="utf8")
    print(f"Wrote {options.output}.")


if __name__ == "__main__":
    main()
