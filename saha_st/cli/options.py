"""Arguments that several commands share, so that they are called and explained the same everywhere."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from pathlib import Path
from typing import Any

from saha_st.token_budgets import BATCH_TOKENS


def at_least_one(text: str) -> int:
    """Read a flag that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1; got {text!r}")
    return int(text)


def add_common_arguments(parser: argparse.ArgumentParser, *, default: object = argparse.SUPPRESS) -> None:
    """What every command takes; a parser within a command's leaves the default to that one."""
    parser.add_argument("--quiet", action="store_true", default=default, help="no bars, and log warnings only")
    parser.add_argument("--traceback", action="store_true", default=default, help="show the traceback of an error")


def add_model_arguments(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """``--model``, or a positional MODEL, and how to load it."""
    text = "Hub id, folder of a model or of a run, or one of the embedded saha-tiny-base and saha-tiny"
    if positional:
        parser.add_argument("model_name_or_path", metavar="MODEL", help=text)
    else:
        parser.add_argument("--model", dest="model_name_or_path", required=True, help=text)
    parser.add_argument("--revision", help="branch, tag or commit of the model")
    parser.add_argument("--device", help="torch device; the best available if not given")
    parser.add_argument("--dtype", help="weights' dtype, such as bfloat16; the checkpoint's if not given")
    parser.add_argument("--image_tokens", type=at_least_one, nargs=2, metavar=("MIN", "MAX"), help="tokens per image")
    parser.add_argument("--num_frames", type=at_least_one, help="frames per video, evenly spaced")
    parser.add_argument("--video_tokens", type=at_least_one, nargs=2, metavar=("MIN", "MAX"), help="tokens per video")
    parser.add_argument(
        "--max_seq_length", type=at_least_one, help="longest input in tokens, images and prompt included"
    )
    parser.add_argument("--truncate_dim", type=at_least_one, help="keep so many first dimensions of each vector")


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """How much is encoded at a time."""
    parser.add_argument(
        "--batch_size", type=at_least_one, help="most inputs per forward; as many as fit --batch_tokens if not given"
    )
    parser.add_argument(
        "--batch_tokens", type=at_least_one, default=BATCH_TOKENS, help="most tokens per forward, padding counted"
    )


def find_model(name: str) -> str:
    """As `resolve_model`, naming folders that come near.

    Raises:
        ValueError: A path that does not exist, or a folder that is no checkpoint.
    """
    from saha_st.modules.sources import resolve_model

    path = Path(name).expanduser()
    try:
        return resolve_model(name)
    except ValueError as error:
        raise ValueError(f"{error}{'' if path.exists() else _near_folders(path)}") from error


def _near_folders(path: Path) -> str:
    """Name the folders that may have been meant, beside the first part of a path that is not there."""
    missing = next(each for each in (*reversed(path.parents), path) if not each.exists())
    if not missing.parent.is_dir():
        return ""
    names = [each.name for each in missing.parent.iterdir() if each.is_dir()]
    close = [missing.with_name(each) for each in difflib.get_close_matches(missing.name, names, n=3, cutoff=0.6)]
    return f" Folders that come near: {', '.join(repr(str(each)) for each in close)}." if close else ""


def require_model(name: str, revision: str | None = None) -> None:
    """See that there is such a model, before libraries are imported, data are read or others are scored for hours.

    Raises:
        OSError: Neither the Hub nor the cache has it.
        ValueError: There is no such folder, or no checkpoint in it.
    """
    source = find_model(name)
    if Path(source).exists():
        return
    from saha_st.data.hub import commit_of
    from saha_st.modules.sources import not_loadable

    failed = f"{not_loadable(name)}{_near_folders(Path(name))}"
    try:
        commit = commit_of(source, revision, repo_type="model")
    except OSError as error:
        raise OSError(f"{failed} {error}") from error
    if commit is None:
        raise OSError(f"{failed} The Hub cannot be reached, and the cache does not have it.")


def require_device(name: str | None) -> None:
    """See that a torch device is there, before a model is loaded to it.

    Raises:
        ValueError: It is none, or not on this machine.
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # what torch raises depends on how it was built
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise ValueError(f"--device {name}: there is no such device here ({reason}).") from error


def load_model(args: argparse.Namespace) -> Any:
    """Load the model that `add_model_arguments` describes.

    Raises:
        ValueError: ``--truncate_dim`` is more than the model has.
    """
    from saha_st.card.facts import whole_dimension
    from saha_st.modules import load_embedder

    require_device(args.device)
    model = load_embedder(args.model_name_or_path, device=args.device, **model_options(args))
    if args.truncate_dim and args.truncate_dim > whole_dimension(model):
        raise ValueError(
            f"--truncate_dim {args.truncate_dim}: {args.model_name_or_path!r} has {whole_dimension(model)} dimensions."
        )
    return model


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `load_embedder` is given beside the model's name and the device; only what was asked for."""
    options = {
        "revision": args.revision,
        "image_tokens": tuple(args.image_tokens) if args.image_tokens else None,
        "num_frames": args.num_frames,
        "video_tokens": tuple(args.video_tokens) if args.video_tokens else None,
        "max_seq_length": args.max_seq_length,
        "truncate_dim": args.truncate_dim,
        "model_kwargs": {"dtype": args.dtype} if args.dtype else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def load_any_model(args: argparse.Namespace) -> Any:
    """Load the model that `add_model_arguments` describes; a Sentence Transformer that takes no prompt, as it is."""
    from sentence_transformers import SentenceTransformer

    from saha_st.modules.loading import NoLanguageModelError
    from saha_st.modules.sources import resolve_model

    try:
        return load_model(args)
    except NoLanguageModelError:
        if args.image_tokens or args.num_frames or args.video_tokens or args.max_seq_length:
            raise ValueError(
                f"--image_tokens, --num_frames, --video_tokens, --max_seq_length: {args.model_name_or_path!r} is no "
                "language model; leave them out."
            ) from None
        options = {"model_kwargs": {"dtype": args.dtype}} if args.dtype else {}
        options |= {"truncate_dim": args.truncate_dim}
        source = resolve_model(args.model_name_or_path)
        return SentenceTransformer(source, device=args.device, revision=args.revision, **options)


def add_pairs_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Where pairs come from; the fields of `saha_st.training.DataConfig`."""
    text = "pairs: Hub dataset, folder, or a .parquet, .jsonl, .csv or .tsv file"
    parser.add_argument("path", metavar="PAIRS", nargs="?" if optional else None, help=text)
    parser.add_argument(
        "--format", choices=("pairs", "mmeb"), default="pairs", help="mmeb: TIGER-Lab/MMEB-train's layout"
    )
    parser.add_argument("--subset", help="configuration of the dataset; the MMEB subset")
    parser.add_argument("--split", help="split of the dataset")
    parser.add_argument("--anchor", default="anchor", help="column of the anchors")
    parser.add_argument("--positive", default="positive", help="column of the positives")
    parser.add_argument("--image_root", help="folder that relative image paths are under")
    parser.add_argument("--max_rows", type=at_least_one, help="take at most so many rows")


PAIRS_OPTIONS = {
    **{"format": "pairs", "subset": None, "split": None, "anchor": "anchor", "positive": "positive"},
    **{"image_root": None, "max_rows": None},
}
"""Flags of `add_pairs_arguments`, and what they are if they are not given."""


def how_to_list_rows(message: str, args: argparse.Namespace) -> str:
    """Say how to list all bad rows of pairs, after an error that names the first; else nothing."""
    if not re.match(r"Row \d+", message) or not hasattr(args, "positive") or args.command == "data":
        return ""
    given = {name: getattr(args, name) for name, default in PAIRS_OPTIONS.items() if getattr(args, name) != default}
    words = [args.path, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]
    return f" To list all such rows: saha-st data check {shlex.join(words)}"


def load_source(args: argparse.Namespace, *, owner_filter: bool = True, seed: int = 0) -> Any:
    """Load the pairs that `add_pairs_arguments` describes, as one `PairSource`."""
    from saha_st.training import DataConfig
    from saha_st.training.sources import load_sources

    names = ("path", "format", "subset", "split", "anchor", "positive", "image_root", "max_rows")
    config = DataConfig(**{name: getattr(args, name) for name in names}, owner_filter=owner_filter)
    sources = load_sources((config,), seed=seed)
    if len(sources) > 1:
        raise ValueError(
            f"{args.path!r} has {len(sources)} subsets; choose one with --subset: {[s.name for s in sources]}."
        )
    return sources[0]
