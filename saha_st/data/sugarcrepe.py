"""SugarCrepe and SugarCrepe++: pictures, captions that are true of them, and one that almost is.

The rows come from the authors' JSON files, or from the Hub, where each benchmark has a layout of its own: SugarCrepe
is a repository per subset with the pictures inside, SugarCrepe++ a configuration per subset with file names only. The
pictures are those of COCO's val2017. What is wrong with rows or pictures is said before anything is encoded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, Value, get_dataset_config_names, load_dataset

from saha_st.data.cells import images_from_paths
from saha_st.data.hub import commit_of
from saha_st.data.image_files import choose_root, require_image_files
from saha_st.data.json_lines import require_utf8
from saha_st.data.mmeb.subsets import pick_subsets

_PP_SUBSETS = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")
# What the subsets of SugarCrepe++ are called on the Hub, "atribute" included, should it be corrected or not.
_CONFIGS = {
    "replace_obj": ("replace_object",),
    "replace_att": ("replace_attribute",),
    "replace_rel": ("replace_relation",),
    "swap_obj": ("swap_object",),
    "swap_att": ("swap_atribute", "swap_attribute"),
}
_IMAGE_FOLDERS = ("val2017", "images", "images/val2017", "coco/val2017", "coco/images/val2017", "")
_REMEDY = (
    "The images are those of COCO val2017 (http://images.cocodataset.org/zips/val2017.zip); pass image_root=<the "
    "folder that holds them>."
)


@dataclass(frozen=True)
class CaptionBenchmark:
    """One of the two benchmarks.

    Args:
        title: What it is called.
        subsets: The names of its subsets, those of the authors' files.
        captions: Its columns of captions; the last one holds the caption that is wrong.
        repo: Where it is on the Hub; `{subset}` stands for the subset, if there is a repository for each.
        images_on_hub: Whether the pictures are there, too.
    """

    title: str
    subsets: tuple[str, ...]
    captions: tuple[str, ...]
    repo: str
    images_on_hub: bool


# On the Hub, swap_obj has 246 rows, in the authors' file 245: for figures to compare with others, load the files.
SUGARCREPE = CaptionBenchmark(
    "SugarCrepe",
    (*_PP_SUBSETS, "add_obj", "add_att"),
    ("caption", "negative_caption"),
    "HuggingFaceM4/SugarCrepe_{subset}",
    images_on_hub=True,
)
SUGARCREPE_PP = CaptionBenchmark(
    "SugarCrepe++",
    _PP_SUBSETS,
    ("caption", "caption2", "negative_caption"),
    "Aman-J/SugarCrepe_pp",
    images_on_hub=False,
)


@dataclass(frozen=True)
class LocalCaptions:
    """A folder with `<subset>.json`, or `data/<subset>.json`, as in the authors' repositories."""

    benchmark: CaptionBenchmark
    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def name_of(self, subset: str) -> str:
        """Return where the subset is."""
        return str(self.folder)

    def file(self, subset: str) -> Path:
        """Return the file of a subset.

        Raises:
            FileNotFoundError: There is none.
        """
        places = [self.folder / f"{subset}.json", self.folder / "data" / f"{subset}.json"]
        for place in places:
            if place.is_file():
                return place
        raise FileNotFoundError(
            f"name_or_path: {self.folder} has neither {subset}.json nor data/{subset}.json. Get the files from "
            f"{self.benchmark.title}'s repository on GitHub, or name the subsets that are there with subsets=[…]."
        )

    def rows(self, subset: str) -> tuple[Dataset, list[int]]:
        """Return the file names and captions of a subset, and the number that each row has in the file.

        Raises:
            ValueError: The file is no JSON, or a row lacks a part; there are no rows; or they are of the other
                benchmark.
        """
        file = self.file(subset)
        numbered = _read_json(file)
        names = ("filename", *self.benchmark.captions)
        for number, row in numbered:
            _require_parts(row, names, f"{file}, row {number}")
        _require_rows(numbered, str(file))
        _require_benchmark([name for _, row in numbered for name in row], self.benchmark, str(file))
        columns = {name: [row[name] for _, row in numbered] for name in names}
        return Dataset(_text_table(columns)), [number for number, _ in numbered]

    def image_roots(self) -> list[Path]:
        """Return the folders that may hold the images."""
        return [self.folder / parent / name for parent in ("", "data") for name in _IMAGE_FOLDERS]


