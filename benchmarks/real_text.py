"""Prompts on real weights and real pairs of texts: SmolLM2-135M-Instruct, zero-shot, as Markdown tables.

    python benchmarks/real_text.py --output_dir real-text              # what to install: real_pairs.py
    python benchmarks/real_text.py --output_dir real-text --train      # SaHa beside random batches

`--pairs` of each task are drawn with `--seed`; a query searches among all their documents. Forms are raw text (no chat
template), those of `saha_st.evaluation.prompt_presets`, and a system level that says what the task is, written before
anything was measured.

`--train` fine-tunes LoRA (r=8) on other definitions, on mined clusters and on random batches of as many pairs, with
the same loss. Vectors and the results of each trained model are kept in `--output_dir`: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from measure import machine, table
from real_pairs import TASKS, definitions, draw, smollm2

from saha_st import HierarchicalPrompt, RunConfig, load_embedder, train
from saha_st.evaluation.prompt_presets import PRESETS
from saha_st.evaluation.prompt_sweep import PromptResult, PromptSweep, sweep_prompts
from saha_st.files import write_text_whole
from saha_st.training.config import AdapterConfig, DataConfig, LossConfig, MiningConfig

RAW = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""A chat template that is none: the text alone."""

TASK_PROMPTS = {
    "definition": "Given a definition, name the word that it defines. Given a word, repeat it.",
    "function": "Given what a Python function does, name the function. Given a function's name, repeat it.",
    "name": (
        "Given the French name of a place or language, translate it into English. Given an English name, repeat it."
    ),
}


def zero_shot(model: Path, task: str, pairs: Dataset, vectors: Path) -> PromptSweep:
    """Score all forms on one task."""
    options = {"cache_folder": vectors, "batch_tokens": 2048}
    plain = load_embedder(str(model), max_seq_length=256)
    plain[0].tokenizer.chat_template = plain[0].processor.chat_template = RAW
    none = PRESETS["none"]
    raw = sweep_prompts(pairs, plain, {"raw text": none}, **options).best
    prompts = {**PRESETS, "task": HierarchicalPrompt(system=TASK_PROMPTS[task], query_suffix=None)}
    sweep = sweep_prompts(pairs, load_embedder(str(model), max_seq_length=256), prompts, **options)
    return PromptSweep.of([PromptResult("raw text", none, raw.ranks), *sweep.results], sweep.documents)


SAHA, RANDOM = "SaHa", "random batches"


def fine_tune(model: Path, folder: Path, *, arm: str, seed: int, pairs: Dataset, options: argparse.Namespace) -> dict:
    """Train one arm with one seed, unless that was done; return its result.

    Raises:
        ValueError: What was done was done with other settings.
    """
    file = folder / f"{arm.split()[0].lower()}.{seed}.json"
    settings = {name: getattr(options, name) for name in ("train_form", "train_pairs", "steps", "pairs", "seed")}
    if file.exists():
        found = json.loads(file.read_text())
        if found["settings"] != settings:
            raise ValueError(f"{file} is of {found['settings']}, not of {settings}. Choose another --output_dir.")
        return found
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)  # of a run that was killed
    prompt = PRESETS[options.train_form]
    start = time.perf_counter()
    config = RunConfig(
        model=str(model),
        data=(DataConfig(str(folder / "train.jsonl")),),
        output_dir=str(run),
        prompt=prompt,
        max_seq_length=128,
        mining=MiningConfig(num_negatives=7, cache_folder=str(folder / "vectors")) if arm == SAHA else None,
        loss=LossConfig(mini_batch_num_tokens=2048),
        adapter=AdapterConfig(use_dora=False, lora_dropout=0.0),
        training={
            "seed": seed,
            "max_steps": options.steps,
            "per_device_train_batch_size": 32,
            "learning_rate": 1e-4,
            "warmup_steps": 5,
            "save_strategy": "no",
            "use_cpu": True,
        },
    )
    trained = train(config, show_progress_bar=False)
    (result,) = sweep_prompts(pairs, trained, {arm: prompt}, batch_tokens=2048, show_progress_bar=False).results
    found = {"arm": arm, "seed": seed, "settings": settings, "seconds": time.perf_counter() - start}
    found |= {"hit@1": result.hit(1), "hit@5": result.hit(5), "mrr": result.mrr}
    write_text_whole(file, json.dumps(found, indent=1))
    shutil.rmtree(run)
    print(f"{arm}, seed {seed}: hit@1 {result.hit(1):.1%}, {found['seconds']:.0f} s", flush=True)
    return found


