"""What each part of the hierarchical prompt gives: mini-MMEB, zero-shot and fine-tuned, as Markdown tables.

    python benchmarks/prompts.py --output_dir prompts-run              # saha-tiny-base, about an hour on two cores
    python benchmarks/prompts.py --output_dir prompts-run --seeds 0 --max_steps 20 --eval_rows 20    # a quick look

Five forms (`saha_st.evaluation.prompt_presets`): no prompt, each of the paper's two levels alone, both, and the words
of the system level in the user turn instead. Fine-tuned is the recipe mini-mmeb with `--max_steps`: the model mines
with the form's prompt and is trained with it. The data are the same for all; a seed decides the order of training.

Each cell (form, stage, seed) is a file in `--output_dir/cells`: the same command goes on with a run that was killed.
The modality gap is the distance of the centroids of pictures (as documents) and of their captions (as queries),
without further words; it is small also where all vectors are alike, so beside it stands how far vectors lie from the
centroid of their kind (root mean square).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from measure import half_interval, machine, table
from sentence_transformers import SentenceTransformer

from saha_st import RunConfig, load_embedder, train
from saha_st.data import load_mmeb_eval
from saha_st.data.scenes import write_mini_mmeb
from saha_st.data.scenes.mini_mmeb import EVAL_DIR, TRAIN_DIR
from saha_st.encoding.modality_gap import modality_gap
from saha_st.evaluation import Scores, evaluate, mini_mmeb_tasks
from saha_st.evaluation.prompt_presets import PRESETS
from saha_st.files import write_text_whole

ZERO_SHOT, TUNED = "zero-shot", "fine-tuned"
MEANS = ("Classification", "VQA", "Retrieval", "Grounding", "IND", "OOD", "Overall")
PAPER = "both"


def main() -> None:
    """Runs what is missing, prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for data, cells and tables")
    parser.add_argument("--model", default="saha-tiny-base", help="the generative model to start from")
    parser.add_argument("--forms", nargs="+", choices=list(PRESETS), default=list(PRESETS), help="prompts")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of training; none: zero-shot alone")
    parser.add_argument("--max_steps", type=int, default=80, help="training steps; -1: the recipe's epochs")
    parser.add_argument("--train_rows", type=int, default=500, help="training pairs of each subset")
    parser.add_argument("--eval_rows", type=int, default=80, help="queries of each subset")
    options = parser.parse_args()
    data = options.output_dir / f"mini-mmeb-{options.train_rows}-{options.eval_rows}"
    if not data.exists():
        write_mini_mmeb(data, seed=0, train_rows=options.train_rows, eval_rows=options.eval_rows)
    cells = Cells(options, data)
    stages = [(ZERO_SHOT, None), *((TUNED, seed) for seed in options.seeds)]  # a whole round of forms, seed by seed
    for stage, seed in stages:
        for form in options.forms:
            cells.fill(form, stage, seed)
    page = render(cells, options)
    (options.output_dir / "PROMPTS.md").write_text(page, encoding="utf8")
    print(page)


