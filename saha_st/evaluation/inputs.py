"""What mteb hands to an encoder, as the cells that are in the data.

mteb prepares a dataset with the columns `image` and `text`, and for documents strips the ends of the text, but leaves
the original in `body`. Read as stored, a column of images is paths or encoded bytes: equal cells are found, and only
then is each of them decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Image
from mteb.types import PromptType

from saha_st.data.cells import CELL_FEATURE, cells_from_parts, is_string
from saha_st.data.keys import cell_keys, column_keys


@dataclass(frozen=True)
class Inputs:
    """The inputs of one call to an encoder.

    Args:
        keys: Content key of every row, shape (rows,).
        read: Takes row numbers and returns inputs for `SentenceTransformer.encode`, images decoded.
        has_media: Whether there are images among them.
    """

    keys: np.ndarray
    read: Callable[[np.ndarray], list[dict[str, Any]]]
    has_media: bool


def inputs_of(dataset: Any, prompt_type: PromptType | None = None) -> Inputs:
    """Return the inputs in what mteb prepared for an encoder.

    Args:
        dataset: The dataset of mteb's data loader: mostly one of `datasets`, for some tasks any map-style dataset.
        prompt_type: The side it belongs to.

    Raises:
        ValueError: There are neither images nor texts, or a row has neither.
        FileNotFoundError: An image file is missing.
    """
    if isinstance(dataset, Dataset):
        cells = as_cells(dataset, prompt_type)
        has_images = "image" in dataset.column_names
        return Inputs(
            column_keys(cells, "cell"),
            lambda rows: [_input(cell) for cell in cells[rows.tolist()]["cell"]],
            has_images,
        )
    rows = [dataset[row] for row in range(len(dataset))]
    _require_parts(rows[0].keys() if rows else ())
    cells = [{"image": row.get("image"), "text": row.get("text")} for row in rows]
    has_images = any(cell["image"] is not None for cell in cells)
    return Inputs(cell_keys(cells), lambda rows: [_input(cells[row]) for row in rows], has_images)


def as_cells(dataset: Dataset, prompt_type: PromptType | None = None) -> Dataset:
    """Return the images and texts of a dataset as a column `cell`, nothing decoded.

    Raises:
        ValueError: The dataset has neither images nor texts.
    """
    text = _text_column(dataset, prompt_type)
    has_images = "image" in dataset.column_names and isinstance(dataset.features["image"], Image)
    columns = ["image"] * has_images + [text] * (text is not None)
    _require_parts(columns or dataset.column_names)
    chunks = []
    for batch in dataset.select_columns(columns).with_format("arrow")[:].to_batches():
        images = batch.column("image") if has_images else pa.nulls(len(batch), Image().pa_type)
        texts = pa.nulls(len(batch), pa.string()) if text is None else batch.column(text)
        chunks.append(cells_from_parts(images, texts))
    schema = Features({"cell": CELL_FEATURE}).arrow_schema
    return Dataset(pa.table([pa.chunked_array(chunks, schema.field("cell").type)], schema=schema))


def _require_parts(columns: Sequence[str]) -> None:
    if not {"image", "text", "body"} & set(columns):
        raise ValueError(f"There is neither a text nor an image to encode; the columns are {sorted(columns)}.")


def _text_column(dataset: Dataset, prompt_type: PromptType | None) -> str | None:
    """Name the column that has the text as it is in the data; a title is only in mteb's own text."""
    names = dataset.column_names
    untouched = prompt_type is PromptType.document and "body" in names and "title" not in names
    name = "body" if untouched else "text"
    return name if name in names and is_string(dataset.features[name]) else None


def _input(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input of the parts that are there, image first. An image without a word has no empty text beside it.

    Always a mapping: Sentence Transformers opens a bare string that looks like the path of an image.
    """
    image, text = cell["image"], cell["text"]
    parts = {} if image is None else {"image": image}
    return parts if parts and not text else parts | {"text": text}
