"""Recompute the vectors that a repository was published with, and say what differs.

  saha-st verify org/saha
  saha-st verify org/saha --backend transformers
  saha-st verify org/saha --backend vllm --server http://localhost:8000

For vLLM, serve the model first: vllm serve org/saha --runner pooling --pooler-config '{"pooling_type": "LAST"}'
"""

from __future__ import annotations

import argparse

from saha_st.cli.options import find_model, require_device

NAME = "verify"
HELP = "check that an engine gives the vectors that were published"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("model_name_or_path", metavar="REPO_OR_PATH", help="Hub id, or folder that publish wrote")
    parser.add_argument(
        "--backend",
        choices=("sentence-transformers", "transformers", "vllm"),
        default="sentence-transformers",
        help="what computes the vectors",
    )
    parser.add_argument("--revision", help="branch, tag or commit")
    parser.add_argument("--device", help="torch device; the best available if not given")
    parser.add_argument("--server", help="address of the vLLM server")
    parser.add_argument("--api_key", help="bearer token that the server wants")
    parser.add_argument("--tolerance", type=float, help="how far from 1 a cosine may be; by the stored precision")


def run(args: argparse.Namespace) -> int:
    """Verify; the exit status is 1 if anything differs."""
    find_model(args.model_name_or_path)
    from saha_st.hub import verify

    require_device(args.device)

    names = ("backend", "revision", "device", "server", "api_key", "tolerance")
    found = verify(args.model_name_or_path, **{name: getattr(args, name) for name in names})
    print(f"{found.headline}\n\n{found.table}\n")
    if found.is_equal:
        print(f"Equal: {args.backend} gives the vectors that {found.model} was published with.")
        return 0
    print(f"Different: {args.backend} does not give the vectors that {found.model} was published with.")
    for line in [*found.problems, *filter(None, [found.hint])]:
        print(f"  {line}")
    return 1
