"""Look at a dataset of pairs before anything is encoded, or write the generated one.

saha-st data check pairs.jsonl        lists what is wrong, row by row
saha-st data generate mini-mmeb       writes mini-MMEB to a new folder; the recipe mini-mmeb trains on it
saha-st data generate mini-mmeb-v2    writes mini-MMEB-V2, of videos and pages, to a new folder of this name
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from saha_st.cli.options import add_common_arguments, add_pairs_arguments, at_least_one, find_model

NAME = "data"
HELP = "check pairs, row by row; or generate mini-MMEB, mini-MMEB-V2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of each action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (text, add_own, act) in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text, formatter_class=parser.formatter_class)
        add_own(action)
        add_common_arguments(action)
        action.set_defaults(act=act)


def run(args: argparse.Namespace) -> int:
    """Check or generate."""
    return args.act(args)


def _add_check(parser: argparse.ArgumentParser) -> None:
    add_pairs_arguments(parser)
    parser.add_argument(
        "--max_seq_length", type=at_least_one, help="report longer texts: characters, or tokens of --model"
    )
    parser.add_argument("--model", dest="model_name_or_path", help="whose tokenizer counts tokens")
    parser.add_argument("--limit", type=at_least_one, default=10, help="rows to show of each kind of problem")


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", help="new folder; if its last part is mini-mmeb-v2, mini-MMEB-V2 is written to it"
    )


def _generate(args: argparse.Namespace) -> int:
    from saha_st.data.scenes import write_mini_mmeb, write_mini_mmeb_v2

    if Path(args.path).name == "mini-mmeb-v2":
        print(f"Wrote mini-MMEB-V2 to {write_mini_mmeb_v2(args.path)}.")
    else:
        print(f"Wrote mini-MMEB to {write_mini_mmeb(args.path)}.")
    return 0


def _check(args: argparse.Namespace) -> int:
    """Check, print, and exit with 1 if there are rows that cannot be used."""
    from saha_st.data import check_pairs, format_problems
    from saha_st.data.problems import format_summary

    result = check_pairs(
        _load(args), tokenizer=_tokenizer(args), max_length=args.max_seq_length, show_progress_bar=not args.quiet
    )
    print(format_problems(result.problems, limit=args.limit))
    print()
    print(format_summary(result.summary))
    return 1 if result.summary.errors else 0


def _load(args: argparse.Namespace) -> Any:
    from saha_st.data import load_mmeb, load_pairs

    # Missing files are what this command lists, so loading must not stop at the first.
    options = {"image_root": args.image_root, "max_rows": args.max_rows, "check_files": False}
    if args.format == "mmeb":
        if args.subset is None:
            raise ValueError("--format mmeb needs --subset, one of the folders of the benchmark.")
        return load_mmeb(args.path, args.subset, split=args.split or "diverse_instruction", **options)
    columns = {"anchor": args.anchor, "positive": args.positive}
    options |= {"split": args.split or "train", "subset": args.subset}
    return load_pairs(args.path, **columns, **options)


def _tokenizer(args: argparse.Namespace) -> Any:
    if args.model_name_or_path is None:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(find_model(args.model_name_or_path))


_ACTIONS = {
    "check": ("list what is wrong with pairs, row by row; the exit status is 1 for errors", _add_check, _check),
    "generate": ("write mini-MMEB or mini-MMEB-V2 to a new folder", _add_generate, _generate),
}
