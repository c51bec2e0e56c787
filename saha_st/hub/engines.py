"""Recompute the vectors of a repository's ``parity/`` folder with an engine, and compare.

This file imports nothing of `saha_st`. `publish` runs it by itself, in a process in which `saha_st` cannot be
imported, on what is about to be uploaded; ``python -P engines.py FOLDER DEVICE ENGINE…`` prints JSON.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PARITY = "parity"
"""Folder of the repository that holds the inputs, their token ids and their vectors."""

FIXTURES_FILE, VECTORS_FILE = "parity.json", "vectors.safetensors"

_LARGEST_TOLERANCE = 1e-2


class Part(NamedTuple):
    """A part of an input: ``kind`` is ``"text"``, with the text, or ``"image"``, with the path of the file."""

    kind: str
    value: str


@dataclass(frozen=True)
class Fixture:
    """An input with what the published model makes of it.

    Attributes:
        number: Its place in ``parity/``, from 1.
        task: ``"query"`` or ``"document"``.
        parts: The input, media first.
        input_ids: Token ids of the rendered prompt.
        tokens: The same as strings.
        vector: The embedding, shape (dim,).
    """

    number: int
    task: str
    parts: tuple[Part, ...]
    input_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    vector: np.ndarray

    @property
    def label(self) -> str:
        """Which input it is, in a few words."""
        kinds = [part.kind for part in self.parts]
        names = {"image": f"{kinds.count('image')} images" if kinds.count("image") > 1 else "image", "text": "text"}
        return f"{self.number}. {self.task}: {' + '.join(names[kind] for kind in dict.fromkeys(kinds))}"


@dataclass(frozen=True)
class Parity:
    """What the folder holds.

    Attributes:
        fixtures: The inputs.
        dtype: Of the weights that made the vectors, such as ``"float32"``.
        tolerance: How far from 1 a cosine may be, by that precision.
        engines: Names of the engines that can compute the vectors.
    """

    fixtures: tuple[Fixture, ...]
    dtype: str
    tolerance: float
    engines: tuple[str, ...]


class Output(NamedTuple):
    """What an engine makes of an input: token ids, and the embedding of shape (dim,)."""

    input_ids: Sequence[int]
    vector: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """One input, recomputed.

    Attributes:
        label: Which input it is.
        engine: What computed it.
        cosine: Between the vectors, now and then; NaN if one is not a number.
        difference: The first token that differs, in words; None if all are equal.
        tolerance: How far from 1 the cosine may be.
        misfit: What a cosine does not see of the vector: other dimensions or another length, in words; None if there
            is nothing.
    """

    label: str
    engine: str
    cosine: float
    difference: str | None
    tolerance: float
    misfit: str | None = None

    @property
    def is_of_query(self) -> bool:
        """Whether the input is a query."""
        return ". query: " in self.label

    @property
    def is_equal(self) -> bool:
        """Whether the tokens are the same, and the vectors up to rounding."""
        return self.difference is None and self.misfit is None and bool(1 - self.cosine <= self.tolerance)

    @property
    def problem(self) -> str | None:
        """What is wrong, None if nothing is."""
        if self.difference is not None or self.misfit is not None:
            return f"{self.label} ({self.engine}): {self.difference or self.misfit}"
        if not self.is_equal:
            off = f"{self.cosine:.6f}, which is {1 - self.cosine:.1e} from 1; {self.tolerance:g} is allowed"
            return f"{self.label} ({self.engine}): the cosine is {off}"
        return None


def read_parity(folder: str | Path, *, name: str | None = None) -> Parity:
    """Read ``parity/`` of a folder.

    Args:
        folder: The repository, or a copy of it.
        name: What to call it in errors; by default the folder's path.

    Raises:
        FileNotFoundError: There is no ``parity/``.
        ValueError: It is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    place, name = Path(folder) / PARITY, name or repr(str(folder))
    if not (place / FIXTURES_FILE).exists():
        raise FileNotFoundError(
            f"{name} has no {PARITY}/{FIXTURES_FILE}, so there is nothing to compare with. Repositories made by "
            "`saha-st publish` have one."
        )
    try:
        stored = json.loads((place / FIXTURES_FILE).read_text(encoding="utf8"))
        vectors = load_file(place / VECTORS_FILE)["vectors"]
        fixtures = tuple(
            Fixture(
                number,
                entry["task"],
                tuple(_read_part(place, part) for part in entry["content"]),
                tuple(entry["input_ids"]),
                tuple(entry["tokens"]),
                vector,
            )
            for number, (entry, vector) in enumerate(zip(stored["entries"], vectors, strict=True), start=1)
        )
        if not fixtures:
            raise ValueError("it holds no inputs")
        tolerance = min(float(stored["tolerance"]), _LARGEST_TOLERANCE)
        # The first files that were written do not name the engines.
        return Parity(fixtures, stored["dtype"], tolerance, tuple(stored.get("engines", ENGINES)))
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ValueError(f"{PARITY}/ of {name} is damaged ({error}). Publish the model again.") from error


