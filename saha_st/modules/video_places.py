"""Pixels of pictures and videos in one tensor, for models that keep both where every row has as many places.

SmolVLM's processor writes the frames of videos, (videos, frames, ...), over the places of pictures, (rows, places,
...). Its model takes what stands in a row's places one after the other, as the row's tokens come: a picture fills one
place a tile and one for the whole, a video one a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

_KEYS = ("pixel_values", "pixel_attention_mask")


def keeps_videos_in_places(processor: Any) -> bool:
    """Whether a processor puts videos where pictures are."""
    names = getattr(getattr(processor, "video_processor", None), "model_input_names", None) or ()
    return set(_KEYS) <= set(names)


def in_places(
    features: Mapping[str, Any], pictures: Mapping[str, Any], rows: Sequence[Any], processor: Any
) -> dict[str, Any]:
    """Give every row its places: those of its pictures and those of the frames of its videos, as they come.

    Args:
        features: What the processor made of the whole batch; its pixels are those of videos alone.
        pictures: What it makes of the batch without videos.
        rows: The canonical inputs of the batch.
        processor: The processor.

    Returns:
        The features with pixels of shape (rows, places, 3, height, width) and a mask without the 3. Empty places are
        zeros, and come last.
    """
    media = [list(_media(row)) for row in rows]
    videos = [kinds.count("video") for kinds in media]
    frames = features[_KEYS[0]].shape[1]
    of_pictures = _places_of_pictures(pictures["input_ids"], processor)
    sources = [_sources(*row, frames=frames) for row in zip(media, of_pictures, strict=True)]
    return {**features, **{key: _placed(features[key], pictures.get(key), sources, videos) for key in _KEYS}}


def without_videos(row: Any) -> Any:
    """A canonical input whose videos are left out; an empty text if it is nothing else."""
    if isinstance(row, list):
        return [without_videos(message) for message in row]
    if not isinstance(row, Mapping):
        return row
    if isinstance(row.get("content"), list):
        return {**row, "content": [part for part in row["content"] if part.get("type") != "video"]}
    return {name: part for name, part in row.items() if name != "video"} or {"text": ""}


def _media(row: Any) -> Iterator[str]:
    """``image`` and ``video``, as often and in the order in which they are in a canonical input."""
    if isinstance(row, list | tuple):
        for item in row:
            yield from _media(item)
    elif isinstance(row, Image.Image) or (isinstance(row, Mapping) and row.get("type") in ("image", "video")):
        yield "image" if isinstance(row, Image.Image) else row["type"]
    elif isinstance(row, Mapping) and "content" in row:
        yield from _media(row["content"])
    elif isinstance(row, Mapping):
        images = row.get("image", [])
        yield from ["image"] * (len(images) if isinstance(images, list) else 1)
        yield from ["video"] * ("video" in row)


def _places_of_pictures(input_ids: Tensor, processor: Any) -> list[list[int]]:
    """How many places each picture of each row fills: the last one stands behind the token for a whole picture."""
    whole = processor.tokenizer.convert_tokens_to_ids(processor.global_image_token)
    before, here = input_ids[:, :-1], input_ids[:, 1:]
    begins = (here == processor.image_token_id) & (before != processor.image_token_id)  # (rows, tokens - 1)
    counts = []
    for row, tokens in zip(begins, before, strict=True):
        ends = (tokens[row] == whole).nonzero().flatten().tolist()  # numbers of the row's places
        counts.append([end - start for start, end in zip([-1, *ends], ends, strict=False)])
    return counts


def _sources(kinds: Sequence[str], of_pictures: Sequence[int], *, frames: int) -> list[tuple[str, int]]:
    """What a row's places are filled with, in order: places of its pictures and frames of its videos, by number."""
    done, sizes, sources = {"image": 0, "video": 0}, iter(of_pictures), []
    for kind in kinds:
        size = frames if kind == "video" else next(sizes)
        sources += [(kind, done[kind] + number) for number in range(size)]
        done[kind] += size
    return sources


def _placed(
    frames: Tensor, pictures: Tensor | None, sources: Sequence[Sequence[tuple[str, int]]], videos: Sequence[int]
) -> Tensor:
    """Pixels, or their mask, of every row in its places, (rows, most places, ...)."""
    placed = frames.new_zeros((len(sources), max(map(len, sources)), *frames.shape[2:]))
    done = 0
    for row, (places, count) in enumerate(zip(sources, videos, strict=True)):
        own = {
            "video": frames[done : done + count].flatten(0, 1),
            "image": None if pictures is None else pictures[row],
        }
        for place, (kind, number) in enumerate(places):
            placed[row, place] = own[kind][number]
        done += count
    return placed
