"""One setting for how much of a video a model is shown: how many frames, evenly spaced.

Which frames these are is the processor's own rule, applied to the length of the video before anything is decoded, so
that plain Sentence Transformers picks the same ones. Processors spell the number in their own ways (``num_frames``, or
bounds of what ``fps`` gives), and not every spelling survives saving. So the setting is translated, read back from
what would be saved, and verified on a long video.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from saha_st.modules.overrides import FRAMES
from saha_st.modules.videos import Video

logger = logging.getLogger(__name__)

DEFAULT_NUM_FRAMES = 8
"""Frames that a plain LLM is shown of a video, as in MMEB-V2."""

_SPELLINGS = (
    lambda count: {"num_frames": count, "fps": None},  # Qwen2-VL, Qwen2.5-VL, LLaVA-OneVision, InternVL, Gemma 4
    lambda count: {"min_frames": count, "max_frames": count, "num_frames": None},  # where fps decides: Qwen3-VL
    lambda count: {"num_frames": count, "fps": 1000},  # at most so many, and so many a second: SmolVLM
)
_FPS = 24.0  # of a video of which nobody tells it, as processors suppose
_MANY = 64  # frames that are worth a warning
_LONG = 1000  # frames of a synthetic video, at 24 a second


@dataclass(frozen=True)
class Clip:
    """The frames of a video that a model is shown.

    Attributes:
        frames: Shape (frames, height, width, 3), uint8, RGB.
        metadata: What the processor is told of the video they are from.
    """

    frames: np.ndarray
    metadata: Mapping[str, Any]


def set_frames(processor: Any, num_frames: int | None, *, is_embedder: bool) -> None:
    """Set the number of frames that was asked for, or the default of a model that has not been an embedder before.

    An embedder keeps its own: the vectors that it was trained and evaluated with must not change.

    Raises:
        ValueError: As `set_num_frames`, for a number that was asked for.
    """
    if num_frames is not None:
        set_num_frames(processor, num_frames)
    elif not is_embedder and getattr(processor, "video_processor", None) is not None:
        try:
            set_num_frames(processor, DEFAULT_NUM_FRAMES)
        except ValueError as error:
            logger.info("Videos are read as the processor does by itself: %s", error)


def set_num_frames(processor: Any, num_frames: int) -> None:
    """Make ``processor`` look at ``num_frames`` frames of a video, evenly spaced; at all frames of a shorter one.

    The setting lives in the video processor and is saved with it.

    Args:
        processor: A multimodal processor.
        num_frames: Number of frames, a multiple of what the model takes together.

    Raises:
        ValueError: A number that cannot be, a processor without videos, or one that did not obey.
    """
    video_processor = getattr(processor, "video_processor", None)
    if video_processor is None:
        raise ValueError(f"num_frames is not available: {type(processor).__name__} takes no videos.")
    together = frames_together(video_processor)
    if not isinstance(num_frames, int) or isinstance(num_frames, bool) or num_frames < 1 or num_frames % together:
        raise ValueError(
            f"num_frames must be a positive multiple of {together}, the frames that this model takes together; got "
            f"{num_frames!r}."
        )
    before, reasons, obedient = dict(vars(video_processor)), [], []
    # What None means today, said for good: its meaning is announced to change.
    pinned = {"cap_pixels_per_frame": False} if getattr(video_processor, "cap_pixels_per_frame", 0) is None else {}
    for spelling in _SPELLINGS:
        settings = before | pinned | {"do_sample_frames": True, **spelling(num_frames)}
        _become(video_processor, settings)
        if reason := _disobedience(video_processor, num_frames):
            reasons.append(reason)
        else:
            obedient.append((not _takes_short_ones(video_processor, num_frames), len(obedient), settings))
        _become(video_processor, before)
    if not obedient:
        raise ValueError(
            f"{type(video_processor).__name__} does not obey num_frames={num_frames}: {'; '.join(reasons)}. Set "
            "frames through processor_kwargs, in this processor's own terms."
        )
    _become(video_processor, min(obedient)[2])


def get_num_frames(processor: Any, options: Mapping[str, Any] | None = None) -> int | None:
    """Read the setting back; None where there are no videos, or where their length decides.

    Args:
        processor: A multimodal processor.
        options: As in `shown_frames`.
    """
    video_processor, options = getattr(processor, "video_processor", None), options or {}
    samples = options.get("do_sample_frames", getattr(video_processor, "do_sample_frames", False))
    if video_processor is None or not samples:
        return None
    try:
        lengths = (_LONG, 100 * _LONG)
        counts = {len(_sample(video_processor, _metadata(frames, fps=24.0), options)) for frames in lengths}
    except (AttributeError, TypeError, ValueError):
        return None
    return counts.pop() if len(counts) == 1 else None


def frames_together(video_processor: Any) -> int:
    """How many frames make one row of patches."""
    return getattr(video_processor, "temporal_patch_size", None) or 1


def needs_equal_lengths(video_processor: Any) -> bool:
    """Whether all videos of a batch need equally many frames, so that a shorter one has to show some of them twice.

    So it is where frames have an axis of their own: (videos, frames, ...) of LLaVA-OneVision, InternVL and SmolVLM.
    """
    kind = type(video_processor)
    if kind not in _equal_lengths:
        frames = np.zeros((2 * frames_together(video_processor), 64, 64, 3), dtype=np.uint8)
        try:
            made = video_processor([frames], do_sample_frames=False, return_tensors="pt")
        except Exception:  # of a processor that nobody tested, and that will say so itself
            made = {}
        _equal_lengths[kind] = any(getattr(value, "ndim", 0) >= 5 for value in made.values())
    return _equal_lengths[kind]


def shown_frames(video: Video, processor: Any, options: Mapping[str, Any] | None = None) -> list[int]:
    """Numbers of the frames that a model is shown of a video.

    Args:
        video: The video, not decoded.
        processor: The multimodal processor, whose own rule decides.
        options: What replaces the settings of its video processor, as from `frame_options`.

    Raises:
        ValueError: The processor cannot choose, in its own words.
    """
    video_processor, total = processor.video_processor, video.total_frames
    settings = {name: getattr(video_processor, name, None) for name in ("do_sample_frames", "num_frames")}
    settings |= options or {}
    count = settings["num_frames"]
    if not settings["do_sample_frames"]:
        _warn_of_many(total)
        return list(range(total))
    if count is not None and total < count and needs_equal_lengths(video_processor):
        return np.linspace(0, total - 1, count).round().astype(int).tolist()

    def sample(fps: float | None) -> list[int]:
        metadata = _metadata(total, fps=fps, height=video.height, width=video.width)
        return _sample(video_processor, metadata, options or {})

    try:
        return sample(video.fps)
    except ValueError:
        if count is not None and total <= count:  # fewer than Qwen2-VL's rule can choose from
            return list(range(total))
        if video.fps is not None or count is None:
            raise
        return sample(_FPS)  # SmolVLM counts in seconds


_equal_lengths: dict[type, bool] = {}
_warned: set[str] = set()


def _warn_of_many(frames: int) -> None:
    if frames > _MANY and "frames" not in _warned:
        _warned.add("frames")
        logger.warning(
            "This embedder looks at all frames of a video, here %d, which are all decoded. Load it with num_frames=%d "
            "to show it fewer; its vectors of videos are others then. (Said once.)",
            frames,
            DEFAULT_NUM_FRAMES,
        )


def read_clip(video: Video, processor: Any, options: Mapping[str, Any] | None = None) -> Clip:
    """Decode the frames that a model is shown of a video.

    Args:
        video: The video.
        processor: The multimodal processor.
        options: As in `shown_frames`.

    Raises:
        ValueError: A frame cannot be read, or differs in size from the first one.
    """
    indices = shown_frames(video, processor, options)
    frames = video.read(indices)
    if missing := max(0, frames_together(processor.video_processor) - len(frames)):
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])  # as processors fill up the rest
    metadata = _metadata(video.total_frames, fps=video.fps, height=video.height, width=video.width)
    return Clip(frames, {**metadata, "frames_indices": indices})


@dataclass(frozen=True)
class TakenFrames:
    """Inputs whose videos are plain frames, ready for a processor that does not choose among them again.

    Attributes:
        rows: Canonical inputs with arrays for videos.
        videos: How many videos each row has.
        options: What the video processor must be told of them.
    """

    rows: list[Any]
    videos: list[int]
    options: dict[str, Any]


def take_frames(rows: Sequence[Any], processor: Any) -> TakenFrames:
    """Put the frames of clips in their places.

    Args:
        rows: Canonical inputs whose videos are clips.
        processor: The multimodal processor.

    Raises:
        ValueError: Videos that the processor cannot read in one batch.
    """
    clips: list[Clip] = []
    taken, videos = [], []
    for row in rows:
        before = len(clips)
        taken.append(_without_clips(row, clips))
        videos.append(len(clips) - before)
    lengths = sorted({len(clip.frames) for clip in clips})
    if len(lengths) > 1 and needs_equal_lengths(processor.video_processor):
        raise ValueError(
            f"{type(processor).__name__} reads only videos of equally many frames in one batch; these have "
            f"{', '.join(map(str, lengths))}. Load the model with num_frames={DEFAULT_NUM_FRAMES}, or embed them one "
            "by one."
        )
    metadata = [{**clip.metadata, "frames_indices": list(clip.metadata["frames_indices"])} for clip in clips]
    return TakenFrames(taken, videos, {"video_metadata": metadata, "input_data_format": "channels_last"})


def without_sampling(processor: Any) -> Any:
    """A copy of a processor that takes all frames of a video; its parts are shared.

    An argument would do for most, but SmolVLM's passes one of its own, and transformers refuses to be told twice.
    """
    processor = copy.copy(processor)
    processor.video_processor = copy.copy(processor.video_processor)
    vars(processor.video_processor).update({"do_sample_frames": False, "num_frames": None, "fps": None})
    return processor


def frame_options(processing_kwargs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What replaces the settings of the video processor at every call, by processing arguments of all parts.

    What stands beside the chat template reaches the processor as well, and wins; a number of frames or a speed there
    makes transformers choose frames even where the processor takes all.
    """
    options = dict(processing_kwargs.get("video", {}))
    told = {name: value for name, value in processing_kwargs.get("chat_template", {}).items() if name in FRAMES}
    if told.get("num_frames") is not None or told.get("fps") is not None:
        told.setdefault("do_sample_frames", True)
    return options | told


