"""What a training step costs: clusters against explicit hard negatives, memory as the batch grows, loss and sampler.

    python benchmarks/training.py            all three tables; --quick for small numbers
    python benchmarks/training.py negatives  one of: negatives, memory, overhead

Everything runs on saha-tiny-base and generated mini-MMEB pairs, with all weights trained:

* negatives: the same hard negatives, once as mates in mined clusters (our loss), once spelt out in every row as
  columns (anchor, positive, negative_1, ..., negative_K) for Sentence Transformers' cached loss; and plain in-batch
  pairs, which have no hard ones. Inputs and tokens are counted by a hook on the model; a cached loss embeds every
  input twice, without and with gradients. Time is that of reading the batch, loss and gradients.
* memory: the batch grows eightfold, mini-batches stay. What a step takes beyond the batch itself, whose pictures are
  in memory whatever the loss. In a process for each number, since what was freed once is not given back.
* overhead: our loss and sampler against Sentence Transformers' cached loss and default sampler on the same pairs, in
  the loss alone, in the stock trainer, and in the sampler alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from measure import Timings, machine, peak_memory, side_by_side, table
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch.utils.data import BatchSampler, RandomSampler
from transformers import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging

from saha_st.data import load_mmeb
from saha_st.data.scenes import write_mini_mmeb
from saha_st.data.scenes.mini_mmeb import TRAIN_DIR
from saha_st.losses import SaHaLoss
from saha_st.mining.miner import LABEL, find_saha_clusters, label_pairs
from saha_st.modules import load_embedder
from saha_st.samplers import ClusterBatchSampler
from saha_st.training.run import ROUTER_MAPPING

MODEL = "saha-tiny-base"
MINI_BATCH_SIZE = 32  # rows, for every loss that is compared in time: the default of Sentence Transformers
SCALE = 50.0


@dataclass
class Forwards:
    """What went through a model.

    Attributes:
        inputs: Rows of all forward passes.
        tokens: Their tokens without padding.
    """

    inputs: int = 0
    tokens: int = 0


@contextmanager
def counted(model: SentenceTransformer) -> Iterator[Forwards]:
    """Count what goes through a model within the block."""
    forwards = Forwards()

    def count(module: torch.nn.Module, arguments: tuple[dict[str, Any], ...]) -> None:
        mask = arguments[0]["attention_mask"]
        forwards.inputs += len(mask)
        forwards.tokens += int(mask.sum())

    handle = model.register_forward_pre_hook(count)
    try:
        yield forwards
    finally:
        handle.remove()


@dataclass
class Contender:
    """A way of training: a loss, and batches for it.

    Attributes:
        model: The model that is trained.
        loss: The loss.
        batches: Rows of each batch, taken in turns.
        steps: Steps made.
    """

    model: SentenceTransformer
    loss: torch.nn.Module
    batches: list[Dataset]
    steps: int = field(default=0)

    def step(self) -> None:
        """Read a batch, embed it, and back-propagate."""
        rows = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        self.model.zero_grad()
        self.loss(*features_and_labels(self.model, rows)).backward()


def features_and_labels(model: SentenceTransformer, rows: Dataset) -> tuple[list[dict[str, Any]], torch.Tensor | None]:
    """What the trainer's collator makes of rows."""
    columns = [name for name in rows.column_names if name != LABEL]
    values = rows[:]
    features = []
    for name in columns:
        task = ROUTER_MAPPING[name.split("_")[0]]
        features.append(model.preprocess(values[name], prompt=model.prompts.get(task), task=task))
    return features, torch.tensor(values[LABEL]) if LABEL in values else None


def load_pairs_of(subset: str, rows: int, folder: Path) -> Dataset:
    """Generated pairs of a mini-MMEB subset."""
    root = folder / f"{subset}-{rows}"
    if not root.exists():
        write_mini_mmeb(root, train_rows=rows, eval_rows=2, candidates=2, subsets=[subset])
    (pairs,) = load_mmeb(root / TRAIN_DIR, [subset], split="original").values()
    return pairs.select_columns(["anchor", "positive"])


def trainable_model() -> SentenceTransformer:
    """saha-tiny-base with the paper's prompt, in training mode (it has no dropout)."""
    return load_embedder(MODEL).train()


