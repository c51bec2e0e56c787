"""Publish a model on the Hub, so that SentenceTransformer("org/name") loads it with nothing else.

  saha-st publish saha-2b org/saha --results evaluation --license apache-2.0 --dry-run
  saha-st publish saha-2b org/saha --results evaluation --license apache-2.0

Adapters are merged. Before anything is uploaded, the repository is loaded in a process without saha_st and its vectors
are compared, and it is looked through for secrets, paths, pickles and pictures. --dry-run stops there; with
--output_dir it leaves all of it, the card among it, to be looked at.
"""

from __future__ import annotations

import argparse

from saha_st.cli.options import find_model

NAME = "publish"
HELP = "put a model on the Hub, checked"
IF_INTERRUPTED = "A commit to the Hub is made whole or not at all; start the same command again."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("model", metavar="PATH", help="folder of a model or of a run; a Hub id, or saha-tiny")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="repository on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", default=None, help="make the repository private")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="check and list, upload nothing")
    parser.add_argument("--output_dir", help="leave what is uploaded in this folder")
    parser.add_argument("--results", help="output folder of saha-st evaluate, to go along and into the card")
    parser.add_argument(
        "--license", type=str.lower, help="licence of the model, by the Hub's identifier: apache-2.0, …"
    )
    parser.add_argument("--base_model", help="Hub id of the base model, for the card; as the checkpoint tells")
    parser.add_argument("--card", help="a model card to use as it is; by default one is made")
    parser.add_argument("--keep_adapter", action="store_true", help="keep a merged adapter beside the weights")
    parser.add_argument("--revision", help="branch to commit to; main if not given")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--commit_message", default="Publish the embedder with saha_st", help="of the commit")


def run(args: argparse.Namespace) -> int:
    """Publish, and say what was checked and what was uploaded."""
    find_model(args.model)
    from saha_st.hub import publish

    names = (
        "model repo_id private dry_run output_dir results license base_model card keep_adapter "
        "revision create_pr commit_message"
    ).split()
    published = publish(report=print, **{name: getattr(args, name) for name in names})
    if published.adapter is not None:
        effect = published.adapter
        print(f"Adapter: {effect.tensors} tensors on {effect.layers} layers, merged; it turns vectors by up to "
              f"{effect.change:.3g} (1 - cosine).")  # fmt: skip
    engines = dict.fromkeys(each.engine for each in published.comparisons)
    inputs = len(published.comparisons) // len(engines)
    lowest = min(each.cosine for each in published.comparisons)
    print(f"Loaded without saha_st, with {' and '.join(engines)}: the tokens of all {inputs} inputs are equal, the "
          f"lowest cosine is {lowest:.6f}.")  # fmt: skip
    print("Looked for secrets, paths, pickles and pictures that nothing accounts for: found none.")
    if not args.license and not args.card:
        print("The card names the licence only if the model's own card did; --license states one.")
    if published.url is None:
        where = (
            f" Look at it in {args.output_dir}." if args.output_dir else " With --output_dir you can read the card."
        )
        print(f"Dry run: nothing was uploaded.{where}")
    else:
        print(f'Published: {published.url}\nLoad it with SentenceTransformer("{published.repo_id}").')
    return 0
