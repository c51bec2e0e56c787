"""Files that nobody should send: broken, lying, or huge when they are opened. Each maker returns the bytes."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

from PIL import Image


def picture(form: str = "PNG", size: tuple[int, int] = (64, 48), *, plain: bool = False, **options) -> bytes:
    """A harmless one: noise, or the same colour all over, half transparent."""
    file = io.BytesIO()
    image = Image.new("RGBA", size, (90, 20, 60, 128)) if plain else Image.effect_noise(size, 60).convert("RGB")
    image.save(file, form, **options)
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))  # one bit a pixel
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def png_that_states(width: int, height: int) -> bytes:
    return _png(width, height, zlib.compress(bytes(1000)))


def png_with_text_bomb(megabytes: int = 200) -> bytes:
    text = zlib.compressobj(9)
    bomb = b"".join(text.compress(bytes(2**20)) for _ in range(megabytes)) + text.flush()
    return _png(64, 64, zlib.compress(bytes(9 * 64)), _chunk(b"zTXt", b"Comment\0\0" + bomb))


def png_with_pixel_bomb(megabytes: int = 200) -> bytes:
    """More pixels are packed into it than it states."""
    pixels = zlib.compressobj(9)
    return _png(64, 64, b"".join(pixels.compress(bytes(2**20)) for _ in range(megabytes)) + pixels.flush())


def gif_of(frames: int) -> bytes:
    colours = [Image.new("P", (8, 8), index % 2 * 200) for index in range(frames)]
    file = io.BytesIO()
    colours[0].save(file, "GIF", save_all=True, append_images=colours[1:], duration=20, loop=0)
    return file.getvalue()


def animated_webp() -> bytes:
    frames = [Image.new("RGB", (64, 64), (index * 20, 0, 90)) for index in range(10)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    return file.getvalue()


def jpeg_with_endless_exif() -> bytes:
    """A directory of tags that names itself as the next one, and tags that claim gigabytes."""
    tags = [(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0x010E, 2, 0x7FFFFFFF, 8), (0x0112, 3, 1, 0xFFFF)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 8)
    return picture("JPEG", exif=exif + bytes(60_000))


def pickle_bomb() -> bytes:
    class Bomb:
        def __reduce__(self):
            return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))

    return pickle.dumps(Bomb())


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="http://127.0.0.1:9/x"/></svg>'
HTML = b"<!doctype html><script>alert(document.domain)</script>"
