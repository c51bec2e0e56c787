"""Mine mutually hard clusters from pairs, with the model itself.

Writes clusters.parquet (row, cluster, anchor, positive) and mining.json (settings and counts) to --output_dir, and
keeps the vectors in --cache_folder, so that a killed run goes on where it stopped. --report also writes a page about
what was mined, and its numbers to audit.json; the page alone, if the same command, or one without --report, has mined
there already. Several processes, one a GPU, share the encoding and the search, through a --cache_folder that all of
them see:

  torchrun --nproc_per_node 8 -m saha_st mine pairs.parquet --model org/saha --output_dir mined
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from saha_st.cli.options import (
    add_batch_arguments,
    add_model_arguments,
    add_pairs_arguments,
    load_model,
    load_source,
    require_model,
)
from saha_st.files import require_new_file
from saha_st.ranks import Ranks

NAME = "mine"
HELP = "mine hard-negative clusters from pairs"
IN_PROCESSES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_pairs_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--output_dir", required=True, help="folder for clusters.parquet and mining.json")
    parser.add_argument("--num_negatives", type=int, default=15, help="mates of a full cluster")
    parser.add_argument(
        "--pool_multiplier", type=int, default=3, help="2 x num_negatives x this many documents are looked at"
    )
    parser.add_argument("--no_owner_filter", action="store_true", help="for classification: keep the nearest instead")
    parser.add_argument(
        "--max_owner_similarity", type=float, help="beyond the paper: drop owners more similar than this"
    )
    parser.add_argument("--relative_margin", type=float, help="beyond the paper: as in mine_hard_negatives")
    parser.add_argument(
        "--builder", choices=("owners", "communities"), default="owners", help="communities: beyond the paper"
    )
    parser.add_argument("--range_min", type=int, default=0, help="communities: nearer ranks make no edge")
    parser.add_argument(
        "--range_max", type=int, help="communities: so many ranks are looked at; RANGE_MIN + the pool if not given"
    )
    parser.add_argument(
        "--partitioner", choices=("greedy", "metis"), default="greedy", help="communities: what divides the rows"
    )
    add_batch_arguments(parser)
    parser.add_argument("--use_faiss", action="store_true", help="search with FAISS")
    parser.add_argument("--faiss_index", help='approximate index, such as "IVF1024,Flat"')
    parser.add_argument("--cache_folder", help="where vectors are kept; OUTPUT_DIR/vectors if not given")
    parser.add_argument("--report", help="also write a page about what was mined: a new .html file")
    parser.add_argument(
        "--truth_column",
        help="for the report: a column of what each row is about, equal for rows that are each other's positives (no "
        'model sees it); "concept" for mini-MMEB',
    )


def run(args: argparse.Namespace) -> int:
    """Load pairs and model, mine, write."""
    from saha_st.mining.checks import check_builder, check_options

    output_dir, ranks = Path(args.output_dir), Ranks.current()
    with ranks.together():
        is_mined = ranks.share((output_dir / "mining.json").exists())
        if is_mined and not args.report:
            raise FileExistsError(
                f"{str(output_dir)!r} holds a mining result already. Choose another folder, or remove "
                "clusters.parquet and mining.json there (vectors may stay); --report FILE.html writes a page about it."
            )
        check_options(args.num_negatives, args.pool_multiplier, args.max_owner_similarity, args.relative_margin)
        check_builder(args.builder, args.partitioner, args.range_min, args.range_max)
        _check_report(args)
        require_model(args.model_name_or_path, args.revision)
        source = load_source(args, owner_filter=not args.no_owner_filter)
        truth = _load_truth(args)
        from saha_st.mining.miner import find_saha_clusters, load_saha_clusters  # and torch, now that all is there

        model = load_model(args)
    names = ("num_negatives", "pool_multiplier", "max_owner_similarity", "relative_margin")
    names += ("builder", "range_min", "range_max", "partitioner", "use_faiss", "faiss_index")
    settings = {name: getattr(args, name) for name in names} | {"owner_filter": source.owner_filter}
    if not is_mined:
        mined = find_saha_clusters(
            source.dataset,
            model,
            batch_size=args.batch_size,
            batch_tokens=args.batch_tokens,
            cache_folder=args.cache_folder or output_dir / "vectors",
            show_progress_bar=not args.quiet,
            ranks=ranks,
            **settings,
        )
    with ranks.together():
        if ranks.is_main:
            if is_mined:
                mined = load_saha_clusters(output_dir, source.dataset, model, **settings)
            else:
                mined.save(output_dir)
            if args.report:
                _report(args, source, model, mined, truth)
            print(json.dumps(mined.statistics, indent=2))
    return 0


def _check_report(args: argparse.Namespace) -> None:
    if args.report:
        require_new_file(args.report, name="--report", suffix=".html", made=Path(args.output_dir))
    elif args.truth_column:
        raise ValueError(f"--truth_column {args.truth_column}: it is for the report; add --report FILE.html.")


def _load_truth(args: argparse.Namespace) -> list[Any] | None:
    """The truth of each row, of the very rows that `load_source` has loaded; None if it is not asked for."""
    if args.truth_column is None:
        return None
    from saha_st.data.truth import load_truth
    from saha_st.mining.audit import truth_codes

    options = {name: getattr(args, name) for name in ("format", "subset", "split", "max_rows")}
    truth = load_truth(args.truth_column, args.path, **options)
    truth_codes(truth)  # refuses what is no truth, before anything is encoded
    return truth


def _report(args: argparse.Namespace, source: Any, model: Any, mined: Any, truth: list[Any] | None) -> None:
    """Write the page, and its numbers beside the clusters."""
    from saha_st.mining.report import write_report

    write_report(
        args.report,
        source.dataset,
        model,
        mined,
        truth_column=truth,
        name=source.name,
        json_path=Path(args.output_dir) / "audit.json",
        distinct=mined.inputs,
        cache_folder=args.cache_folder or Path(args.output_dir) / "vectors",
        show_progress_bar=not args.quiet,
    )