@dataclass(frozen=True)
class HubCaptions:
    """One repository of the Hub for each subset, or one with a configuration for each.

    Args:
        benchmark: The benchmark.
        repo: The repository; `{subset}` in it stands for the subset.
        revision: Branch, tag or commit. It is resolved to a commit once for each repository.
        cache_dir: Folder for downloads and converted rows. Default: that of datasets.
    """

    benchmark: CaptionBenchmark
    repo: str
    revision: str | None = None
    cache_dir: str | None = None
    _commits: dict[str, str | None] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        return self.repo

    def name_of(self, subset: str) -> str:
        """Return the repository of a subset."""
        return self.repo.replace("{subset}", subset)

    def rows(self, subset: str) -> tuple[Dataset, list[int]]:
        """Download a subset; the rows have captions, and images or their file names.

        Raises:
            ValueError: The repository has no such configuration, several splits, or other columns.
        """
        repo = self.name_of(subset)
        revision = self.commit(subset) or self.revision
        config = None if repo != self.repo else self._config(subset, revision)
        splits = load_dataset(repo, config, revision=revision, cache_dir=self.cache_dir)
        if len(splits) != 1:
            raise ValueError(f"{repo} at {revision}: expected one split, found {list(splits)}.")
        (rows,) = splits.values()
        source = repo if config is None else f"{repo}, {config}"
        _require_rows(rows, source)
        return _with_captions(rows, self.benchmark, source), list(range(len(rows)))

    def commit(self, subset: str) -> str | None:
        """Return the commit that a subset is loaded from, `None` if the Hub cannot be asked; see `commit_of`."""
        repo = self.name_of(subset)
        if repo not in self._commits:
            self._commits[repo] = commit_of(repo, self.revision, cache_dir=self.cache_dir)
        return self._commits[repo]

    def _config(self, subset: str, revision: str | None) -> str:
        found = get_dataset_config_names(self.repo, revision=revision)
        names = (*_CONFIGS.get(subset, ()), subset)
        for name in names:
            if name in found:
                return name
        raise ValueError(
            f"{self.repo} at {revision} has no configuration for the subset {subset!r}: looked for "
            f"{' or '.join(map(repr, names))}, found {sorted(found)}."
        )


Captions = LocalCaptions | HubCaptions


