"""Search a folder of pictures by text, by picture, or by both, with LanceDB, a database in a folder.

  saha-st encode photos --model saha-tiny --output photos.safetensors
  python examples/lancedb_search.py add photos.lance photos.safetensors
  python examples/lancedb_search.py search photos.lance "a red circle"
  python examples/lancedb_search.py search photos.lance "the same in blue" --image photos/red.png

A database is of one folder: pictures go by their path in it. After a change, encode it again (with --cache_folder only
what is new is computed), and `add` once more: what is known stays, what has changed is replaced, and --prune drops
pictures that are gone.

The table keeps what made its vectors, and refuses those of another model, prompt or setting.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import lancedb
import pyarrow as pa

from saha_st.cli.options import at_least_one
from saha_st.encoding import VectorOrigin, WrittenVectors, read_vectors

TABLE = "pictures"


def add(path: Path, vectors: Path, *, prune: bool = False) -> str:
    """Bring what `saha-st encode` wrote into a database, which is made if there is none; say what was done."""
    written = read_vectors(vectors)
    if not has_table(path):
        table = lancedb.connect(path).create_table(TABLE, as_table(written))
        return f"{table.count_rows()} added, 0 replaced, 0 removed: {table.count_rows()} pictures in {path}."
    table, origin = open_table(path)
    remedy = "Encode the pictures with the model and the settings of the database, or name a new one."
    origin.require_same(written.origin, place=f"The database {str(path)!r}", remedy=remedy)
    merge = table.merge_insert("id").when_not_matched_insert_all()
    merge = merge.when_matched_update_all(where="target.vector != source.vector")
    merge = merge.when_not_matched_by_source_delete() if prune else merge
    done = merge.execute(as_table(written))
    return (
        f"{done.num_inserted_rows} added, {done.num_updated_rows} replaced, {done.num_deleted_rows} removed: "
        f"{table.count_rows()} pictures in {path}."
    )


def search(
    path: Path, text: str | None, image: Path | None, *, top_k: int = 5, model: str | None = None
) -> list[tuple[str, float]]:
    """Return the pictures that are most similar to a text, a picture, or both: ids with cosines, best first."""
    table, origin = open_table(path)
    query = {name: str(part) for name, part in (("image", image), ("text", text)) if part is not None}
    embedder = origin.load_model(model, place=f"The database {str(path)!r}")
    vector = embedder.encode_query([query], show_progress_bar=False)[0]
    found = table.search(vector).distance_type("cosine").select(["id", "_distance"]).limit(top_k).to_list()
    return [(row["id"], 1 - row["_distance"]) for row in found]


def as_table(written: WrittenVectors) -> pa.Table:
    """Ids and vectors as LanceDB takes them, with what made them in the metadata of the schema."""
    rows, dim = written.embeddings.shape
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(written.embeddings.reshape(rows * dim)), dim)
    return pa.table({"id": written.ids, "vector": vectors}).replace_schema_metadata(written.origin.to_metadata())


def has_table(path: Path) -> bool:
    """Tell whether a database is there, and the table in it."""
    return path.is_dir() and (path / f"{TABLE}.lance").is_dir()


def open_table(path: Path) -> tuple[lancedb.table.Table, VectorOrigin]:
    """Open a database that `add` made."""
    if not has_table(path):
        raise FileNotFoundError(f"There is no database {str(path)!r}. Make it: lancedb_search.py add {path} VECTORS")
    table = lancedb.connect(path).open_table(TABLE)
    return table, VectorOrigin.from_metadata(table.schema.metadata, place=repr(str(path)))


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and print what comes of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="bring vectors into a database")
    adding.add_argument("database", type=Path, help="folder of the database; made if there is none")
    adding.add_argument("vectors", type=Path, help="what `saha-st encode` wrote")
    adding.add_argument("--prune", action="store_true", help="drop what VECTORS does not have")
    searching = commands.add_parser("search", help="find the most similar pictures")
    searching.add_argument("database", type=Path, help="folder of the database")
    searching.add_argument("text", nargs="?", help="text to search with")
    searching.add_argument("--image", type=Path, help="picture to search with")
    searching.add_argument("--top_k", type=at_least_one, default=5, help="how many pictures to find (default: 5)")
    searching.add_argument("--model", help="where the model of the database is now, if it has moved")
    args = parser.parse_args(arguments)
    if args.command == "search" and args.text is None and args.image is None:
        searching.error("give a text, an --image, or both")
    try:
        if args.command == "add":
            print(add(args.database, args.vectors, prune=args.prune))
            return
        for name, cosine in search(args.database, args.text, args.image, top_k=args.top_k, model=args.model):
            print(f"{cosine:.4f}  {name}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
