"""Model card data that shows nothing of the training data.

Sentence Transformers puts samples of the training set into the card, pictures included, and a push uploads them. What
people train on is often not theirs to publish, so nothing is taken from it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData


@dataclass
class EmbedderCardData(SentenceTransformerModelCardData):
    """Card data of an embedder, without samples of its training data."""

    generate_widget_examples: bool = False

    def set_widget_examples(self, dataset: Any) -> None:
        """Take no examples from a training set."""

    def extract_dataset_metadata(self, dataset: Any, dataset_metadata: list, *args: Any, **kwargs: Any) -> list:
        """Take no statistics or samples from a dataset; what the user stated about it stays."""
        return self.validate_datasets(dataset_metadata)
