"""Where the files of MMEB-V2 are: a local copy of what TIGER-Lab/MMEB-V2 unpacks to, or the Hub.

    video-tasks/frames/video_cls/UCF101/<video>/<frame>.jpg      frames, of all tasks; also without video_cls
    video-tasks/data/ucf101.jsonl                                rows of a video task
    visdoc-tasks/data/<repository>/{queries,corpus,qrels}/       a visual document task, as its repository on the Hub

Rows that a local copy lacks come from the repository of the task on the Hub: the copy of most people is frames alone.
Some of the archives of frames begin with the name of their group (video_qa), some do not (video_cls), so that both are
looked for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, load_dataset

from saha_st.data.hub import commit_of, hub_cache
from saha_st.data.json_lines import read_json_rows
from saha_st.data.mmeb_v2.subsets import PageSubset, VideoSubset
from saha_st.data.tables import read_table
from saha_st.data.tar_archives import unpack_tar_once

logger = logging.getLogger(__name__)

MEDIA_REPO = "TIGER-Lab/MMEB-V2"

_ARCHIVES = {
    "video_cls": ("video_cls.tar.gz",),
    "video_ret": ("video_ret.tar.gz",),
    "video_mret": ("video_mret.tar.gz",),
    "video_qa": tuple(f"video_qa.tar.gz-{part:02d}" for part in range(5)),
}


@dataclass(frozen=True)
class MMEBV2Place:
    """Where to read from.

    Args:
        folder: A local copy; `None` is the Hub.
        cache_dir: Folder for downloads, unpacked frames and converted rows. Default: that of datasets.
    """

    folder: Path | None = None
    cache_dir: str | None = None
    _commits: dict[str, str | None] = field(default_factory=dict, compare=False, repr=False)

    def frames_root(self, subset: VideoSubset) -> Path:
        """Return the folder of a task's frames; from the Hub come those of its whole group, once.

        Raises:
            FileNotFoundError: There is no such folder.
        """
        root = self._hub_frames(subset) if self.folder is None else self._local_frames
        if (found := _frames_in(root, subset)) is None:
            raise FileNotFoundError(
                f"{subset.name}: {str(root / subset.frames)!r} is not there. Unpack the frames of {MEDIA_REPO} in "
                "video-tasks/frames, and give the folder that holds video-tasks."
            )
        return found

    def local_frames(self, subset: VideoSubset) -> Path | None:
        """Return the folder of a task's frames in a local copy, `None` if it is not there."""
        return None if self.folder is None else _frames_in(self._local_frames, subset)

    def video_rows(self, subset: VideoSubset) -> list[dict[str, Any]]:
        """Return the rows of a video task, those of several configurations with the column `subset`."""
        names = subset.configs if len(subset.configs) > 1 else ()
        if (file := self.local_rows(subset)) is None:
            rows = [self._hub_rows(subset, config) for config in subset.configs or (None,)]
        elif file.is_dir():
            rows = [list(read_json_rows(file / f"{config}.json")) for config in subset.configs]
        else:
            rows, names = [list(read_json_rows(file))], ()
        if not names:
            return rows[0]
        return [row | {"subset": name} for name, found in zip(names, rows, strict=True) for row in found]

    def page_rows(self, subset: PageSubset, config: str) -> Dataset:
        """Return the queries, the corpus or the qrels of a visual document task; pictures stay in their files."""
        if (folder := self.local_rows(subset)) is None:
            return load_dataset(subset.repo, config, split=subset.split, **self._hub(subset))
        files = sorted((folder / config).glob(f"{subset.split}-*.parquet")) or sorted(
            (folder / config).glob("*.parquet")
        )
        if files:
            return read_table(files, cache_dir=self.cache_dir)
        return load_dataset(str(folder), config, split=subset.split, cache_dir=self.cache_dir)

    def local_rows(self, subset: VideoSubset | PageSubset) -> Path | None:
        """Return the file or folder of a task's rows in a local copy, `None` if they come from the Hub."""
        if self.folder is None:
            return None
        if isinstance(subset, VideoSubset):
            found = self.folder / "video-tasks" / "data" / subset.file
        else:
            found = self.folder / "visdoc-tasks" / "data" / subset.repo.split("/")[1]
        return found if found.exists() else None

    def commit(self, repo: str) -> str | None:
        """Return the commit of a repository on the Hub: the same as long as this object lives, whatever is pushed.

        Returns:
            40 hexadecimal digits, or `None` if the Hub cannot be reached.
        """
        if repo not in self._commits:
            self._commits[repo] = commit_of(repo, cache_dir=self.cache_dir)
        return self._commits[repo]

    def _hub(self, subset: VideoSubset | PageSubset) -> dict[str, Any]:
        logger.info("%s: reading %s of the Hub", subset.name, subset.repo)
        return {"revision": self.commit(subset.repo), "cache_dir": self.cache_dir}

    def _hub_rows(self, subset: VideoSubset, config: str | None) -> list[dict[str, Any]]:
        return load_dataset(subset.repo, config, split=subset.split, **self._hub(subset)).to_list()

    @property
    def _local_frames(self) -> Path:
        return self.folder / "video-tasks" / "frames"

    def _hub_frames(self, subset: VideoSubset) -> Path:
        """Return the folder to which the frames of a task's group are unpacked."""
        from huggingface_hub import hf_hub_download

        group = subset.frames.partition("/")[0]
        logger.info("Fetching the frames %s of %s; they are many gigabytes", group, MEDIA_REPO)
        place = {"repo_type": "dataset", "revision": self.commit(MEDIA_REPO), "cache_dir": hub_cache(self.cache_dir)}
        parts = [Path(hf_hub_download(MEDIA_REPO, f"video-tasks/frames/{name}", **place)) for name in _ARCHIVES[group]]
        # The Hub's cache names a file's blob after its content, so that a new version is unpacked to a new place.
        unpacked = f"{MEDIA_REPO.replace('/', '--')}-{group}-{parts[0].resolve().name[:16]}"
        root = Path(self.cache_dir or datasets.config.HF_DATASETS_CACHE) / "saha_st" / unpacked
        return unpack_tar_once(parts, root / "frames")


def _frames_in(root: Path, subset: VideoSubset) -> Path | None:
    """Return the folder of a task's frames, in that of its group or without one."""
    places = (root / subset.frames, root / subset.frames.partition("/")[2])
    return next((each for each in places if each.is_dir()), None)
