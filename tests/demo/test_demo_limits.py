import io
import json
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from saha_st.demo import limits
from saha_st.demo.errors import UserError
from saha_st.demo.gallery import MAX_SIDE
from saha_st.demo.guard import names_an_address
from saha_st.demo.limits import clean_count, clean_text, read_picture, read_pictures, uploaded_path


def save(path, size=(40, 30), mode="RGB", **options):
    Image.new(mode, size, "red").save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif"])
def test_usual_pictures_are_read_in_rgb(tmp_path, name):
    picture = read_picture(save(tmp_path / name), tmp_path)
    assert (picture.size, picture.mode) == ((40, 30), "RGB")
    assert picture.getpixel((5, 5))[0] > 240


def test_the_name_of_a_file_does_not_matter_its_content_does(tmp_path):
    save(tmp_path / "a.png").rename(tmp_path / "a.txt")
    assert read_picture(tmp_path / "a.txt", tmp_path).size == (40, 30)
    (tmp_path / "b.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(UserError, match="not a picture that can be read"):
        read_picture(tmp_path / "b.png", tmp_path)


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM", "ICO", "PDF"])
def test_other_formats_are_refused(tmp_path, kind):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(UserError, match="PNG, JPEG, WebP or GIF"):
        read_picture(tmp_path / "a.png", tmp_path)


def test_large_pictures_become_small_and_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    picture = read_picture(save(tmp_path / "a.jpg", (1200, 600), exif=exif), tmp_path)
    assert picture.size == (MAX_SIDE // 2, MAX_SIDE)


def test_what_is_transparent_becomes_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", tmp_path).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_of_a_palette_is_made_small_without_leaving_pixels_out(tmp_path):
    stripes = Image.new("P", (2 * MAX_SIDE, 8))
    stripes.putpalette([0, 0, 0, 255, 255, 255])
    stripes.putdata([x % 2 for _ in range(8) for x in range(2 * MAX_SIDE)])
    stripes.save(tmp_path / "a.png")
    assert all(100 < value < 155 for value in read_picture(tmp_path / "a.png", tmp_path).getpixel((50, 2)))


def test_of_a_moving_picture_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.gif", tmp_path).getpixel((0, 0)) == (255, 0, 0)


def bomb(width, height):
    """A PNG of a few bytes whose header promises many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(7_000, 6_000), (10_000, 10_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_by_their_header(tmp_path, size):
    (tmp_path / "a.png").write_bytes(bomb(*size))
    with pytest.raises(UserError, match="at most 40 million"):
        read_picture(tmp_path / "a.png", tmp_path)


def test_broken_oblong_large_and_foreign_files_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "uploads"
    folder.mkdir()
    whole = io.BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(whole, format="PNG")
    (folder / "cut.png").write_bytes(whole.getvalue()[:3000])
    with pytest.raises(UserError, match="broken or incomplete"):
        read_picture(folder / "cut.png", folder)
    with pytest.raises(UserError, match="too long for its width"):
        read_picture(save(folder / "long.png", (2000, 5)), folder)
    outside = save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(outside)
    for path in (outside, folder / "link.png", folder / ".." / "outside.png", "https://x.org/a.png", "a\0b", folder):
        with pytest.raises(UserError, match="not uploaded here"):
            read_picture(path, folder)
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 100)
    with pytest.raises(UserError, match="larger than"):
        read_picture(folder / "cut.png", folder)


def test_one_thread_decodes_whoever_asks_as_malloc_keeps_for_each_what_it_frees(tmp_path, monkeypatch):
    good, threads = save(tmp_path / "a.png"), []
    monkeypatch.setattr(limits, "_check_size", lambda *_: threads.append(threading.get_ident()))
    with ThreadPoolExecutor(4) as crowd:
        list(crowd.map(lambda _: read_picture(good, tmp_path), range(20)))
    assert len(threads) == 20 and len(set(threads)) == 1


def test_own_galleries_are_limited_and_errors_say_which_picture(tmp_path):
    good = save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    assert len(read_pictures([good] * 30, tmp_path)) == 30
    assert read_pictures(None, tmp_path) == []
    with pytest.raises(UserError, match="31 pictures"):
        read_pictures([good] * 31, tmp_path)
    with pytest.raises(UserError, match="Picture 2: The file is not a picture"):
        read_pictures([good, tmp_path / "b.png"], tmp_path)


def test_texts_are_bounded_and_lose_what_cannot_be_seen():
    assert clean_text("  a red\x00 circle\x1b ") == "a red circle"
    assert clean_text(None) == ""
    with pytest.raises(UserError, match="501 characters"):
        clean_text("x" * 501)
    with pytest.raises(UserError, match="must be a text"):
        clean_text({"path": "x"})


@pytest.mark.parametrize("count", [0, 25, 2.5, "8", None, True, 10**400, float("nan"), float("inf")])
def test_counts_out_of_bounds_are_refused(count):
    with pytest.raises(UserError):
        clean_count(count)


def test_an_upload_of_the_api_is_a_file_and_nothing_else():
    assert uploaded_path(None) is None
    assert uploaded_path({"path": "/uploads/a.png"}) == "/uploads/a.png"
    for upload in ("https://x.org/a.png", ["a"], {"url": "https://x.org"}, {"path": ""}, {"path": 3}):
        with pytest.raises(UserError, match="handle_file"):
            uploaded_path(upload)


FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        ([{"path": "/uploads/a.png", "url": "http://127.0.0.1:7860/gradio_api/file=/uploads/a.png", **FILE}], False),
        (["https://example.com/cat.png", None, 8], False),
        ([{"path": "https://example.com/a.png", **FILE}], True),
        ([{"path": " HTTP://example.com/a.png", **FILE}], True),
        ([{"path": "file:///etc/passwd", **FILE}], True),
        ([{"path": "//example.com/a.png", **FILE}], True),
        ([{"path": "\\\\host\\share", **FILE}], True),
        ([{"path": "C:\\gradio\\a.png", **FILE}], False),
        ([[{"deep": [{"path": "ftp://example.com/a.png"}]}]], True),
        ([{"path": None, "url": "data:image/png;base64,AAAA"}], True),
    ],
)
def test_the_guard_refuses_addresses_in_place_of_files_and_lets_texts_pass(data, refused):
    assert names_an_address(json.dumps({"data": data}).encode()) is refused


def test_the_guard_leaves_bodies_that_are_no_json_to_gradio():
    assert not names_an_address(b"\xff{")
    assert not names_an_address(b"[" * 100_000)
