"""What a training step costs: clusters against explicit hard negatives, memory as the batch grows, loss and sampler.

    python benchmarks/training.py            all three tables, in under 8 minutes on two cores; --quick in 90 s
    python benchmarks/training.py negatives  one of: negatives, memory, overhead

Everything runs on saha-tiny-base and generated mini-MMEB pairs, with all weights trained:

* negatives: the same hard negatives, once as mates in mined clusters (our loss), once spelt out in every row as
  columns (anchor, positive, negative_1, ..., negative_K) for Sentence Transformers' cached loss; and plain in-batch
  pairs, which have no hard ones. Inputs and tokens are counted by a hook on the model; a cached loss embeds every
  input twice, without and with gradients. Time is that of reading the batch, loss and gradients.
* memory: the batch grows eightfold, mini-batches stay. What a step takes beyond the batch itself, whose pixels are in
  memory whatever the loss, and for the largest batch with them. In a process for each number, since what was freed
  once is not given back.
* overhead: our loss and sampler against Sentence Transformers' cached loss and default sampler on the same pairs, in
  the loss alone, in the trainer (ours as `saha-st train` builds it, with its callbacks), and in the sampler alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from saha_st.samplers import ClusterBatchSampler, SameTaskBatchSampler
from saha_st.training.batches import RunBatchSampler
from saha_st.training.run import ROUTER_MAPPING, build_trainer

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
    rows = list(RunBatchSampler(mined, options.batch_size))[: options.batches]
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
    cases = [(subset, number) for subset in options.subsets for number in options.num_negatives]
    measures = [_peak_of(name, *case, options) for case in cases for name in (OURS, TUPLES, PAIRS)]
    for subset in options.subsets:
        load_pairs_of(subset, options.rows, folder)
    peaks = iter(_in_own_processes(measures, folder))
    rows = []
    for subset, num_negatives in cases:
        contenders = contenders_of(subset, num_negatives, options, folder)
        timings = side_by_side({name: each.step for name, each in contenders.items()}, rounds=options.negatives_rounds)
        for name, each in contenders.items():
            peak, _ = next(peaks)
            rows.append([f"{subset}, K={num_negatives}, {name}", *_costs(name, each, peak, timings, options)])
    columns = ["data and way", "inputs", "tokens", "ms", "time / clusters'", "peak beyond the batch, MiB"]
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


def _peak_of(name: str, subset: str, num_negatives: int, options: argparse.Namespace) -> dict[str, Any]:
    """What to measure: such a step on other rows of the same kind; which ones they are has no influence."""
    measure = {"subset": subset, "rows": options.rows, "pairs": options.batch_size}
    measure |= {"loss": f"SaHaLoss, {MINI_BATCH_SIZE} rows" if name == OURS else STOCK}
    return measure | {"negatives": num_negatives if name == TUPLES else 0}


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
    print("The batch's own pixels (and token ids) are not in these numbers but in the last column's: they grow with")
    print("the pairs whatever the loss.\n")
    load_pairs_of(MEMORY_SUBSET, max(sizes), folder)
    by_rows = [] if options.quick else ["SaHaLoss, 8 rows"]
    names = [f"SaHaLoss, {options.num_tokens} tokens", *by_rows, UNCACHED]
    measure = {"subset": MEMORY_SUBSET, "rows": max(sizes)}
    measures = [measure | {"loss": name, "pairs": pairs} for name in names for pairs in sizes]
    measured = iter(_in_own_processes(measures, folder))
    rows = []
    for name in names:
        peaks, batches = zip(*(next(measured) for _ in sizes), strict=True)
        with_batch = f"{(peaks[-1] + batches[-1]) / 2**20:.0f}"
        rows.append([name, *(f"{peak / 2**20:.0f}" for peak in peaks), f"{peaks[-1] / peaks[0]:.2f}x", with_batch])
    columns = [*(f"{pairs} pairs, MiB" for pairs in sizes), "last / first", f"{sizes[-1]} pairs and the batch, MiB"]
    print(table(["loss", *columns], rows) + "\n")


def _in_own_processes(measures: Sequence[dict[str, Any]], folder: Path) -> list[tuple[int, int]]:
    """What `measure_here` returns of each; equal ones once, a process for each, two at a time."""

    def run(measure: str) -> tuple[int, int]:
        command = [sys.executable, __file__, "--measure", measure]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        return int(output[-2]), int(output[-1])

    keys = [json.dumps(measure | {"folder": str(folder)}) for measure in measures]
    distinct = list(dict.fromkeys(keys))
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = dict(zip(distinct, pool.map(run, distinct), strict=True))
    return [found[key] for key in keys]


def measure_here(subset: str, rows: int, loss: str, pairs: int, folder: str, negatives: int = 0) -> tuple[int, int]:
    """Bytes by which this process grows at most in a step, beyond its batch, and bytes of the batch.

    A small step goes first.
    """
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

    def step(count: int) -> tuple[int, int]:
        features, labels = features_and_labels(model, source.select(range(count)))
        peak, _ = peak_memory(lambda: function(features, labels).backward())
        model.zero_grad(set_to_none=False)
        tensors = [value for column in features for value in column.values() if isinstance(value, torch.Tensor)]
        return peak, sum(tensor.numel() * tensor.element_size() for tensor in tensors)

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


def _row(what: str, timings: Timings, per: float, name: str = "ours") -> list[str]:
    ours, theirs = (1000 * timings.median(each) / per for each in (name, "theirs"))
    shown = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (ours, theirs)]
    return [what, *shown, timings.cost(name, "theirs")]


def _loss_rows(options: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """Loss and gradients of the same features."""
    model = trainable_model()
    pairs = label_pairs(load_pairs_of("Scenes_i2t", max(options.overhead_sizes), folder))
    for size in options.overhead_sizes:
        features, labels = features_and_labels(model, pairs.select(range(size)))

        def step(loss: torch.nn.Module, features: Sequence[dict[str, Any]] = features, labels: Any = labels) -> None:
            loss.model.zero_grad()
            loss([dict(column) for column in features], labels).backward()

        contenders = {
            "ours": partial(step, SaHaLoss(model, mini_batch_size=MINI_BATCH_SIZE)),
            "tokens": partial(step, SaHaLoss(model)),
            "theirs": partial(step, stock_loss(model)),
        }
        timings = side_by_side(contenders, rounds=options.rounds)
        yield _row(f"loss and gradients, {size} pairs", timings, 1)
        yield _row(f"{size} pairs, ours by tokens: another mini-batching, not overhead", timings, 1, "tokens")


def _trainer_row(options: argparse.Namespace, folder: Path) -> list[str]:
    """Steps on mined clusters of 8: ours with all that `train` uses, theirs with the stock trainer's defaults."""
    model = trainable_model()
    pairs = load_pairs_of("Scenes_i2t", options.rows, folder)
    mined = find_saha_clusters(pairs, model, num_negatives=7, show_progress_bar=False).of(pairs)
    plain = mined.select_columns(["anchor", "positive"])
    arguments = partial(
        SentenceTransformerTrainingArguments,
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=options.batch_size,
        max_steps=options.steps,
        learning_rate=1e-9,
        router_mapping=ROUTER_MAPPING,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    own = arguments(batch_sampler=RunBatchSampler, multi_dataset_batch_sampler=SameTaskBatchSampler)
    loss = SaHaLoss(model, mini_batch_size=MINI_BATCH_SIZE)
    trainers = {
        "ours": build_trainer(own, model, {"pairs": mined}, loss, evaluators=[], callbacks=()),
        "theirs": SentenceTransformerTrainer(
            model=model, args=arguments(), train_dataset=plain, loss=stock_loss(model)
        ),
    }
    for trainer in trainers.values():
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
    timings = side_by_side({name: trainer.train for name, trainer in trainers.items()}, rounds=options.rounds)
    return _row(f"a step of the trainer, {options.batch_size} pairs", timings, options.steps)


def _sampler_row(options: argparse.Namespace) -> list[str]:
    """An epoch of batches, without reading a row."""
    sizes = np.random.default_rng(0).integers(2, 17, options.sampler_rows // 9)  # 9 on average
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.arange(len(clusters))
    mined = Dataset.from_dict({LABEL: np.stack([clusters, rows, rows], axis=1).tolist()})
    theirs = DefaultBatchSampler(RandomSampler(mined, generator=torch.Generator()), 256, drop_last=True)
    ours = ClusterBatchSampler(mined, 256)
    timings = side_by_side({"ours": lambda: list(ours), "theirs": lambda: list(theirs)}, rounds=options.rounds)
    what = f"a batch of 256 from the sampler, {len(rows):,} rows in clusters of 2 to 16"
    return _row(what, timings, len(theirs))


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
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is timed")
    parser.add_argument("--negatives_rounds", type=int, default=3, help="the same, in the table of negatives")
    parser.add_argument("--subsets", nargs="+", default=["Scenes_i2t", "Scenes_t2i"], help="mini-MMEB subsets")
    parser.add_argument("--num_negatives", type=int, nargs="+", default=[7, 15], help="K")
    parser.add_argument("--rows", type=int, default=256, help="pairs to mine clusters from")
    parser.add_argument("--batch_size", type=int, default=32, help="queries of a batch")
    parser.add_argument("--batches", type=int, default=4, help="different batches, taken in turns")
    parser.add_argument("--num_tokens", type=int, default=1024, help="tokens of a mini-batch in the table of memory")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128, 256], help="batches of that table")
    parser.add_argument("--overhead_sizes", type=int, nargs="+", default=[32, 128], help="batches of the loss alone")
    parser.add_argument("--steps", type=int, default=4, help="steps of the stock trainer in a round")
    parser.add_argument("--sampler_rows", type=int, default=200_000, help="rows of the sampler alone")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    if options.measure:
        print(*measure_here(**options.measure))
        return
    if options.quick:
        small = {"rounds": 2, "negatives_rounds": 1, "subsets": ["Scenes_i2t"], "num_negatives": [7], "rows": 64}
        small |= {"batch_size": 16, "batches": 1, "sizes": [16, 64], "overhead_sizes": [16], "steps": 2}
        vars(options).update(small, sampler_rows=20_000)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown sections {', '.join(sorted(unknown))}")
    print(machine() + "\n")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sections or SECTIONS:
            SECTIONS[name](options, Path(folder))


if __name__ == "__main__":
    main()
