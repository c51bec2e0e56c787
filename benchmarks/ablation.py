"""Which negatives are best at equal cost, on data of which the truth is known: writes a Markdown table.

    python benchmarks/ablation.py                                # both settings, 5 seeds; hours on two cores
    python benchmarks/ablation.py --settings digits --seeds 2    # a first look
    python benchmarks/ablation.py --arms "SaHa + both masks"     # some ways only

All ways train all weights of saha-tiny-base on equally many pairs, in equally many steps of equal batches, at the same
learning rates. A seed draws the training pairs, their order, and nothing else: queries that are scored are always the
same. Each run is written to OUTPUT_DIR/runs when it is done, and never done twice: started again, the command goes on.

* contamination: share of the negatives of a step (not masked) that are in truth positives; of all in the batch, and of
  those that were mined for the anchor (mates of its cluster, or its columns);
* hardness: mean cosine, before training, of an anchor with its seven hardest true negatives of a step;
* hit@1 with the 95 % interval of its mean over the seeds, and the same of its difference, seed by seed, from SaHa as
  in the paper: an interval that holds 0 is noise;
* inputs: embedded for one trained query. A cached loss embeds each of them twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ablation_arms import ARMS, Arm, AuditedLoss, Batches
from ablation_data import SETTINGS, Setting
from datasets import disable_progress_bars
from measure import machine, table
from scipy.stats import t as student
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from tqdm import tqdm
from training import counted
from transformers import PrinterCallback, set_seed

from saha_st import load_embedder
from saha_st.files import write_whole
from saha_st.samplers import SameTaskBatchSampler
from saha_st.training.batches import RunBatchSampler
from saha_st.training.run import ROUTER_MAPPING, build_trainer

MODEL, BATCH_SIZE = "saha-tiny-base", 32
BASELINE = "SaHa as in the paper"
_WARM_UP = 10


def train_cell(setting: Setting, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """Train and score one way with one seed."""
    set_seed(seed)
    model = load_embedder(MODEL)
    data = setting.load(folder, seed, model)
    parts = 2 if arm.mines_again else 1
    seconds, inputs, audits = 0.0, 0, []
    for part in range(parts):
        batches = arm.build(data, model, folder / "vectors")
        loss = AuditedLoss(model, data, batches, mini_batch_size=BATCH_SIZE, **arm.masks)
        # The rate falls in a line over the whole run, also where that is cut in two.
        rates = [setting.learning_rate * (1 - done / parts) for done in (part, part + 1)]
        with counted(model) as forwards:
            start = time.perf_counter()
            train(
                model, loss, batches, seed=seed, steps=setting.steps // parts, rates=rates, output_dir=folder / "run"
            )
            seconds += time.perf_counter() - start
        inputs += forwards.inputs
        audits.append(loss.audit())
    queries = setting.steps * BATCH_SIZE
    averaged = {
        name: None if audits[0][name] is None else float(np.mean([audit[name] for audit in audits]))
        for name in audits[0]
    }
    costs = {"inputs": inputs / 2 / queries, "seconds": seconds / queries}
    return averaged | costs | {"hit@1": setting.score(folder, model.eval())}


def train(
    model: SentenceTransformer,
    loss: AuditedLoss,
    batches: Batches,
    *,
    seed: int,
    steps: int,
    rates: Sequence[float],
    output_dir: Path,
) -> None:
    """Train with the stock trainer, the learning rate falling from the first to the second of ``rates``."""
    samplers = {"multi_dataset_batch_sampler": SameTaskBatchSampler}
    if batches.are_clusters:
        samplers["batch_sampler"] = RunBatchSampler
    args = SentenceTransformerTrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=BATCH_SIZE,
        max_steps=steps,
        learning_rate=rates[0],
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"lr_end": rates[1], "power": 1.0},
        warmup_steps=_WARM_UP,
        seed=seed,
        router_mapping=ROUTER_MAPPING,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **samplers,
    )
    large_enough = {name: rows for name, rows in batches.datasets.items() if len(rows) >= BATCH_SIZE}
    trainer = build_trainer(args, model, large_enough, loss, evaluators=[], callbacks=())
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def prepare(settings: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """Make the data and the vectors that several runs share, so that runs side by side only read them."""
    model = load_embedder(MODEL)
    for name in settings:
        for seed in tqdm(seeds, desc=f"Data of {name}"):
            SETTINGS[name].load(folder, seed, model)
        SETTINGS[name].score(folder, model)


def run_all(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Run what has not been run, each in a process of its own; returns the cells of the table."""
    cells = [
        (setting, arm.name, seed)
        for seed in range(options.seeds)  # seed by seed: whoever stops early has all ways
        for setting in options.settings
        for arm in ARMS
        if arm.name in options.arms and _applies(setting, arm)
    ]
    missing = [cell for cell in cells if not place(options.output_dir, cell).exists()]
    if missing:
        prepare(options.settings, range(options.seeds), options.output_dir)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // options.jobs))}

    def run(cell: tuple[str, str, int]) -> None:
        command = [sys.executable, __file__, "--output_dir", str(options.output_dir), "--cell", json.dumps(cell)]
        subprocess.run(command, check=True, env=environment)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(tqdm(pool.map(run, missing), total=len(missing), desc="Runs"))
    return cells


