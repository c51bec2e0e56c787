"""What a cell is: a text, an image, a video, or several of them, and how datasets stores each.

A column of pairs holds strings, `datasets.Image`, or structs `{"image": Image, "video": ..., "text": string}`, media
first because Sentence Transformers renders parts in their order. A video is a list of images, its frames, or the path
of a file or of a folder of frames. Images stay what they are in the file: a path or encoded bytes. All that reads
cells for bookkeeping (keys, checks) reads them stored, so that nothing is decoded twice; so does all that reads
videos, of which a model is shown few frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from datasets import Dataset, Features, Image, List, Value

CELL_FEATURE: dict[str, Any] = {"image": Image(), "text": Value("string")}
"""Feature of a column whose cells have an image, a text, or both; a part that is missing is `None`."""

VIDEO_CELL_FEATURE: dict[str, Any] = {"image": Image(), "video": List(Image()), "text": Value("string")}
"""Feature of a column whose cells may have a video, too; its frames may also be `Value("string")`, a path."""

CellKind = Literal["text", "image", "image_text", "video"]

_STORED_IMAGE = Image().pa_type


def is_stored_image(value: Any) -> bool:
    """Recognise how Arrow stores `datasets.Image` ("bytes" and "path"), as opposed to a cell with parts."""
    return isinstance(value, Mapping) and 0 < len(value) and set(value) <= {"bytes", "path"}


def cell_parts(cell: Any) -> tuple[list[Any], str | None]:
    """Return the images and the text of a cell; parts that are `None` (or stored as such) are left out.

    Args:
        cell: A string, an image in any form, a mapping with "image" (one or a list), "video" and "text", or `None`.

    Raises:
        TypeError: The mapping has other parts, or its text is no string.
    """
    if cell is None or isinstance(cell, str):
        return [], cell
    if not isinstance(cell, Mapping) or is_stored_image(cell):
        return [cell] if _is_there(cell) else [], None
    if unknown := sorted(set(cell) - {"image", "video", "text"}):
        raise TypeError(f"a cell has the parts 'image', 'video' and 'text'; found {unknown}.")
    images, text = cell.get("image"), cell.get("text")
    if text is not None and not isinstance(text, str):
        raise TypeError(f"the part 'text' of a cell must be a string; found {type(text).__name__}.")
    images = images if isinstance(images, (list, tuple)) else [images]
    return [image for image in images if _is_there(image)], text


def cell_video(cell: Any) -> Any:
    """Return the video of a cell: a path, the list of its frames, an array; `None` if there is none."""
    return cell.get("video") if isinstance(cell, Mapping) else None


def missing_frames(video: Any) -> list[int]:
    """Return the numbers of the frames of a list that are not there, as where a row of a table has none."""
    return [number for number, frame in enumerate(video) if not _is_there(frame)] if isinstance(video, list) else []


def stored_cells(dataset: Dataset, column: str) -> Iterator[Any]:
    """Yield the cells of a column as they are stored: no image is decoded, no transform applied.

    Raises:
        KeyError: The dataset has no such column.
    """
    if column not in dataset.column_names:
        raise KeyError(f"The dataset has no column {column!r}; it has {dataset.column_names}.")
    stored = dataset.select_columns(column).with_format("arrow")
    sizes = {"text": 8192, "video": 32}  # image bytes are copied: keep their batches small
    batches = stored.iter(batch_size=sizes.get(cell_kind(dataset.features[column]), 256))
    return itertools.chain.from_iterable(batch.column(column).to_pylist() for batch in batches)


def cell_kind(feature: Any) -> CellKind | None:
    """Return what a column of this feature holds, or `None` if that is no column of cells."""
    if is_string(feature):
        return "text"
    if isinstance(feature, Image):
        return "image"
    if isinstance(feature, Mapping) and feature and set(feature) <= {"image", "video", "text"}:
        image, text = feature.get("image", Image()), feature.get("text", Value("string"))
        if isinstance(image, Image) and is_string(text):
            if "video" not in feature:
                return "image_text"
            return "video" if is_video(feature["video"]) else None
    return None


def is_video(feature: Any) -> bool:
    """Tell whether a feature is that of the part "video": a path, or frames as images."""
    return is_string(feature) or (isinstance(feature, List) and isinstance(feature.feature, Image))


def with_closed_videos(dataset: Dataset) -> Dataset:
    """Return a dataset whose rows hold the frames of videos as they are stored, instead of decoding every one."""
    kinds = {name: cell_kind(feature) for name, feature in dataset.features.items()}
    columns = [
        name for name, kind in kinds.items() if kind == "video" and not is_string(dataset.features[name]["video"])
    ]
    if not columns:
        return dataset
    dataset = dataset.select_columns(dataset.column_names)  # a copy: features belong to the object
    features = dict(dataset.features)
    for name in columns:
        features[name] = {**features[name], "video": List(Image(decode=False))}
    dataset.info.features = Features(features)
    return dataset


def is_string(feature: Any) -> bool:
    """Tell whether a feature is that of a text column."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def images_from_paths(paths: Sequence[str | None]) -> pa.StructArray:
    """Return stored images that refer to files; `None` gives no image."""
    values = [None if path is None else {"bytes": None, "path": path} for path in paths]
    return pa.array(values, type=_STORED_IMAGE)


def cells_from_parts(images: pa.Array, texts: pa.Array, videos: pa.Array | None = None) -> pa.StructArray:
    """Return cells with the given stored images, texts and, if any may have one, videos; nulls are missing parts."""
    parts = {"image": images} | ({} if videos is None else {"video": videos}) | {"text": texts.cast(pa.string())}
    return pa.StructArray.from_arrays(list(parts.values()), names=list(parts))


def _is_there(image: Any) -> bool:
    """Tell whether there is an image: one without bytes and path is how a struct of Arrow says `None`."""
    if is_stored_image(image):
        return image.get("bytes") is not None or image.get("path") is not None
    return image is not None
