"""Train an embedder from a config file or a recipe.

Any argument of SentenceTransformerTrainingArguments may follow, and wins over the file's training section:
  saha-st train --config qwen2-vl-2b-mmeb --output_dir out --learning_rate 1e-5 --max_steps 200 --report_to tensorboard
On several GPUs, also of several machines that share the output folder:
  accelerate launch --num_processes 8 -m saha_st train --config qwen2-vl-2b-mmeb --output_dir out
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from saha_st.cli.options import find_model
from saha_st.ranks import Ranks

if TYPE_CHECKING:
    from saha_st.training.config import RunConfig

NAME = "train"
HELP = "train on mined clusters"
TAKES_EXTRA = True
IN_PROCESSES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--config", required=True, help="YAML file, or a recipe: qwen2-vl-2b-mmeb, …-7b-mmeb, mini-mmeb"
    )
    parser.add_argument("--model", help="start from this model instead of the config's")
    parser.add_argument("--output_dir", help="write to this folder instead of the config's")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")


def run(args: argparse.Namespace, extra: list[str]) -> int:
    """Read the config, train, say where the model is."""
    from saha_st.training.checkpoints import check_output_dir

    with Ranks.current().together():  # all have looked at the folder before one of them writes there
        config = read_config(args)  # what needs no torch is refused before it is imported
        check_output_dir(config, resume=args.resume)
        find_model(config.model)
        config = with_training_arguments(config, extra)
    from saha_st.training import train

    train(config, resume=args.resume, show_progress_bar=not args.quiet)
    print(f"Trained. Load it with SentenceTransformer({config.output_dir + '/final'!r}).")
    return 0


def read_config(args: argparse.Namespace) -> RunConfig:
    """Read the config or recipe, with ``--model`` and ``--output_dir`` in place of its own."""
    from saha_st.training.config import RunConfig

    overrides = {key: value for key in ("model", "output_dir") if (value := getattr(args, key))}
    return RunConfig.from_file(args.config, **overrides)


def with_training_arguments(config: RunConfig, extra: list[str]) -> RunConfig:
    """Let arguments of the stock trainer win over the config's; see `parse_training_arguments`."""
    return replace(config, training={**config.training, **parse_training_arguments(extra)})


def parse_training_arguments(extra: list[str]) -> dict[str, Any]:
    """Read the stock trainer's arguments, each with the type it has there; only those that were given.

    Raises:
        ValueError: Something that is no such argument, or a value that it does not take.
    """
    if not extra:
        return {}
    from sentence_transformers import SentenceTransformerTrainingArguments
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

    namespace, unknown = Parser(SentenceTransformerTrainingArguments).parse_known_args(extra)
    if unknown:
        raise ValueError(f"{' '.join(unknown)}: not an argument of SentenceTransformerTrainingArguments.")
    given = [item.removeprefix("--").split("=")[0].replace("-", "_") for item in extra if item.startswith("--")]
    return {name.removeprefix("no_"): getattr(namespace, name.removeprefix("no_")) for name in given}