def load_sugarcrepe(
    subset: str,
    name_or_path: str | Path = SUGARCREPE.repo,
    *,
    image_root: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> Dataset:
    """Load a subset of SugarCrepe.

    Args:
        subset: Its name: "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj" or "add_att".
        name_or_path: A folder with the authors' JSON files, or a dataset of the Hub; `{subset}` in the name of one
            stands for the subset, if there is a repository for each.
        image_root: The folder with the images of COCO val2017. Default: looked for in the folder, as `val2017`,
            `images`, `coco/val2017`; datasets of the Hub may hold the images themselves.
        revision: Branch, tag or commit of the Hub dataset.
        cache_dir: Folder for downloads and converted rows. Default: that of datasets.

    Returns:
        Columns `image`, `caption` and `negative_caption`.

    Raises:
        ValueError: Unknown subset, rows that are none, empty, or lack a part, or no image root where one is needed.
        FileNotFoundError: There is no such folder or file, or an image is missing (with its row).
    """
    return _load(SUGARCREPE, subset, name_or_path, image_root, revision=revision, cache_dir=cache_dir)


def load_sugarcrepe_pp(
    subset: str,
    name_or_path: str | Path = SUGARCREPE_PP.repo,
    *,
    image_root: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    with_images: bool = True,
) -> Dataset:
    """Load a subset of SugarCrepe++.

    Args:
        subset: Its name: "replace_obj", "replace_att", "replace_rel", "swap_obj" or "swap_att".
        name_or_path: As `load_sugarcrepe`.
        image_root: As `load_sugarcrepe`. Aman-J/SugarCrepe_pp holds no images, so that it needs one.
        revision: As `load_sugarcrepe`.
        cache_dir: As `load_sugarcrepe`.
        with_images: Also return the images; the text-only task needs none.

    Returns:
        Columns `image` (if wanted), `caption`, `caption2` and `negative_caption`.

    Raises:
        ValueError: As `load_sugarcrepe`.
        FileNotFoundError: As `load_sugarcrepe`.
    """
    place = {"revision": revision, "cache_dir": cache_dir}
    return _load(SUGARCREPE_PP, subset, name_or_path, image_root, with_images=with_images, **place)


def open_captions(
    benchmark: CaptionBenchmark,
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> Captions:
    """Return the place that a name or a path stands for; nothing is read yet.

    Raises:
        FileNotFoundError: A path, or what can only be one, that is no folder.
    """
    folder, name = Path(name_or_path).expanduser(), str(name_or_path)
    if folder.is_dir():
        return LocalCaptions(benchmark, folder.absolute())
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(f"name_or_path: {name!r} is neither a folder nor a dataset of the Hub (owner/name).")
    return HubCaptions(benchmark, name, revision, cache_dir)


def require_image_root(place: Captions, image_root: str | Path | None) -> None:
    """Refuse an image root that is no folder, and what is known before anything is downloaded.

    Raises:
        FileNotFoundError: The image root is no folder.
        ValueError: The rows are on the Hub without images, and no image root is named, or with them, and one is.
    """
    if image_root is not None and not Path(image_root).expanduser().is_dir():
        raise FileNotFoundError(f"image_root: {str(image_root)!r} is no folder. {_REMEDY}")
    if isinstance(place, LocalCaptions) or place.repo != place.benchmark.repo:
        return
    if image_root is None and not place.benchmark.images_on_hub:
        raise ValueError(f"image_root: {place} holds file names, but no images. {_REMEDY}")
    if image_root is not None and place.benchmark.images_on_hub:
        raise ValueError(f"image_root: {place} holds its images itself; leave image_root out.")


def image_roots(place: Captions, image_root: str | Path | None) -> list[Path]:
    """Return the folders that may hold the images of a place: the one that is named, or where they usually are."""
    if image_root is not None:
        return [Path(image_root).expanduser().absolute()]
    return place.image_roots() if isinstance(place, LocalCaptions) else []


def read_captions(
    place: Captions, subset: str, *, image_root: str | Path | None = None, with_images: bool = True
) -> Dataset:
    """Return the images and captions of a subset; `load_sugarcrepe` says of which columns."""
    if with_images:
        require_image_root(place, image_root)
    rows, numbers = place.rows(subset)
    captions = list(place.benchmark.captions)
    if not with_images:
        return rows.select_columns(captions)
    source = f"{place}, subset {subset!r}"
    if isinstance(rows.features.get("image"), Image):
        return _with_own_images(rows, captions, source, image_root)
    roots = image_roots(place, image_root)
    if not roots:
        raise ValueError(f"image_root: {source} holds no images; its columns are {rows.column_names}. {_REMEDY}")
    return _with_image_files(rows, captions, roots, numbers, source)


def _load(
    benchmark: CaptionBenchmark,
    subset: str,
    name_or_path: str | Path,
    image_root: str | Path | None,
    *,
    with_images: bool = True,
    **options: Any,
) -> Dataset:
    pick_subsets(subset, benchmark.subsets, source=benchmark.title)
    place = open_captions(benchmark, name_or_path, **options)
    return read_captions(place, subset, image_root=image_root, with_images=with_images)


def _with_own_images(rows: Dataset, captions: Sequence[str], source: str, image_root: str | Path | None) -> Dataset:
    if image_root is not None:
        raise ValueError(f"image_root: {source} holds its images itself; leave image_root out.")
    for start, batch in enumerate(rows.select_columns("image").with_format("arrow").iter(batch_size=256)):
        for number, image in enumerate(batch.column("image"), start=256 * start):
            if not any(image[part].is_valid for part in ("bytes", "path")):
                raise ValueError(f"{source}, row {number}: there is no image.")
    return rows.select_columns(["image", *captions])


def _with_image_files(
    rows: Dataset, captions: Sequence[str], roots: Sequence[Path], numbers: Sequence[int], source: str
) -> Dataset:
    names = rows["filename"][:]
    root = choose_root(roots, names[:50])
    looked = " or ".join(str(each) for each in roots)
    remedy = f"Looked in {looked}. {_REMEDY}"
    try:
        require_image_files(rows, ["filename"], root, remedy=remedy, rows=numbers)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{source}: {error}") from None
    images = images_from_paths([os.path.join(root, name) for name in names])
    schema = Features({"image": Image()} | {name: Value("string") for name in captions}).arrow_schema
    columns = {"image": images} | {name: pa.array(rows[name][:], pa.string()) for name in captions}
    return Dataset(pa.table(columns, schema=schema))


def _read_json(file: Path) -> list[tuple[int, Any]]:
    """Return the rows of a list, or of a mapping with the numbers of the rows (not all of them) as its keys."""
    with open(file, encoding="utf-8-sig") as opened, require_utf8(file):
        try:
            found = json.load(opened)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {error.lineno}: not JSON ({error.msg}); get the file again.") from None
    if isinstance(found, Mapping):
        return [(int(key) if key.isdecimal() else place, row) for place, (key, row) in enumerate(found.items())]
    if not isinstance(found, list):
        raise ValueError(f"{file}: expected a list of rows, or rows by number, found {type(found).__name__}.")
    return list(enumerate(found))


def _require_parts(row: Any, names: Sequence[str], source: str) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"{source}: expected an object with {list(names)}, found {type(row).__name__}.")
    if missing := [name for name in names if name not in row]:
        raise ValueError(f"{source} lacks {missing}; it has {sorted(row)}.")
    for name in names:
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{source}: {name!r} must be a text that is not empty; found {row[name]!r}.")


def _require_rows(rows: Any, source: str) -> None:
    if len(rows) == 0:
        raise ValueError(f"{source} has no rows.")


def _require_benchmark(columns: Sequence[str], benchmark: CaptionBenchmark, source: str) -> None:
    """Refuse rows of SugarCrepe++ as SugarCrepe, whose columns they have, too."""
    if "caption2" in columns and "caption2" not in benchmark.captions:
        raise ValueError(f"{source} is of SugarCrepe++ (it has 'caption2'), and not of {benchmark.title}.")


def _text_table(columns: Mapping[str, Sequence[str]]) -> pa.Table:
    schema = Features({name: Value("string") for name in columns}).arrow_schema
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}, schema=schema)


