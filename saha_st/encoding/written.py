"""What `saha-st encode` writes, read again: vectors with their ids, and what made them.

A vector means something beside vectors of the same model, prompt and settings only; beside others a search finds
nothing, and nobody is told. So the fingerprint goes where the vectors go, into every index made of them, and whoever
adds or searches is compared with it first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LIBRARIES = ("sentence-transformers", "transformers")


@dataclass(frozen=True)
class VectorOrigin:
    """What made vectors.

    Attributes:
        model: Name or path of the model.
        task: Side of the prompt, ``"query"`` or ``"document"``.
        fingerprint: The `vector_fingerprint`: equal ones, and only those, may be compared.
        weights: The `weights_digest`; empty where nobody wrote it down.
        versions: Of sentence-transformers and transformers.
        options: What `load_embedder` was given beside the name and the device.
    """

    model: str
    task: Literal["query", "document"]
    fingerprint: str
    weights: str = ""
    versions: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: SentenceTransformer,
        name: str,
        *,
        task: Literal["query", "document"] = "document",
        weights: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> VectorOrigin:
        """Describe the vectors that a model gives.

        Args:
            model: The embedder.
            name: Its name or path.
            task: Side of the prompt.
            weights: Its `weights_digest`, where it is known already.
            options: What `load_embedder` was given beside the name and the device.
        """
        import sentence_transformers
        import transformers

        from saha_st.encoding.fingerprints import vector_fingerprint, weights_digest

        weights = weights_digest(model) if weights is None else weights
        fingerprint = vector_fingerprint(model, task=task, weights=weights)
        versions = (sentence_transformers.__version__, transformers.__version__)
        plain = json.loads(json.dumps(dict(options or {})))  # as they come out of a file
        return cls(str(name), task, fingerprint, weights, versions, plain)

    @classmethod
    def from_metadata(cls, metadata: Mapping[Any, Any] | None, *, place: str) -> VectorOrigin:
        """Read what `to_metadata` gave; keys and values may be bytes, as in Arrow's schemas.

        Args:
            metadata: Of the file or table.
            place: What to call it in an error.

        Raises:
            ValueError: Nothing in it says what made the vectors.
        """
        found = {_text(key): _text(value) for key, value in (metadata or {}).items()}
        try:
            return cls(
                found["model"],
                found["task"],
                found["fingerprint"],
                found.get("weights", ""),
                tuple(json.loads(found.get("versions", "[]"))),
                json.loads(found.get("options", "{}")),
            )
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{place} does not say which model made its vectors, so nothing can be compared with them. Take a "
                "file that `saha-st encode` wrote, or an index made of one."
            ) from error

    def to_metadata(self) -> dict[str, str]:
        """The same as strings by name, for the metadata of a file or an index."""
        plain = {"model": self.model, "task": self.task, "fingerprint": self.fingerprint, "weights": self.weights}
        return plain | {"versions": json.dumps(self.versions), "options": json.dumps(self.options)}

    def require_same(self, other: VectorOrigin, *, place: str, remedy: str) -> None:
        """Refuse vectors that may not stand beside these.

        Args:
            other: What made the others.
            place: What holds these vectors, for the error.
            remedy: The way out, the last sentence of the error.

        Raises:
            ValueError: They were made otherwise; in what.
        """
        if self.fingerprint == other.fingerprint:
            return
        raise ValueError(
            f"{place} holds vectors of {self.model!r} (fingerprint {self.fingerprint[:12]}), and these are of "
            f"{other.model!r} (fingerprint {other.fingerprint[:12]}). They cannot be compared: "
            f"{self._difference(other)}. {remedy}"
        )

    def load_model(
        self, model_name_or_path: str | None = None, *, device: str | None = None, place: str = "The index"
    ) -> SentenceTransformer:
        """Load the model that made the vectors, with its settings, to embed what they are searched with.

        Args:
            model_name_or_path: Where it lies now; by default where it lay.
            device: Torch device, by default the best available.
            place: What holds the vectors, for errors.

        Raises:
            OSError: It cannot be loaded from the Hub.
            ValueError: There is no such model, or it is another one by now.
        """
        from saha_st.modules import load_embedder

        name, options = model_name_or_path or self.model, dict(self.options)
        if bounds := options.get("image_tokens"):
            options["image_tokens"] = tuple(bounds)
        try:
            model = load_embedder(name, device=device, **options)
        except (OSError, ValueError) as error:
            where = f"{place} was made with {self.model!r}: say where that model is now (--model)."
            raise type(error)(f"{error} {where}") from error
        found = VectorOrigin.of(model, name, task=self.task, options=self.options)
        remedy = "Search with the model as it was, or encode again with this one, into a new index."
        self.require_same(found, place=place, remedy=remedy)
        return model

    def _difference(self, other: VectorOrigin) -> str:
        """What is known to differ, in words."""
        found = []
        if self.weights and other.weights and self.weights != other.weights:
            found.append("the weights, or their dtype, are others")
        if self.versions and other.versions and self.versions != other.versions:
            before, now = (
                " and ".join(map(" ".join, zip(_LIBRARIES, versions, strict=False)))
                for versions in (self.versions, other.versions)
            )
            found.append(f"made with {before}, then with {now}")
        if self.task != other.task:
            found.append(f"encoded as {self.task}, then as {other.task}")
        for name in sorted({*self.options, *other.options}):
            before, now = (each.options.get(name, "the model's own") for each in (self, other))
            if before != now:
                found.append(f"{name} {before}, then {now}")
        return "; ".join(found) or "the prompt, the tokenizer or settings of the model are others"


@dataclass(frozen=True)
class WrittenVectors:
    """Vectors with their ids.

    Attributes:
        ids: One for each row, none twice; of a folder of pictures, their paths within it.
        embeddings: Shape (rows, dim), float32.
        origin: What made them.
    """

    ids: list[str]
    embeddings: np.ndarray
    origin: VectorOrigin


def read_vectors(path: str | Path) -> WrittenVectors:
    """Read a file that `saha-st encode` wrote.

    Args:
        path: The ``.safetensors`` or ``.parquet`` file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: Another kind of file, a damaged one, or one in which an id names several rows.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"vectors must be a {' or '.join(readers)} file of `saha-st encode`, got {str(path)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}. Write it with `saha-st encode`.")
    ids, embeddings, metadata = readers[path.suffix](path)
    origin = VectorOrigin.from_metadata(metadata, place=repr(str(path)))
    [(name, rows)] = Counter(ids).most_common(1) or [("", 0)]
    if rows > 1:
        raise ValueError(
            f"{str(path)!r}: the id {name!r} names {rows} rows, so nobody would know which of them was found. Encode "
            "with an --id_column in which each value is there once."
        )
    return WrittenVectors(ids, embeddings, origin)


def _read_safetensors(path: Path) -> tuple[list[str], np.ndarray, Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            return json.loads(metadata.get("ids", "[]")), file.get_tensor("embeddings"), metadata
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray, Mapping[bytes, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        ids, vectors = table.column("id").to_pylist(), table.column("embedding").combine_chunks()
        embeddings = vectors.flatten().to_numpy().reshape(len(ids), -1)
        return ids, embeddings, table.schema.metadata
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{str(path)!r} is no intact file of `saha-st encode` ({error}). Encode again.")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
