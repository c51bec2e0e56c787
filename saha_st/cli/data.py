"""Look at a dataset of pairs before anything is encoded: saha-st data check PATH lists what is wrong, row by row."""

from __future__ import annotations

import argparse

from saha_st.cli.options import add_pairs_arguments, load_source

NAME = "data"
HELP = "check pairs, row by row"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("action", choices=("check",), help="check: list what is wrong")
    add_pairs_arguments(parser)
    parser.add_argument("--max_seq_length", type=int, help="report texts longer than this, in tokens of --model")
    parser.add_argument("--model", dest="model_name_or_path", help="whose tokenizer counts tokens")


def run(args: argparse.Namespace) -> int:
    """Check, print, and exit with 1 if a row cannot be used."""
    raise NotImplementedError
