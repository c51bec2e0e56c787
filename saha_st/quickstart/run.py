"""The quickstart: a small generative multimodal LLM becomes an embedder, from prompt to search, on a CPU.

Nothing here is special to the quickstart but the data: the same functions take any multimodal LLM and any pairs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback, TrainerState

from saha_st.card import copy_results, render_card
from saha_st.card.sidecars import Sidecars
from saha_st.data.scenes import draw, sample_scene, write_mini_mmeb
from saha_st.data.scenes.mini_mmeb import TRAIN_DIR
from saha_st.evaluation import Embedder, Report, Scores, comparison_table, evaluate, mini_mmeb_tasks
from saha_st.evaluation.catalogue import MINI_MMEB
from saha_st.evaluation.encoder import name_of_source
from saha_st.evaluation.mmeb import MMEBTask
from saha_st.evaluation.task_sources import task_sources
from saha_st.files import require_new_folder
from saha_st.modules import load_embedder
from saha_st.modules.sources import resolve_model
from saha_st.prompts import HierarchicalPrompt
from saha_st.quickstart.page import write_page
from saha_st.training import RunConfig, train

logger = logging.getLogger(__name__)

PLAIN, PROMPTED, TUNED, IN_BATCH = "plain", "hierarchical prompt", "SaHa fine-tuned", "in-batch fine-tuned"

_BATCH_SIZE = 64

NO_PROMPT = HierarchicalPrompt(system=None, query_suffix=None)
"""The model's chat template as it comes."""


@dataclass
class QuickstartResult:
    """What came out.

    Attributes:
        scores: hit@1 by stage, in order.
        model_dir: The fine-tuned model; `SentenceTransformer` loads it.
        page: HTML page with the table and a few searches.
        seconds: Duration of each step.
    """

    scores: dict[str, Scores] = field(default_factory=dict)
    model_dir: Path = Path()
    page: Path = Path()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def table(self) -> str:
        """Means by stage, in percent, as Markdown."""
        return comparison_table(self.scores)


def quickstart(
    output_dir: str | Path,
    *,
    model: str = "saha-tiny-base",
    compare: bool = False,
    seed: int = 0,
    train_rows: int = 500,
    eval_rows: int = 80,
    max_steps: int = -1,
    report: Callable[[str], None] = logger.info,
) -> QuickstartResult:
    """Generate data, score, mine, train, score, save, load back, search.

    Args:
        output_dir: Folder for data, model, results and page; it must not exist or be empty.
        model: The generative multimodal LLM to start from.
        compare: Also train the in-batch baseline on as many pairs.
        seed: Seed of data and training.
        train_rows: Training pairs of each subset.
        eval_rows: Queries of each subset.
        max_steps: Stop training after so many steps; -1 trains the recipe's epochs.
        report: Takes a line for each step.

    Returns:
        Scores, paths and durations.

    Raises:
        FileExistsError: The folder is not empty.
        RuntimeError: Plain Sentence Transformers gives other vectors for the saved model.
    """
    folder = require_new_folder(output_dir)
    result = QuickstartResult(model_dir=folder / "saha" / "final", page=folder / "quickstart.html")
    config = _config(folder, model=model, seed=seed, max_steps=max_steps)
    step = _Steps(result.seconds, report, total=8 if compare else 7)

    with step("Generate mini-MMEB"):
        write_mini_mmeb(folder / "mini-mmeb", seed=seed, train_rows=train_rows, eval_rows=eval_rows)
        tasks = mini_mmeb_tasks(folder / "mini-mmeb")
        for task in tasks:
            task.load_data()
    with step("Score the model as it comes"):
        result.scores[PLAIN] = _score(load_embedder(model, prompt=NO_PROMPT), tasks, PLAIN)
    with step("Score it with the hierarchical prompt"):
        prompted = load_embedder(model)
        result.scores[PROMPTED] = _score(prompted, tasks, PROMPTED)
    with step("Mine hard negatives and train on mutually hard clusters"):
        progress = _Progress(report)
        tuned = train(config, callbacks=(progress,), show_progress_bar=False)
    if compare:
        with step("Train on random batches, on as many pairs"):
            equal = {**config.training, "max_steps": progress.steps}
            baseline = replace(config, mining=None, training=equal, output_dir=str(folder / "in-batch"))
            in_batch = train(baseline, callbacks=(_Progress(report),), show_progress_bar=False)
            result.scores[IN_BATCH] = _score(in_batch, tasks, IN_BATCH)
    with step("Score the fine-tuned model"):
        encoder = Embedder(tuned, name=name_of_source(result.model_dir), show_progress_bar=False)
        evaluation = folder / "evaluation"
        result.scores[TUNED] = evaluate(
            encoder, tasks, output_dir=evaluation, batch_size=_BATCH_SIZE, show_progress_bar=False
        )
        meta, base = encoder.mteb_model_meta, f"{name_of_source(resolve_model(model))} (not fine-tuned)"
        columns = {meta.name: result.scores[TUNED], base: result.scores[PROMPTED]}
        benchmark = _benchmark(seed, eval_rows)
        scored = Report(benchmark, columns, revision=meta.revision, sources=task_sources(tasks))
        _add_results(scored, evaluation, tuned, result.model_dir)
    with step("Load it back with plain Sentence Transformers"):
        plain = _load_plain(result.model_dir, tuned)
    with step("Search with it, and write the page"):
        write_page(result.page, tasks=tasks, models={PROMPTED: prompted, TUNED: plain}, scores=result.scores)
    return result


