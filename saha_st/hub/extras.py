"""What goes along with the weights: recipe, mining statistics, results, and the card that is made of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import is_sentence_transformer_model

from saha_st.card import SaHaModelCardData, render_card
from saha_st.card.results import copy_results
from saha_st.card.sidecars import FIGURE_FILE
from saha_st.modules.loading import not_loadable, resolve_model

_RESULTS = ("results", ".eval_results")
"""Folders that are not saved with a model, but may lie beside one."""

_FINAL = "final"


def source_folder(model_name_or_path: str) -> str:
    """The checkpoint that is meant: a run's folder stands for the model that it ended with.

    Raises:
        ValueError: No such folder, or one without a checkpoint.
    """
    final = Path(model_name_or_path).expanduser() / _FINAL
    if (final / "modules.json").exists():
        return str(final)
    source = resolve_model(model_name_or_path)
    if "/" not in source and not Path(source).is_dir():  # the Hub is not asked for a folder that is not there
        raise ValueError(not_loadable(source))
    return source


@dataclass(frozen=True)
class Extras:
    """What goes along with a model.

    Args:
        repo_id: Name of the repository.
        results: Output folder of `evaluate`; replaces the results that the model came with.
        results_model: The model's name there, if there are results of several.
        card: A card to use as it is.
        fields: What the card is told besides; None for what is known from the model.
    """

    repo_id: str
    results: str | Path | None
    results_model: str | None
    card: str | Path | None
    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.card is not None and not Path(self.card).is_file():
            raise FileNotFoundError(f"card: there is no file {str(self.card)!r}.")
        if self.results is not None and not (Path(self.results) / "results").is_dir():
            raise FileNotFoundError(
                f"results: {str(self.results)!r} holds no results. It is the --output_dir of `saha-st evaluate`."
            )

    def add(
        self, model: SentenceTransformer, folder: Path, *, source: str | None, token: str | None
    ) -> frozenset[str]:
        """Add all of it to a folder.

        Args:
            model: The embedder that was written to the folder.
            folder: The repository's folder.
            source: Folder or Hub id that the embedder came from, if any; results that lie there are taken over.
            token: Token for the Hub.

        Returns:
            The pictures that the card shows. Samples of the training data are none of them.
        """
        data = model.model_card_data
        known = data.stated if isinstance(data, SaHaModelCardData) else {}
        if source is not None and is_sentence_transformer_model(source, token=token):  # results of these vectors
            _take_over(source, folder, token)
        if self.results is not None:
            local = [source, f"local/{Path(source).resolve().name}"] if source else []
            names = (self.repo_id, *local)
            copy_results(self.results, folder, model_name=self.results_model, prefer=names)
        if self.card is not None:
            shutil.copy(self.card, folder / "README.md")
            return frozenset({FIGURE_FILE})
        given = {name: value for name, value in self.fields.items() if value is not None}
        if "license" in given:  # the terms of another one do not go with it
            known = {name: value for name, value in known.items() if name not in ("license_name", "license_link")}
        datasets = list(model.model_card_data.datasets)
        data = SaHaModelCardData.of_folder(folder, **known | {"repo_id": self.repo_id} | given)
        data.datasets = list(dict.fromkeys([*data.datasets, *datasets]))
        for sample in folder.glob("assets/*"):  # which a card with samples of the training data left behind
            if sample != folder / FIGURE_FILE:
                sample.unlink()
        (folder / "README.md").write_text(render_card(model, data), encoding="utf8")
        return frozenset({FIGURE_FILE})


def _take_over(source: str, folder: Path, token: str | None) -> None:
    """Copy the results beside a local checkpoint, or one on the Hub."""
    if not Path(source).is_dir():
        source = snapshot_download(source, allow_patterns=[f"{name}/*" for name in _RESULTS], token=token)
    for file in Path(source).glob("results/*.json"):
        if {"task_name", "scores", "mteb_version"} <= _keys_of(file):
            (folder / "results").mkdir(exist_ok=True)
            shutil.copyfile(file, folder / "results" / file.name)
            evaluation = Path(".eval_results") / f"{file.stem}.yaml"
            if (Path(source) / evaluation).is_file():
                (folder / evaluation).parent.mkdir(exist_ok=True)
                shutil.copyfile(Path(source) / evaluation, folder / evaluation)


def _keys_of(file: Path) -> set[str]:
    try:
        content = json.loads(file.read_text(encoding="utf8"))
    except ValueError:
        return set()
    return set(content) if isinstance(content, dict) else set()
