"""What a file is by its first bytes, whatever its name: a pickle, a picture, a text."""

from __future__ import annotations

import codecs
import io
import pickletools
import re
import zipfile
from pathlib import Path

_PICTURES = re.compile(
    rb"""\x89PNG\r\n | \xff\xd8\xff | GIF8[79]a | RIFF....(?:WEBP|AVI\ ) | II\*\0 | MM\0\* | BM....\0\0\0\0
    | \0\0\0.ftyp | \x1aE\xdf\xa3
    | \s*(?:<\?xml[^>]*>\s*)?(?:<!(?:--.*?--|DOCTYPE\ svg[^>]*)>\s*)*<svg\b""",
    re.VERBOSE | re.DOTALL,
)
"""PNG, JPEG, GIF, WebP and AVI, TIFF, BMP; MP4 and its kin, WebM; SVG."""

_UNICODE = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is how it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"}
_IMPORTS = {"GLOBAL", "INST", "STACK_GLOBAL"}
_NUMPY = b"\x93NUMPY"


def is_picture(path: Path) -> bool:
    """Whether a file begins as pictures or films do."""
    with path.open("rb") as file:
        return _PICTURES.match(file.read(2000)) is not None


def text_of(path: Path, *, binary: bool = False) -> str | None:
    """The text in a file, by its byte-order mark if it has one; None if it is none.

    Args:
        path: The file.
        binary: Whether it may hold other bytes, too.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _UNICODE.items() if content.startswith(mark)), None)
    if encoding is None and b"\0" in content and not binary:
        return None
    return content.decode(encoding or "utf8", errors="replace")


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, an array of NumPy's, which may hold one, or an archive with one in it."""
    with path.open("rb") as file:
        start = file.read(len(_NUMPY))
    if start[:1] == b"\x80" and start[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return path.suffix != ".safetensors"
    if start[:2] == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(entry.endswith((".pkl", ".pickle", ".npy")) for entry in archive.namelist())
    return start == _NUMPY or (path.suffix != ".safetensors" and _is_old_pickle(path))


def _is_old_pickle(path: Path) -> bool:
    """Whether a file is a pickle of protocol 0 or 1, which has no mark at its beginning.

    Almost every byte is an instruction, so that the beginning of a text may be a program (``N.`` is None). A pickle
    is what runs to its end without a missing operand, and either is the whole file or imports and calls something.
    """
    content, seen = path.read_bytes(), set()
    stream = io.BytesIO(content)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in {"GLOBAL", "INST"} and not re.fullmatch(r"[\w.]+ [\w.]+", argument):
                return False
            seen.add(opcode.name)
        end = stream.tell()
        pickletools.dis(content[:end], out=io.StringIO())
    except Exception:  # whatever is wrong with it as a program
        return False
    is_whole = end > 4 and not content[end:].strip()
    return is_whole or bool(seen & _CALLS and seen & _IMPORTS)