def _read_part(place: Path, part: dict[str, str]) -> Part:
    """A part of an input; a repository may name pictures of its own ``parity/`` only."""
    if part["type"] != "image":
        return Part("text", part["text"])
    name = part["image"]
    if Path(name).name != name or not name.endswith(".png") or not (place / name).is_file():
        raise ValueError(f"{name!r} is no picture in it")
    return Part("image", str(place / name))


def compare(fixture: Fixture, output: Output, *, engine: str, tolerance: float) -> Comparison:
    """Compare an engine's output with a fixture.

    Where an engine does not unfold an image into its tokens, as vLLM when it is asked for token ids, every run of
    equal tokens counts as one on both sides.
    """
    difference = first_difference(fixture, list(output.input_ids), folded=engine == "vllm")
    here = fixture.vector.astype(np.float64)
    there = np.asarray(output.vector, dtype=np.float64)
    if here.shape != there.shape:
        misfit = f"the vector has {there.size} dimensions instead of {here.size}"
        return Comparison(fixture.label, engine, float("nan"), difference, tolerance, misfit)
    length, wanted = np.linalg.norm(there), np.linalg.norm(here)
    cosine = float(here @ there / (wanted * length))
    is_other_length = abs(length - wanted) > _LARGEST_TOLERANCE * wanted
    misfit = f"the vector has length {length:.4g} instead of {wanted:.4g}" if is_other_length else None
    return Comparison(fixture.label, engine, cosine, difference, tolerance, misfit)


def first_difference(fixture: Fixture, ids: Sequence[int], *, folded: bool = False) -> str | None:
    """Name the first token that differs from the fixture's, None if there is none."""
    expected = list(zip(fixture.input_ids, fixture.tokens, strict=True))
    names = dict(expected)
    if folded:
        expected = [each for each, _ in groupby(expected)]
        ids = [each for each, _ in groupby(ids)]
    for position, (wanted, name) in enumerate(expected):
        if position == len(ids):
            return f"token {position} is missing: {wanted} ({name!r})"
        if ids[position] != wanted:
            found = f" ({names[ids[position]]!r})" if ids[position] in names else ""
            return f"token {position} is {ids[position]}{found} instead of {wanted} ({name!r})"
    surplus = len(ids) - len(expected)
    return f"{surplus} tokens too many, from position {len(expected)}" if surplus else None


def with_sentence_transformers(model: str, fixtures: Sequence[Fixture], **options: Any) -> Iterator[Output]:
    """Embed with plain Sentence Transformers, as anybody who loads the repository."""
    from sentence_transformers import SentenceTransformer

    embedder = SentenceTransformer(model, **options)
    for fixture in fixtures:
        row = _as_row(fixture)
        prompt = (embedder.prompts or {}).get(fixture.task)
        features = embedder.preprocess([row], prompt=prompt, task=fixture.task)
        encode = embedder.encode_query if fixture.task == "query" else embedder.encode_document
        yield Output(features["input_ids"][0].tolist(), encode([row], show_progress_bar=False)[0])


def with_transformers(
    model: str, fixtures: Sequence[Fixture], *, device: str | None = None, **options: Any
) -> Iterator[Output]:
    """Embed with plain transformers: render the chat template, take the last token's hidden state, normalise."""
    import torch
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(model, **options)
    backbone = AutoModel.from_pretrained(model, dtype="auto", **options).eval()
    backbone = backbone.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    only_text = not hasattr(processor, "tokenizer")  # such templates want the text itself, not a list of parts
    for fixture in fixtures:
        content = fixture.parts[0].value if only_text else [_as_content(part) for part in fixture.parts]
        features = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            task=fixture.task,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(backbone.device)
        with torch.inference_mode():
            hidden = backbone(**features).last_hidden_state[0, -1]
        vector = torch.nn.functional.normalize(hidden.float(), dim=0)
        yield Output(features["input_ids"][0].tolist(), vector.cpu().numpy())