def _with_captions(rows: Dataset, benchmark: CaptionBenchmark, source: str) -> Dataset:
    """Return rows of the Hub with the columns of captions that the benchmark has.

    Raises:
        ValueError: They have other columns, or a row lacks a caption.
    """
    if benchmark is SUGARCREPE and {"image", "tested_labels", "true_label"} <= set(rows.column_names):
        rows = _from_labels(rows, source)
    if missing := [name for name in benchmark.captions if name not in rows.column_names]:
        raise ValueError(f"{source} lacks the columns {missing}; it has {rows.column_names}.")
    if not {"image", "filename"} & set(rows.column_names):
        raise ValueError(f"{source} has neither 'image' nor 'filename'; it has {rows.column_names}.")
    _require_benchmark(rows.column_names, benchmark, source)
    names = [name for name in ("filename", *benchmark.captions) if name in rows.column_names]
    texts = rows.select_columns(names)
    for number, row in enumerate(texts):
        _require_parts(row, names, f"{source}, row {number}")
    return rows


def _from_labels(rows: Dataset, source: str) -> Dataset:
    """Read the columns of HuggingFaceM4: the true caption is one of two `tested_labels`, which `true_label` names."""
    label = rows.features["true_label"]
    if not isinstance(label, ClassLabel):
        raise ValueError(f"{source}: expected 'true_label' to be a class of captions, found {label}.")
    table = rows.select_columns(["tested_labels", "true_label"]).with_format("arrow")[:]
    pairs, truths = table.column("tested_labels").to_pylist(), table.column("true_label").to_pylist()
    negatives = []
    for number, (pair, truth) in enumerate(zip(pairs, truths, strict=True)):
        true = None if truth is None else label.names[truth]
        if pair is None or len(pair) != 2 or true not in pair:
            raise ValueError(
                f"{source}, row {number}: expected the true caption ({true!r}) and one other, found {pair}."
            )
        negatives.append(pair[1 - pair.index(true)])
    captions = [label.names[truth] for truth in truths]
    return rows.select_columns("image").add_column("caption", captions).add_column("negative_caption", negatives)