def compare_training(model: Path, options: argparse.Namespace) -> str:
    """Fine-tune both arms with all seeds, seed by seed; the table."""
    folder = options.output_dir / "train"
    folder.mkdir(parents=True, exist_ok=True)
    pairs, left = draw(definitions(), options.pairs, options.seed)
    rows = [{"anchor": question, "positive": answer} for question, answer in list(left.items())[: options.train_pairs]]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    found: dict[str, list[dict]] = {RANDOM: [], SAHA: []}
    for seed in options.seeds:
        for arm, results in found.items():
            results.append(fine_tune(model, folder, arm=arm, seed=seed, pairs=pairs, options=options))
    seeds = ", ".join(map(str, options.seeds))
    lines = [[arm, *_shown(results)] for arm, results in found.items()]
    differences = [each["hit@1"] - other["hit@1"] for each, other in zip(found[SAHA], found[RANDOM], strict=True)]
    title = f"Fine-tuned on {len(rows):,} other definitions, {options.steps} steps of 32 pairs, `{options.train_form}`"
    header = ["definition", f"hit@1 (seeds {seeds})", "hit@5", "MRR", "seconds a run"]
    paired = ", ".join(f"{100 * value:+.1f}" for value in differences)
    return f"{title}:\n\n{table(header, lines)}\n\n{SAHA} less {RANDOM}, hit@1 by seed: {paired}\n"


def _shown(results: list[dict]) -> list[str]:
    """Means over seeds in percent, hit@1 with each, and the seconds of a run."""
    values = {name: 100 * np.array([each[name] for each in results]) for name in ("hit@1", "hit@5", "mrr")}
    each = ", ".join(f"{value:.1f}" for value in values["hit@1"])
    means = [f"{values[name].mean():.1f}" for name in ("hit@5", "mrr")]
    return [f"{values['hit@1'].mean():.1f} ({each})", *means, f"{np.mean([each['seconds'] for each in results]):.0f}"]


def main() -> None:
    """Scores what has not been scored, prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for weights, vectors and results")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="which pairs")
    parser.add_argument("--pairs", type=int, default=500, help="pairs of each task")
    parser.add_argument("--seed", type=int, default=0, help="decides which pairs are drawn")
    parser.add_argument("--train", action="store_true", help="fine-tune, instead of scoring zero-shot")
    parser.add_argument("--train_form", choices=list(PRESETS), default="system", help="prompt of the fine-tuned")
    parser.add_argument("--train_pairs", type=int, default=2000, help="pairs to train on")
    parser.add_argument("--steps", type=int, default=60, help="training steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    options = parser.parse_args()
    model = smollm2(options.output_dir / "smollm2")
    print(f"{machine()}\n", flush=True)
    if options.train:
        print(compare_training(model, options))
        return
    for task in options.tasks:
        every = TASKS[task]()
        pairs, _ = draw(every, options.pairs, options.seed)
        sweep = zero_shot(model, task, pairs, options.output_dir / "vectors")
        text = f"{task}: {len(pairs)} of {len(every):,} pairs, seed {options.seed}, Python {sys.version.split()[0]}"
        found = sweep.to_markdown(against=["none", "system"])
        page = "\n".join([text, "", found, "", *(f"* {note}" for note in sweep.notes)])
        (options.output_dir / f"{task}.md").write_text(page + "\n", encoding="utf8")
        (options.output_dir / f"{task}.json").write_text(json.dumps(sweep.to_dict(), indent=1), encoding="utf8")
        print(f"{page}\n", flush=True)


if __name__ == "__main__":
    main()