def with_vllm(
    server: str, fixtures: Sequence[Fixture], *, served: str, api_key: str | None = None
) -> Iterator[Output]:
    """Ask a vLLM server: ``vllm serve org/model --runner pooling``.

    Args:
        server: Its address, such as ``http://localhost:8000``.
        fixtures: What to embed.
        served: What it calls the model, see `served_model`.
        api_key: Sent as bearer token, if the server wants one.
    """
    for fixture in fixtures:
        body = {
            "model": served,
            "messages": [{"role": "user", "content": [_as_openai(part) for part in fixture.parts]}],
            "add_generation_prompt": True,
            "chat_template_kwargs": {"task": fixture.task},
        }
        ids = _ask(
            f"{_address(server)}/tokenize",
            body,
            api_key,
            expected='{"tokens": [number, …]}',
            read=lambda answer: [int(each) for each in answer["tokens"]],
        )
        vector = _ask(
            f"{_address(server)}/v1/embeddings",
            {**body, "encoding_format": "float"},
            api_key,
            expected='{"data": [{"embedding": [number, …]}]}',
            read=lambda answer: np.array([float(each) for each in answer["data"][0]["embedding"]]),
        )
        yield Output(ids, vector)


def served_model(server: str, *, api_key: str | None = None) -> str:
    """Ask a vLLM server what it calls the model that it serves."""
    return _ask(
        f"{_address(server)}/v1/models",
        None,
        api_key,
        expected='{"data": [{"id": name}]}',
        read=lambda answer: str(answer["data"][0]["id"]),
    )


ENGINES: dict[str, Callable[..., Iterator[Output]]] = {
    "sentence-transformers": with_sentence_transformers,
    "transformers": with_transformers,
    "vllm": with_vllm,
}
"""Engines by name; the first argument is the model, or for vLLM the server."""


def _as_row(fixture: Fixture) -> dict[str, Any]:
    """The input as Sentence Transformers takes it, media first."""
    from PIL import Image

    images = [Image.open(part.value).convert("RGB") for part in fixture.parts if part.kind == "image"]
    texts = [part.value for part in fixture.parts if part.kind == "text"]
    row: dict[str, Any] = {"image": images if len(images) > 1 else images[0]} if images else {}
    return row | ({"text": texts[0]} if texts else {})


def _as_content(part: Part) -> dict[str, Any]:
    from PIL import Image

    if part.kind == "text":
        return {"type": "text", "text": part.value}
    return {"type": "image", "image": Image.open(part.value).convert("RGB")}


def _as_openai(part: Part) -> dict[str, Any]:
    if part.kind == "text":
        return {"type": "text", "text": part.value}
    kind = mimetypes.guess_type(part.value)[0]
    data = base64.b64encode(Path(part.value).read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}


def _address(server: str) -> str:
    return server.rstrip("/").removesuffix("/v1")


def _ask(
    url: str, body: dict[str, Any] | None, api_key: str | None, *, expected: str, read: Callable[[Any], Any]
) -> Any:
    """Return what ``read`` finds in a server's answer, which should look like ``expected``.

    Raises:
        OSError: There is no answer, or another one.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=120) as response:
            answer = response.read()
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} answered {error.code}: {error.read(500).decode(errors='replace')}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise OSError(
            f"{url} does not answer ({error}). Start `vllm serve MODEL --runner pooling`, and give its address as "
            "server (--server), such as http://localhost:8000."
        ) from error
    try:
        return read(json.loads(answer))
    except (LookupError, TypeError, ValueError) as error:
        raise OSError(
            f"{url} does not answer as `vllm serve MODEL --runner pooling` does: expected {expected}, got "
            f"{answer[:300].decode(errors='replace')}"
        ) from error


def main(folder: str, device: str, *names: str) -> None:
    """Compare a folder with its own ``parity/`` in each engine, and print the comparisons as a line of JSON."""
    parity = read_parity(folder)
    found = [
        compare(fixture, output, engine=name, tolerance=parity.tolerance)
        for name in names
        for fixture, output in zip(parity.fixtures, ENGINES[name](folder, parity.fixtures, device=device), strict=True)
    ]
    print(json.dumps([asdict(each) for each in found]))  # noqa: T201, the result of the process


if __name__ == "__main__":
    sys.modules["saha_st"] = None  # type: ignore[assignment]  # whatever would import it fails
    main(*sys.argv[1:])
