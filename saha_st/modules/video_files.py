"""Frames of a video file, decoded with PyAV: only those that are asked for.

Which frame is the n-th is known from the packets, which are read without decoding them. A frame is reached from the
last key frame before it; where a container does not let itself be searched, the file is decoded from its beginning.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

Source = str | os.PathLike[str] | bytes

INSTALL = 'pip install "saha-st[video]"'


class VideoFile:
    """A video file; opened anew whenever frames are read.

    Args:
        source: Path of the file, or its bytes.

    Attributes:
        total_frames: Number of frames.
        height: Pixels, as the video is shown.
        width: The same.
        fps: Frames per second, on average; None where the file does not tell.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: The file is missing, is no video, or has no frames.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = "its bytes" if isinstance(source, bytes) else repr(os.fspath(source))
        with self._open() as (container, stream):
            # Their times alone: packets hold the file's bytes.
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard
            ]
            # A recording that begins between key frames cannot be shown before the first of them.
            begin = next((number for number, (_, is_key) in enumerate(packets) if is_key), 0)
            times = [time for time, _ in packets[begin:]]
            self.total_frames = len(times)
            self.fps = float(stream.average_rate) if stream.average_rate else None
            # In the order in which frames are shown; None where a packet has no time, as in some AVI files.
            self._times = sorted(times) if None not in times and len(set(times)) == len(times) else None
            self._keys = sorted(time for time, is_key in packets if is_key) if self._times else []
        with self._open() as (container, stream):
            first = next(container.decode(stream), None)
            if first is None:
                raise ValueError(f"the video {self.name} has no frames. Replace the file or drop the row.")
            self.height, self.width = _as_shown(first).shape[:2]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Decode some frames.

        Args:
            indices: Numbers of the frames, from 0.

        Returns:
            Shape (frames, height, width, 3), uint8, RGB.

        Raises:
            ValueError: The file is damaged.
        """
        wanted = sorted(set(indices))
        frames = self._search(wanted) or self._decode_from_start(wanted)
        if missing := [index for index in wanted if index not in frames]:
            raise ValueError(
                f"the video {self.name} is damaged: frame {missing[0]} of {self.total_frames} cannot be decoded. "
                "Replace the file or drop the row."
            )
        return np.stack([frames[index] for index in indices])

    def _search(self, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        """Go to each frame from the key frame before it; nothing if a frame is not where it should be."""
        if self._times is None or not self._keys:
            return {}
        found = {}
        with self._open() as (container, stream):
            decoded, position = iter(()), None
            for index in wanted:
                time = self._times[index]
                key = self._keys[max(bisect_right(self._keys, time) - 1, 0)]
                if position is None or key > position:
                    container.seek(key, stream=stream, backward=True)
                    decoded = container.decode(stream)
                frame = next((frame for frame in decoded if frame.pts is None or frame.pts >= time), None)
                if frame is None or frame.pts != time:
                    return {}
                found[index], position = _as_shown(frame), time
        return found

    def _decode_from_start(self, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        number_of = None if self._times is None else {time: number for number, time in enumerate(self._times)}
        left, found = set(wanted), {}
        with self._open() as (container, stream):
            for count, frame in enumerate(container.decode(stream)):
                number = count if number_of is None else number_of.get(frame.pts)
                if number in left:
                    left.remove(number)
                    found[number] = _as_shown(frame)
                if not left:
                    break
        return found

    def _open(self) -> _Opened:
        return _Opened(self.source, self.name)


class _Opened:
    """An open container and its video stream; decoders' errors become words about the file."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name = source, name

    def __enter__(self) -> tuple[Any, Any]:
        self._av = _import_av()
        try:
            file = io.BytesIO(self.source) if isinstance(self.source, bytes) else os.fspath(self.source)
            self._container = self._av.open(file)
        except FileNotFoundError as error:
            raise ValueError(f"the video file {self.name} does not exist.") from error
        except (self._av.FFmpegError, OSError) as error:
            raise self._unreadable(error) from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"the file {self.name} holds no video. Replace the file or drop the row.")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        return self._container, stream

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._container.close()
        if isinstance(error, self._av.FFmpegError):
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> ValueError:
        return ValueError(f"the video {self.name} cannot be read ({error}). Replace the file or drop the row.")


def _as_shown(frame: Any) -> np.ndarray:
    """A decoded frame in RGB, turned as a player would turn it; shape (height, width, 3)."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90)))


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"Video files are decoded with PyAV, which is not installed: {INSTALL}. Folders and lists of frames need "
            "nothing more."
        ) from error
    return av
