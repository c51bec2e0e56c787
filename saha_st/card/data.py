"""`SaHaModelCardData`: what a card is rendered from, kept beside the weights whenever they are saved.

Sentence Transformers' card shows samples of the training set, pictures included, and a push uploads them. What people
train on is often not theirs to publish, so nothing is taken from it here unless asked. Nor is anything looked up on
the Hub, or the model run, while a card is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub.utils import yaml_dump
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData

from saha_st.card import facts
from saha_st.card.figure import draw_mining
from saha_st.card.readme import TAGS, TRAINED, stated_in
from saha_st.card.recipe import hub_datasets, is_hub_id, public_name
from saha_st.card.sidecars import FIGURE_FILE, Sidecars, kept_adapter, remove_of_training, remove_results
from saha_st.card.variables import template_variables

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class _Measured(NamedTuple):
    """Reports, and the model that they are of as far as that can be told at no cost; without settings, of none."""

    reports: Sequence[Mapping[str, Any]]
    settings: tuple[Any, ...] | None
    adapter: Any | None


@dataclass
class SaHaModelCardData(SentenceTransformerModelCardData):
    """Card data of an embedder with a hierarchical prompt.

    `load_embedder` gives it to every model, so that `save_pretrained`, the trainer and `train` write this card, and
    the files that it is rendered from. It is rendered anew each time a model is saved: what a person wrote into the
    README of the folder that a model was loaded from stays there, and only what it states about name, licence,
    language and base model is taken over, and its ``about``. Reports are left out of the card, and out of the folder,
    once the model is not the one that was measured: it was trained, or was given another prompt, dtype,
    ``truncate_dim`` or the like.

    Args:
        about: Own words, in Markdown, for the top of the card.
        license: Of this model, as in the Hub's list; ``"other"`` with a name and a link.
        license_name: Name of another licence.
        license_link: Where to read it.
        base_model: What the weights come from.
        base_model_revision: And at what revision.
        base_model_relation: As on the Hub; by default ``adapter`` for an adapter, and ``finetune`` if it was merged,
            or the weights were trained.
        adapter: Name of the adapter that is on the base model, or was merged, if it came from elsewhere.
        datasets: Hub ids of datasets that it was trained on, beside those of the recipe.
        repo_id: Where it is published, for the examples; `model_id` of Sentence Transformers does as well.
        recipe: The run's config, see `publishable_recipe`.
        mining: Statistics of what was mined, by dataset.
        reports: Reports of evaluations of these weights.
        mining_figure: Path of the figure, relative to the card.
        show_training_samples: Show statistics and samples of the training data; pictures are saved with the model.
            `publish` leaves all of them out nevertheless: what one looks at is not yet what one may upload.
        parity: Whether vectors to compare with are shipped, in a folder ``parity``.
        kept_adapter: Of an adapter that was merged and is shipped as well, in a folder ``adapter``, the model that it
            belongs on: ``{"base": …, "revision": …}``.
        source: The checkpoint that the weights were loaded from; once they are trained, their base model.
        is_untrained: Whether the weights are known to be those of the base model.

    Example:
        >>> card = SaHaModelCardData.of_folder("out/final", license="apache-2.0", repo_id="org/saha")
    """

    tags: list[str] = field(default_factory=lambda: list(TAGS))
    generate_widget_examples: bool = False
    about: str | None = None
    base_model: str | None = None
    base_model_revision: str | None = None
    datasets: list[str] = field(default_factory=list)
    adapter: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model_relation: str | None = None
    repo_id: str | None = None
    recipe: Mapping[str, Any] | None = None
    mining: Mapping[str, Mapping[str, Any]] | None = None
    reports: Sequence[Mapping[str, Any]] = ()
    mining_figure: str | None = None
    show_training_samples: bool = False
    parity: bool = False
    kept_adapter: Mapping[str, str | None] | None = None
    source: str | None = None
    is_untrained: bool = False
    trains: bool = field(default=False, init=False, repr=False)
    measured: _Measured | None = field(default=None, init=False, repr=False)
    template_path: Path = field(
        default=Path(str(resources.files("saha_st.card") / "template.md.jinja")), init=False, repr=False
    )

    def __post_init__(self) -> None:
        self.model_id = self.model_id or self.repo_id
        super().__post_init__()

    @classmethod
    def of_folder(cls, folder: str | Path, **fields: Any) -> SaHaModelCardData:
        """Read what the files in a checkpoint's folder say; those that are missing are not missed.

        Args:
            folder: A local folder.
            **fields: Fields that are known better.

        Raises:
            ValueError: A file that does not hold what its name says.
        """
        folder = Path(folder)
        found = Sidecars.read(folder)
        known = {
            **stated_in(folder / "README.md"),
            "recipe": found.recipe,
            "mining": found.mining,
            "reports": found.reports,
            "mining_figure": FIGURE_FILE if (folder / FIGURE_FILE).is_file() else None,
            "parity": (folder / "parity").is_dir(),
            "kept_adapter": kept_adapter(folder),
        }
        if found.recipe is not None and not is_hub_id(known.get("base_model")):
            known["base_model"] = found.recipe["model"]
        return cls(**known | fields)

    def forget_results(self) -> None:
        """Take the model for another one than was measured, such as one that is loaded with another dtype."""
        self.reports, self.measured = (), _Measured((), None, None)

    # What Sentence Transformers' trainer and loader tell card data.

    def register_model(self, model: SentenceTransformer) -> None:
        """Take the model that the card is of, as it is now, for the one that the reports are of."""
        super().register_model(model)
        self.measured = self.measured or _Measured(self.reports, facts.settings_of(model), facts.adapter_of(model))
        if config := facts.adapter_of(model):
            self.base_model_relation, self.is_untrained = "adapter", False
            if config.base_model_name_or_path:
                self.base_model = self.base_model or public_name(config.base_model_name_or_path)

    def set_base_model(self, model_id: str, revision: str | None = None) -> bool:
        """Take a Hub id as the base model, as it is: nothing is looked up, and no folder is taken for an id."""
        if not is_hub_id(model_id) or Path(model_id).exists():
            return False
        self.base_model, self.base_model_revision = model_id, getattr(revision, "resolved", revision)
        return True

    def try_to_set_base_model(self) -> None:
        """Guess no base model from the parts of a path."""

    def validate_datasets(self, dataset_list: list[dict[str, Any]], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Take what was stated about datasets as it is, without looking it up."""
        self.datasets = list(dict.fromkeys([*self.datasets, *(each["id"] for each in dataset_list if each.get("id"))]))
        return [{"name": each.get("id"), **each} for each in dataset_list]

    def set_widget_examples(self, dataset: Any) -> None:
        """Take no examples from a training set."""

    def extract_dataset_metadata(self, dataset: Any, dataset_metadata: list, *args: Any, **kwargs: Any) -> list:
        """Take samples and statistics of a dataset if asked to; what the user stated about it stays.

        A trainer calls this when it begins: from here on, what was known of the weights is known of their base.
        """
        if kwargs.get("dataset_type") == "train":
            if self.source:
                self._become_base()
            self.recipe, self.mining, self.reports, self.mining_figure = None, None, (), None
            self.adapter, self.is_untrained, self.trains = None, False, True
        if self.show_training_samples:
            return super().extract_dataset_metadata(dataset, dataset_metadata, *args, **kwargs)
        return self.validate_datasets(dataset_metadata)

    def _become_base(self) -> None:
        """Make of what is known of a checkpoint what is known of the one that is trained from it."""
        if self.base_model_relation != "adapter":  # an adapter stays one of the same base
            self.base_model, self.base_model_revision, self.base_model_relation = self.source, None, None
        self.model_name, self.about, self.source = None, None, None

    # What is rendered.

    def to_dict(self) -> dict[str, Any]:
        """Return the template's variables and, where a model is being saved, write the files beside the card."""
        if self.is_changed and self.measured and self.reports is self.measured.reports:
            self.reports = ()
        if self.save_dir:
            self.write_sidecars(Path(self.save_dir))
        name = self.model_name
        values = super().to_dict()
        self.model_name, self._cached_dict = name, None  # which a later training would make untrue
        return values | template_variables(self)

    def get_default_model_name(self) -> str:
        """Return the name of the repository or of the run."""
        run = (self.recipe or {}).get("output_dir")
        return (self.model_id or "").split("/")[-1] or run or f"Embedder based on {self.base_model or 'an MLLM'}"

    def to_yaml(self, line_break: str | None = None) -> str:
        """Return the front matter."""
        base = self.base_model if is_hub_id(self.base_model) else None
        values = {
            "language": self.language,
            "license": self.license or ("other" if self.license_name else None),
            "license_name": self.license_name,
            "license_link": self.license_link,
            "library_name": self.library_name,
            "pipeline_tag": self.pipeline_tag,
            "tags": [*self._tags(), *(["mteb"] if self.reports else [])],
            "base_model": base,
            "base_model_relation": base and self._relation(),
            "datasets": list(dict.fromkeys([*self.datasets, *hub_datasets(self.recipe)])),
        }
        shown = {key: value for key, value in values.items() if value not in (None, [])}
        return yaml_dump(shown, sort_keys=False, line_break=line_break).strip()

    def _tags(self) -> list[str]:
        """The tags, without those of what the model cannot take."""
        return [tag for tag in self.tags if self.sees or tag not in ("image-text-to-text", "multimodal-embedding")]

    def _relation(self) -> str | None:
        if self.model is not None and facts.adapter_of(self.model):
            return "adapter"
        stated = self.base_model_relation
        return "finetune" if stated == "adapter" else stated or ("finetune" if self.is_trained else None)

    @property
    def sees(self) -> bool:
        """Whether the model takes pictures."""
        return self.model is None or facts.sees(self.model)

    @property
    def is_trained(self) -> bool:
        """Whether the weights are known to be other ones than the base model's."""
        return self.recipe is not None or TRAINED in self.tags or self.base_model_relation in ("adapter", "finetune")

    @property
    def is_changed(self) -> bool:
        """Whether the model is not the one that came with the reports: trained, with other settings or an adapter."""
        if self.trains or self.measured is None:
            return self.trains
        adapter = facts.adapter_of(self.model)  # merged, there is none, and the vectors are the same
        is_same = facts.settings_of(self.model) == self.measured.settings
        return not is_same or adapter not in (None, self.measured.adapter)

    def write_sidecars(self, folder: Path) -> None:
        """Write the files that the card is rendered from, and the figure if it can be drawn."""
        self.parity, self.kept_adapter = False, None  # which are not saved with a model
        if self.is_changed:  # what lies there may be of the model that was loaded from there
            remove_results(folder)
        if self.trains:
            remove_of_training(folder)
        Sidecars(self.recipe, self.mining, self.reports).write(folder)
        if self.mining:
            draw_mining(self.mining, folder / FIGURE_FILE)
        self.mining_figure = FIGURE_FILE if (folder / FIGURE_FILE).is_file() else None
