"""Which negatives are best for equally many pairs, on data of which the truth is known: writes a Markdown table.

    python benchmarks/ablation.py                                # both settings, 5 seeds; 3 hours on two free cores
    python benchmarks/ablation.py --settings digits --seeds 2    # a first look
    python benchmarks/ablation.py --arms "SaHa + both masks"     # some ways only
    python benchmarks/ablation.py --runs benchmarks/ablation.jsonl  # the tables of ABLATION.md, out of its runs

All ways train all weights of saha-tiny-base in equally many steps of equally many pairs, at the same learning rates.
Columns of explicit negatives make a pair dearer, so these take part once more with as many inputs, in 2/9 of the
steps. A seed draws the training pairs and their order; queries that are scored are always the same. A run in two parts
goes on with a new trainer, whose learning rate falls from half of the first one's. Each run is a line of the file
`--runs` when it is done, and is not done again: started again, the command goes on.

* rows: rows to train on, for 100 pairs: those that `mine_hard_negatives` has enough negatives for, or that are in a
  cluster (some are in two). Fewer are seen more often; 0 is too few for a batch;
* contamination: share of the negatives of a step (not masked) that are in truth positives; of all in the batch, and of
  those that were mined for the anchor (mates of its cluster, or its columns);
* hardest 7: mean cosine, before training, of an anchor with its seven hardest true negatives of a step;
* hit@1 with the 95 % interval of its mean over the seeds, and of its differences, seed by seed: it holds what the
  draw of pairs and their order do, not what other queries would. Of many differences some seem real by chance: * marks
  those of a column that are so after Holm's correction, at 5 %;
* inputs: embedded for one trained query, in training; a cached loss embeds each of them twice. Mining embeds each
  input of a pair once more, without gradients, and again if it is mined again. Time is that of training alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ablation_arms import ARMS, Arm, AuditedLoss
from ablation_data import SETTINGS, Setting
from datasets import Dataset, disable_progress_bars
from measure import half_interval, machine, table
from scipy.stats import ttest_1samp
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from tqdm import tqdm
from training import counted
from transformers import PrinterCallback, set_seed

from saha_st import load_embedder
from saha_st.samplers import SameTaskBatchSampler
from saha_st.training.batches import RunBatchSampler
from saha_st.training.run import ROUTER_MAPPING, build_trainer

MODEL, BATCH_SIZE = "saha-tiny-base", 32
BASELINES = ("SaHa as in the paper", "SaHa + both masks")
_WARM_UP = 10

Cell = tuple[str, str, int]
"""A setting, a way, and a seed."""


def train_cell(setting: Setting, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """Train and score one way with one seed; without scores where no task has a batch of pairs left."""
    set_seed(seed)
    model = load_embedder(MODEL)
    data = setting.load(folder, seed, model)
    seconds, inputs, shares, audits = 0.0, 0, [], []
    parts = arm.parts(setting.steps)
    for part, steps in enumerate(parts):
        if part == 0 or arm.mines_again:
            batches = arm.build(data, model, folder / "vectors")
        datasets = {name: rows for name, rows in batches.datasets.items() if len(rows) >= BATCH_SIZE}
        shares.append(sum(map(len, datasets.values())) / sum(len(task.pairs) for task in data.tasks.values()))
        if not datasets:
            return {"rows": 0.0}
        loss = AuditedLoss(model, data, batches, mini_batch_size=BATCH_SIZE, **arm.masks)
        with counted(model) as forwards:
            start = time.perf_counter()
            options = {"are_clusters": batches.are_clusters, "seed": seed, "part": part}
            train(model, loss, datasets, setting, steps=steps, of_steps=sum(parts), **options)
            seconds += time.perf_counter() - start
        inputs += forwards.inputs
        audits.append(loss.audit())
    queries = sum(parts) * BATCH_SIZE
    averaged = {
        name: None if audits[0][name] is None else float(np.mean([audit[name] for audit in audits]))
        for name in audits[0]
    }
    costs = {"rows": float(np.mean(shares)), "inputs": inputs / 2 / queries, "seconds": seconds / queries}
    return averaged | costs | {"hit@1": setting.score(folder, model.eval())}


def train(
    model: SentenceTransformer,
    loss: AuditedLoss,
    datasets: dict[str, Dataset],
    setting: Setting,
    *,
    are_clusters: bool,
    seed: int,
    part: int,
    steps: int,
    of_steps: int,
) -> None:
    """Train with the stock trainer for ``steps``, the first part of all ``of_steps`` or the last.

    The learning rate warms up in the first part, and falls in a line within each.
    """
    done = part * (of_steps - steps)
    rates = [setting.learning_rate * (1 - at / of_steps) for at in (done, done + steps)]
    samplers = {"multi_dataset_batch_sampler": SameTaskBatchSampler}
    if are_clusters:
        samplers["batch_sampler"] = RunBatchSampler
    with tempfile.TemporaryDirectory() as output_dir:
        args = SentenceTransformerTrainingArguments(
            output_dir=output_dir,
            per_device_train_batch_size=BATCH_SIZE,
            max_steps=steps,
            learning_rate=rates[0],
            lr_scheduler_type="polynomial",
            lr_scheduler_kwargs={"lr_end": rates[1], "power": 1.0},
            warmup_steps=0 if part else min(_WARM_UP, of_steps // 3),
            seed=seed + 1000 * part,
            router_mapping=ROUTER_MAPPING,
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **samplers,
        )
        trainer = build_trainer(args, model, datasets, loss, evaluators=[], callbacks=())
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def prepare(settings: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """Make the data and the vectors that several runs share, so that runs side by side only read them."""
    model = load_embedder(MODEL)
    for name in settings:
        for seed in tqdm(seeds, desc=f"Data of {name}"):
            SETTINGS[name].load(folder, seed, model)
        SETTINGS[name].score(folder, model)


def run_all(options: argparse.Namespace) -> dict[Cell, dict[str, Any]]:
    """Run what has not been run, each in a process of its own; returns the results of all."""
    cells = [
        (setting, arm.name, seed)
        for seed in range(options.seeds)  # seed by seed: whoever stops early has all ways
        for setting in options.settings
        for arm in ARMS
        if arm.name in options.arms and _applies(setting, arm)
    ]
    if not cells:
        raise SystemExit(f"--arms: {', '.join(options.arms)} is not one of {', '.join(options.settings)}.")
    results = {cell: result for cell, result in finished(options.runs) if cell in cells}
    missing = [cell for cell in cells if cell not in results]
    if missing:
        prepare(options.settings, range(options.seeds), options.output_dir)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // options.jobs))}
    writing = threading.Lock()
    end_last_line(options.runs)

    def run(cell: Cell) -> bool:
        command = [sys.executable, __file__, "--output_dir", str(options.output_dir), "--cell", json.dumps(cell)]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        if process.returncode != 0:
            return False
        found = json.loads(process.stdout.splitlines()[-1]) | {"side_by_side": options.jobs}
        with writing, options.runs.open("a") as file:
            file.write(json.dumps(found) + "\n")
        results[cell] = found
        return True

    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(tqdm(pool.map(run, missing), total=len(missing), desc="Runs"))
    failed = [cell for cell, is_done in zip(missing, done, strict=True) if not is_done]
    if failed:
        raise SystemExit(f"Failed, see above: {failed}. The others are done; the same command runs these again.")
    return {cell: results[cell] for cell in cells}


def settings_of(setting: str) -> dict[str, Any]:
    """What a run of a setting has to have in common with others of its table."""
    return {"steps": SETTINGS[setting].steps, "learning_rate": SETTINGS[setting].learning_rate, "batch": BATCH_SIZE}


def finished(runs: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Runs of the file, those of other settings left out, and a line that was not written to its end."""
    for line in runs.read_text().splitlines() if runs.exists() else ():
        try:
            run = json.loads(line)
        except json.JSONDecodeError:
            continue
        if run["settings"] == settings_of(run["setting"]):
            yield (run["setting"], run["arm"], run["seed"]), run