def stock_loss(model: SentenceTransformer) -> CachedMultipleNegativesRankingLoss:
    """The peer."""
    return CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_size=MINI_BATCH_SIZE)


# --- clusters, tuples, pairs -------------------------------------------------------------------------------------

OURS, TUPLES, PAIRS = "SaHa clusters", "explicit negatives", "in-batch pairs"


def spelt_out(mined: Dataset, num_negatives: int) -> Dataset:
    """The mates' positives as columns of every row: what the clusters say, in the form of n-tuples."""
    clusters = np.asarray(mined[LABEL])[:, 0]
    positives = mined.select_columns(["positive"])
    tuples = mined.select_columns(["anchor", "positive"]).flatten_indices()
    mates = np.empty((len(mined), num_negatives), dtype=np.int64)
    for row, cluster in enumerate(clusters):
        others = np.flatnonzero(clusters == cluster)
        others = others[others != row]
        mates[row] = np.resize(others, num_negatives)  # a small cluster's mates recur, so that K is equal
    for column in range(num_negatives):
        negatives = positives.select(mates[:, column]).rename_column("positive", f"negative_{column}")
        tuples = concatenate_datasets([tuples, negatives.flatten_indices()], axis=1)
    return tuples


def contenders_of(subset: str, num_negatives: int, options: argparse.Namespace, folder: Path) -> dict[str, Contender]:
    """Three ways to train on the same pairs, in batches of as many queries."""
    model = trainable_model()
    pairs = load_pairs_of(subset, options.rows, folder)
    mined = find_saha_clusters(pairs, model, num_negatives=num_negatives, show_progress_bar=False).of(pairs)
    rows = list(ClusterBatchSampler(mined, options.batch_size))[: options.batches]
    clustered = [mined.select(batch) for batch in rows]
    tuples = [spelt_out(batch, num_negatives) for batch in clustered]
    order = RandomSampler(pairs, generator=torch.Generator().manual_seed(0))
    shuffled = list(BatchSampler(order, options.batch_size, drop_last=True))
    random = [pairs.select(batch) for batch in shuffled[: options.batches]]
    ours = SaHaLoss(model, scale=SCALE, mini_batch_size=MINI_BATCH_SIZE)
    return {
        OURS: Contender(model, ours, clustered),
        TUPLES: Contender(model, stock_loss(model), tuples),
        PAIRS: Contender(model, stock_loss(model), random),
    }


def compare_negatives(options: argparse.Namespace, folder: Path) -> None:
    """Print what a trained query costs with K hard negatives."""
    print(f"### Cost of a trained query, batches of {options.batch_size} queries\n")
    rows = []
    for subset in options.subsets:
        for num_negatives in options.num_negatives:
            contenders = contenders_of(subset, num_negatives, options, folder)
            timings = side_by_side({name: each.step for name, each in contenders.items()}, rounds=options.rounds)
            for name, each in contenders.items():
                peak = _peak_of(name, subset, num_negatives, options, folder)
                rows.append([f"{subset}, K={num_negatives}, {name}", *_costs(name, each, peak, timings, options)])
    columns = ["data and way", "inputs", "tokens", "ms", "time / clusters'", "peak of the step, MiB"]
    print(table(columns, rows) + "\n")


def _costs(name: str, contender: Contender, peak: int, timings: Timings, options: argparse.Namespace) -> list[str]:
    """A row of the table, per query but for the peak."""
    with counted(contender.model) as forwards:
        contender.step()
    queries = options.batch_size
    return [
        f"{forwards.inputs / queries:.1f}",
        f"{forwards.tokens / queries:,.0f}",
        f"{1000 * timings.median(name) / queries:.1f}",
        timings.cost(name, OURS),
        f"{peak / 2**20:.0f}",
    ]


def _peak_of(name: str, subset: str, num_negatives: int, options: argparse.Namespace, folder: Path) -> int:
    """Peak of such a step, on other rows of the same kind: which ones they are has no influence."""
    measure = {"subset": subset, "rows": options.rows, "pairs": options.batch_size}
    measure |= {"loss": f"SaHaLoss, {MINI_BATCH_SIZE} rows" if name == OURS else STOCK}
    return _in_own_process(measure | {"negatives": num_negatives if name == TUPLES else 0}, folder)


