"""Pictures that lie on their side, and say so: one vector by every route."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import ExifTags, Image, ImageFile, ImageOps
from sentence_transformers import SentenceTransformer

from saha_st.encoding import encode_column
from saha_st.modules import load_embedder
from saha_st.modules.images import image_size, open_image
from saha_st.modules.sources import resolve_model
from saha_st.modules.videos import open_video

FORMATS = {"PNG": {}, "JPEG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def pixels(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 40, 3), dtype=np.uint8))


def write(path: Path | io.BytesIO, orientation: int | None, form: str = "PNG", seed: int = 0) -> Path | io.BytesIO:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    pixels(seed).save(path, format=form, exif=exif, **FORMATS[form])
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_a_photo_is_turned_as_datasets_turns_it(tmp_path, form, orientation):
    path = write(tmp_path / "photo", orientation, form)
    expected = Dataset.from_dict({"image": [str(path)]}, features=Features({"image": ImageFeature()}))[0]["image"]
    for source in (str(path), path, {"path": str(path), "bytes": None}, {"path": None, "bytes": path.read_bytes()}):
        opened = open_image(source)
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(expected.convert("RGB")))
        assert image_size(source) == (opened.height, opened.width)
    assert opened.size == ((24, 40) if orientation in (5, 6, 7, 8) else (40, 24))


def test_a_photo_has_one_vector_as_file_as_bytes_and_as_a_column(tmp_path):
    model = load_embedder("saha-tiny", device="cpu")
    path = str(write(tmp_path / "photo.png", 6))
    column = Dataset.from_dict({"image": [path]}, features=Features({"image": ImageFeature()}))
    upright, lying = model.encode_document([ImageOps.exif_transpose(Image.open(path)), pixels()])
    assert np.abs(upright - lying).max() > 1e-2
    stored = {"path": None, "bytes": Path(path).read_bytes()}
    found = model.encode_document([{"image": path}, {"image": stored}, {"image": [path]}, column[0]["image"]])
    np.testing.assert_allclose(found, np.stack([upright] * 4), atol=1e-5)
    encoded = encode_column(column, "image", model, task="document", show_progress_bar=False)
    np.testing.assert_allclose(encoded.embeddings, [upright], atol=1e-5)
    # In memory the pixels count, and everywhere it is as plain Sentence Transformers has it.
    plain = SentenceTransformer(resolve_model("saha-tiny"), device="cpu")
    cells = [{"image": path}, Image.open(path)]
    np.testing.assert_allclose(model.encode_document(cells), [upright, lying], atol=1e-5)
    np.testing.assert_allclose(plain.encode_document(cells), [upright, lying], atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_is_decoded_once_and_its_size_takes_no_decoding(tmp_path, monkeypatch, form):
    loads = []
    prepare = ImageFile.ImageFile.load_prepare  # what every decoder begins with
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", lambda self: (loads.append(self), prepare(self))[1])
    for orientation in (None, 6):
        source = str(write(tmp_path / f"{orientation}", orientation, form))
        loads.clear()
        image_size(source)
        assert not loads
        open_image(source)
        assert len(loads) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_broken_exif_leaves_a_picture_as_its_pixels_are(tmp_path):
    path = tmp_path / "broken.jpg"
    pixels().save(path, exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    assert open_image(str(path)).size == (40, 24) and image_size(str(path)) == (24, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_photo_whose_exif_cannot_be_written_again_is_turned_all_the_same(tmp_path):
    # Little-endian TIFF with two signed numbers (type 9): orientation 6, and a width that no writer would accept.
    entries = [(0x0100, 9, -5), (ExifTags.Base.Orientation, 3, 6)]
    table = b"".join(struct.pack("<HHIi", tag, kind, 1, value) for tag, kind, value in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", 0)
    path = tmp_path / "photo.jpg"
    pixels().save(path, exif=exif)
    assert open_image(str(path)).size == (24, 40) and image_size(str(path)) == (40, 24)


def test_frames_of_a_video_that_lie_are_turned(tmp_path):
    frames = [str(write(tmp_path / f"{number}.jpg", 6, "JPEG", seed=number)) for number in range(3)]
    video = open_video(frames)
    assert (video.height, video.width) == (40, 24)
    assert video.read([0, 2]).shape == (2, 40, 24, 3)
    np.testing.assert_array_equal(video.read([1])[0], np.asarray(open_image(frames[1])))
