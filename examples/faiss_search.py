"""Search a folder of pictures by text, by picture, or by both, with FAISS.

  saha-st encode photos --model saha-tiny --output photos.safetensors
  python examples/faiss_search.py add photos.faiss photos.safetensors
  python examples/faiss_search.py search photos.faiss "a red circle"
  python examples/faiss_search.py search photos.faiss "the same in blue" --image photos/red.png

An index is of one folder: pictures go by their path in it. After a change, encode it again (with --cache_folder only
what is new is computed), and `add` once more: what is known stays, what has changed is replaced, and --prune drops
pictures that are gone.

The index keeps what made its vectors, and refuses those of another model, prompt or setting.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import faiss
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from saha_st.cli.options import at_least_one
from saha_st.encoding import VectorOrigin, read_vectors
from saha_st.files import write_whole


def add(path: Path, vectors: Path, *, prune: bool = False) -> str:
    """Bring what `saha-st encode` wrote into an index, which is made if there is none; say what was done."""
    written = read_vectors(vectors)
    before: dict[str, np.ndarray] = {}
    if path.exists():
        index, ids, origin = load(path)
        remedy = "Encode the pictures with the model and the settings of the index, or name a new index."
        origin.require_same(written.origin, place=f"The index {str(path)!r}", remedy=remedy)
        before = dict(zip(ids, index.reconstruct_n(0, index.ntotal), strict=True))
    now = dict(zip(written.ids, unit(written.embeddings), strict=True))
    after = now if prune else before | now
    if not after:
        raise ValueError(f"{str(vectors)!r} holds no vectors, and an index needs one. Encode pictures first.")
    save_index(path, after, written.origin)
    new, gone = now.keys() - before.keys(), before.keys() - after.keys()
    changed = [name for name in now.keys() & before.keys() if not np.array_equal(now[name], before[name])]
    return f"{len(new)} added, {len(changed)} replaced, {len(gone)} removed: {len(after)} pictures in {path}."


def search(
    path: Path, text: str | None, image: Path | None, *, top_k: int = 5, model: str | None = None
) -> list[tuple[str, float]]:
    """Return the pictures that are most similar to a text, a picture, or both: ids with cosines, best first."""
    index, ids, origin = load(path)
    query = {name: str(part) for name, part in (("image", image), ("text", text)) if part is not None}
    embedder = origin.load_model(model, place=f"The index {str(path)!r}")
    vector = embedder.encode_query([query], show_progress_bar=False)
    cosines, rows = index.search(unit(vector), min(top_k, len(ids)))
    return [(ids[row], float(cosine)) for row, cosine in zip(rows[0], cosines[0], strict=True)]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, whose inner products are cosines; shape (rows, dim)."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def save_index(path: Path, vectors: dict[str, np.ndarray], origin: VectorOrigin) -> None:
    """Write index, ids and origin as one file: whatever happens meanwhile, they belong together."""
    index = faiss.IndexFlatIP(len(next(iter(vectors.values()))))  # exact; for millions see faiss.index_factory
    index.add(np.stack(list(vectors.values())))
    metadata = origin.to_metadata() | {"ids": json.dumps(list(vectors))}
    try:
        data = save({"index": faiss.serialize_index(index)}, metadata)
    except SafetensorError as error:
        raise ValueError(
            f"The ids do not fit into the header of one file ({error}). Use lancedb_search.py."
        ) from error
    write_whole(path, lambda file: file.write(data))


def load(path: Path) -> tuple[faiss.Index, list[str], VectorOrigin]:
    """Read what `save_index` wrote."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no index {str(path)!r}. Make it: faiss_search.py add {path} VECTORS")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            index = faiss.deserialize_index(file.get_tensor("index"))
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no index that this script made ({error}). Name another file.") from error
    return index, json.loads(metadata["ids"]), VectorOrigin.from_metadata(metadata, place=repr(str(path)))


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and print what comes of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="bring vectors into an index")
    adding.add_argument("index", type=Path, help="file of the index; made if there is none")
    adding.add_argument("vectors", type=Path, help="what `saha-st encode` wrote")
    adding.add_argument("--prune", action="store_true", help="drop what VECTORS does not have")
    searching = commands.add_parser("search", help="find the most similar pictures")
    searching.add_argument("index", type=Path, help="file of the index")
    searching.add_argument("text", nargs="?", help="text to search with")
    searching.add_argument("--image", type=Path, help="picture to search with")
    searching.add_argument("--top_k", type=at_least_one, default=5, help="how many pictures to find (default: 5)")
    searching.add_argument("--model", help="where the model of the index is now, if it has moved")
    args = parser.parse_args(arguments)
    if args.command == "search" and args.text is None and args.image is None:
        searching.error("give a text, an --image, or both")
    try:
        if args.command == "add":
            print(add(args.index, args.vectors, prune=args.prune))
            return
        for name, cosine in search(args.index, args.text, args.image, top_k=args.top_k, model=args.model):
            print(f"{cosine:.4f}  {name}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
