"""What mteb hands to an encoder, as the cells that are in the data.

mteb prepares a dataset with the columns `image`, `video` (a list of frames) and `text`, and for documents strips the
ends of the text, but leaves the original in `body`. Read as stored, a column of images is paths or encoded bytes:
equal cells are found, and only then is each of them decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Image, List
from mteb.types import PromptType

from saha_st.data.cells import CELL_FEATURE, VIDEO_CELL_FEATURE, cells_from_parts, is_string
from saha_st.data.keys import cell_keys, column_keys


@dataclass(frozen=True)
class Inputs:
    """The inputs of one call to an encoder.

    Args:
        keys: Content key of every row, shape (rows,).
        read: Takes row numbers and returns inputs for `SentenceTransformer.encode`, images decoded.
        has_media: Whether there are images or videos among them.
        has_videos: Whether there are videos.
    """

    keys: np.ndarray
    read: Callable[[np.ndarray], list[dict[str, Any]]]
    has_media: bool
    has_videos: bool = False


def inputs_of(dataset: Any, prompt_type: PromptType | None = None, *, opens_frames: bool = True) -> Inputs:
    """Return the inputs in what mteb prepared for an encoder.

    Args:
        dataset: The dataset of mteb's data loader: mostly one of `datasets`, for some tasks any map-style dataset.
        prompt_type: The side it belongs to.
        opens_frames: Whether the model opens the frames of videos itself; else they are decoded here.

    Raises:
        ValueError: There are neither images nor texts, or a row has neither.
        FileNotFoundError: An image file is missing.
    """
    if isinstance(dataset, Dataset):
        cells = as_cells(dataset, prompt_type, opens_frames=opens_frames)
        return Inputs(
            column_keys(cells, "cell"),
            lambda rows: [_input(cell) for cell in cells[rows.tolist()]["cell"]],
            has_media=bool({"image", "video"} & set(dataset.column_names)),
            has_videos="video" in dataset.column_names,
        )
    rows = [dataset[row] for row in range(len(dataset))]
    _require_parts(rows[0].keys() if rows else ())
    cells = [{"image": row.get("image"), "text": row.get("text")} for row in rows]
    has_images = any(cell["image"] is not None for cell in cells)
    return Inputs(cell_keys(cells), lambda rows: [_input(cells[row]) for row in rows], has_images)


def as_cells(dataset: Dataset, prompt_type: PromptType | None = None, *, opens_frames: bool = True) -> Dataset:
    """Return the images, videos and texts of a dataset as a column `cell`, nothing decoded.

    Raises:
        ValueError: The dataset has neither images nor videos nor texts.
    """
    text = _text_column(dataset, prompt_type)
    has_images = "image" in dataset.column_names and isinstance(dataset.features["image"], Image)
    has_videos = "video" in dataset.column_names and isinstance(dataset.features["video"], List)
    columns = ["image"] * has_images + ["video"] * has_videos + [text] * (text is not None)
    _require_parts(columns or dataset.column_names)
    chunks = []
    for batch in dataset.select_columns(columns).with_format("arrow")[:].to_batches():
        images = batch.column("image") if has_images else pa.nulls(len(batch), Image().pa_type)
        texts = pa.nulls(len(batch), pa.string()) if text is None else batch.column(text)
        chunks.append(cells_from_parts(images, texts, batch.column("video") if has_videos else None))
    feature = CELL_FEATURE if not has_videos else {**VIDEO_CELL_FEATURE, "video": List(Image(decode=not opens_frames))}
    schema = Features({"cell": feature}).arrow_schema
    return Dataset(pa.table([pa.chunked_array(chunks, schema.field("cell").type)], schema=schema))


def _require_parts(columns: Sequence[str]) -> None:
    if not {"image", "video", "text", "body"} & set(columns):
        raise ValueError(f"There is neither a text nor an image to encode; the columns are {sorted(columns)}.")


def _text_column(dataset: Dataset, prompt_type: PromptType | None) -> str | None:
    """Name the column that has the text as it is in the data; a title is only in mteb's own text."""
    names = dataset.column_names
    untouched = prompt_type is PromptType.document and "body" in names and "title" not in names
    name = "body" if untouched else "text"
    return name if name in names and is_string(dataset.features[name]) else None


def _input(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input of the parts that are there, media first. A picture without a word has no empty text beside it.

    Always a mapping: Sentence Transformers opens a bare string that looks like the path of an image.
    """
    parts = {name: cell[name] for name in ("image", "video") if cell.get(name) is not None}
    return parts if parts and not cell["text"] else parts | {"text": cell["text"]}
