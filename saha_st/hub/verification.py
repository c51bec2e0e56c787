"""Check that an engine gives the vectors that a repository was published with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saha_st.hub.engines import ENGINES, PARITY, Comparison, compare, read_fixtures
from saha_st.modules.loading import resolve_model


@dataclass(frozen=True)
class Verification:
    """How a repository's vectors compare.

    Attributes:
        model: The repository or folder.
        comparisons: One for each input.
    """

    model: str
    comparisons: tuple[Comparison, ...]

    @property
    def is_equal(self) -> bool:
        """Whether all tokens are the same, and all vectors up to rounding."""
        return all(each.is_equal for each in self.comparisons)

    @property
    def problems(self) -> list[str]:
        """What differs, in words."""
        return [each.problem for each in self.comparisons if each.problem]

    @property
    def table(self) -> str:
        """A line for each input, as Markdown."""
        lines = ["| input | tokens | cosine |", "|:--|:--|--:|"]
        lines += [f"| {each.label} | {each.difference or 'equal'} | {each.cosine:.6f} |" for each in self.comparisons]
        return "\n".join(lines)


def verify(
    model_name_or_path: str,
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
        model_name_or_path: A Hub id, or a local folder that `publish` wrote.
        backend: ``"sentence-transformers"``, ``"transformers"`` or ``"vllm"``; the first two load the model here, as
            anybody would, without anything of this package.
        revision: Branch, tag or commit on the Hub.
        token: Token for the Hub.
        device: Torch device.
        server: Address of a vLLM server that serves this model (``backend="vllm"``).
        api_key: What that server wants as bearer token.
        tolerance: How far from 1 a cosine may be; by default as stored, 1e-5 for float32 and 5e-3 for half precision.

    Returns:
        The comparisons.

    Raises:
        FileNotFoundError: No ``parity/`` in the repository.
        OSError: The repository or the server cannot be reached.
        ValueError: An unknown backend, or arguments that do not go with it.
    """
    _check(backend, server)
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}.")
    folder = _folder_with_parity(model_name_or_path, revision=revision, token=token)
    fixtures, stored = read_fixtures(folder)
    tolerance = stored if tolerance is None else tolerance
    if backend == "vllm":
        outputs = ENGINES[backend](server, fixtures, api_key=api_key)
    else:
        local = Path(model_name_or_path).is_dir()
        options: dict[str, Any] = {} if local else {"revision": revision, "token": token}
        outputs = ENGINES[backend](str(model_name_or_path), fixtures, device=device, **options)
    pairs = zip(fixtures, outputs, strict=True)
    found = tuple(compare(fixture, output, engine=backend, tolerance=tolerance) for fixture, output in pairs)
    return Verification(str(model_name_or_path), found)


def _check(backend: str, server: str | None) -> None:
    if backend not in ENGINES:
        raise ValueError(f"backend must be one of {', '.join(ENGINES)}; got {backend!r}.")
    if (backend == "vllm") != (server is not None):
        raise ValueError(
            "backend 'vllm' asks a server: start `vllm serve MODEL --runner pooling` and pass its address as server, "
            "such as http://localhost:8000."
            if backend == "vllm"
            else f"server is for the backend 'vllm'; {backend!r} loads the model itself."
        )


def _folder_with_parity(name: str, *, revision: str | None, token: str | None) -> Path:
    if Path(resolve_model(name)).is_dir():
        return Path(resolve_model(name))
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
