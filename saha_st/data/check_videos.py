"""Look at videos the way a training run will: open each distinct one, and decode frames from its two ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from saha_st.data.cells import missing_frames
from saha_st.data.check_images import ImageChecker
from saha_st.data.image_files import is_remote
from saha_st.data.keys import cell_key
from saha_st.data.problems import Finding
from saha_st.modules.videos import frame_files, open_video


class VideoChecker:
    """Checks videos, each distinct one once, and the frames of lists and folders as images.

    Args:
        images: Checks frames, in its threads.
        decode: Decode the first and the last frame of a file, and all frames of a list or folder; otherwise open the
            file, and read the frames' headers.
    """

    def __init__(self, images: ImageChecker, *, decode: bool) -> None:
        self.images, self.decode = images, decode
        self._seen: dict[bytes, Finding | None] = {}

    def check(self, videos: Sequence[Any]) -> list[Finding | None]:
        """Return what is wrong with each of some stored videos, `None` if nothing is."""
        keys = [self._key(video) for video in videos]
        new = {key: video for key, video in zip(keys, videos, strict=True) if isinstance(key, bytes)}
        new = {key: video for key, video in new.items() if key not in self._seen}
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # a decoder has threads of its own
            self._seen.update(zip(new, pool.map(self._look, new.values()), strict=True))
        return [self._seen[key] if isinstance(key, bytes) else key for key in keys]

    def _key(self, video: Any) -> bytes | Finding:
        """Return the content key of a video, or what keeps it from having one."""
        if isinstance(video, str) and is_remote(video):
            return Finding("video behind a URL", video)
        if gaps := missing_frames(video):
            others = f", and {len(gaps) - 1} more" if len(gaps) > 1 else ""
            return Finding("unreadable video", f"frame {gaps[0]} of {len(video)} is None{others}")
        try:
            return cell_key({"video": video})
        except FileNotFoundError as error:
            return Finding("missing video", video if isinstance(video, str) else str(error))
        except ValueError:
            return Finding("video without frames", str(video))

    def _look(self, video: Any) -> Finding | None:
        name = video if isinstance(video, str) else f"{len(video)} frames"
        try:
            if isinstance(video, str) and os.path.isdir(video):
                video = [{"path": path, "bytes": None} for path in frame_files(video)]
            if isinstance(video, list) and (finding := self._look_at_frames(video)):
                return finding
            opened = open_video(video)
            if self.decode:
                opened.read(sorted({0, opened.total_frames - 1}))
        except (ImportError, ValueError) as error:
            return Finding("unreadable video", f"{name} ({error})")
        return None

    def _look_at_frames(self, frames: list[Any]) -> Finding | None:
        found = self.images.check(frames)
        first = next(((index, finding) for index, finding in enumerate(found) if finding is not None), None)
        if first is None or first[1].problem == "tiny image":
            return None
        index, finding = first
        return Finding("unreadable video", f"frame {index}: {finding.problem}: {finding.value}")