def _config(folder: Path, *, model: str, seed: int, max_steps: int) -> RunConfig:
    recipe = RunConfig.from_file("mini-mmeb", training={"seed": seed, "max_steps": max_steps})
    data = tuple(replace(source, path=str(folder / "mini-mmeb" / TRAIN_DIR)) for source in recipe.data)
    return replace(recipe, model=model, data=data, output_dir=str(folder / "saha"))


def _score(model: SentenceTransformer, tasks: list[MMEBTask], name: str) -> Scores:
    return evaluate(model, tasks, batch_size=_BATCH_SIZE, show_progress_bar=False, model_name=f"quickstart/{name}")


def _benchmark(seed: int, eval_rows: int) -> str:
    """What is called mini-mmeb has always the same queries."""
    is_standard = (seed, eval_rows) == (0, 80)
    return MINI_MMEB if is_standard else f"{MINI_MMEB} (seed {seed}, {eval_rows} queries a task)"


def _add_results(report: Report, evaluation: Path, model: SentenceTransformer, model_dir: Path) -> None:
    """Lay the results beside the model, and write its card anew, with them."""
    report.write(evaluation)
    copy_results(evaluation, model_dir, model_name=next(iter(report.columns)), revision=report.revision)
    model.model_card_data.reports = Sidecars.read(model_dir).reports
    (model_dir / "README.md").write_text(render_card(model), encoding="utf8")


def _load_plain(folder: Path, tuned: SentenceTransformer) -> SentenceTransformer:
    """Load the saved model as anybody would, and make sure that it is the trained one."""
    plain = SentenceTransformer(str(folder), device=str(tuned.device))
    picture = draw(sample_scene(Random(0)), seed=0)
    probes = ["a red circle", {"image": picture}, {"image": picture, "text": "Which colour is it?"}]
    for side in ("encode_query", "encode_document"):
        difference = float(np.abs(getattr(plain, side)(probes) - getattr(tuned, side)(probes)).max())
        if not difference <= 1e-5:
            raise RuntimeError(
                f"SentenceTransformer({str(folder)!r}) gives other vectors (difference {difference:.2g})."
            )
    return plain


class _Progress(TrainerCallback):
    """Reports how far training is, and remembers how many steps it took."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report, self.steps = report, 0

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        self.steps = state.global_step
        if "loss" in logs:
            accuracy = float(logs.get("in_batch_accuracy", "nan"))
            line = f"      step {state.global_step}/{state.max_steps}: loss {float(logs['loss']):.2f}"
            self.report(f"{line}, in-batch accuracy {accuracy:.2f}")


class _Steps:
    """Reports each step when it begins and how long it took when it ends."""

    def __init__(self, seconds: dict[str, float], report: Callable[[str], None], total: int) -> None:
        self.seconds, self.report, self.total, self.count = seconds, report, total, 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.count += 1
        self.report(f"[{self.count}/{self.total}] {name} …")
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.report(f"[{self.count}/{self.total}] {name}: {self.seconds[name]:.0f} s")
