"""Videos as folders of frames, of which some are looked at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saha_st.data.mmeb_v2.subsets import NUM_FRAMES
from saha_st.modules.videos import frame_files


class FrameFolders:
    """The folders of frames of a task.

    Args:
        root: The folder they are in.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._found: dict[str, list[str]] = {}  # many questions are about the same video

    def sample(self, folder: str) -> list[str]:
        """Return the paths of the frames that are looked at, `[]` if the folder is not there or has none."""
        if folder not in self._found:
            path = self.root / folder
            self._found[folder] = sample_frames(frame_files(path)) if path.is_dir() else []
        return self._found[folder]

    def clips(self, folder: str) -> list[str]:
        """Return the folders in a folder by name."""
        return sorted(each.name for each in (self.root / folder).iterdir() if each.is_dir())

    def require(self, folders: Sequence[str], subset: str) -> None:
        """Refuse a task that lacks frames.

        Raises:
            FileNotFoundError: A folder has no frames, with its path and how many others have none.
        """
        distinct = dict.fromkeys(folders)
        if missing := [folder for folder in distinct if not self.sample(folder)]:
            raise FileNotFoundError(
                f"{subset}: {len(missing)} of {len(distinct)} folders have no frames, the first is "
                f"{str(self.root / missing[0])!r}. Unpack the frames of TIGER-Lab/MMEB-V2 to video-tasks/frames, and "
                "give the folder that holds video-tasks."
            )


def sample_frames(frames: Sequence[str], count: int = NUM_FRAMES) -> list[str]:
    """Return so many frames, evenly spread from the first to the last; all, if there are no more than that."""
    if len(frames) <= count:
        return list(frames)
    return [frames[index] for index in np.linspace(0, len(frames) - 1, count).astype(int)]


def folder_states(root: Path, depth: int = 2) -> list[str]:
    """Return what changes when a folder of frames is added, removed, or unpacked anew, without looking at files."""
    found = []
    for parent, folders, _ in os.walk(root):
        folders.sort()
        place = os.path.relpath(parent, root)
        if place.count(os.sep) + 1 >= depth and place != os.curdir:
            folders.clear()
        found.append(f"{place}:{os.stat(parent).st_mtime_ns};")
    return found
