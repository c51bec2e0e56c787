"""Load a task of MMEB-V2: a name and a place in, what is ranked out."""

from __future__ import annotations

from pathlib import Path

from saha_st.data.mmeb_v2.frames import FrameFolders
from saha_st.data.mmeb_v2.pages import page_split
from saha_st.data.mmeb_v2.places import MMEBV2Place
from saha_st.data.mmeb_v2.split import RankingSplit
from saha_st.data.mmeb_v2.subsets import PAGE_SUBSETS, VIDEO_SUBSETS, PageSubset, VideoSubset
from saha_st.data.mmeb_v2.videos import video_split


def open_mmeb_v2(name_or_path: str | Path | None = None, *, cache_dir: str | None = None) -> MMEBV2Place:
    """Return the place that a path stands for, `None` for the Hub.

    Args:
        name_or_path: A folder with `video-tasks` or `visdoc-tasks`.
        cache_dir: As `MMEBV2Place`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has neither of these.
    """
    if name_or_path is None:
        return MMEBV2Place(None, cache_dir)
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"name_or_path: {str(name_or_path)!r} is no folder with a copy of TIGER-Lab/MMEB-V2.")
    if not any((folder / name).is_dir() for name in ("video-tasks", "visdoc-tasks", "image-tasks")):
        raise ValueError(
            f"name_or_path: {folder} does not hold MMEB-V2; expected are image-tasks, video-tasks or visdoc-tasks."
        )
    return MMEBV2Place(folder.absolute(), cache_dir)


def load_mmeb_v2_eval(
    subset: str | VideoSubset | PageSubset,
    name_or_path: str | Path | MMEBV2Place | None = None,
    *,
    cache_dir: str | None = None,
) -> RankingSplit:
    """Load a video or visual document task of MMEB-V2.

    Args:
        subset: Its name on the leaderboard, such as "K700" or "ViDoRe_arxivqa"; or how it is read, of a task that
            is not on it.
        name_or_path: A folder with `video-tasks` and `visdoc-tasks` as `places` describes them, or `None` for the
            Hub, of which a task of videos needs the frames of its whole group.
        cache_dir: As `MMEBV2Place`.

    Raises:
        ValueError: An unknown name, or rows that are not as they should be.
        FileNotFoundError: There is no such folder, or frames are missing.
    """
    place = name_or_path if isinstance(name_or_path, MMEBV2Place) else open_mmeb_v2(name_or_path, cache_dir=cache_dir)
    if isinstance(subset, str):
        known = VIDEO_SUBSETS | PAGE_SUBSETS
        if subset not in known:
            raise ValueError(f"subset: there is no {subset!r}; there are {list(known)}.")
        subset = known[subset]
    if isinstance(subset, PageSubset):
        return page_split(subset, place)
    rows = place.video_rows(subset)
    return video_split(subset, rows, FrameFolders(place.frames_root(subset)))
