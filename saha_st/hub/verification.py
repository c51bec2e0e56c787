"""Check that an engine gives the vectors that a repository was published with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saha_st.hub.engines import ENGINES, PARITY, Comparison, compare, read_parity, served_model, with_vllm
from saha_st.modules.sources import resolve_folder_or_hub_id

logger = logging.getLogger(__name__)

_HALF_PRECISION = 1e-2
"""What half precision may cost a cosine, generously."""


@dataclass(frozen=True)
class Verification:
    """How a repository's vectors compare.

    Attributes:
        model: The repository or folder.
        comparisons: One for each input.
        backend: What computed the vectors.
        dtype: Of the weights that made those in the repository.
        commit: The repository's commit; None for a folder.
        served: What the vLLM server calls its model; None for other backends.
    """

    model: str
    comparisons: tuple[Comparison, ...]
    backend: str
    dtype: str
    commit: str | None = None
    served: str | None = None

    @property
    def is_equal(self) -> bool:
        """Whether all tokens are the same, and all vectors up to rounding."""
        return all(each.is_equal for each in self.comparisons)

    @property
    def problems(self) -> list[str]:
        """What differs, in words."""
        return [each.problem for each in self.comparisons if each.problem]

    @property
    def headline(self) -> str:
        """What was compared."""
        commit = f" at {self.commit[:12]}" if self.commit else ""
        served = f", which serves {self.served!r}" if self.served else ""
        return f"{self.model}{commit}, {self.dtype}; computed by {self.backend}{served}"

    @property
    def table(self) -> str:
        """A line for each input, as Markdown."""
        lines = ["| input | tokens | cosine |", "|:--|:--|--:|"]
        for each in self.comparisons:
            cosine = f"{each.cosine:.6f}" + (f", but {each.misfit}" if each.misfit else "")
            lines.append(f"| {each.label} | {'differ' if each.difference else 'equal'} | {cosine} |")
        return "\n".join(lines)

    @property
    def hint(self) -> str | None:
        """What of a server may be behind the difference, where that can be guessed."""
        return None if self.backend != "vllm" or self.is_equal else _guess(self.comparisons, self.dtype)


def _guess(comparisons: Sequence[Comparison], dtype: str) -> str | None:
    """Guess from what differs, and where, what a vLLM server does otherwise."""
    are_tokens_equal = all(each.difference is None for each in comparisons)
    do_vectors_fit = all(each.misfit is None for each in comparisons)
    if all(each.is_equal != each.is_of_query for each in comparisons):  # half precision would show in documents too
        what = "vectors" if are_tokens_equal else "tokens and vectors"
        return (
            f"All queries differ and no document does: the server makes {what} without the task. It needs a vLLM that "
            'takes chat_template_kwargs={"task": "query"} for embeddings.'
        )
    if are_tokens_equal and do_vectors_fit and all(1 - each.cosine <= _HALF_PRECISION for each in comparisons):
        if dtype != "float32":
            return None
        return (
            "A difference so small is that of half precision, in which vLLM computes unless told otherwise: start "
            "`vllm serve MODEL --runner pooling --dtype float32`."
        )
    if not are_tokens_equal:
        return (
            "Tokens differ, so the server renders another chat template or reads with another tokenizer: serve this "
            "repository, without --chat-template or --tokenizer."
        )
    pooler = '--pooler-config \'{"pooling_type": "LAST"}\''
    if not do_vectors_fit:
        return f"The tokens are right, so it is the pooler: start vLLM with {pooler}, which normalises all dimensions."
    return (
        f"The tokens are right and the vectors are not: the server pools otherwise (start vLLM with {pooler}), reads "
        "pictures at another resolution, or has other weights."
    )


def verify(
    model_name_or_path: str | Path,
    *,
    backend: str = "sentence-transformers",
    revision: str | None = None,
    token: str | None = None,
    device: str | None = None,
    server: str | None = None,
    api_key: str | None = None,
    tolerance: float | None = None,
) -> Verification:
    """Recompute the vectors in a repository's ``parity/`` with an engine, and compare tokens and vectors.

    Args:
        model_name_or_path: A Hub id, or a local folder that `publish` wrote (or one with ``final`` in it).
        backend: ``"sentence-transformers"``, ``"transformers"`` or ``"vllm"``; the first two load the model here, as
            anybody would, without anything of this package.
        revision: Branch, tag or commit on the Hub; vectors and weights are of the one commit that it is now.
        token: Token for the Hub.
        device: Torch device.
        server: Address of a vLLM server that serves this model (``backend="vllm"``).
        api_key: What that server wants as bearer token.
        tolerance: How far from 1 a cosine may be; by default as stored, 1e-5 for float32 and 5e-3 for half precision.

    Returns:
        The comparisons.

    Raises:
        FileNotFoundError: No ``parity/`` in the repository.
        OSError: The repository or the server cannot be reached, or the server gives an answer that vLLM would not.
        ValueError: An unknown backend, one that cannot compute this model's vectors, or arguments that do not go
            together.
    """
    _check(backend, tolerance, server=server, api_key=api_key, device=device)
    source, folder, commit = _find(model_name_or_path, revision=revision, token=token)
    name = f"{source!r} at {revision or commit[:12]}" if commit else repr(source)
    parity = read_parity(folder, name=name)
    if backend not in parity.engines:
        raise ValueError(
            f"{backend} cannot compute the vectors of {name}: they are not just the last token's whole hidden state, "
            f"with all of the prompt in the chat template. Use backend (--backend) {' or '.join(parity.engines)}."
        )
    served = None
    if server is None:
        logger.info("Loading %s with %s.", name, backend)
        # By name, as anybody loads it, but at the commit that the vectors were read from: a push may come in between.
        options: dict[str, Any] = {"revision": commit, "token": token} if commit else {}
        outputs = ENGINES[backend](source, parity.fixtures, device=device, **options)
    else:
        served = served_model(server, api_key=api_key)
        logger.info("Asking %s, which serves %r.", server, served)
        outputs = with_vllm(server, parity.fixtures, served=served, api_key=api_key)
    found = tuple(
        compare(fixture, output, engine=backend, tolerance=parity.tolerance if tolerance is None else tolerance)
        for fixture, output in zip(parity.fixtures, outputs, strict=True)
    )
    return Verification(source, found, backend, parity.dtype, commit, served)


def _check(backend: str, tolerance: float | None, **given: str | None) -> None:
    if backend not in ENGINES:
        raise ValueError(f"backend must be one of {', '.join(ENGINES)}; got {backend!r}.")
    if backend == "vllm" and given["server"] is None:
        raise ValueError(
            "backend 'vllm' asks a server: start `vllm serve MODEL --runner pooling`, and give its address as server "
            "(--server), such as http://localhost:8000."
        )
    for name in ("device",) if backend == "vllm" else ("server", "api_key"):
        if given[name] is not None:
            who = "the server knows its own" if backend == "vllm" else f"{backend!r} loads the model itself"
            raise ValueError(f"{name} (--{name}) does not go with the backend {backend!r}: {who}.")
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}.")


def _find(name: str | Path, *, revision: str | None, token: str | None) -> tuple[str, Path, str | None]:
    """Return the folder or Hub id that is meant, a folder with its ``parity/``, and the commit on the Hub."""
    source = resolve_folder_or_hub_id(str(name))
    if not Path(source).is_dir():
        folder = _download_parity(source, revision=revision, token=token)
        return source, folder, folder.name  # snapshots are stored by commit
    if revision is not None:
        raise ValueError(f"revision (--revision) goes with a repository on the Hub, and {source!r} is a folder here.")
    return source, Path(source), None


def _download_parity(name: str, *, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=[f"{PARITY}/*"]))
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise OSError(
            f"There is no repository {name!r} that you may read. If it is private or gated, log in with "
            "`hf auth login`, or set HF_TOKEN."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise OSError(f"{name!r} is no folder here, and could not be read from the Hub: {error}") from error
