"""Load MMEB: names and folders in, pairs or queries with candidates out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict

from saha_st.data.mmeb.files import MMEBFiles, open_mmeb
from saha_st.data.mmeb.rows import Roots, mmeb_pairs, mmeb_queries
from saha_st.data.mmeb.subsets import MMEB_SUBSETS, MMEB_TRAIN_SUBSETS, pick_subsets
from saha_st.data.tables import draw_rows, require_max_rows


def load_mmeb(
    name_or_path: str | Path = "TIGER-Lab/MMEB-train",
    subsets: str | Sequence[str] | None = None,
    *,
    split: str = "diverse_instruction",
    image_root: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    max_rows: int | None = None,
    seed: int = 0,
    negatives: bool = False,
    check_files: bool = True,
) -> Dataset | DatasetDict:
    """Load MMEB's training data as pairs.

    Args:
        name_or_path: The Hub dataset, or a folder of its layout: `<subset>/<split>-*.parquet`, the image paths
            relative to it.
        subsets: One subset, several, or `None` for all. From the Hub, each brings its images: 0.1 to 13 GB.
        split: "original", or "diverse_instruction", in which the instructions are paraphrased.
        image_root: The folder that the image paths are relative to. Default: found from where the rows are; for the
            Hub, the images are downloaded and unpacked into the datasets cache, once.
        revision: Branch, tag or commit of the Hub dataset; name a commit for figures that others should get.
        cache_dir: Folder for downloads, unpacked images and converted rows. Default: that of datasets.
        max_rows: Draw at most so many rows of each subset, without replacement, and keep their order.
        seed: Decides which rows are drawn.
        negatives: Also return `negative` for the subsets that have one in every row. Off by default: VLM2Vec trains
            without, and subsets with different columns make a distributed run wait for ever.
        check_files: Look for the file of every image. `check_pairs`, which lists all that are missing, needs it off.

    Returns:
        For one name a `Dataset`, else a `DatasetDict` by subset. Columns `anchor` and `positive`: structs of "image"
        (a path, decoded when read) and "text", `None` where there is none.

    Raises:
        ValueError: Unknown subset or split, an empty subset, `max_rows` below 1, other columns than MMEB's.
        FileNotFoundError: There is no such folder, or an image file is missing (with its row, column and path).
    """
    require_max_rows(max_rows)
    place = {"revision": revision, "cache_dir": cache_dir}
    files = open_mmeb(name_or_path, known_subsets=MMEB_TRAIN_SUBSETS, archive="images_zip/{subset}.zip", **place)

    def load(subset: str) -> Dataset:
        rows, numbers = draw_rows(files.rows(subset, split), max_rows, seed)
        roots, source = _roots(files, subset, image_root), f"{files}, subset {subset!r}"
        options = {"negatives": negatives, "check_files": check_files}
        return mmeb_pairs(rows, roots, source=source, row_numbers=numbers, **options)

    return _load_each(files, subsets, load)


def load_mmeb_eval(
    name_or_path: str | Path = "TIGER-Lab/MMEB-eval",
    subsets: str | Sequence[str] | None = None,
    *,
    split: str = "test",
    image_root: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Dataset | DatasetDict:
    """Load MMEB's evaluation data: queries, each with its own list of candidates.

    `MMEB_SUBSETS` says to which meta-task a subset belongs and whether its targets are encoded as queries;
    `split_candidates` separates the candidates into distinct documents and indices.

    Args:
        name_or_path: The Hub dataset, or a folder of its layout: `<subset>/test-*.parquet`, the image paths relative
            to it, or to `images` or `eval_images` in it.
        subsets: As `load_mmeb`; all subsets share one archive of images.
        split: The split to read.
        image_root: As `load_mmeb`.
        revision: As `load_mmeb`.
        cache_dir: As `load_mmeb`.
        max_rows: As `load_mmeb`.
        seed: As `load_mmeb`.

    Returns:
        For one name a `Dataset`, else a `DatasetDict` by subset. Columns `query` (struct of "image" and "text") and
        `candidates` (list of structs of "image", a path or `None`, and "text"; the first candidate is the truth).

    Raises:
        ValueError: As `load_mmeb`; or a row has no candidates, or not as many texts as paths.
        FileNotFoundError: As `load_mmeb`.
    """
    require_max_rows(max_rows)
    place = {"revision": revision, "cache_dir": cache_dir}
    files = open_mmeb(name_or_path, known_subsets=tuple(MMEB_SUBSETS), archive="images.zip", **place)

    def load(subset: str) -> Dataset:
        rows, numbers = draw_rows(files.rows(subset, split), max_rows, seed)
        roots, source = _roots(files, subset, image_root), f"{files}, subset {subset!r}"
        return mmeb_queries(rows, roots, source=source, row_numbers=numbers)

    return _load_each(files, subsets, load)


def _load_each(
    files: MMEBFiles, subsets: str | Sequence[str] | None, load: Callable[[str], Dataset]
) -> Dataset | DatasetDict:
    """Load the subsets in the shape they were asked for; all names are checked before the first is loaded."""
    names = pick_subsets(subsets, files.subsets(), source=str(files))
    return load(subsets) if isinstance(subsets, str) else DatasetDict({name: load(name) for name in names})


def _roots(files: MMEBFiles, subset: str, image_root: str | Path | None) -> Roots:
    return partial(files.image_roots, subset) if image_root is None else [Path(image_root).expanduser().absolute()]
