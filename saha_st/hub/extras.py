"""What goes along with the weights: recipe, mining statistics, results, and the card that is made of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from sentence_transformers import SentenceTransformer

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
            The pictures that the card shows, samples of the training data only if they were asked for.
        """
        shows_samples = getattr(model.model_card_data, "show_training_samples", False)
        pictures = {path.relative_to(folder).as_posix() for path in folder.glob("assets/*") if shows_samples}
        data = model.model_card_data
        known = data.stated if isinstance(data, SaHaModelCardData) else {}
        if source is not None:
            _take_over(source, folder, token)
        if self.results is not None:
            names = (self.repo_id, source or "", f"local/{Path(source or '.').resolve().name}")
            copy_results(self.results, folder, model_name=self.results_model, prefer=names)
        if self.card is not None:
            shutil.copy(self.card, folder / "README.md")
            return frozenset(pictures | {FIGURE_FILE})
        given = {name: value for name, value in self.fields.items() if value is not None}
        data = SaHaModelCardData.of_folder(folder, **known | {"repo_id": self.repo_id} | given)
        (folder / "README.md").write_text(render_card(model, data), encoding="utf8")
        return frozenset(pictures | {FIGURE_FILE})


def _take_over(source: str, folder: Path, token: str | None) -> None:
    """Copy the results beside a local checkpoint, or one on the Hub."""
    if not Path(source).is_dir():
        source = snapshot_download(source, allow_patterns=[f"{name}/*" for name in _RESULTS], token=token)
    for name in _RESULTS:
        if (Path(source) / name).is_dir():
            shutil.copytree(Path(source) / name, folder / name, dirs_exist_ok=True)
