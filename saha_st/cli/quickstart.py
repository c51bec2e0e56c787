"""Watch a small generative multimodal LLM become an embedder: prompt, mine, train, evaluate, save, search.

Everything is generated or comes with the package: nothing is downloaded, and a CPU is enough.
"""

from __future__ import annotations

import argparse
import logging
import time

from saha_st.cli.options import at_least_one, require_model

NAME = "quickstart"
HELP = "the whole way on an embedded model, in minutes on a CPU"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--output_dir", default="quickstart-run", help="new folder for data, model, results and page")
    parser.add_argument("--model", default="saha-tiny-base", help="generative multimodal LLM to start from")
    parser.add_argument("--compare", action="store_true", help="also train the in-batch baseline on as many pairs")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and training")
    parser.add_argument("--train_rows", type=at_least_one, default=500, help="training pairs of each subset")
    parser.add_argument("--eval_rows", type=at_least_one, default=80, help="queries of each subset")
    parser.add_argument("--max_steps", type=int, default=-1, help="stop training after so many steps; -1: never")


def run(args: argparse.Namespace) -> int:
    """Run the quickstart and print its table."""
    from saha_st.files import require_new_folder

    start = time.perf_counter()
    report = _nothing if args.quiet else _print_now
    require_new_folder(args.output_dir)
    require_model(args.model)
    report("At the default settings this takes about 5 minutes on two CPU cores that do nothing else.")
    report("Loading libraries …")
    import datasets
    import transformers

    from saha_st.quickstart.run import quickstart

    # Dozens of short bars, and of lines on single columns, would hide the lines of progress.
    logging.getLogger("saha_st.encoding").setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    names = ("model", "compare", "seed", "train_rows", "eval_rows", "max_steps")
    options = {name: getattr(args, name) for name in names}
    result = quickstart(args.output_dir, report=report, **options)
    print(f"\n{result.table}\n")
    print(f"Model: SentenceTransformer({str(result.model_dir)!r})")
    print(f"Page:  {result.page}")
    print(f"Next:  saha-st publish {result.model_dir.parent} org/name --dry-run")
    print(f"Took {time.perf_counter() - start:.0f} s.")
    return 0


def _print_now(line: str) -> None:
    print(line, flush=True)


def _nothing(line: str) -> None:
    pass
