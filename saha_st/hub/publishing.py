"""Publish an embedder: export, add what tells about it, look at it as a stranger would, upload.

Nothing is uploaded that a process without `saha_st` has not loaded and found equal; an upload is one commit, in which
files of earlier versions go (an adapter left behind would win over merged weights).
"""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling

from saha_st.hub import engines
from saha_st.hub.contents import find_problems, list_files
from saha_st.hub.engines import Comparison
from saha_st.hub.errors import CheckFailedError
from saha_st.hub.export import export_adapter, export_model
from saha_st.hub.extras import Extras, source_folder
from saha_st.hub.parity import write_parity
from saha_st.modules import load_embedder
from saha_st.modules.merging import AdapterEffect, adapter_effect, merge_adapter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What was published, or would be.

    Attributes:
        repo_id: The repository.
        files: Size in bytes by path.
        comparisons: How the vectors compare in a process without `saha_st`.
        adapter: What the adapter that was merged did; None if there was none.
        url: Where the commit is; None after a dry run.
        commit: Its hash; None after a dry run.
    """

    repo_id: str
    files: Mapping[str, int]
    comparisons: tuple[Comparison, ...]
    adapter: AdapterEffect | None = None
    url: str | None = None
    commit: str | None = None


def publish(
    model: SentenceTransformer | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    dry_run: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str = "Publish the embedder with saha_st",
    results: str | Path | None = None,
    results_model: str | None = None,
    card: str | Path | None = None,
    license: str | None = None,
    base_model: str | None = None,
    keep_adapter: bool = False,
    output_dir: str | Path | None = None,
    report: Callable[[str], None] = logger.info,
) -> Published:
    """Publish an embedder on the Hub, so that ``SentenceTransformer(repo_id)`` loads it with nothing else.

    Args:
        model: An embedder, a folder with one (or a run's folder with ``final`` in it), or a Hub id. An adapter is
            merged; the model that is passed in is not changed.
        repo_id: ``"organisation/name"``; made if it is not there.
        private: Make the repository private; None for the account's default.
        dry_run: Stop before the upload.
        revision: Branch to commit to; made if it is not there.
        create_pr: Open a pull request instead of committing.
        token: Token for the Hub; by default the one of ``hf auth login``.
        commit_message: Message of the commit.
        results: Output folder of `evaluate`; its results go along, and into the card.
        results_model: The model's name there, if there are results of several; by default ``repo_id``, or
            ``"local/<folder>"``.
        card: A model card to use as it is; by default one is made from what is known.
        license: Identifier of the licence, for the card.
        base_model: Hub id of the base model, for the card; by default as the checkpoint tells.
        keep_adapter: Keep a merged adapter beside the weights, in ``adapter/``.
        output_dir: Leave what is uploaded there; by default a temporary folder.
        report: Takes the list of files, line by line, before anything is uploaded.

    Returns:
        The files, the checks, and the commit.

    Raises:
        FileExistsError: ``output_dir`` is not empty.
        ValueError: Something in the repository must not be published; all of it is named. Or a wrong ``repo_id``, or
            an adapter that changes nothing.
        CheckFailedError: A process without `saha_st` gets other vectors.
        OSError: The Hub refuses, or cannot be reached; nothing that is visible there has changed.

    Example:
        ```python
        publish("saha-2b", "org/saha", results="evaluation", license="apache-2.0")
        ```
    """
    _check_repo_id(repo_id)
    api = HfApi(token=token)
    if not dry_run:
        _check_access(api, repo_id, private=private)
    if output_dir is not None and Path(output_dir).exists() and any(Path(output_dir).iterdir()):
        raise FileExistsError(f"output_dir {str(output_dir)!r} is not empty. Choose another folder or remove it.")
    extras = Extras(repo_id, results, results_model, card, {"license": license, "base_model": base_model})
    with tempfile.TemporaryDirectory(prefix="saha-st-publish-") as scratch:
        folder = Path(output_dir) if output_dir is not None else Path(scratch) / "repository"
        written = _write(model, folder, extras, keep_adapter=keep_adapter, token=token)
        if problems := find_problems(folder, wanted_pictures=written.pictures):
            raise ValueError("This must not be published:\n" + "\n".join(f"  {problem}" for problem in problems))
        _list(list_files(folder), report)
        compared = check_in_clean_process(folder, written.engines, written.device)
        published = Published(repo_id, list_files(folder), compared, written.adapter)
        if dry_run:
            return published
        options = {"private": private, "revision": revision, "create_pr": create_pr, "message": commit_message}
        return _upload(api, folder, published, report=report, **options)


@dataclass(frozen=True)
class _Written:
    """What adapter was merged, which engines can run what was written, on what device, and its pictures."""

    adapter: AdapterEffect | None
    engines: tuple[str, ...]
    device: str
    pictures: frozenset[str]


def _write(
    model: SentenceTransformer | str | Path, folder: Path, extras: Extras, *, keep_adapter: bool, token: str | None
) -> _Written:
    """Write the repository. A model that is loaded here is gone on return: the check that follows loads it again."""
    source = None if isinstance(model, SentenceTransformer) else source_folder(str(model))
    embedder = model if source is None else load_embedder(source, token=token)
    effect = adapter_effect(embedder)
    if effect is not None:
        logger.info("The adapter: %d tensors on %d layers.", effect.tensors, effect.layers)
        if keep_adapter:
            export_adapter(embedder, folder, base_model=extras.fields["base_model"])
        if source is None:
            embedder = copy.deepcopy(embedder)
        merge_adapter(embedder)
    export_model(embedder, folder)
    write_parity(embedder, folder)
    pictures = extras.add(embedder, folder, source=source, token=token)
    return _Written(effect, _engines_for(embedder), str(embedder.device), pictures)


def _engines_for(model: SentenceTransformer) -> tuple[str, ...]:
    """Plain transformers knows of no module after the pooling, and of no shortened vectors."""
    is_plain = [type(module) for module in list(model)[1:]] == [Pooling, Normalize] and model.truncate_dim is None
    return ("sentence-transformers", "transformers") if is_plain else ("sentence-transformers",)


def check_in_clean_process(folder: Path, names: tuple[str, ...], device: str = "cpu") -> tuple[Comparison, ...]:
    """Load a folder in a process in which `saha_st` cannot be imported, and compare its vectors with ``parity/``.

    Raises:
        CheckFailedError: It does not load there, or tokens or vectors differ.
    """
    logger.info("Loading it in a process without saha_st, with %s.", " and ".join(names))
    command = [sys.executable, "-I", engines.__file__, str(folder), device, *names]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise CheckFailedError(f"The model does not load where saha_st is not installed:\n{process.stderr[-3000:]}")
    found = tuple(Comparison(**each) for each in json.loads(process.stdout.splitlines()[-1]))
    if problems := [each.problem for each in found if each.problem]:
        raise CheckFailedError("The model gives other vectors where saha_st is not installed:\n" + "\n".join(problems))
    return found


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("it has no organisation or user name")
    except HFValidationError as error:
        raise ValueError(f"repo_id must be 'organisation/name', got {repo_id!r}: {error}.") from error


def _check_access(api: HfApi, repo_id: str, *, private: bool | None) -> None:
    """See that the token may write, before the long work.

    Raises:
        OSError: Not logged in, not allowed, or the Hub cannot be reached.
        ValueError: The repository is there and public, and is to be private.
    """
    try:
        account = api.whoami()
        if not api.repo_exists(repo_id):
            _check_may_create(account, repo_id)
            return
        api.auth_check(repo_id, write=True)
        if private and not api.model_info(repo_id).private:
            raise ValueError(
                f"private: the repository {repo_id!r} exists and is public. Make it private in its settings first, or "
                "choose another name."
            )
    except LocalTokenNotFoundError as error:
        raise OSError("Not logged in to the Hub. Run `hf auth login`, or set HF_TOKEN.") from error
    except OfflineModeIsEnabled as error:
        raise OSError("The Hub cannot be reached: HF_HUB_OFFLINE is set. Unset it, or try --dry-run.") from error
    except HfHubHTTPError as error:
        raise OSError(
            f"The Hub does not let you write to {repo_id!r} ({_first_line(error)}). Log in with `hf auth login`, or "
            "set HF_TOKEN to a token that may write there."
        ) from error


def _check_may_create(account: dict[str, Any], repo_id: str) -> None:
    owner = repo_id.split("/")[0]
    owners = [account["name"], *(organisation["name"] for organisation in account.get("orgs", ()))]
    is_reader = account.get("auth", {}).get("accessToken", {}).get("role") == "read"
    if is_reader or owner not in owners:
        what = "only reads" if is_reader else f"writes to {', '.join(owners)} at most"
        raise OSError(
            f"The token of {account['name']!r} {what}, so it may not create {repo_id!r}. Log in with `hf auth login`, "
            "or choose another name."
        )


def _upload(
    api: HfApi,
    folder: Path,
    published: Published,
    *,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    message: str,
    report: Callable[[str], None],
) -> Published:
    repo_id = published.repo_id
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # Not `upload_folder`, which may make several commits of a folder (huggingface_hub 2, with xet).
        stale = set(api.list_repo_files(repo_id, revision=revision)) - {".gitattributes", *published.files}
        for name in sorted(stale):
            report(f"    delete  {name}")
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationDelete(name) for name in sorted(stale)),
                *(CommitOperationAdd(name, folder / name) for name in published.files),
            ],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:  # a connection that breaks does so under the names of three libraries
        if type(error) is ValueError:  # about the card
            raise
        raise OSError(
            f"The upload to {repo_id!r} was interrupted ({_first_line(error)}). What can be seen there has not "
            "changed; run the same command again."
        ) from error
    url = commit.pr_url or commit.commit_url
    return Published(repo_id, published.files, published.comparisons, published.adapter, str(url), commit.oid)


def _list(files: Mapping[str, int], report: Callable[[str], None]) -> None:
    for name, size in files.items():
        report(f"{_readable(size):>10}  {name}")
    report(f"{_readable(sum(files.values())):>10}  in {len(files)} files")


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
