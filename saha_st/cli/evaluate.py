"""Score a model on MMEB, SugarCrepe, or any benchmark or task of mteb (MIEB, ViDoRe, MTEB).

  saha-st evaluate saha-tiny --benchmark mini-mmeb --compare_with saha-tiny-base
  saha-st evaluate org/model --benchmark "MMEB(v1)" --compare_with paper
  accelerate launch -m saha_st evaluate org/model --benchmark "MIEB(lite)" --batch_size 16

Results lie in --output_dir in mteb's layout, with a table and a chart in reports/. A run that was killed goes on where
it stopped, inside a task too; one process per GPU gives the same numbers as one.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from saha_st.cli.options import add_batch_arguments, add_model_arguments, at_least_one, load_any_model, require_model
from saha_st.ranks import Ranks

NAME = "evaluate"
HELP = "score a model on MMEB, MIEB, ViDoRe, MTEB, SugarCrepe"
IF_INTERRUPTED = "Start the same command again to go on."
IN_PROCESSES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_model_arguments(parser, positional=True)
    parser.add_argument(
        "--benchmark",
        nargs="+",
        required=True,
        metavar="NAME",
        help='"MMEB(v1)", "MMEB(v2)", mini-mmeb, mini-mmeb-v2, "SugarCrepe(v1)", "SugarCrepe++", or benchmarks or '
        'tasks of mteb by name, as "MIEB(lite)", "ViDoRe(v2)"',
    )
    parser.add_argument("--output_dir", default="evaluation", help="folder for results, vectors and reports")
    add_batch_arguments(parser)
    parser.add_argument(
        "--limit", type=at_least_one, help="a quick look: so many queries or rows of each task; no result"
    )
    parser.add_argument(
        "--compare_with",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="other models to score on the same tasks; 'paper' for published figures, labelled as such",
    )
    parser.add_argument("--name", help="the model's name in results, org/model; the Hub's if not given")
    parser.add_argument(
        "--data_dir", help="local data of a benchmark of ours; mini-mmeb and mini-mmeb-v2 are generated there"
    )
    parser.add_argument("--image_root", help="folder that its image paths are relative to")
    parser.add_argument("--data_revision", help="branch, tag or commit of its dataset on the Hub")
    parser.add_argument("--cache_dir", help="folder for its downloads and unpacked images")
    parser.add_argument("--num_proc", type=at_least_one, help="processes that load and prepare data")


def run(args: argparse.Namespace) -> int:
    """Find the tasks, load the models, score, write the report."""
    models = [args.model_name_or_path, *(name for name in args.compare_with if name != _PAPER)]
    ranks = Ranks.current()
    with ranks.together():
        for name in models:
            require_model(name, args.revision if name == args.model_name_or_path else None)
        benchmark, published = _find_benchmark(args)
    # What imports torch, now that the models and the benchmark are known.
    from saha_st.evaluation import Report
    from saha_st.evaluation.task_sources import task_sources

    logging.getLogger("saha_st.evaluation.run").setLevel(logging.ERROR)  # its warnings stand above the table
    columns, revision = {}, ""
    for name in models:
        meta, scores = _score(args, name, benchmark)
        revision = revision or meta.revision
        columns[meta.name if meta.name not in columns else f"{meta.name} ({name})"] = scores
        with ranks.together():
            report = Report(benchmark.name, columns, published, revision, task_sources(benchmark.tasks))
            if ranks.is_main:  # after each model: what is done is kept if the next one fails
                page, chart = report.write(args.output_dir)
    if ranks.is_main:
        for note in report.notes:
            print(f"Note: {note}")
        print(f"\n{report.table}\n\nResults: {Path(args.output_dir) / 'results'}\nReport:  {page}\nChart:   {chart}")
    return 0


_PAPER = "paper"


def _find_benchmark(args: argparse.Namespace) -> tuple[Any, Any]:
    """Find the benchmark, and what was published on it if that is asked for."""
    from saha_st.evaluation import find_benchmark

    benchmark = find_benchmark(
        args.benchmark,
        data_dir=args.data_dir or _place_of_generated(args),
        image_root=args.image_root,
        data_revision=args.data_revision,
        cache_dir=args.cache_dir,
    )
    from saha_st.evaluation import published_for
    from saha_st.evaluation.run import validate

    validate(benchmark.tasks, args.limit)
    published = published_for(benchmark.name) if _PAPER in args.compare_with else ()
    if _PAPER in args.compare_with and not published:
        raise ValueError(f"--compare_with {_PAPER}: we know of no published figures on {benchmark.name!r}.")
    return benchmark, published


def _score(args: argparse.Namespace, name: str, benchmark: Any) -> tuple[Any, Any]:
    """Score one model; how to compute applies to all that are compared, name and revision to the first."""
    from saha_st.evaluation import Embedder, evaluate
    from saha_st.evaluation.encoder import name_of_source
    from saha_st.modules.sources import resolve_model

    own = {} if name == args.model_name_or_path else {"model_name_or_path": name, "revision": None, "name": None}
    flags = argparse.Namespace(**{**vars(args), **own})
    with Ranks.current().together():
        model = load_any_model(flags)
    encoder = Embedder(
        model,
        name=flags.name or name_of_source(resolve_model(name)),
        cache_folder=Path(args.output_dir) / "vectors",
        batch_tokens=args.batch_tokens,
        show_progress_bar=not args.quiet,
    )
    scores = evaluate(
        encoder,
        benchmark,
        output_dir=args.output_dir,
        batch_size=args.batch_size,
        limit=args.limit,
        num_proc=args.num_proc,
        show_progress_bar=not args.quiet,
    )
    return encoder.mteb_model_meta, scores


def _place_of_generated(args: argparse.Namespace) -> Path | None:
    """Keep a generated benchmark beside its results."""
    for folder, prefix in (("mini-mmeb", "MiniMMEB_"), ("mini-mmeb-v2", "MiniMMEBV2_")):
        if all(name == folder or name.startswith(prefix) for name in args.benchmark):
            return Path(args.output_dir) / folder
    return None
