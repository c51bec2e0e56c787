"""``saha-st``: one command a file, each of which translates its flags into one public call."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from saha_st import __version__
from saha_st.cli import data, demo, encode, evaluate, mine, publish, quickstart, submission, train, verify
from saha_st.hub.errors import CheckFailedError

COMMANDS = (quickstart, encode, mine, train, evaluate, submission, publish, verify, demo, data)

# What a user can put right: shown as one line. Anything else is a defect, and keeps its traceback.
_EXPECTED = (ValueError, KeyError, FileNotFoundError, FileExistsError, ImportError, OSError, CheckFailedError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        parser.print_help()
        return 2
    args, extra = parser.parse_known_args(argv)
    if extra and not args.takes_extra:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("saha_st").setLevel(logging.WARNING if args.quiet else logging.INFO)
    if args.quiet:  # bars of loading, read when these libraries are imported, which nothing has done yet
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked after tokenizers ran
    # Threads that spin while they wait make a small model many times slower wherever cores are shared. Read by OpenMP
    # when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return args.run(args, extra) if args.takes_extra else args.run(args)
    except KeyboardInterrupt:
        print(f"\nsaha-st {args.command}: interrupted. {args.if_interrupted}".rstrip(), file=sys.stderr)
        return 130
    except _EXPECTED as error:
        if args.traceback:
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"saha-st {args.command}: error: {message}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="saha-st", description="Turn a generative multimodal LLM into a universal embedder."
    )
    parser.add_argument("--version", action="version", version=f"saha-st {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="no bars, and log warnings only")
    common.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.__doc__,
            parents=[common],
            formatter_class=_HelpFormatter,
        )
        sub.set_defaults(
            run=command.run,
            takes_extra=getattr(command, "TAKES_EXTRA", False),
            if_interrupted=getattr(command, "IF_INTERRUPTED", ""),
        )
        command.add_arguments(sub)
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and the default of every argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)
