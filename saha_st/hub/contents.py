"""What a repository is about to hold, and what of it must not be published.

A checkpoint is data: weights, settings, pictures that were drawn for it. Looked for are files that are code or run
code when they are loaded (pickles, Python), secrets, paths of the machine it was made on, and pictures or other files
that nothing accounts for, which may be somebody's training data.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from saha_st.hub.engines import PARITY

_CODE = {".py", ".pyc", ".so", ".sh", ".ipynb"}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".mp4", ".webm"}
_TEXTS = {".json", ".jsonl", ".yaml", ".yml", ".md", ".jinja", ".txt", ".model", ""}
_MAY_BE_DATA = "It may be training data; remove it."
_VOCABULARIES = {"tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"}
"""Files of strings from everywhere, in which a path means nothing."""

_SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}\b",
    "an OpenAI or Anthropic key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a GitHub token": r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})\b",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@]+@",
}
_PATH = re.compile(
    r"""(?<![\w.:/-])(?:
        (?:/(?:home|root|Users|mnt|media|tmp|var|opt|srv|data|workspace|scratch|work|private|Volumes)|~)/[^\s"'`<>|)\]]+
        |[A-Za-z]:\\{1,2}(?![nrt]\b|[nrt][A-Z])[^\s"'`<>|]+
        |file://[^\s"'`<>|)]+
    )""",
    re.VERBOSE,
)
_EMBEDDED_PICTURE = re.compile(r"data:image/[a-z+]+;base64,")


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
        wanted_pictures: Pictures that are meant to be there, as paths within the folder; those of ``parity/`` are.

    Returns:
        What was found; empty if all is well.
    """
    root = Path(folder)
    names = [PurePosixPath(name) for name in list_files(root)]
    return [finding for name in names for finding in _problems_of(root / name, name, wanted_pictures)]


def _problems_of(path: Path, name: PurePosixPath, wanted: frozenset[str]) -> Iterator[Finding]:
    suffix = name.suffix.lower()
    if path.is_symlink():
        yield Finding(str(name), "it is a link to another file", "Copy what it points to.")
    if suffix in _CODE:
        yield Finding(str(name), "it is code", "A model is data: prompts and settings travel as files of values.")
    elif suffix in _PICKLES or _is_pickle(path):
        yield Finding(str(name), "it is a pickle, which runs code when it is loaded", "Save tensors as safetensors.")
    elif suffix in _PICTURES:
        if name.parts[0] != PARITY and str(name) not in wanted:
            yield Finding(str(name), "it is a picture that nothing accounts for", _MAY_BE_DATA)
    elif suffix == ".safetensors":
        yield from _problems_in_text(str(name), _metadata_of(path), has_paths=True)
    elif suffix in _TEXTS:
        text = path.read_text(encoding="utf8", errors="replace")
        yield from _problems_in_text(str(name), text, has_paths=name.name not in _VOCABULARIES)
    else:
        yield Finding(str(name), "it is a file of a kind that does not belong to a model", "Remove it.")


def _problems_in_text(name: str, text: str, *, has_paths: bool) -> Iterator[Finding]:
    for what, pattern in _SECRETS.items():
        if found := re.search(pattern, text):
            line = text.count("\n", 0, found.start()) + 1
            yield Finding(name, f"line {line} looks like {what}", "Remove it, and revoke it if it was ever shared.")
    if _EMBEDDED_PICTURE.search(text):
        yield Finding(name, "it has a picture embedded in it", _MAY_BE_DATA)
    if has_paths:
        for path in dict.fromkeys(_paths_in(name, text)):
            yield Finding(name, f"it names a path of this machine, {path!r}", "Name the model or dataset instead.")


def _paths_in(name: str, text: str) -> Iterator[str]:
    """Absolute paths in a text; in a file of values, every value that is one as a whole, too."""
    yield from (found.group().rstrip(".,;:") for found in _PATH.finditer(text))
    for value in _values_of(name, text):
        if re.fullmatch(r"(/[\w.@+ -]+){2,}/?", value) and not _PATH.search(value):
            yield value


def _values_of(name: str, text: str) -> Iterator[str]:
    try:
        if name.endswith(".json"):
            yield from _strings(json.loads(text))
        elif name.endswith((".yaml", ".yml")):
            yield from _strings(yaml.safe_load(text))
    except (ValueError, yaml.YAMLError):
        return


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in _strings(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in _strings(each))


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle does, or is an archive with one in it, whatever its name."""
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80" and start[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return path.suffix != ".safetensors"
    if start == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(entry.endswith((".pkl", ".pickle")) for entry in archive.namelist())
    return False


def _metadata_of(path: Path) -> str:
    """What a safetensors file says of itself."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return json.dumps(file.metadata() or {})
