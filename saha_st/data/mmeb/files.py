"""Where MMEB's rows and pictures are: a folder of the Hub's layout, or the Hub itself.

Both kinds answer the same three questions: which subsets there are, the rows of one, and the folders its image paths
may be relative to. Pictures of the Hub come as ZIP archives, downloaded and unpacked only when a subset needs them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import datasets
from datasets import Dataset, load_dataset

from saha_st.data.archives import unpack_once
from saha_st.data.hub import hub_cache
from saha_st.data.scenes.mini_mmeb import TRAIN_DIR
from saha_st.data.tables import read_table

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = ("", "images", "eval_images")  # what the READMEs of MMEB-train and MMEB-eval unpack into


class MMEBFiles(Protocol):
    """A place that holds MMEB's files."""

    def subsets(self) -> list[str]:
        """Return the names of the subsets."""
        ...

    def rows(self, subset: str, split: str) -> Dataset:
        """Return the rows of a subset as they are stored."""
        ...

    def image_roots(self, subset: str) -> list[Path]:
        """Return the folders that the image paths of a subset may be relative to, the likeliest first."""
        ...


@dataclass(frozen=True)
class LocalFiles:
    """A folder with `<subset>/<split>-*.parquet`."""

    folder: Path
    cache_dir: str | None = None

    def __str__(self) -> str:
        return str(self.folder)

    def subsets(self) -> list[str]:
        """Return the names of the sub-folders that hold Parquet files."""
        return sorted({path.parent.name for path in self.folder.glob("*/*.parquet")})

    def rows(self, subset: str, split: str) -> Dataset:
        """Read the Parquet files of a split, memory-mapped through the datasets cache.

        Raises:
            ValueError: The subset has no such split, or no rows.
        """
        folder = self.folder / subset
        files = sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}.parquet"))
        if not files:
            found = sorted({path.stem.split("-")[0] for path in folder.glob("*.parquet")})
            raise ValueError(f"split: {folder} has no split {split!r}; it has {found}.")
        return read_table(files, cache_dir=self.cache_dir)

    def image_roots(self, subset: str) -> list[Path]:
        """Return the folder itself and its usual image folders."""
        return [self.folder / name for name in _IMAGE_FOLDERS]


@dataclass(frozen=True)
class HubFiles:
    """A dataset repository of the Hub with one configuration per subset and the pictures in ZIP archives.

    Args:
        repo_id: The repository.
        known_subsets: Its subsets, if they are known without asking.
        archive: Path of the archive in the repository; `{subset}` in it stands for the subset.
    """

    repo_id: str
    known_subsets: tuple[str, ...]
    archive: str
    revision: str | None = None
    cache_dir: str | None = None

    def __str__(self) -> str:
        return self.repo_id

    def subsets(self) -> list[str]:
        """Return the known subsets, or ask the Hub for the configurations of a repository we do not know."""
        return list(self.known_subsets) or datasets.get_dataset_config_names(self.repo_id, revision=self.revision)

    def rows(self, subset: str, split: str) -> Dataset:
        """Download the rows of a subset."""
        return load_dataset(self.repo_id, subset, split=split, revision=self.revision, cache_dir=self.cache_dir)

    def image_roots(self, subset: str) -> list[Path]:
        """Download and unpack the archive, once, into the datasets cache.

        The paths of MMEB-train begin with `images/`, those of MMEB-eval do not, and archives may or may not: all three
        fit one of the folders that are returned.

        Raises:
            FileNotFoundError: The repository has no such archive.
        """
        folder = self._unpack(self.archive.format(subset=subset))
        return [folder, folder / "images", folder.parent]

    def _unpack(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        logger.info("Fetching the images %s of %s; MMEB's archives are between 0.1 and 13 GB", name, self.repo_id)
        place = {"repo_type": "dataset", "revision": self.revision, "cache_dir": hub_cache(self.cache_dir)}
        try:
            archive = Path(hf_hub_download(self.repo_id, name, **place))
        except EntryNotFoundError as error:
            raise FileNotFoundError(
                f"{self.repo_id} has no {name!r} at revision {self.revision or 'main'}. Get the images yourself and "
                "pass image_root=<the folder that the image paths are relative to>."
            ) from error
        # The Hub's cache names a file's blob after its content, so that a new version is unpacked to a new place.
        unpacked = f"{self.repo_id.replace('/', '--')}-{archive.stem}-{archive.resolve().name[:16]}"
        root = Path(self.cache_dir or datasets.config.HF_DATASETS_CACHE) / "saha_st" / unpacked
        return unpack_once(archive, root / "images")


def open_mmeb(
    name_or_path: str | Path,
    *,
    known_subsets: Sequence[str],
    archive: str,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> LocalFiles | HubFiles:
    """Return the place that a name or a path stands for.

    Raises:
        FileNotFoundError: A path, or what can only be one, that is no folder.
        ValueError: A folder without `<subset>/*.parquet`.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        name = str(name_or_path)
        if folder.name == TRAIN_DIR:
            raise FileNotFoundError(
                f"{name!r} is not here. It is generated: `saha-st data generate mini-mmeb` writes "
                f"mini-mmeb/{TRAIN_DIR}; name that (path, in a config)."
            )
        if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise FileNotFoundError(
                f"name_or_path: {name!r} is neither a folder nor a dataset of the Hub (owner/name)."
            )
        known = tuple(known_subsets) if name.startswith("TIGER-Lab/") else ()
        return HubFiles(name, known, archive, revision, cache_dir)
    files = LocalFiles(folder.absolute(), cache_dir)
    if not files.subsets():
        raise ValueError(
            f"name_or_path: {folder} does not hold MMEB; expected files <subset>/<split>-*.parquet in it."
        )
    return files
