"""Pickles and pictures are known by their first bytes, and texts that begin alike are none."""

from __future__ import annotations

import datetime
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saha_st.hub.file_kinds import is_pickle, is_picture


class _Run:
    """Something that is made by a call when it is loaded."""

    def __reduce__(self) -> tuple:
        return print, ("loaded",)


def archive(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr(name, b"")
    return content.getvalue()


def array() -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([{"a": 1}], dtype=object))
    return content.getvalue()


def picture(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(content, format=kind)
    return content.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [{"lr": 1e-5, "names": ["a"]}, _Run(), datetime.date(2026, 1, 1)])
def test_a_pickle_of_any_protocol_is_found_whatever_its_name(tmp_path, protocol, value):
    file = tmp_path / "notes.txt"
    file.write_bytes(pickle.dumps(value, protocol=protocol))
    assert is_pickle(file)


def test_the_mark_of_a_pickle_is_enough(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"\x80\x04anything")
    assert is_pickle(tmp_path / "notes.txt")


def test_a_pickle_that_calls_is_found_before_other_text(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_bytes(pickle.dumps(_Run(), protocol=0) + b"\nAll the rest is harmless.")
    assert is_pickle(file)


@pytest.mark.parametrize("content", [array(), archive("archive/data.pkl"), archive("x.npy")], ids=["npy", "pt", "npz"])
def test_what_may_hold_a_pickle_is_found(tmp_path, content):
    (tmp_path / "LICENSE").write_bytes(content)
    assert is_pickle(tmp_path / "LICENSE")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "N.",
        "N. B.: a text",
        "(c) 2026 The authors. All rights reserved.",
        "card: org/name\nname: saha\n...\n",
        "card: org/name\nname: saha\n.",
        "copyright\nnotice\n. The rest",
        "counts\nof words\n. The rest",
        "]}).",
        "]})).",
        "I am a text.\n",
        "In the beginning\n.\n",
        "S'il vous plaît.\n",
        "{}",
        "[1, 2]",
        "0.5",
        "#version: 0.2\na b\n",
    ],
)
def test_texts_that_begin_like_a_program_are_no_pickles(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert not is_pickle(tmp_path / "README.md")


def test_weights_whose_header_begins_like_a_pickle_are_none(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x02\0\0\0\0\0\0{")
    assert not is_pickle(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_picture_is_found_whatever_its_name(tmp_path: Path, kind):
    (tmp_path / "LICENSE").write_bytes(picture(kind))
    assert is_picture(tmp_path / "LICENSE")


@pytest.mark.parametrize(
    "content",
    [
        b"MM\0*\0\0\0\x08",
        b"\0\0\0\x20ftypisom\0\0\x02\0",
        b"\x1aE\xdf\xa3\x9fB",
        b"RIFF\x10\0\0\0AVI LIST",
        b'<svg xmlns="http://www.w3.org/2000/svg">',
        b'<?xml version="1.0"?>\n<!-- drawn -->\n<!DOCTYPE svg PUBLIC "x">\n<svg width="1">',
    ],
    ids=["tiff", "mp4", "webm", "avi", "svg", "svg-in-xml"],
)
def test_films_and_other_pictures_are_found(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    assert is_picture(tmp_path / "config.json")


@pytest.mark.parametrize(
    "text", ["BM25 is a baseline", "II* and MM", "GIF8 is short", "RIFF or raff", "PNG, <svg>", ""]
)
def test_texts_that_begin_like_a_picture_are_none(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert not is_picture(tmp_path / "README.md")