def place(folder: Path, cell: tuple[str, str, int]) -> Path:
    """The file of a run's result."""
    setting, arm, seed = cell
    return folder / "runs" / f"{setting} {arm.replace(' ', '-').replace(',', '')} {seed}.json".replace(" ", "_")


def _applies(setting: str, arm: Arm) -> bool:
    """With one task, batches of all tasks are batches of one."""
    return setting != "digits" or arm.name != "random in-batch"


def interval(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval by Student's t, in percent."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = 100 * float(np.std(values, ddof=1)) / len(values) ** 0.5 * float(student.ppf(0.975, len(values) - 1))
    return f"{mean:.1f} ± {half:.1f}"


def rows_of(setting: str, results: dict[tuple[str, int], dict[str, Any]], seeds: Sequence[int]) -> list[list[str]]:
    """A row of the table for each way, with the means of its setting."""
    rows = []
    for arm in dict.fromkeys(name for name, _ in results):
        runs = [results[arm, seed] for seed in seeds]
        means = {name: [run["hit@1"][name] for run in runs] for name in runs[0]["hit@1"]}
        difference = "–"
        if arm != BASELINE and (BASELINE, seeds[0]) in results:
            paper = [results[BASELINE, seed]["hit@1"]["Overall"] for seed in seeds]
            difference = interval(np.subtract(means["Overall"], paper))
        mined = [run["contamination_mined"] for run in runs]
        rows.append(
            [
                arm,
                f"{100 * np.mean([run['contamination'] for run in runs]):.2f}",
                "–" if None in mined else f"{100 * np.mean(mined):.2f}",
                f"{np.mean([run['hardness'] for run in runs]):.3f}",
                *(interval(values) for values in means.values()),
                difference,
                f"{np.median([run['inputs'] for run in runs]):.1f}",
                f"{1000 * np.median([run['seconds'] for run in runs]):.0f}",
            ]
        )
    return rows


def report(cells: Sequence[tuple[str, str, int]], options: argparse.Namespace) -> str:
    """All tables, as Markdown."""
    seeds = range(options.seeds)
    parts = [f"{machine()} {options.jobs} runs side by side."]
    for setting in options.settings:
        results = {
            (arm, seed): json.loads(place(options.output_dir, (name, arm, seed)).read_text())
            for name, arm, seed in cells
            if name == setting
        }
        means = list(next(iter(results.values()))["hit@1"])
        columns = ["negatives", "contamination, %", "of the mined, %", "hardness", *(f"{mean}, %" for mean in means)]
        columns += ["difference from the paper's SaHa", "inputs", "ms a query"]
        parts += [f"### {setting}, {SETTINGS[setting].steps} steps of {BATCH_SIZE} pairs, {options.seeds} seeds"]
        parts += [table(columns, rows_of(setting, results, seeds))]
    return "\n\n".join(parts)


def main() -> None:
    """Runs what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = [arm.name for arm in ARMS]
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="what to train on")
    ways = "; ".join(f'"{name}"' for name in names)
    parser.add_argument("--arms", nargs="+", choices=names, metavar="ARM", help=f"some of {ways}; all if not given")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each")
    parser.add_argument("--output_dir", type=Path, default=Path("ablation"), help="data, vectors, and finished runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each with its share of the cores")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.arms = options.arms or names
    disable_progress_bars()
    if options.cell:
        setting, name, seed = json.loads(options.cell)
        arm = next(arm for arm in ARMS if arm.name == name)
        result = train_cell(SETTINGS[setting], arm, seed, options.output_dir)
        text = json.dumps(result, indent=1).encode()
        write_whole(place(options.output_dir, (setting, name, seed)), lambda file: file.write(text))
        return
    (options.output_dir / "runs").mkdir(parents=True, exist_ok=True)
    print(report(run_all(options), options))


if __name__ == "__main__":
    main()
