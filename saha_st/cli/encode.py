"""Encode a folder of pictures, a text file, a table or a Hub dataset: vectors with ids, as safetensors or parquet.

saha-st encode photos/ --model saha-tiny --output photos.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from saha_st.cli.options import add_model_arguments, at_least_one, load_model, require_model

NAME = "encode"
HELP = "encode files, folders or datasets"

_SUFFIXES = (".safetensors", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("source", help="folder of pictures, .txt with a text a line, table file, or Hub dataset")
    add_model_arguments(parser)
    parser.add_argument("--output", required=True, help=f"file to write: {' or '.join(_SUFFIXES)}")
    parser.add_argument("--task", choices=("query", "document"), default="document", help="side of the prompt")
    parser.add_argument("--text_column", help="column of texts; 'text' if there is one")
    parser.add_argument("--image_column", help="column of images or their paths; 'image' if there is one")
    parser.add_argument("--id_column", help="column of ids; 'id' if there is one, else the row number")
    parser.add_argument("--image_root", help="folder that relative image paths are under")
    parser.add_argument("--subset", help="configuration of a Hub dataset")
    parser.add_argument("--split", default="train", help="split of the dataset")
    parser.add_argument("--batch_size", type=at_least_one, default=32, help="inputs per forward")
    parser.add_argument("--cache_folder", help="keep vectors here, so that a killed or repeated run goes on")


def run(args: argparse.Namespace) -> int:
    """Load inputs and model, encode, write."""
    output = Path(args.output)
    if output.suffix not in _SUFFIXES:
        raise ValueError(f"--output must end in {' or '.join(_SUFFIXES)}, got {args.output!r}.")
    if output.exists():
        raise FileExistsError(f"--output {args.output!r} exists already. Remove it or choose another name.")
    require_model(args.model_name_or_path, args.revision)
    from saha_st.data.inputs import ID, INPUT, load_inputs

    inputs = load_inputs(
        args.source,
        text=args.text_column,
        image=args.image_column,
        id_column=args.id_column,
        image_root=args.image_root,
        subset=args.subset,
        split=args.split,
    )
    _check_room_for_ids(output, inputs[ID])
    from saha_st.encoding import encode_column, vector_fingerprint  # and torch, now that all is there

    model = load_model(args)
    encoded = encode_column(
        inputs,
        INPUT,
        model,
        task=args.task,
        batch_size=args.batch_size,
        cache_folder=args.cache_folder,
        show_progress_bar=not args.quiet,
    )
    facts = {
        "model": args.model_name_or_path,
        "task": args.task,
        "fingerprint": vector_fingerprint(model, task=args.task),
    }
    write_vectors(output, list(inputs[ID]), encoded.of_rows, facts)
    print(f"Wrote {len(inputs)} vectors of {encoded.embeddings.shape[1]} dimensions to {output}.")
    return 0


def _check_room_for_ids(output: Path, ids: Any) -> None:
    """Refuse what safetensors cannot hold, before anything is encoded: their header ends at 100 MB."""
    if output.suffix == ".safetensors" and sum(len(name.encode()) + 4 for name in ids) > 90_000_000:
        raise ValueError(f"The ids of {len(ids)} inputs do not fit into a .safetensors file. Write .parquet instead.")


def write_vectors(output: Path, ids: list[str], embeddings: Any, facts: dict[str, str]) -> None:
    """Write vectors and their ids, and what made them, as one whole file.

    Safetensors hold a tensor ``embeddings`` (rows, dim) and the ids as JSON under ``ids`` in the metadata; parquet
    holds columns ``id`` and ``embedding``.
    """
    from saha_st.files import write_whole

    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".safetensors":
        from safetensors.numpy import save

        blob = save({"embeddings": embeddings}, metadata=facts | {"ids": json.dumps(ids)})
        write_whole(output, lambda file: file.write(blob))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])
    table = pa.table({"id": ids, "embedding": vectors}).replace_schema_metadata(facts)
    write_whole(output, lambda file: pq.write_table(table, file))