def not_sampling(processing_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Processing arguments without those that choose frames."""
    kept = dict(processing_kwargs or {})
    for part in ("video", "chat_template"):
        kept[part] = {name: value for name, value in kept.get(part, {}).items() if name not in FRAMES}
    return kept


def read_clips(row: Any, processor: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Decode the videos of a canonical input; everything else stays as it is."""
    if isinstance(row, list):
        return [read_clips(item, processor, options) for item in row]
    if not isinstance(row, Mapping):
        return row
    if "content" in row:
        return {**row, "content": read_clips(row["content"], processor, options)}
    if row.get("video") is None or isinstance(row["video"], Clip):
        return row
    return {**row, "video": read_clip(row["video"], processor, options)}


def _without_clips(row: Any, clips: list[Clip]) -> Any:
    """Replace clips by their frames, and collect them in the order in which the processor meets them."""
    if isinstance(row, list):
        return [_without_clips(item, clips) for item in row]
    if not isinstance(row, Mapping):
        return row
    if "content" in row:
        return {**row, "content": _without_clips(row["content"], clips)}
    if not isinstance(row.get("video"), Clip):
        return row
    clips.append(row["video"])
    return {**row, "video": row["video"].frames}


def _metadata(frames: int, *, fps: float | None, height: int | None = None, width: int | None = None) -> VideoMetadata:
    duration = None if fps is None else frames / fps
    return VideoMetadata(total_num_frames=frames, fps=fps, duration=duration, height=height, width=width)


def _sample(video_processor: Any, metadata: VideoMetadata, options: Mapping[str, Any]) -> list[int]:
    """The processor's own rule, called as it calls it itself."""
    names = video_processor.valid_kwargs.__annotations__
    settings = {name: getattr(video_processor, name, None) for name in names} | dict(options)
    for name in ("do_sample_frames", "do_convert_rgb", "input_data_format", "device", "video_metadata"):
        settings.pop(name, None)
    return [int(index) for index in video_processor.sample_frames(metadata=metadata, **settings)]


def _become(video_processor: Any, settings: Mapping[str, Any]) -> None:
    vars(video_processor).clear()
    vars(video_processor).update(settings)


def _takes_short_ones(video_processor: Any, count: int) -> bool:
    """Whether it takes all frames of a shorter video, each once, also where it is not known how fast they follow."""
    frames = max(1, count - 1)
    says = logging.getLogger(type(video_processor).__module__)  # that it does not know how fast, to whoever reads it
    level = says.level
    says.setLevel(logging.ERROR)
    try:
        return _sample(video_processor, _metadata(frames, fps=None), {}) == list(range(frames))
    except (AttributeError, TypeError, ValueError):
        return False
    finally:
        says.setLevel(level)


def _disobedience(video_processor: Any, count: int) -> str | None:
    """What is wrong with a setting: of what would be loaded again, on a long video; None if nothing is."""
    frames = max(_LONG, 4 * count)
    metadata = _metadata(frames, fps=24.0, height=32, width=32)
    video = np.zeros((frames, 32, 32, 3), dtype=np.uint8)
    try:
        loaded = type(video_processor).from_dict(json.loads(video_processor.to_json_string()))
        if (shown := len(_sample(loaded, metadata, {}))) != count:
            return f"of {frames} frames it takes {shown}"
        features = loaded([video], video_metadata=[metadata], return_metadata=True, return_tensors="pt")
    except Exception as error:  # what a processor raises for a spelling that is not its own has many names
        return f"{type(error).__name__}: {error}"
    shown = len(features["video_metadata"][0].frames_indices)
    if "video_grid_thw" in features:
        shown = int(features["video_grid_thw"][0, 0]) * frames_together(loaded)
    return None if shown == count else f"of {frames} frames it takes {shown}"
