"""Your own data as pairs: whatever its columns are called and however it stores images, `anchor` and `positive` out.

One rule decides what is an image, and nothing is ever guessed from a value: an image comes from an `Image` column, a
column whose name ends in `_image`, or the part "image" of a struct; a video likewise. A string anywhere else is text,
even if it reads like a path or a URL; Sentence Transformers, given bare strings, would open the one and fetch the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from saha_st.data.image_files import require_image_files
from saha_st.data.mmeb import is_mmeb_pairs, mmeb_pairs
from saha_st.data.roles import Columns, assemble, find_role, in_order
from saha_st.data.sources import Rows, Source, open_rows
from saha_st.data.tables import draw_rows, require_max_rows


def load_pairs(
    source: Source,
    *,
    anchor: Columns = "anchor",
    positive: Columns = "positive",
    image_root: str | Path | None = None,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    max_rows: int | None = None,
    seed: int = 0,
    keep: Sequence[str] = (),
    allow_urls: bool = False,
    check_files: bool = True,
) -> Dataset:
    """Load pairs to mine and train on.

    Args:
        source: A `Dataset` or `DatasetDict`; a folder that `save_to_disk` wrote; a Parquet, JSON-lines, CSV or TSV
            file; a folder of such files; a folder of images with `metadata.csv`, `.jsonl` or `.parquet`; or a dataset
            of the Hub. Rows with VLM2Vec's columns (`qry`, `pos_text`, …) are recognised and converted as MMEB's.
        anchor: The column of the anchors: strings, class labels, images, or structs of "image", "video" and "text". A
            column `<anchor>_image` beside it (paths, bytes or images) gives the images of the same cells,
            `<anchor>_video` (paths of files or of folders of frames, or lists of frames) the videos, and
            `<anchor>_text` the texts; these without it do as well. Or the columns of the parts, such as
            `{"image": "photo", "text": "caption"}`.
        positive: The same for the positives.
        image_root: What relative paths of images and videos are relative to. Default: the folder of the files.
        split: The split, where the source has several.
        subset: The configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        cache_dir: Folder of the datasets cache.
        max_rows: Draw at most so many rows, without replacement, and keep their order.
        seed: Decides which rows are drawn.
        keep: Further columns to keep as they are, such as "label" of a mined dataset. All others are dropped, since a
            trainer would take them for inputs.
        allow_urls: Accept images behind URLs, fetched whenever a row is read.
        check_files: Look for the file of every image and video. `check_pairs`, which lists all that are missing,
            needs it off.

    Returns:
        Columns `anchor` and `positive`, then those kept. A column is `string`, `Image`, or a struct of "image" and
        "text", and of "video" if there are any, whose missing parts are `None`. Images stay paths or encoded bytes;
        none is decoded. Videos stay paths, or lists of images.

    Raises:
        ValueError: No rows, or one (contrastive learning needs two); a column is missing, ambiguous, or neither text
            nor image; an image is behind a URL; an unknown split.
        FileNotFoundError: The source or an image file is missing.
        TypeError: The source is none of the above.
    """
    require_max_rows(max_rows)
    rows = open_rows(source, split=split, subset=subset, revision=revision, cache_dir=cache_dir)
    table, numbers = draw_rows(rows.table, max_rows, seed)
    if len(table) < 2:
        count = "has no rows" if len(table) == 0 else "has one row"
        if len(rows.table) > 1:
            count = f"has {len(rows.table)} rows, of which max_rows={max_rows} leaves one"
        raise ValueError(f"{rows.name} {count}; contrastive learning needs at least two pairs to tell apart.")
    if (anchor, positive) == ("anchor", "positive") and is_mmeb_pairs(table.column_names):
        _require_distinct({"anchor": "qry", "positive": "pos_text"}, keep, table, rows.name)
        options = {"row_numbers": numbers, "check_files": check_files, "allow_urls": allow_urls}
        pairs = mmeb_pairs(table, _mmeb_roots(rows, image_root), source=rows.name, **options)
        kept = [table.select_columns(list(keep))] if keep else []
        return in_order(concatenate_datasets([pairs, *kept], axis=1), [*pairs.column_names, *keep])
    given = {"anchor": anchor, "positive": positive}
    roles = {name: find_role(name, columns, table.features, rows.name) for name, columns in given.items()}
    _require_distinct(given, keep, table, rows.name)
    explicit = None if image_root is None else Path(image_root).expanduser().absolute()
    folder = explicit or (rows.folder or Path()).absolute()
    if check_files:
        remedy = "Correct the path, or pass image_root=<the folder that the paths are relative to>."
        for role in roles.values():
            root = folder if role.has_paths else explicit
            options = {"remedy": remedy, "rows": numbers, "allow_urls": allow_urls}
            require_image_files(table, role.image_columns, root, video_columns=role.video_columns, **options)
    return assemble(table, roles, keep=keep, path_root=folder, image_root=explicit)


def _mmeb_roots(rows: Rows, image_root: str | Path | None) -> list[Path]:
    """Return where the images of VLM2Vec's rows may be: the paths are relative to a folder above the files."""
    if image_root is not None:
        return [Path(image_root).expanduser().absolute()]
    if rows.on_hub:
        raise ValueError(f"{rows.name} has the columns of MMEB. Use load_mmeb, which also fetches the images.")
    folder = (rows.folder or Path()).absolute()
    return [folder, folder.parent, folder / "images", folder.parent / "images"]


def _require_distinct(given: dict[str, Columns], keep: Sequence[str], table: Dataset, source: str) -> None:
    """Refuse columns that are asked for twice: as both sides of the pair, or to be kept beside what they become."""
    if given["anchor"] == given["positive"]:
        raise ValueError(f"anchor and positive are both {given['anchor']!r}; a pair has two sides.")
    if missing := [name for name in keep if name not in table.column_names]:
        raise ValueError(f"keep: {source} has no columns {missing}; it has {table.column_names}.")
    if taken := sorted({*given, *(name for name in given.values() if isinstance(name, str))} & set(keep)):
        raise ValueError(f"keep: {taken} are part of the pair, or would stand in the place of one of its columns.")