class Cells:
    """The results of all forms, stages and seeds: on disk, each as soon as it is known."""

    def __init__(self, options: argparse.Namespace, data: Path) -> None:
        self.folder, self.data = options.output_dir / "cells", data
        names = ("model", "max_steps", "train_rows", "eval_rows")
        self.settings = {name: getattr(options, name) for name in names}
        self._tasks: list[Any] = []

    def fill(self, form: str, stage: str, seed: int | None) -> None:
        """Measure a cell, unless its file is there.

        Raises:
            ValueError: The file is of other settings.
        """
        file = self.path(form, stage, seed)
        if file.exists():
            if (found := json.loads(file.read_text())["settings"]) != self.settings:
                raise ValueError(f"{file} is of {found}, not of {self.settings}. Choose another --output_dir.")
            return
        start = time.perf_counter()
        model = self._model(form, stage, seed)
        gap, spread = clouds(model, self.data / EVAL_DIR)
        scores = self._score(model)
        cell = {
            "form": form,
            "stage": stage,
            "seed": seed,
            "settings": self.settings,
            "means": scores.means,
            "tasks": scores.by_task,
            "queries": {name: task.num_queries for name, task in scores.tasks.items()},
            "ind": [name for name, task in scores.tasks.items() if task.in_distribution],
            "modality_gap": gap,
            "spread": spread,
            "seconds": time.perf_counter() - start,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(file, json.dumps(cell, indent=1))
        print(f"{file.stem}: overall {scores.overall:.1%}, {cell['seconds']:.0f} s", flush=True)

    def of(self, form: str, stage: str, seeds: Sequence[int | None]) -> list[dict[str, Any]]:
        """Read the cells of a form, one for each seed."""
        return [json.loads(self.path(form, stage, seed).read_text()) for seed in seeds]

    def path(self, form: str, stage: str, seed: int | None) -> Path:
        """The file of a cell."""
        return self.folder / f"{form}.{stage}{'' if seed is None else f'.{seed}'}.json"

    def _model(self, form: str, stage: str, seed: int | None) -> SentenceTransformer:
        prompt, name = PRESETS[form], self.settings["model"]
        if stage == ZERO_SHOT:
            return load_embedder(name, prompt=prompt)
        run = self.folder.parent / "run"
        shutil.rmtree(run, ignore_errors=True)  # of a cell that was killed
        recipe = RunConfig.from_file("mini-mmeb", training={"seed": seed, "max_steps": self.settings["max_steps"]})
        sources = tuple(replace(source, path=str(self.data / TRAIN_DIR)) for source in recipe.data)
        config = replace(recipe, model=name, prompt=prompt, data=sources, output_dir=str(run))
        model = train(config, show_progress_bar=False)
        shutil.rmtree(run)
        return model

    def _score(self, model: SentenceTransformer) -> Scores:
        if not self._tasks:
            self._tasks = mini_mmeb_tasks(self.data)
            for task in self._tasks:
                task.load_data()  # once, for all cells
        return evaluate(model, self._tasks, batch_size=64, show_progress_bar=False, model_name="benchmarks/prompts")


def clouds(model: SentenceTransformer, folder: Path) -> tuple[float, float]:
    """The modality gap of scenes and their captions, and how far vectors lie from the centroid of their kind."""
    rows = load_mmeb_eval(folder, "Scenes_i2t")
    pictures = [{"image": cell["image"]} for cell in rows["query"]]
    captions = list(dict.fromkeys(cell["text"] for row in rows["candidates"] for cell in row))
    sides = [model.encode_document(pictures), model.encode_query(captions)]
    spread = np.sqrt(np.concatenate([((side - side.mean(axis=0)) ** 2).sum(axis=1) for side in sides]).mean())
    return modality_gap(*sides), float(spread)


def render(cells: Cells, options: argparse.Namespace) -> str:
    """The page with both tables."""
    parts = [f"{machine()}\n", f"Zero-shot, {options.model}; ± is 95 % over the queries.\n"]
    parts += [stage_table(cells, options.forms, ZERO_SHOT, [None], _over_queries)]
    if options.seeds:
        one = len(options.seeds) == 1
        of = f"seed {options.seeds[0]}" if one else f"means over {len(options.seeds)} seeds"
        margin = "over the queries, of this one training" if one else "over the seeds (Student's)"
        parts += [f"\nFine-tuned, {options.max_steps} steps; {of}, ± is 95 % {margin}.\n"]
        parts += [stage_table(cells, options.forms, TUNED, options.seeds, _over_queries if one else _over_seeds)]
        if not one and PAPER in options.forms:
            parts += [f"\nOverall, less that of `{PAPER}` with the same seed.\n", against(cells, options)]
    return "\n".join(parts) + "\n"


def stage_table(
    cells: Cells, forms: Sequence[str], stage: str, seeds: Sequence[int | None], margin: Callable[..., float]
) -> str:
    """A row for each form: hit@1 by mean in percent, gap and spread."""
    rows = []
    for form in forms:
        found = cells.of(form, stage, seeds)
        row = [f"`{form}`"]
        for name in MEANS:
            value = np.mean([cell["means"][name] for cell in found])
            width = margin(found, name) if name in ("IND", "OOD", "Overall") else None
            row.append(f"{100 * value:.1f}" + ("" if width is None else f" ± {100 * width:.1f}"))
        rows.append([*row, *(f"{np.mean([cell[name] for cell in found]):.2f}" for name in ("modality_gap", "spread"))])
    return table(["hit@1 (%)", *MEANS, "gap", "spread"], rows)


def against(cells: Cells, options: argparse.Namespace) -> str:
    """A row for each form but the paper's: the difference seed by seed, its mean and its interval."""
    base = np.array([cell["means"]["Overall"] for cell in cells.of(PAPER, TUNED, options.seeds)])
    rows = []
    for form in options.forms:
        if form != PAPER:
            found = [cell["means"]["Overall"] for cell in cells.of(form, TUNED, options.seeds)]
            differences = 100 * (np.array(found) - base)
            each = ", ".join(f"{value:+.1f}" for value in differences)
            rows.append([f"`{form}`", each, f"{differences.mean():+.1f} ± {half_interval(differences):.1f}"])
    return table(["form", f"seeds {', '.join(map(str, options.seeds))}", "mean"], rows)


def _over_queries(found: list[dict[str, Any]], name: str) -> float:
    """Half the 95 % interval of a mean over tasks, whose hits are drawn query by query."""
    (cell,) = found
    chosen = [task for task in cell["tasks"] if name == "Overall" or (task in cell["ind"]) is (name == "IND")]
    variances = [cell["tasks"][task] * (1 - cell["tasks"][task]) / cell["queries"][task] for task in chosen]
    return 1.96 * sqrt(sum(variances)) / len(chosen)


def _over_seeds(found: list[dict[str, Any]], name: str) -> float:
    return half_interval([cell["means"][name] for cell in found])


if __name__ == "__main__":
    main()
