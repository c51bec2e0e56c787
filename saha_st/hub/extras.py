"""What goes along with the weights: recipe, mining statistics, results, and the card that is made of them."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, snapshot_download
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import is_sentence_transformer_model

from saha_st.card import SaHaModelCardData, render_card
from saha_st.card.results import copy_results
from saha_st.card.run_folders import RunFolder, find_run_of, find_runs, names_of
from saha_st.card.sidecars import FIGURE_FILE, Sidecars, kept_adapter, read_report, read_result, remove_results
from saha_st.encoding import results_revision, weights_digest
from saha_st.hub.licenses import check_license

logger = logging.getLogger(__name__)

_RESULTS = ("results", ".eval_results")
"""Folders that are not saved with a model, but may lie beside one."""


@dataclass(frozen=True)
class Extras:
    """What goes along with a model, as it was asked for.

    Args:
        repo_id: Name of the repository.
        results: Output folder of `evaluate`; replaces the results that the model came with.
        card: A card to use as it is.
        license: Licence for the card, by the Hub's identifier.
        base_model: Hub id of the base model, for the card and for an adapter that is kept.
        keep_adapter: Whether an adapter is kept beside the weights.

    Raises:
        FileNotFoundError: No such card, or no results.
        ValueError: Arguments that contradict each other, an unknown licence, or a card with a broken front matter.
    """

    repo_id: str
    results: str | Path | None = None
    card: str | Path | None = None
    license: str | None = None
    base_model: str | None = None
    keep_adapter: bool = False

    def __post_init__(self) -> None:
        if self.results is not None:
            find_runs(self.results)
        if self.card is not None:
            self._check_card(Path(self.card))
        if self.license is not None:
            check_license(self.license)
        if self.license == "other":
            raise ValueError(
                "license: 'other' says nothing without a name and a link. Write the card yourself, with license_name "
                "and license_link, and pass it as card (--card)."
            )

    def _check_card(self, card: Path) -> None:
        if not card.is_file():
            raise FileNotFoundError(f"card: there is no file {str(card)!r}.")
        for name, unused in (("license", self.license), ("base_model", self.base_model and not self.keep_adapter)):
            if unused:
                raise ValueError(
                    f"{name} goes into a card that is made here, and card {str(card)!r} is used as it is: write it "
                    "into that one's front matter."
                )
        try:
            data = ModelCard.load(card).data
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"card: the front matter of {str(card)!r} cannot be read: {error}") from error
        if isinstance(data.license, str):
            check_license(data.license)

    def run_of(self, model: SentenceTransformer) -> RunFolder | None:
        """Find the results that were asked for: those of exactly these vectors.

        Args:
            model: The embedder as it was evaluated, adapters not yet merged.

        Raises:
            FileNotFoundError: There are none of it, or no report on them.
        """
        if self.results is None:
            return None
        runs = find_runs(self.results)
        reports = [read_report(file) for run in runs for file in run.report_files]
        own = {run.revision for run in runs} & _revisions_of(model, reports)
        if not own:
            raise FileNotFoundError(
                f"results: {str(self.results)!r} holds results of {names_of(runs)}, none of these weights with this "
                f"prompt and these settings. Run `saha-st evaluate` on the model that you publish, with --output_dir "
                f"{self.results}."
            )
        run = max((find_run_of(self.results, each, model_name=self.repo_id) for each in own), key=_newest)
        if not run.report_files:
            raise FileNotFoundError(
                f"results: {str(self.results)!r} holds results of {run.model_name}, and no report on them, so the "
                f"card could not show them. Run `saha-st evaluate` on it, with the same --benchmark and --output_dir "
                f"{self.results}: what is done is not done again."
            )
        return run

    def add(
        self,
        model: SentenceTransformer,
        folder: Path,
        *,
        source: str | None,
        run: RunFolder | None,
        keeps_results: bool,
        token: str | None,
    ) -> None:
        """Add all of it to a folder that the model was written to.

        Args:
            model: The embedder.
            folder: The repository's folder.
            source: Folder or Hub id that the embedder came from, if any; results that lie there are taken over.
            run: Results to take instead; see `run_of`.
            keeps_results: Whether the results that came with the embedder are its own; see `has_own_results`.
            token: Token for the Hub.
        """
        if not keeps_results:
            remove_results(folder)
        if run is not None:
            copy_results(run.output_dir, folder, model_name=run.model_name, revision=run.revision)
        elif source is not None and is_sentence_transformer_model(source, token=token):  # results of these vectors
            _take_over(source, folder, token)
        for picture in folder.glob("assets/*"):
            if picture != folder / FIGURE_FILE:  # samples that a card of a training run showed
                picture.unlink()
        if self.card is not None:
            shutil.copy(self.card, folder / "README.md")
        else:
            (folder / "README.md").write_text(render_card(model, self._card_data(model, folder)), encoding="utf8")

    def _card_data(self, model: SentenceTransformer, folder: Path) -> SaHaModelCardData:
        """What the model's card says, and what is known of the repository."""
        data = model.model_card_data
        known = isinstance(data, SaHaModelCardData)
        data = copy.copy(data) if known else SaHaModelCardData.of_folder(folder, datasets=list(data.datasets))
        data.model_id = data.repo_id = self.repo_id
        data.reports = Sidecars.read(folder).reports
        data.parity, data.kept_adapter = True, kept_adapter(folder)
        data.show_training_samples = False
        if self.license is not None:
            data.license, data.license_name, data.license_link = self.license, None, None
        if self.base_model is not None:
            data.base_model, data.base_model_revision = self.base_model, None
        return data


def has_own_results(model: SentenceTransformer) -> bool:
    """Whether the results that a model carries are of the vectors that it gives now; says so if not."""
    reports = getattr(model.model_card_data, "reports", ())
    if not reports or {report["revision"] for report in reports} <= _revisions_of(model, reports):
        return True
    logger.warning(
        "The results that came with the model are left out: they are of other weights or settings. Publish the folder "
        "that it was loaded from, or pass results (--results)."
    )
    return False


def _revisions_of(model: SentenceTransformer, reports: Sequence[Mapping[str, Any]]) -> set[str]:
    """What results of a model's vectors are filed under, with the installed libraries or those that reports name."""
    versions = [report["versions"] for report in reports]
    named = {(each["sentence-transformers"], each["transformers"]) for each in versions if "transformers" in each}
    weights = weights_digest(model)
    return {results_revision(model, weights=weights, versions=each) for each in (None, *named)}


def _newest(run: RunFolder) -> float:
    return max(file.stat().st_mtime for file in run.result_files)


def _take_over(source: str, folder: Path, token: str | None) -> None:
    """Copy the results beside a local checkpoint, or one on the Hub."""
    if not Path(source).is_dir():
        source = snapshot_download(source, allow_patterns=[f"{name}/*" for name in _RESULTS], token=token)
    for file in Path(source).glob("results/*.json"):
        try:
            read_result(file)
        except ValueError:  # somebody's other file of that name
            continue
        for name in (Path("results") / file.name, Path(".eval_results") / f"{file.stem}.yaml"):
            if (Path(source) / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(Path(source) / name, folder / name)
