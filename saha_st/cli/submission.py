"""Write the files of a leaderboard submission from what `saha-st evaluate` left in its --output_dir.

  saha-st submission mteb org/model --results evaluation --out submission --benchmark "MIEB(lite)"
  saha-st submission mmeb org/model --results evaluation --out submission --release_date 2026-01-31

Incomplete results are refused, naming what is missing. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
from typing import Any

from saha_st.cli.options import add_common_arguments, add_model_arguments, load_model, require_model

NAME = "submission"
HELP = "write the files of an MTEB or MMEB leaderboard submission"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags, those of each leaderboard."""
    boards = parser.add_subparsers(dest="leaderboard", required=True, metavar="LEADERBOARD")
    for name, (text, add_own) in _LEADERBOARDS.items():
        board = boards.add_parser(name, help=text, description=text, formatter_class=parser.formatter_class)
        add_model_arguments(board, positional=True)
        board.add_argument("--results", required=True, help="the --output_dir of saha-st evaluate")
        board.add_argument("--out", required=True, help="folder to write")
        board.add_argument("--name", help="the model's name on the Hub, org/model")
        board.add_argument("--release_date", help="day of the model's release, YYYY-MM-DD")
        board.add_argument("--results_revision", help="revision of the results; that of MODEL's vectors if not given")
        add_common_arguments(board)
        add_own(board)


def run(args: argparse.Namespace) -> int:
    """Load the model, check the results, write, say what is left to do."""
    from saha_st.card.run_folders import find_runs

    find_runs(args.results)  # before a model is loaded
    require_model(args.model_name_or_path, args.revision)
    return _mteb(args) if args.leaderboard == "mteb" else _mmeb(args)


def _add_mteb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmark", nargs="+", metavar="NAME", help="benchmarks that must be complete; all that are if not given"
    )
    parser.add_argument("--hub_revision", help="commit of the model on the Hub, if MODEL is a local folder")
    parser.add_argument("--license", help="of the weights: mteb's name for it, or a URL; the card's if not given")
    parser.add_argument("--reference", help="URL of the model's page; the Hub's if not given")
    parser.add_argument("--public_training_code", help="URL of the training code")
    parser.add_argument("--public_training_data", help="URL of the training data")
    parser.add_argument("--adapted_from", help="base model on the Hub; the card's if not given")
    parser.add_argument("--languages", nargs="+", default=["eng-Latn"], help="ISO 639-3 codes with scripts")
    parser.add_argument(
        "--training_datasets",
        nargs="*",
        metavar="TASK",
        help="tasks of mteb whose data were trained on; the flag alone states that there are none",
    )
    parser.add_argument(
        "--trained_on_mmeb", action=argparse.BooleanOptionalAction, help="whether MMEB-train was trained on"
    )
    parser.add_argument("--contacts", nargs="+", help="GitHub handles")
    parser.add_argument("--no_mock_run", action="store_true", help="leave out mteb's mock run")


def _add_mmeb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="page of the model or its paper; the Hub's if not given")
    parser.add_argument("--backbone", help="the model it was made from; the card's if not given")
    parser.add_argument("--data_source", default="Self-Reported", help="who computed the scores")


_LEADERBOARDS = {
    "mteb": ("the files for MTEB's leaderboards (MTEB, MIEB, ViDoRe)", _add_mteb),
    "mmeb": ("the file for the MMEB leaderboard", _add_mmeb),
}


def _mteb(args: argparse.Namespace) -> int:
    from saha_st.evaluation import mteb_submission
    from saha_st.modules.sources import resolve_model

    stated = {"hub_revision": args.hub_revision or _commit_on_hub(args)}
    names = (
        "license release_date reference public_training_code public_training_data adapted_from languages "
        "training_datasets contacts trained_on_mmeb results_revision"
    )
    written = mteb_submission(
        load_model(args),
        args.results,
        args.out,
        source=resolve_model(args.model_name_or_path),
        source_revision=args.revision,
        benchmarks=args.benchmark,
        model_name=args.name,
        mock_run=not args.no_mock_run,
        **stated | _given(args, names),
    )
    print(f"Complete: {', '.join(written.benchmarks)}.")
    for label in ("module", "results", "mock_run", "checklist"):
        print(f"{label.replace('_', ' ').capitalize() + ':':10} {getattr(written, label) or '–'}")
    if written.left_out:
        print(f"Left out, not of mteb: {', '.join(written.left_out)}.")
    for name, text in written.open_items.items():
        print(f"Open: {name}: {text}")
    return 0


def _mmeb(args: argparse.Namespace) -> int:
    from saha_st.evaluation import mmeb_submission, mmeb_submission_steps
    from saha_st.modules.sources import resolve_model

    file = mmeb_submission(
        load_model(args),
        args.results,
        args.out,
        model_name=args.name,
        revision=args.results_revision,
        source=resolve_model(args.model_name_or_path),
        **_given(args, "url release_date backbone data_source"),
    )
    print(f"Wrote {file}. Next:\n\n{mmeb_submission_steps(file)}")
    return 0


def _commit_on_hub(args: argparse.Namespace) -> str | None:
    """Return the commit of a model that is named by its place on the Hub."""
    from pathlib import Path

    from saha_st.data.hub import commit_of
    from saha_st.modules.sources import resolve_model

    name = resolve_model(args.model_name_or_path)
    return None if Path(name).exists() else commit_of(name, args.revision, repo_type="model")


def _given(args: argparse.Namespace, names: str) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names.split()}
