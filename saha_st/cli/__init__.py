"""``saha-st``: one command a file, each of which translates its flags into one public call."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from saha_st import __version__
from saha_st.cli import (
    data,
    demo,
    encode,
    evaluate,
    mine,
    preflight,
    prompts,
    publish,
    quickstart,
    submission,
    train,
    verify,
)
from saha_st.cli.flags import Parser, with_flags
from saha_st.cli.options import add_common_arguments, how_to_list_rows
from saha_st.errors import MemoryFullError
from saha_st.heartbeat import LOST
from saha_st.hub.errors import CheckFailedError
from saha_st.launch import joined
from saha_st.ranks import LostProcessError, OtherProcessFailedError, Ranks

COMMANDS = (quickstart, encode, mine, preflight, train, prompts, evaluate, submission, publish, verify, demo, data)

# What a user can put right: shown as one line. Anything else is a defect, and keeps its traceback.
_EXPECTED = (ValueError, KeyError, ImportError, OSError, CheckFailedError, MemoryFullError)


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
    launched = Ranks.launched()
    if launched.count > 1 and not args.in_processes:
        return _refuse_processes(args.command, launched)
    _set_up_output(args, launched)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked after tokenizers ran
    # Threads that spin while they wait make a small model many times slower wherever cores are shared. Read by OpenMP
    # when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return _run(args, extra, launched)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands; imports nothing heavy."""
    parser = Parser(prog="saha-st", description="Turn a generative multimodal LLM into a universal embedder.")
    parser.add_argument("--version", action="version", version=f"saha-st {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    add_common_arguments(common, default=False)
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
            in_processes=getattr(command, "IN_PROCESSES", False),
            if_interrupted=getattr(command, "IF_INTERRUPTED", ""),
        )
        command.add_arguments(sub)
    return parser


def _run(args: argparse.Namespace, extra: list[str], launched: Ranks) -> int:
    """Run a command in this process or, with those of a launcher, in all; returns the exit status."""

    def report(error: Exception) -> None:
        _report(error, args)

    try:
        with _only_main_prints(launched), joined(getattr(args, "device", None), report) as device:
            args.device = device or getattr(args, "device", None)
            status = args.run(args, extra) if args.takes_extra else args.run(args)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        if launched.is_main:
            print(f"\nsaha-st {args.command}: interrupted. {args.if_interrupted}".rstrip(), file=sys.stderr)
        return 130
    except OtherProcessFailedError:  # which says so itself
        return 2
    except LostProcessError as error:
        print(f"saha-st {args.command}: {error}", file=sys.stderr)
        return LOST
    except Exception as error:
        if _nobody_reads(error):
            return 128 + 13  # as a shell says of what SIGPIPE ended
        is_expected = isinstance(error, _EXPECTED)
        if not getattr(error, "is_reported", False):
            if args.traceback or not is_expected:
                raise
            _report(error, args)
        return 2 if is_expected else 1


def _nobody_reads(error: Exception) -> bool:
    """Whether the reader of what is printed has gone, as `head` does when it has seen enough; then nothing more is."""
    if not isinstance(error, BrokenPipeError) or hasattr(error, "is_of_output"):
        return getattr(error, "is_of_output", False)
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    error.is_of_output = any(event & select.POLLERR for _, event in poll.poll(0))
    if error.is_of_output:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return error.is_of_output


def _report(error: Exception, args: argparse.Namespace) -> None:
    """Say what went wrong: what is expected in one line."""
    if _nobody_reads(error):
        return
    if args.traceback or not isinstance(error, _EXPECTED):
        traceback.print_exception(error)
        return
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    said = f"{with_flags(message, args.flags)}{how_to_list_rows(message, args)}"
    print(f"saha-st {args.command}: error: {said}", file=sys.stderr)


def _set_up_output(args: argparse.Namespace, launched: Ranks) -> None:
    """Let one process show bars and log; the others say only what is wrong with them."""
    args.quiet |= not launched.is_main
    level = logging.WARNING if launched.is_main else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    logging.getLogger("saha_st").setLevel(level if args.quiet else logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own: each line would come twice
    if args.quiet:  # bars of loading, read when these libraries are imported, which nothing has done yet
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    if not launched.is_main:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@contextmanager
def _only_main_prints(launched: Ranks) -> Iterator[None]:
    if launched.is_main:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _refuse_processes(command: str, launched: Ranks) -> int:
    if launched.is_main:
        able = ", ".join(each.NAME for each in COMMANDS if getattr(each, "IN_PROCESSES", False))
        print(
            f"saha-st {command}: error: {launched.count} processes were started (WORLD_SIZE={launched.count}), but "
            f"{command} is for one. Start it without torchrun or accelerate launch; those are for {able}.",
            file=sys.stderr,
        )
    return 2


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and the default of every argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)
