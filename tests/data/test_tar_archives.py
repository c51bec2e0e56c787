"""A TAR archive, whole or cut into parts, is unpacked once, and nothing of a bad one is."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from mmeb_v2_files import write_video_tasks

from saha_st.data.mmeb_v2 import load_mmeb_v2_eval
from saha_st.data.tar_archives import unpack_tar_once


def archive(files: dict[str, bytes], *links: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
        for name in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            opened.addfile(entry)
    return buffer.getvalue()


def cut(content: bytes, folder: Path, parts: int) -> list[Path]:
    size = -(-len(content) // parts)
    files = [folder / f"frames.tar.gz-{part:02d}" for part in range(parts)]
    for part, file in enumerate(files):
        file.write_bytes(content[part * size : (part + 1) * size])
    return files


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_parts_are_read_as_one(parts: int, tmp_path: Path):
    files = {f"a/{number}.jpg": bytes([number]) * (number * 1000) for number in range(40)}
    found = unpack_tar_once(cut(archive(files), tmp_path, parts), tmp_path / "out")
    assert {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*.jpg")} == files
    kept = (found / "a" / "1.jpg").stat().st_mtime_ns
    assert unpack_tar_once([tmp_path / "nowhere"], found) == found  # it is there: no part is opened
    assert (found / "a" / "1.jpg").stat().st_mtime_ns == kept


def test_nothing_is_left_of_a_bad_archive(tmp_path: Path):
    def refused(content: bytes, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            unpack_tar_once(cut(content, tmp_path, 2), tmp_path / "out")
        assert not list(tmp_path.glob("out*/"))

    good = archive({"a.jpg": b"x" * 100_000, "b.jpg": bytes(range(256)) * 400})
    refused(good[: len(good) // 2], "frames.tar.gz-00 is not an intact TAR archive")
    refused(gzip.compress(b"no archive" * 100), "not an intact TAR archive")
    refused(b"nothing at all", "not an intact TAR archive")
    refused(archive({"../outside.jpg": b"x"}), "outside.*not unpacked")
    refused(archive({"a.jpg": b"x"}, "link.jpg"), "'link.jpg' is a link")
    assert not (tmp_path / "outside.jpg").exists()


def test_a_flipped_byte_is_never_unpacked(tmp_path: Path):
    """Most flips leave an archive that can be read, with other pictures in it: gzip's checksum alone tells."""
    files = {f"{number}.jpg": np.random.default_rng(number).bytes(3000) for number in range(4)}
    good = archive(files)
    places = [*range(10, len(good), 397), len(good) - 8, len(good) - 1]  # behind gzip's header of ten bytes
    for place in places:
        bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        with pytest.raises(ValueError, match="not an intact TAR archive"):
            unpack_tar_once(cut(bad, tmp_path, 2), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert len(places) > 20


@pytest.mark.parametrize("missing", [1, 4, 8])
def test_an_archive_without_its_last_bytes_is_refused(missing: int, tmp_path: Path):
    with pytest.raises(ValueError, match="not an intact TAR archive"):
        unpack_tar_once(cut(archive({"a.jpg": b"x" * 5000})[:-missing], tmp_path, 1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_of_several_gzip_members_is_one(tmp_path: Path):
    files = {f"a/{number}.jpg": np.random.default_rng(number).bytes(3000) for number in range(9)}
    plain = gzip.decompress(archive(files))
    members = b"".join(gzip.compress(plain[start : start + 7001]) for start in range(0, len(plain), 7001))
    found = unpack_tar_once(cut(members, tmp_path, 3), tmp_path / "out")
    assert {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*.jpg")} == files


@pytest.mark.parametrize("name", ["UCF101", "VATEX", "MVBench", "QVHighlight"])
def test_frames_of_the_hub_are_unpacked_once_for_all_tasks_of_a_group(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The archives as they are: two begin with the name of their group, two do not, and one is cut into five."""
    folder = write_video_tasks(tmp_path / "local")
    frames, hub = folder.root / "video-tasks" / "frames", tmp_path / "hub"
    hub.mkdir()
    for group, is_inside in (("video_cls", False), ("video_ret", False), ("video_mret", True), ("video_qa", True)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
            for path in (frames / group).iterdir():
                opened.add(path, f"{group}/{path.name}" if is_inside else path.name)
        content = buffer.getvalue()
        names = [f"{group}.tar.gz-{part:02d}" for part in range(5)] if group == "video_qa" else [f"{group}.tar.gz"]
        for source, target in zip(cut(content, tmp_path, len(names)), names, strict=True):
            source.rename(hub / target)
    fetched = []

    def download(repo: str, file: str, **place: object) -> str:
        assert repo == "TIGER-Lab/MMEB-V2" and place["repo_type"] == "dataset"
        fetched.append(file)
        return str(hub / Path(file).name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    rows = {file: folder.rows_of(file) for file in ("ucf101.jsonl", "vatex.jsonl", "mvbench", "qvhighlight.jsonl")}

    class Rows(list):
        def to_list(self) -> list:
            return list(self)

    def load_dataset(repo: str, config: str | None, **options: object) -> Rows:
        found = rows[{"MVBench": "mvbench"}.get(repo.split("/")[1], f"{repo.split('/')[1].lower()}.jsonl")]
        return Rows(found if config is None else found[config])

    monkeypatch.setattr("saha_st.data.mmeb_v2.places.load_dataset", load_dataset)
    for _ in range(2):
        split = load_mmeb_v2_eval(name, cache_dir=str(tmp_path / "cache"))
    assert len(split.queries) == (20 if name == "MVBench" else 2)
    assert len(fetched) == (10 if name == "MVBench" else 2)
    local = load_mmeb_v2_eval(name, folder.root)
    assert split.queries["text"][:] == local.queries["text"][:] and split.relevant == local.relevant
