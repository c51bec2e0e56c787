"""Look at a training run before it begins: histograms of tokens, the longest rows, and the worst batch first.

Takes what `saha-st train` takes, arguments of SentenceTransformerTrainingArguments included. Exits with 1 if rows are
refused or the worst batch does not fit. Writes nothing but --output.
  saha-st preflight --config qwen2-vl-2b-mmeb --max_rows 2000
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from saha_st.cli.options import at_least_one, find_model
from saha_st.cli.train import read_config, with_training_arguments
from saha_st.files import write_text_whole

NAME = "preflight"
HELP = "token histograms, longest rows, memory and time of a training run"
TAKES_EXTRA = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--config", required=True, help="YAML file or recipe, as for train")
    parser.add_argument("--model", help="start from this model instead of the config's")
    parser.add_argument("--output_dir", help="taken and left alone, so that a train command can be repeated as it is")
    parser.add_argument("--max_rows", type=at_least_one, help="pairs of each dataset to look at; all if not given")
    parser.add_argument("--limit", type=at_least_one, default=10, help="rows to show")
    parser.add_argument("--estimate_only", action="store_true", help="do not train on the worst batch")
    parser.add_argument("--output", help="also write the report to this .json file")


def run(args: argparse.Namespace, extra: list[str]) -> int:
    """Read the config, look at the run, print the report; 1 if the run would fail."""
    output = args.output and Path(args.output)
    if output and output.suffix != ".json":
        raise ValueError(f"--output must end in .json, got {args.output!r}.")
    config = read_config(args)  # what needs no torch is refused before it is imported
    find_model(config.model)
    config = with_training_arguments(config, extra)
    from saha_st.training.preflight import preflight

    report = preflight(
        config, max_rows=args.max_rows, run_steps=not args.estimate_only, show_progress_bar=not args.quiet
    )
    print(report.to_text(longest=args.limit))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report.to_dict(), indent=2) + "\n"
        write_text_whole(output, text)
    return 1 if report.problems else 0
