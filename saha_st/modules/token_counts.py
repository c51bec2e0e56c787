"""How many tokens an input's own text, pictures and videos take, without rendering or resizing anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from saha_st.modules.video_frames import Clip, frame_options, frames_together, shown_frames

_UNKNOWN_PICTURE = 256  # tokens of a picture whose size or processor does not tell
_UNKNOWN_VIDEO = 2048
_OF_FRAME = ("image_seq_len", "image_seq_length")  # where all frames take as many tokens: SmolVLM, InternVL
_TIMES = 12  # tokens that say when each frame is, or which one
_WRITES_TIMES = ("_calculate_timestamps", *_OF_FRAME)  # of processors that write that between frames

Part = tuple[str, Any]  # "text", "image", "video" or "audio", and its content


def count_tokens(module: Any, inputs: Sequence[Any]) -> np.ndarray:
    """Count the tokens of inputs: their text and the placeholders of their media; not the prompt around them.

    Args:
        module: The input module, with tokenizer and processor.
        inputs: Canonical inputs, see `canonical_inputs`, chat messages among them.

    Returns:
        Shape (inputs,), int64. Exact for text, and for pictures and videos where the processor tells (pictures:
        Qwen-VL, LLaVA, Idefics; videos: Qwen2-VL, Qwen2.5-VL, LLaVA-OneVision); an estimate for other videos, for
        sound, and for pictures that are not open.
    """
    parts = [list(_parts(cell)) for cell in inputs]
    texts = ["".join(content for kind, content in row if kind == "text") for row in parts]
    counts = [len(ids) for ids in module.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    sizes = {_size(content) for row in parts for kind, content in row if kind == "image"} - {None}
    known = dict(zip(sizes, tokens_of_pictures(module.processor, list(sizes)) or (), strict=False))
    clips = [shown_size(module, content) for row in parts for kind, content in row if kind == "video"]
    videos = iter(tokens_of_videos(module.processor, clips) or [_UNKNOWN_VIDEO] * len(clips))
    media = [
        sum(next(videos) if part[0] == "video" else _tokens_of_part(part, known) for part in row) for row in parts
    ]
    return np.array(counts, dtype=np.int64) + np.array(media, dtype=np.int64)


def tokens_of_pictures(processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int] | None:
    """Tokens of pictures, as the processor itself counts them for engines that plan ahead; None if it does not.

    Args:
        processor: A multimodal processor.
        sizes: (height, width) of each picture, in pixels.
    """
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    if count is None or not sizes:
        return None
    try:
        return list(count(image_sizes=[list(size) for size in sizes])["num_image_tokens"])
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return None


def tokens_of_videos(processor: Any, sizes: Sequence[tuple[int, int, int]]) -> list[int] | None:
    """Tokens of videos, as the processor itself counts them, or of equally many for each frame; None if nobody tells.

    Args:
        processor: A multimodal processor.
        sizes: (frames, height, width) of each video: the frames that the model is shown, and pixels.
    """
    found = _counted_videos(processor, sizes)
    if found is None:
        return None
    times = _TIMES if any(hasattr(processor, name) for name in _WRITES_TIMES) else 0
    return [
        tokens + times * -(-frames // frames_together(processor.video_processor))
        for tokens, (frames, _, _) in zip(found, sizes, strict=True)
    ]


def _counted_videos(processor: Any, sizes: Sequence[tuple[int, int, int]]) -> list[int] | None:
    """Tokens of the frames themselves."""
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    try:
        found = count(video_sizes=[list(size) for size in sizes])["num_video_tokens"] if count and sizes else None
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        found = None
    of_frame = next((getattr(processor, name) for name in _OF_FRAME if hasattr(processor, name)), None)
    if found is None and of_frame is not None and sizes:
        return [frames * of_frame for frames, _, _ in sizes]
    return found


def shown_size(module: Any, video: Any) -> tuple[int, int, int]:
    """Frames that a model is shown of a video that is open, and their height and width."""
    if isinstance(video, Clip):
        return video.frames.shape[:3]
    options = frame_options(module.processing_kwargs)
    return len(shown_frames(video, module.processor, options)), video.height, video.width


def _tokens_of_part(part: Part, known: Mapping[Any, int]) -> int:
    kind, content = part
    if kind == "text":
        return 0  # counted all at once
    return known.get(_size(content), _UNKNOWN_PICTURE)


def _parts(cell: Any) -> Iterator[Part]:
    """The parts of an input: of a dict of parts, of a message, or of a list of messages."""
    if isinstance(cell, str):
        yield "text", cell
    elif isinstance(cell, list):
        for item in cell:
            yield from _parts(item)
    elif isinstance(cell, Mapping) and "content" in cell:
        yield from _parts(cell["content"])
    elif isinstance(cell, Mapping):
        for kind in ("text", "image", "video", "audio"):
            content = cell.get(kind)
            if kind == "image" and isinstance(content, list):
                yield from ((kind, image) for image in content)
            elif content is not None:
                yield kind, content


def _size(image: Any) -> tuple[int, int] | None:
    return (image.height, image.width) if isinstance(image, Image.Image) else None