# --- memory ------------------------------------------------------------------------------------------------------


def loss_of(name: str, model: SentenceTransformer) -> torch.nn.Module:
    """A loss by its name in a table."""
    if name == UNCACHED:
        return MultipleNegativesRankingLoss(model, scale=SCALE)
    number, unit = name.split()[-2:]
    return SaHaLoss(model, **{{"tokens": "mini_batch_num_tokens", "rows": "mini_batch_size"}[unit]: int(number)})


UNCACHED, STOCK = "MultipleNegativesRankingLoss (no cache)", "CachedMultipleNegativesRankingLoss"
MEMORY_SUBSET = "Changes_it2i"


def compare_memory(options: argparse.Namespace, folder: Path) -> None:
    """Print the peak of a step as the batch grows."""
    sizes = options.sizes
    print(f"### Peak memory of a step beyond its batch, {sizes[0]} to {sizes[-1]} pairs\n")
    load_pairs_of(MEMORY_SUBSET, max(sizes), folder)
    rows = []
    for name in (f"SaHaLoss, {options.num_tokens} tokens", "SaHaLoss, 8 rows", UNCACHED):
        measure = {"subset": MEMORY_SUBSET, "rows": max(sizes), "loss": name}
        peaks = [_in_own_process(measure | {"pairs": pairs}, folder) for pairs in sizes]
        rows.append([name, *(f"{peak / 2**20:.0f}" for peak in peaks), f"{peaks[-1] / peaks[0]:.2f}x"])
    print(table(["loss", *(f"{pairs} pairs, MiB" for pairs in sizes), "last / first"], rows) + "\n")


def _in_own_process(measure: dict[str, Any], folder: Path) -> int:
    command = [sys.executable, __file__, "--measure", json.dumps(measure | {"folder": str(folder)})]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_here(subset: str, rows: int, loss: str, pairs: int, folder: str, negatives: int = 0) -> int:
    """Peak growth in bytes of this process in a step beyond its batch; a small step goes first."""
    model = trainable_model()
    function = stock_loss(model) if loss == STOCK else loss_of(loss, model)
    source = label_pairs(load_pairs_of(subset, rows, Path(folder)))
    if negatives:
        shifted = [source.select((np.arange(rows) + 1 + shift) % rows) for shift in range(negatives)]
        source = source.select_columns(["anchor", "positive"])
        columns = [
            other.select_columns("positive").rename_column("positive", f"negative_{i}")
            for i, other in enumerate(shifted)
        ]
        source = concatenate_datasets([source, *(column.flatten_indices() for column in columns)], axis=1)

    def step(count: int) -> int:
        features, labels = features_and_labels(model, source.select(range(count)))
        peak, _ = peak_memory(lambda: function(features, labels).backward())
        model.zero_grad(set_to_none=False)
        return peak

    step(4)
    return step(pairs)


# --- overhead ----------------------------------------------------------------------------------------------------


def compare_overhead(options: argparse.Namespace, folder: Path) -> None:
    """Print what our loss and sampler cost over Sentence Transformers' own."""
    print("### Our loss and sampler over Sentence Transformers' own, at the same batch\n")
    rows = [
        *_loss_rows(options, folder),
        _trainer_row(options, folder),
        _sampler_row(options),
    ]
    print(table(["what", "ours, ms", "Sentence Transformers', ms", "ours / theirs"], rows) + "\n")


def _row(what: str, timings: Timings, per: float) -> list[str]:
    ours, theirs = (f"{1000 * timings.median(name) / per:.3g}" for name in ("ours", "theirs"))
    return [what, ours, theirs, timings.cost("ours", "theirs")]


