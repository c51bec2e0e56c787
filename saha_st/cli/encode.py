"""Encode a folder of pictures or videos, a text file, a table or a Hub dataset: vectors with ids, in one file.

  saha-st encode photos/ --model saha-tiny --output photos.safetensors
  torchrun --nproc_per_node 8 -m saha_st encode photos/ --model org/saha --output photos.safetensors

Several processes, one a GPU, exchange vectors through --cache_folder, which all of them must see; by default a folder
beside --output, which is removed when that is written. They give the same file as one.
"""

from __future__ import annotations

import argparse
import json
import shutil
from hashlib import blake2b
from pathlib import Path
from typing import Any

from saha_st.cli.options import (
    add_batch_arguments,
    add_model_arguments,
    load_model,
    model_options,
    require_model,
)
from saha_st.ranks import Ranks

NAME = "encode"
HELP = "encode files, folders or datasets"
IN_PROCESSES = True

_SUFFIXES = (".safetensors", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("source", help="folder of pictures or videos, .txt with a text a line, table, or Hub dataset")
    add_model_arguments(parser)
    parser.add_argument("--output", required=True, help=f"file to write: {' or '.join(_SUFFIXES)}")
    parser.add_argument("--task", choices=("query", "document"), default="document", help="side of the prompt")
    parser.add_argument("--text_column", help="column of texts; 'text' if there is one")
    parser.add_argument("--image_column", help="column of images or their paths; 'image' if there is one")
    parser.add_argument("--video_column", help="column of videos: paths of files or of folders of frames, or frames")
    parser.add_argument("--id_column", help="column of ids; 'id' if there is one, else the row number")
    parser.add_argument("--image_root", help="folder that relative paths of images and videos are under")
    parser.add_argument("--subset", help="configuration of a Hub dataset")
    parser.add_argument("--split", default="train", help="split of the dataset")
    add_batch_arguments(parser)
    parser.add_argument("--cache_folder", help="keep vectors here, so that a killed or repeated run goes on")


def run(args: argparse.Namespace) -> int:
    """Load inputs and model, encode, write."""
    output, ranks = Path(args.output), Ranks.current()
    with ranks.together():
        _check_output(output)
        require_model(args.model_name_or_path, args.revision)
        from saha_st.data.inputs import ID, INPUT  # and datasets, which takes seconds

        inputs = _load_inputs(args)
        _check_room_for_ids(output, inputs[ID])
        # What imports torch, now that all is there.
        from saha_st.encoding import DistinctInputs, VectorOrigin, encode_column

        model = load_model(args)
        distinct = DistinctInputs.of(inputs, INPUT)
        origin = VectorOrigin.of(model, args.model_name_or_path, task=args.task, options=model_options(args))
    cache_folder = args.cache_folder or _folder_of_processes(output, ranks)
    ranks.require_same("--model", origin.fingerprint)
    ranks.require_same("SOURCE", blake2b(distinct.keys[distinct.index_of_row]).hexdigest())
    ranks.require_common_folder(cache_folder, "--cache_folder")
    encoded = encode_column(
        inputs,
        INPUT,
        model,
        task=args.task,
        distinct=distinct,
        weights=origin.weights,
        batch_size=args.batch_size,
        batch_tokens=args.batch_tokens,
        cache_folder=cache_folder,
        show_progress_bar=not args.quiet,
        ranks=ranks,
    )
    with ranks.together():
        if ranks.is_main:
            write_vectors(output, list(inputs[ID]), encoded.of_rows, origin.to_metadata())
    if ranks.is_main and cache_folder != args.cache_folder:  # and now nobody reads there any more
        _remove(cache_folder, origin.fingerprint)
    print(f"Wrote {len(inputs)} vectors of {encoded.embeddings.shape[1]} dimensions to {output}.")
    return 0


def _check_output(output: Path) -> None:
    if output.suffix not in _SUFFIXES:
        raise ValueError(f"--output must end in {' or '.join(_SUFFIXES)}, got {str(output)!r}.")
    if output.exists():
        raise FileExistsError(f"--output {str(output)!r} exists already. Remove it or choose another name.")


def _load_inputs(args: argparse.Namespace) -> Any:
    from saha_st.data.inputs import load_inputs

    return load_inputs(
        args.source,
        text=args.text_column,
        image=args.image_column,
        video=args.video_column,
        id_column=args.id_column,
        image_root=args.image_root,
        subset=args.subset,
        split=args.split,
    )


def _folder_of_processes(output: Path, ranks: Ranks) -> Path | None:
    """Where several processes exchange vectors; one goes on from it if they were killed."""
    folder = output.with_name(f"{output.name}.vectors")
    return folder if ranks.count > 1 or folder.is_dir() else None


def _remove(folder: Path, fingerprint: str) -> None:
    """Remove what these processes have left in their folder, and the folder unless somebody has put more there."""
    shutil.rmtree(folder / fingerprint, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _check_room_for_ids(output: Path, ids: Any) -> None:
    """Refuse what safetensors cannot hold, before anything is encoded: their header ends at 100 MB."""
    if output.suffix == ".safetensors" and sum(len(name.encode()) + 4 for name in ids) > 90_000_000:
        raise ValueError(f"The ids of {len(ids)} inputs do not fit into a .safetensors file. Write .parquet instead.")


def write_vectors(output: Path, ids: list[str], embeddings: Any, facts: dict[str, str]) -> None:
    """Write vectors and their ids, and what made them, as one whole file.

    Safetensors hold a tensor ``embeddings`` (rows, dim) and the ids as JSON under ``ids`` in the metadata; parquet
    holds columns ``id`` and ``embedding``.
    """
    import numpy as np

    from saha_st.files import write_whole

    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".safetensors":
        header = _safetensors_header(embeddings.shape, facts | {"ids": json.dumps(ids)})
        vectors = np.ascontiguousarray(embeddings, dtype="<f4")
        write_whole(output, lambda file: (file.write(header), file.write(vectors)))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])
    table = pa.table({"id": ids, "embedding": vectors}).replace_schema_metadata(facts)
    write_whole(output, lambda file: pq.write_table(table, file))


def _safetensors_header(shape: tuple[int, int], metadata: dict[str, str]) -> bytes:
    """The beginning of a file with one tensor. The library's own has the metadata in another order every time."""
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": (0, 4 * shape[0] * shape[1])}
    text = json.dumps({"__metadata__": metadata, "embeddings": tensor}, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at multiples of eight
    return len(text).to_bytes(8, "little") + text
