"""A short, stable name for what a cell holds, so that equal inputs are encoded once and caches hit.

Two cells share a key only if a model would see the same thing in both. Whatever could change a vector goes in (the
text to the letter, an image's encoded bytes or its file's path, size and time of change); whatever cannot stays out
(the order of a dict's keys, parts that are `None`). The price is one-sided: the same picture reached by two routes (a
file, its bytes, its decoded pixels) has two keys and is encoded twice, but two different inputs never share one. A
video is looked at from the outside: its file, or the files of its frames; none of them is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from datasets import Dataset
from PIL.Image import Image as PILImage

from saha_st.data.cells import cell_parts, cell_video, is_stored_image, missing_frames, stored_cells
from saha_st.modules.videos import frame_files

KEY_DTYPE = np.dtype("S32")  # 32 hexadecimal digits: NumPy's bytes drop trailing zero bytes, digits have none
_PERSON = b"saha_st cell 1"  # changes whenever the recipe below does, so that old caches are missed, not misread


def cell_key(cell: Any) -> bytes:
    """Return the content key of one cell.

    | Cell | What is hashed |
    |---|---|
    | `"words"` or `{"text": "words"}` | the UTF-8 text, unchanged |
    | image as `{"bytes": …, "path": …}` or `bytes` | the encoded bytes; the path is then only a name |
    | image as `{"bytes": None, "path": …}` or a path | absolute path, file size, modification time (ns) |
    | image as a URL or a member of an archive | the address: nothing is fetched |
    | PIL image, NumPy array | mode or dtype, size, palette, pixels |
    | video as the path of a file | absolute path, file size, modification time (ns) |
    | video as the path of a folder | the files of its frames, in their order |
    | video as a list of frames | the frames, each as an image, in their order |
    | video as an array or tensor | dtype, shape, pixels |
    | `{"image": …, "video": …, "text": …}` | all parts; a list of images counts in its order |

    Args:
        cell: A string (always text, never a path), an image in any of the forms above, or a mapping with "image",
            "video" and "text"; a part that is `None` or an empty list counts as absent, so `"a"`, `{"text": "a"}` and
            `{"image": None, "text": "a"}` share a key.

    Returns:
        32 hexadecimal digits (a 128-bit BLAKE2b digest) as `bytes`.

    Raises:
        ValueError: The cell is empty: it has neither text nor image nor video; or its video has no frames.
        FileNotFoundError: The file of an image, video or frame does not exist.
        TypeError: The cell, or one of its parts, is of no known kind.
    """
    return _key(cell, files={})


def cell_keys(cells: Iterable[Any], *, name: str = "cells") -> np.ndarray:
    """Return the keys of many cells that are at hand (a list of strings, PIL images, dicts, …).

    Args:
        cells: Cells as `cell_key` takes them.
        name: What to call the cells in an error.

    Returns:
        Array of shape (cells,) and dtype `KEY_DTYPE`.

    Raises:
        ValueError, FileNotFoundError, TypeError: As `cell_key`, with the row and the name in front.
    """
    files: dict[str, bytes] = {}
    keys = []
    for row, cell in enumerate(cells):
        try:
            keys.append(_key(cell, files))
        except (ValueError, FileNotFoundError, TypeError) as error:
            raise type(error)(f"Row {row}, {name}: {error}") from None
    return np.array(keys, dtype=KEY_DTYPE)


def column_keys(dataset: Dataset, column: str) -> np.ndarray:
    """Return the keys of a column of a dataset, reading the stored cells: no image is decoded, no transform applied.

    Args:
        dataset: A map-style dataset.
        column: Name of a column of strings, images, or structs of "image", "video" and "text".

    Returns:
        Array of shape (rows,) and dtype `KEY_DTYPE`.

    Raises:
        KeyError: The dataset has no such column.
        ValueError, FileNotFoundError, TypeError: As `cell_key`, with the row and the column in front.
    """
    return cell_keys(stored_cells(dataset, column), name=f"column {column!r}")


def _key(cell: Any, files: dict[str, bytes]) -> bytes:
    """Hash the parts of a cell; `files` remembers the state of files, as one picture is often in many rows."""
    images, text = cell_parts(cell)
    video = cell_video(cell)
    if not images and text is None and video is None:
        raise ValueError("the cell is empty: it has neither a text nor an image nor a video.")
    parts = [_image(image, files) for image in images]
    if video is not None:
        parts += _video(video, files)
    if text is not None:
        parts.append(("text", text.encode("utf-8", "surrogatepass")))
    digest = blake2b(digest_size=16, person=_PERSON)
    for kind, content in parts:  # the length keeps two different sequences of parts from spelling the same bytes
        digest.update(f"{kind}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest().encode()


def _image(image: Any, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the kind of an image and the bytes that stand for it."""
    if is_stored_image(image):
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    if isinstance(image, (bytes, bytearray, memoryview)):
        return "bytes", bytes(image)
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if "://" in path:  # a URL, hf://…, or zip://member::archive: the address is all there is without fetching it
            return "address", path.encode("utf-8", "surrogatepass")
        if path not in files:
            files[path] = _file_state(path)
        return "file", files[path]
    if isinstance(image, PILImage):
        return "pixels", _pixels(image)
    if isinstance(image, np.ndarray):
        return "array", f"{image.dtype.str}{image.shape}".encode() + np.ascontiguousarray(image).tobytes()
    raise TypeError(f"an image must be a PIL image, an array, bytes or a path; found {type(image).__name__}.")


def _video(video: Any, files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Return what stands for a video: one part that opens it, and those of its frames."""
    if isinstance(video, Mapping) and "array" in video:  # as Sentence Transformers takes it
        rest = {name: value for name, value in video.items() if name != "array"}
        return [("metadata", repr(rest).encode()), *_video(video["array"], files)]
    if isinstance(video, (str, os.PathLike)) and os.path.isdir(video):
        video = frame_files(video)
    if isinstance(video, (list, tuple)):
        if not video:
            raise ValueError("the video has no frames.")
        if gaps := missing_frames(list(video)):
            raise ValueError(f"frame {gaps[0]} of the video is missing.")
        return [("frames", str(len(video)).encode()), *(_image(frame, files) for frame in video)]
    if hasattr(video, "detach"):  # a tensor
        video = video.detach().cpu().numpy()
    kind, content = _image(video, files)
    return [(f"video {kind}", content)]


def _pixels(image: PILImage) -> bytes:
    """Return all that decides how a decoded image looks; with a palette, equal indices may be different colours."""
    palette = bytes(image.getpalette() or ()) if image.mode in ("P", "PA") else b""
    header = repr((image.mode, image.size, palette, image.info.get("transparency")))
    return header.encode() + image.tobytes()


def _file_state(path: str) -> bytes:
    try:
        state = os.stat(path)
    except OSError as error:
        raise FileNotFoundError(f"the file {path!r} cannot be read ({error.strerror}).") from None
    return f"{os.path.abspath(path)}\0{state.st_size}\0{state.st_mtime_ns}".encode("utf-8", "surrogatepass")
