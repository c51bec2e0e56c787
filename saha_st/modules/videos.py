"""What a video may be: a file, a folder of frames, a list of frames, or an array; decoded as late as possible.

A video that is open knows how many frames it has and how large they are, which is all that counting tokens needs. Its
pixels are read when a batch is made, and only those of the frames that the model is shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from saha_st.modules.images import check_sides, image_size, open_image
from saha_st.modules.video_files import VideoFile

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""The files that count as frames in a folder."""

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv")
"""The files that count as videos in a folder."""


class Video(Protocol):
    """A video that is open: what is known of it, and how to get at its frames.

    Attributes:
        total_frames: Number of frames.
        height: Pixels of a frame.
        width: The same.
        fps: Frames per second; None where nothing tells, as for a list of frames.
    """

    total_frames: int
    height: int
    width: int
    fps: float | None

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return some frames in the order of their numbers; shape (frames, height, width, 3), uint8, RGB."""
        ...


def open_video(video: Any) -> Video:
    """Open a video; no pixel of a list or folder of frames is read yet.

    Only a file tells how fast its frames follow. Models that have time in their positions (Qwen2.5-VL) or in their
    prompt (Qwen3-VL, 3.5 and 4, SmolVLM, Gemma 4) suppose a speed of the others, so that a file and the mere list of
    its frames are two inputs to them. ``{"array": frames, "video_metadata": {"fps": 30}}`` tells it of a list or an
    array.

    Args:
        video: Path of a file or of a folder of frames; a list of frames (PIL images, paths, stored images of
            `datasets`, arrays); an array or tensor of shape (frames, height, width, 3), uint8; a list or an array with
            its speed, as Sentence Transformers writes that (above); or a file as ``{"path", "bytes"}``.

    Raises:
        ImportError: A video file, and PyAV is not installed.
        ValueError: The file or a frame is missing, there are no frames, or they are too oblong; or it is no video.
    """
    opened = _open(video)
    check_sides(opened.width, opened.height, "video")
    return opened


def frame_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths of the frames in a folder in natural order: ``frame_2.jpg`` before ``frame_10.jpg``."""
    names = [
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(FRAME_SUFFIXES) and not entry.name.startswith(".")
    ]
    return [os.path.join(folder, name) for name in sorted(names, key=_natural)]


class FrameList:
    """A video whose frames are pictures.

    Args:
        frames: Whatever `open_image` takes; opened when they are read.
        fps: Frames per second, if that is known.

    Raises:
        ValueError: There are no frames, or the first one cannot be read.
    """

    def __init__(self, frames: Sequence[Any], *, fps: float | None = None) -> None:
        if not len(frames):
            raise ValueError("the video has no frames. Drop the row, or give it at least one.")
        size = image_size(frames[0])
        if size is None:
            raise ValueError(
                f"the frames of a video are pictures or paths of pictures; found {_describe(frames[0])}. A file or a "
                "folder is given by its path alone, and frames behind URLs are not fetched."
            )
        self.frames, self.fps = frames, fps
        self.total_frames, (self.height, self.width) = len(frames), size

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Open some frames; see `Video.read`.

        Raises:
            ValueError: A frame cannot be read, or is of another size than the first.
        """
        read = []
        for index in indices:
            try:
                frame = np.asarray(open_image(self.frames[index]))
            except ValueError as error:
                raise ValueError(f"frame {index} of the video: {error}") from error.__cause__
            _check_bytes(frame, f"frame {index} of the video")
            if frame.shape != (self.height, self.width, 3):
                raise ValueError(
                    f"frame {index} of the video is an array of shape {frame.shape}, the first one is "
                    f"{self.width}x{self.height} pixels. Give all frames one size."
                )
            read.append(frame)
        return np.stack(read)


class FrameArray:
    """A video whose frames are in memory.

    Args:
        frames: Shape (frames, height, width, 3) or (frames, 3, height, width), uint8.
        fps: Frames per second, if that is known.

    Raises:
        ValueError: Another shape or type.
    """

    def __init__(self, frames: Any, *, fps: float | None = None) -> None:
        array = frames.detach().cpu().numpy() if hasattr(frames, "detach") else np.asarray(frames)
        if array.ndim == 4 and array.shape[3] != 3 and array.shape[1] == 3:
            array = array.transpose(0, 2, 3, 1)
        if array.ndim != 4 or array.shape[3] != 3 or not len(array):
            raise ValueError(f"a video is an array of shape (frames, height, width, 3); received {array.shape}.")
        _check_bytes(array, "the video")
        self.frames, self.fps = array, fps
        self.total_frames, self.height, self.width = array.shape[:3]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return some frames; see `Video.read`."""
        return self.frames[list(indices)]


def _check_bytes(pixels: np.ndarray, name: str) -> None:
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"{name} is an array of {pixels.dtype}. Convert it to uint8, from 0 to 255: processors rescale whatever "
            "they are given as if it were that."
        )


def _open(video: Any) -> Video:
    if isinstance(video, (VideoFile, FrameList, FrameArray)):
        return video
    fps = None
    if isinstance(video, Mapping) and "array" in video:
        video, fps = video["array"], (video.get("video_metadata") or {}).get("fps")
    elif isinstance(video, Mapping):
        video = video["bytes"] if video.get("bytes") else video.get("path")
    if isinstance(video, (str, os.PathLike)):
        return _open_path(os.fspath(video))
    if isinstance(video, bytes):
        return VideoFile(video)
    if isinstance(video, (list, tuple)):
        return FrameList(video, fps=fps)
    if getattr(video, "shape", None) is not None:
        return FrameArray(video, fps=fps)
    raise ValueError(
        "a video is the path of a file or of a folder of frames, a list of frames, or an array of shape (frames, "
        f"height, width, 3); received {_describe(video)}."
    )


def _open_path(path: str) -> Video:
    if "://" in path:
        raise ValueError(f"the video is behind a URL ({path}), and nothing is fetched unasked. Download it.")
    if not os.path.isdir(path):
        return VideoFile(path)
    frames = frame_files(path)
    if not frames:
        raise ValueError(f"the folder {path!r} has no frames in it ({', '.join(FRAME_SUFFIXES)}).")
    return FrameList(frames)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort numbers by their value; equals (``1.jpg``, ``01.jpg``) by their letters."""
    pieces = re.split(r"(\d+)", Path(name).stem)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces], name


def _describe(value: Any) -> str:
    return (
        f"{type(value).__name__} {str(value)[:80]!r}"
        if isinstance(value, (str, os.PathLike))
        else type(value).__name__
    )
