"""What a repository is about to hold, and what of it must not be published.

A checkpoint is data: weights, settings, pictures that were drawn for it. Looked for are files that are code or run
code when they are loaded (pickles, Python), secrets, paths of the machine it was made on, and pictures or other files
that nothing accounts for, which may be somebody's training data. A file's name is not trusted: see `file_kinds`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saha_st.hub.engines import FIXTURES_FILE, PARITY, VECTORS_FILE
from saha_st.hub.file_kinds import is_pickle, is_picture, text_of
from saha_st.hub.local_paths import paths_in
from saha_st.hub.secret_strings import secrets_in

_CODE = {".py", ".pyc", ".so", ".sh", ".ipynb"}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".mp4", ".webm"}
_TEXTS = {".json", ".jsonl", ".yaml", ".yml", ".md", ".jinja", ".txt", ".model", ""}
_SENTENCEPIECE = ".model"

_MAY_BE_DATA = "It may be training data; remove it."
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"}
"""Files of strings from everywhere, in which a path means nothing; so are SentencePiece's, which are binary, too."""

_EMBEDDED_PICTURE = re.compile(r"data:(?:image|video)/[\w.+-]+;base64,[A-Za-z0-9+/]{8}")


@dataclass(frozen=True)
class Finding:
    """Something that must not be published: where, what, and what to do."""

    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}. {self.remedy}"


def list_files(folder: str | Path) -> dict[str, int]:
    """The files of a folder, by their path in it, with their size in bytes."""
    root = Path(folder)
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}


def find_problems(folder: str | Path, *, wanted_pictures: frozenset[str] = frozenset()) -> list[Finding]:
    """Look through a folder for what must not be published.

    Args:
        folder: The repository as it would be uploaded.
        wanted_pictures: Pictures that are meant to be there, as paths within the folder; those that
            ``parity/parity.json`` names are.

    Returns:
        What was found; empty if all is well.
    """
    root = Path(folder)
    wanted = wanted_pictures | _pictures_of_parity(root)
    names = [PurePosixPath(name) for name in list_files(root)]
    return [finding for name in names for finding in _problems_of(root / name, name, wanted)]


def _pictures_of_parity(root: Path) -> frozenset[str]:
    """The pictures that the inputs in ``parity/`` are made of."""
    path = root / PARITY / FIXTURES_FILE
    named = set(re.findall(r'"(image-\d+\.png)"', text_of(path) or "")) if path.is_file() else set()
    return frozenset(f"{PARITY}/{name}" for name in named)


def _problems_of(path: Path, name: PurePosixPath, wanted: frozenset[str]) -> Iterator[Finding]:
    suffix = name.suffix.lower()
    if path.is_symlink():
        yield Finding(str(name), "it is a link to another file", "Copy what it points to.")
    if suffix in _CODE:
        yield Finding(str(name), "it is code", "A model is data: prompts and settings travel as files of values.")
    elif suffix in _PICKLES or is_pickle(path):
        yield Finding(str(name), "it is a pickle, which runs code when it is loaded", "Save tensors as safetensors.")
    elif suffix in _PICTURES or is_picture(path):
        yield from _problems_of_picture(path, name, wanted)
    elif name.parts[0] == PARITY and str(name) not in {f"{PARITY}/{FIXTURES_FILE}", f"{PARITY}/{VECTORS_FILE}"}:
        yield Finding(str(name), f"nothing in {PARITY}/{FIXTURES_FILE} accounts for it", _MAY_BE_DATA)
    elif suffix == ".safetensors":
        yield from _problems_of_weights(path, name)
    elif suffix not in _TEXTS:
        yield Finding(str(name), "it is a file of a kind that does not belong to a model", "Remove it.")
    elif (text := text_of(path, binary=suffix == _SENTENCEPIECE)) is None:
        yield Finding(str(name), "it is not the text that its name promises", _MAY_BE_DATA)
    else:
        yield from _problems_in_text(name, text)


def _problems_of_picture(path: Path, name: PurePosixPath, wanted: frozenset[str]) -> Iterator[Finding]:
    if str(name) not in wanted:
        yield Finding(str(name), "it is a picture that nothing accounts for", _MAY_BE_DATA)
    elif not is_picture(path):
        yield Finding(str(name), "it is not the picture that its name promises", _MAY_BE_DATA)


def _problems_of_weights(path: Path, name: PurePosixPath) -> Iterator[Finding]:
    """Look at what a safetensors file says of itself."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = json.dumps(file.metadata() or {}, ensure_ascii=False, indent=0)
    except SafetensorError as error:
        yield Finding(str(name), f"it is no safetensors file ({error})", _MAY_BE_DATA)
        return
    yield from _problems_in_text(name, metadata, suffix=".json")


def _problems_in_text(name: PurePosixPath, text: str, *, suffix: str | None = None) -> Iterator[Finding]:
    for line, what in secrets_in(text):
        yield Finding(str(name), f"line {line} looks like {what}", "Remove it, and revoke it if it was ever shared.")
    if _EMBEDDED_PICTURE.search(text):
        yield Finding(str(name), "it has a picture embedded in it", _MAY_BE_DATA)
    suffix = suffix or name.suffix.lower()
    if name.name not in _VOCABULARIES and suffix != _SENTENCEPIECE:
        for path, line in paths_in(text, suffix).items():
            what = f"line {line} names a path of this machine, {path!r}"
            yield Finding(str(name), what, "Name the model or dataset instead.")