def _loss_rows(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """Loss and gradients of the same features."""
    model = trainable_model()
    pairs = label_pairs(load_pairs_of("Scenes_i2t", max(options.overhead_sizes), folder))
    for size in options.overhead_sizes:
        features, labels = features_and_labels(model, pairs.select(range(size)))

        def step(loss: torch.nn.Module, features: Sequence[dict[str, Any]] = features, labels: Any = labels) -> None:
            loss.model.zero_grad()
            loss([dict(column) for column in features], labels).backward()

        theirs = partial(step, stock_loss(model))
        for kind, loss in {
            "": SaHaLoss(model, mini_batch_size=MINI_BATCH_SIZE),
            " (ours by tokens)": SaHaLoss(model),
        }.items():
            timings = side_by_side({"ours": partial(step, loss), "theirs": theirs}, rounds=options.rounds)
            yield _row(f"loss and gradients, {size} pairs{kind}", timings, 1)


def _trainer_row(options: argparse.Namespace, folder: Path) -> list[str]:
    """Steps of the stock trainer on mined clusters of 8."""
    model = trainable_model()
    pairs = load_pairs_of("Scenes_i2t", options.rows, folder)
    mined = find_saha_clusters(pairs, model, num_negatives=7, show_progress_bar=False).of(pairs)
    plain = mined.select_columns(["anchor", "positive"])

    def train(dataset: Dataset, loss: torch.nn.Module, **arguments: Any) -> None:
        args = SentenceTransformerTrainingArguments(
            output_dir=str(folder / "trainer"),
            per_device_train_batch_size=options.batch_size,
            max_steps=options.steps,
            learning_rate=1e-9,
            router_mapping=ROUTER_MAPPING,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_drop_last=True,
            **arguments,
        )
        trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=dataset, loss=loss)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.train()

    ours = SaHaLoss(model, mini_batch_size=MINI_BATCH_SIZE)
    timings = side_by_side(
        {
            "ours": lambda: train(mined, ours, batch_sampler=ClusterBatchSampler),
            "theirs": lambda: train(plain, stock_loss(model)),
        },
        rounds=options.rounds,
    )
    return _row(f"a step of the stock trainer, {options.batch_size} pairs", timings, options.steps)


def _sampler_row(options: argparse.Namespace) -> list[str]:
    """An epoch of batches, without reading a row."""
    count = options.sampler_rows // 16 * 16
    labels = np.stack([np.arange(count) // 16, np.arange(count), np.arange(count)], axis=1)
    mined = Dataset.from_dict({LABEL: labels.tolist()})
    theirs = DefaultBatchSampler(RandomSampler(mined, generator=torch.Generator()), 256, drop_last=True)
    ours = ClusterBatchSampler(mined, 256)
    timings = side_by_side({"ours": lambda: list(ours), "theirs": lambda: list(theirs)}, rounds=options.rounds)
    return _row(f"a batch of 256 from the sampler, {count:,} rows", timings, len(ours))


SECTIONS = {"negatives": compare_negatives, "memory": compare_memory, "overhead": compare_overhead}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "sections",
        nargs="*",
        default=[],
        metavar="SECTION",
        help=f"tables to print, of {', '.join(SECTIONS)}; all if none",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds on small numbers")
    parser.add_argument("--rounds", type=int, default=7, help="how often each contender is timed")
    parser.add_argument("--subsets", nargs="+", default=["Scenes_i2t", "Scenes_t2i"], help="mini-MMEB subsets")
    parser.add_argument("--num_negatives", type=int, nargs="+", default=[7, 15], help="K")
    parser.add_argument("--rows", type=int, default=512, help="pairs to mine clusters from")
    parser.add_argument("--batch_size", type=int, default=32, help="queries of a batch")
    parser.add_argument("--batches", type=int, default=4, help="different batches, taken in turns")
    parser.add_argument("--num_tokens", type=int, default=1024, help="tokens of a mini-batch in the table of memory")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256], help="batches of that table")
    parser.add_argument("--overhead_sizes", type=int, nargs="+", default=[32, 256], help="batches of the loss alone")
    parser.add_argument("--steps", type=int, default=8, help="steps of the stock trainer in a round")
    parser.add_argument("--sampler_rows", type=int, default=200_000, help="rows of the sampler alone")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    if options.measure:
        print(measure_here(**options.measure))
        return
    if options.quick:
        small = {"rounds": 2, "subsets": ["Scenes_i2t"], "num_negatives": [7], "rows": 128, "batches": 1}
        vars(options).update(small, sizes=[32, 256], overhead_sizes=[32], steps=2, sampler_rows=20_000)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown sections {', '.join(sorted(unknown))}")
    print(machine() + "\n")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sections or SECTIONS:
            SECTIONS[name](options, Path(folder))


if __name__ == "__main__":
    main()
