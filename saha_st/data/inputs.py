"""Read what is to be encoded: a folder of pictures or videos, a text file, or rows with texts, images or videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature

from saha_st.data.cells import VIDEO_CELL_FEATURE
from saha_st.data.image_files import require_image_files
from saha_st.data.json_lines import require_utf8
from saha_st.data.roles import assemble, find_role
from saha_st.data.sources import open_rows
from saha_st.data.tables import SUFFIXES
from saha_st.modules.videos import VIDEO_SUFFIXES

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""The files that count as pictures in a folder."""

ID, INPUT = "id", "input"


def load_inputs(
    source: str | Path,
    *,
    text: str | None = None,
    image: str | None = None,
    video: str | None = None,
    id_column: str | None = None,
    image_root: str | Path | None = None,
    split: str = "train",
    subset: str | None = None,
) -> Dataset:
    """Load single inputs, each with an id.

    Args:
        source: A picture or video, a folder of them (ids are their paths in it), a ``.txt`` file with a text a line
            (ids are the line numbers, from 1), or whatever `load_pairs` reads: table files, folders, Hub datasets.
        text: Column of texts. Default: ``text``, if there is one.
        image: Column of images or of their paths. Default: ``image``, if there is one.
        video: Column of videos: paths of files or of folders of frames, or lists of frames. Default: ``video``, if
            there is one.
        id_column: Column of ids. Default: ``id``, if there is one, else the row number.
        image_root: What relative paths of images and videos are relative to. Default: the folder of the files.
        split: Split, where the source has several.
        subset: Configuration of a Hub dataset.

    Returns:
        Columns ``id`` (string) and ``input`` (string, Image, or a struct of these and of videos).

    Raises:
        ValueError: No inputs, or columns that are not there.
        FileNotFoundError: The source, an image or a video is missing.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not _has_rows(path):
        return _media(path)
    is_media = path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if is_media and not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if is_media:
        return _as_inputs([path.name], [path])
    if path.suffix.lower() == ".txt":
        return _lines(path)
    rows = open_rows(str(source), split=split, subset=subset)
    if len(rows.table) == 0:
        raise ValueError(f"{rows.name} has no rows; there is nothing to encode.")
    given = {"image": image, "video": video, "text": text}
    parts = {part: name for part, name in given.items() if name} or _usual_parts(rows.table)
    role = find_role(INPUT, parts, rows.table.features, rows.name)
    root = Path(image_root).expanduser().absolute() if image_root is not None else None
    folder = root or (rows.folder or Path()).absolute()
    require_image_files(
        rows.table,
        role.image_columns,
        folder if role.has_paths else root,
        remedy="Correct the path, or pass image_root=<the folder that the paths are relative to>.",
        video_columns=role.video_columns,
    )
    inputs = assemble(rows.table, {INPUT: role}, keep=(), path_root=folder, image_root=root)
    return inputs.add_column(ID, _ids(rows.table, id_column, rows.name))


def _has_rows(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json")) or any(
        path.suffix.lower() in SUFFIXES for path in folder.iterdir()
    )


def _media(folder: Path) -> Dataset:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    if not files:
        raise ValueError(
            f"The folder {str(folder)!r} holds neither pictures ({', '.join(IMAGE_SUFFIXES)}) nor videos "
            f"({', '.join(VIDEO_SUFFIXES)}) nor tables."
        )
    return _as_inputs([path.relative_to(folder).as_posix() for path in files], files)


def _as_inputs(ids: list[str], files: list[Path]) -> Dataset:
    is_video = [path.suffix.lower() in VIDEO_SUFFIXES for path in files]
    if not any(is_video):
        features = Features({ID: Value("string"), INPUT: ImageFeature()})
        return Dataset.from_dict({ID: ids, INPUT: [str(path) for path in files]}, features=features)
    cell = VIDEO_CELL_FEATURE | {"video": Value("string")}
    kinds = ["video" if each else "image" for each in is_video]
    cells = [dict.fromkeys(cell) | {kind: str(path)} for kind, path in zip(kinds, files, strict=True)]
    return Dataset.from_dict({ID: ids, INPUT: cells}, features=Features({ID: Value("string"), INPUT: cell}))


def _lines(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    # str.splitlines would also break at form feeds and U+2028, and no id after one would be its line number.
    with open(path, encoding="utf-8-sig", newline="\n") as opened, require_utf8(path):
        lines = [line.removesuffix("\n").removesuffix("\r") for line in opened]
    kept = [(str(number), line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not kept:
        raise ValueError(f"The file {str(path)!r} has no text in it; there is nothing to encode.")
    return Dataset.from_dict({ID: [number for number, _ in kept], INPUT: [line for _, line in kept]})


def _usual_parts(table: Dataset) -> Mapping[str, str]:
    parts = {part: part for part in ("image", "video", "text") if part in table.column_names}
    if not parts:
        raise ValueError(
            f"There is no column 'text', 'image' or 'video', only {', '.join(table.column_names)}. Name the columns "
            "to encode with text, image and video (--text_column, --image_column, --video_column)."
        )
    return parts


def _ids(table: Dataset, id_column: str | None, name: str) -> list[str]:
    if id_column is not None and id_column not in table.column_names:
        raise ValueError(f"{name} has no column {id_column!r} for ids; it has {', '.join(table.column_names)}.")
    column = id_column or (ID if ID in table.column_names else None)
    values = table[column] if column else range(len(table))
    return [str(value) for value in values]