def end_last_line(runs: Path) -> None:
    """Let the next run begin a line of its own, where the last one was killed while it wrote."""
    if runs.exists() and not runs.read_bytes().endswith(b"\n"):
        with runs.open("a") as file:
            file.write("\n")


def _applies(setting: str, arm: Arm) -> bool:
    """With one task, batches of all tasks are batches of one."""
    return setting != "digits" or arm.name != "random in-batch"


def interval(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval by Student's t, in percent."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {100 * half_interval(values):.1f}"


def differences(means: dict[str, np.ndarray], baseline: str) -> dict[str, str]:
    """Of each way's scores from those of a baseline, (seeds,) each: interval, and * if Holm's correction says so."""
    found = {arm: scores - means[baseline] for arm, scores in means.items() if arm != baseline}
    several = {arm: found[arm] for arm in found if len(found[arm]) > 1 and np.std(found[arm]) > 0}
    chances = {arm: float(ttest_1samp(values, 0).pvalue) for arm, values in several.items()}
    real = set()
    for rank, (arm, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        if chance > 0.05 / (len(chances) - rank):
            break
        real.add(arm)
    return {arm: interval(values) + (" *" if arm in real else "") for arm, values in found.items()}


def rows_of(results: dict[str, list[dict[str, Any]]], baselines: Sequence[str] = BASELINES) -> list[list[str]]:
    """A row of the table for each way, out of the runs of its seeds."""
    scored = {arm: runs for arm, runs in results.items() if all("hit@1" in run for run in runs)}
    overall = {arm: np.array([run["hit@1"]["Overall"] for run in runs]) for arm, runs in scored.items()}
    from_baselines = [differences(overall, baseline) if baseline in scored else {} for baseline in baselines]
    rows = []
    for arm, runs in results.items():
        row = [arm, f"{100 * np.mean([run['rows'] for run in runs]):.0f}"]
        if arm in scored:
            mined = [run["contamination_mined"] for run in runs]
            row += [
                f"{100 * np.mean([run['contamination'] for run in runs]):.2f}",
                "–" if None in mined else f"{100 * np.mean(mined):.2f}",
                f"{np.mean([run['hardness'] for run in runs]):.3f}",
                *(interval([run["hit@1"][name] for run in runs]) for name in runs[0]["hit@1"]),
                *(found.get(arm, "–") for found in from_baselines),
                f"{np.median([run['inputs'] for run in runs]):.1f}",
                f"{1000 * np.median([run['seconds'] for run in runs]):.0f}",
            ]
        rows.append(row)
    width = max(map(len, rows))
    return [row + ["–"] * (width - len(row)) for row in rows]


def report(results: dict[Cell, dict[str, Any]], options: argparse.Namespace) -> str:
    """All tables, as Markdown."""
    places = {f"{run['machine']} {run['side_by_side']} runs side by side." for run in results.values()}
    parts = ["\n\n".join(sorted(places))]
    for setting in options.settings:
        arms: dict[str, list[dict[str, Any]]] = {}
        for (name, arm, _), result in results.items():
            if name == setting:
                arms.setdefault(arm, []).append(result)
        if not arms:
            continue
        means = next((list(run["hit@1"]) for runs in arms.values() for run in runs if "hit@1" in run), [])
        columns = ["negatives", "rows, %", "contamination, %", "of the mined, %", "hardest 7"]
        columns += [f"{mean}, %" for mean in means] + [f"from {baseline}" for baseline in options.baselines]
        columns += ["inputs", "ms a query"]
        parts += [f"### {setting}, {SETTINGS[setting].steps} steps of {BATCH_SIZE} pairs, {options.seeds} seeds"]
        parts += [table(columns, rows_of(arms, options.baselines))]
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
    parser.add_argument(
        "--baselines", nargs="+", choices=names, metavar="ARM", default=BASELINES, help="ways that others differ from"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each")
    parser.add_argument("--output_dir", type=Path, default=Path("ablation"), help="data, vectors, and finished runs")
    parser.add_argument("--runs", type=Path, help="file of finished runs; runs.jsonl of --output_dir if not given")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each with its share of the cores")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.arms = options.arms or names
    options.runs = options.runs or options.output_dir / "runs.jsonl"
    disable_progress_bars()
    if options.cell:
        setting, name, seed = json.loads(options.cell)
        arm = next(arm for arm in ARMS if arm.name == name)
        result = train_cell(SETTINGS[setting], arm, seed, options.output_dir)
        cell = {"setting": setting, "arm": name, "seed": seed, "settings": settings_of(setting), "machine": machine()}
        print(json.dumps(cell | result))
        return
    options.output_dir.mkdir(parents=True, exist_ok=True)
    print(report(run_all(options), options))


if __name__ == "__main__":
    main()
