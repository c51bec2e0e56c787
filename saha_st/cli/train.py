"""Train an embedder from a config file or a recipe.

Any argument of SentenceTransformerTrainingArguments may follow, and wins over the file's training section:
  saha-st train --config qwen2-vl-2b-mmeb --output_dir out --learning_rate 1e-5 --max_steps 200 --report_to tensorboard
"""

from __future__ import annotations

import argparse
from typing import Any

NAME = "train"
HELP = "train on mined clusters"
TAKES_EXTRA = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--config", required=True, help="YAML file, or a recipe: qwen2-vl-2b-mmeb, qwen2-vl-7b-mmeb")
    parser.add_argument("--model", help="start from this model instead of the config's")
    parser.add_argument("--output_dir", help="write to this folder instead of the config's")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")


def run(args: argparse.Namespace, extra: list[str]) -> int:
    """Read the config, train, say where the model is."""
    from saha_st.training import RunConfig, train

    overrides = {key: value for key in ("model", "output_dir") if (value := getattr(args, key))}
    config = RunConfig.from_file(args.config, training=parse_training_arguments(extra), **overrides)
    train(config, resume=args.resume)
    print(f"Trained. Load it with SentenceTransformer({config.output_dir + '/final'!r}).")
    return 0


def parse_training_arguments(extra: list[str]) -> dict[str, Any]:
    """Read ``--name value``, ``--name=value`` and ``--flag`` as YAML values by name.

    Raises:
        ValueError: Something that is no such argument.
    """
    import yaml

    values: dict[str, Any] = {}
    items = iter([part for item in extra for part in _split(item)])
    name = None
    for item in items:
        if item.startswith("--"):
            name = item[2:].replace("-", "_")
            values[name] = True
        elif name is None:
            raise ValueError(f"unexpected argument {item!r}; training arguments are written --name value.")
        else:
            # YAML takes 1e-5 for a string: it wants 1.0e-5.
            values[name] = _number(item) if _number(item) is not None else yaml.safe_load(item)
            name = None
    return values


def _split(item: str) -> list[str]:
    return item.split("=", maxsplit=1) if item.startswith("--") else [item]


def _number(text: str) -> float | int | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
