"""Render a card now, for a model at hand."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard

from saha_st.card.data import SaHaModelCardData

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def render_card(model: SentenceTransformer, card_data: SaHaModelCardData | None = None) -> str:
    """Return the card of a model, never a README that lay beside the weights.

    Args:
        model: An embedder.
        card_data: What to say; by default what the model carries. It is not changed, and no file is written.

    Raises:
        TypeError: The model carries other card data, since `load_embedder` did not load it.
        jinja2.TemplateError: The template cannot be rendered; `save_pretrained` would leave the card out.
    """
    data = card_data if card_data is not None else model.model_card_data
    if not isinstance(data, SaHaModelCardData):
        raise TypeError(
            f"The model carries {type(data).__name__}. Load it with load_embedder, or pass "
            "card_data=SaHaModelCardData.of_folder(...)."
        )
    data = copy.copy(data)
    data.register_model(model)
    data.save_dir = None  # or this would write where the model was last saved
    return ModelCard.from_template(card_data=data, template_path=str(data.template_path)).content
