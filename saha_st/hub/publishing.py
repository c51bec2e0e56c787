"""Publish an embedder: export, add what tells about it, look at it as a stranger would, upload.

Nothing is uploaded that a process without `saha_st` has not loaded and found equal; an upload is one commit, in which
files of earlier versions go (an adapter left behind would win over merged weights).
"""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from saha_st.card import facts
from saha_st.card.sidecars import FIGURE_FILE
from saha_st.files import require_new_folder
from saha_st.hub import engines
from saha_st.hub.contents import find_problems, list_files
from saha_st.hub.engines import Comparison
from saha_st.hub.errors import CheckFailedError
from saha_st.hub.export import export_adapter, export_model
from saha_st.hub.extras import Extras, has_own_results
from saha_st.hub.parity import write_parity
from saha_st.hub.repository import Changes, Repository
from saha_st.modules import load_embedder
from saha_st.modules.merging import AdapterEffect, adapter_effect, merge_adapter
from saha_st.modules.sources import resolve_folder_or_hub_id

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
        results: Output folder of `evaluate`; its results of this model go along, and into the card.
        card: A model card to use as it is; by default one is made from what is known.
        license: The licence, by the Hub's identifier, for the card.
        base_model: Hub id of the base model, for the card; by default as the checkpoint tells.
        keep_adapter: Keep a merged adapter beside the weights, in ``adapter/``.
        output_dir: Leave what is uploaded there, when all has gone well.
        report: Takes the list of files, line by line, before anything is uploaded; what the commit deletes, and what
            it keeps of others' files, are in it.

    Returns:
        The files, the checks, and the commit.

    Raises:
        FileExistsError: ``output_dir`` is not empty.
        FileNotFoundError: No such card, or no results of this model.
        ValueError: Something in the repository must not be published; all of it is named. Or a wrong ``repo_id``,
            arguments that contradict each other, or an adapter that changes nothing.
        CheckFailedError: A process without `saha_st` gets other vectors.
        OSError: The Hub refuses, or cannot be reached.

    Example:
        ```python
        publish("saha-2b", "org/saha", results="evaluation", license="apache-2.0")
        ```
    """
    repository = Repository(repo_id, token, private, revision, create_pr)
    extras = Extras(repo_id, results, card, license, base_model, keep_adapter)
    target = None if output_dir is None else require_new_folder(output_dir)
    if not isinstance(model, SentenceTransformer):
        model = resolve_folder_or_hub_id(str(model))
    if not dry_run:
        repository.check_access()
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saha-st-publish-", dir=target and target.parent) as scratch:
        folder = Path(scratch) / "repository"
        written = _write(model, folder, extras, token=token)
        _free_memory()
        if problems := find_problems(folder, wanted_pictures=frozenset({FIGURE_FILE})):
            raise ValueError("This must not be published:\n" + "\n".join(f"  {problem}" for problem in problems))
        files = list_files(folder)
        _list(files, report)
        changes = _look_up_changes(repository, files, report)
        compared = check_in_clean_process(folder, written.device)
        url, commit = None, None
        if not dry_run:
            changes = changes or repository.changes(files)
            url, commit = repository.upload(folder, files, changes, message=commit_message)
        if target is not None:
            folder.replace(target)
    return Published(repo_id, files, compared, written.adapter, url, commit)


@dataclass(frozen=True)
class _Written:
    """What adapter was merged, and on what device the model was."""

    adapter: AdapterEffect | None
    device: str


def _write(model: SentenceTransformer | str, folder: Path, extras: Extras, *, token: str | None) -> _Written:
    """Write the repository. A model that is loaded here is gone on return: the check that follows loads it again."""
    source = model if isinstance(model, str) else None
    embedder = model if source is None else load_embedder(source, token=token)
    run = extras.run_of(embedder)
    keeps_results = run is not None or source is not None or has_own_results(embedder)
    effect = adapter_effect(embedder)
    if effect is not None:
        logger.info("The adapter: %d tensors on %d layers.", effect.tensors, effect.layers)
        if extras.keep_adapter:
            export_adapter(embedder, folder, base_model=extras.base_model)
        if source is None:
            embedder = copy.deepcopy(embedder)
        if not merge_adapter(embedder):
            raise ValueError(
                f"The adapter is lost when it is merged: weights in {facts.dtype_of(embedder)} are too coarse for "
                "what it does. Train on, or publish load_embedder(..., model_kwargs={'dtype': 'float32'})."
            )
    elif extras.keep_adapter:
        raise ValueError("keep_adapter: the model has no adapter to keep.")
    export_model(embedder, folder)
    write_parity(embedder, folder)
    extras.add(embedder, folder, source=source, run=run, keeps_results=keeps_results, token=token)
    return _Written(effect, str(embedder.device))


def _free_memory() -> None:
    """A loaded model is part of reference cycles, and the check is about to load it a second time."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_in_clean_process(folder: Path, device: str = "cpu") -> tuple[Comparison, ...]:
    """Load a folder in a process in which `saha_st` cannot be imported, and compare its vectors with ``parity/``.

    Every engine is tried that can compute them and needs no server.

    Raises:
        CheckFailedError: It does not load there, or tokens or vectors differ.
    """
    names = [name for name in engines.read_parity(folder).engines if name != "vllm"]
    logger.info("Loading it in a process without saha_st, with %s.", " and ".join(names))
    # -P: the script's folder has modules of ours. Where libraries are found is left as it is: in the user's
    # site-packages, or by PYTHONPATH. Offline, so that nothing is fetched that the folder lacks.
    command = [sys.executable, "-P", engines.__file__, str(folder), device, *names]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if process.returncode != 0:
        raise CheckFailedError(f"The model does not load where saha_st is not installed:\n{process.stderr[-3000:]}")
    found = tuple(Comparison(**each) for each in json.loads(process.stdout.splitlines()[-1]))
    if problems := [each.problem for each in found if each.problem]:
        raise CheckFailedError("The model gives other vectors where saha_st is not installed:\n" + "\n".join(problems))
    return found


def _list(files: Mapping[str, int], report: Callable[[str], None]) -> None:
    for name, size in files.items():
        report(f"{_readable(size):>10}  {name}")
    report(f"{_readable(sum(files.values())):>10}  in {len(files)} files")


def _look_up_changes(
    repository: Repository, files: Mapping[str, int], report: Callable[[str], None]
) -> Changes | None:
    """Tell what becomes of other files in the repository; a dry run does without, where the Hub cannot be reached."""
    try:
        changes = repository.changes(files)
    except OSError as error:
        report(str(error))
        return None
    if changes.parent is None:
        report(f"On the Hub there is no {repository.repo_id} yet, or none that you may see.")
    for name in changes.deleted:
        report(f"{'delete':>10}  {name}")
    for name in changes.kept:
        report(f"{'keep':>10}  {name}{' (of earlier weights: convert it anew)' if name in changes.outdated else ''}")
    return changes


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
