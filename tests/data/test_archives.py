from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from saha_st.data import archives
from saha_st.data.archives import unpack_once


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a/one.txt", "one" * 1000)
        opened.writestr("two.txt", "two" * 1000)
    return path


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_archive_is_unpacked_once(archive: Path, tmp_path: Path):
    target = tmp_path / "new" / "target"
    assert unpack_once(archive, target) == target
    assert contents(target) == ["a/one.txt", "two.txt"]
    archive.unlink()
    assert unpack_once(archive, target) == target, "what is there is not unpacked again"


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "..\\out.txt", "C:\\out.txt"])
def test_no_entry_may_leave_the_target_and_then_nothing_is_written(tmp_path: Path, name: str):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("good.txt", "good")
        opened.writestr(name, "evil")
    with pytest.raises(ValueError, match="outside the archive"):
        unpack_once(archive, tmp_path / "folder" / "target")
    assert contents(tmp_path / "folder") in ([], ["target.lock"]) and not (tmp_path / "out.txt").exists()


def test_a_link_is_refused(tmp_path: Path):
    archive = tmp_path / "link.zip"
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(entry, "/etc")
    with pytest.raises(ValueError, match="link"):
        unpack_once(archive, tmp_path / "target")


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_broken_archive_is_never_taken_for_whole(archive: Path, tmp_path: Path, damage: str):
    data = bytearray(archive.read_bytes())
    if damage == "flipped":
        data[60] ^= 0xFF
    archive.write_bytes(data[: len(data) // 2] if damage == "truncated" else data)
    with pytest.raises(ValueError, match="not an intact ZIP"):
        unpack_once(archive, tmp_path / "target")
    assert not list(tmp_path.glob("target*/")), "nothing half-unpacked is left"


def test_an_interrupted_unpacking_is_not_taken_for_whole_and_is_done_again(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "target"
    killed = tmp_path / "target.partial"  # what a killed process leaves behind
    killed.mkdir()
    (killed / "half.txt").write_text("ha")
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            unpack_once(archive, target)
    assert not target.exists() and not killed.exists()
    assert contents(unpack_once(archive, target)) == ["a/one.txt", "two.txt"]


def test_a_full_disk_is_found_out_before_anything_is_written(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(OSError, match="make room or pass another cache_dir"):
        unpack_once(archive, tmp_path / "target")
    assert not list(tmp_path.glob("target*/"))
