"""The model card: what a checkpoint says of itself, rendered from plain files that lie beside its weights.

Nothing in a card is typed in by hand that could be wrong: the prompt comes from the chat template, the recipe and what
was mined from the run, the results from `saha-st evaluate`. Where a file is missing, the card says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saha_st.lazy import lazy_names

if TYPE_CHECKING:
    from saha_st.card.data import SaHaModelCardData
    from saha_st.card.figure import draw_mining
    from saha_st.card.recipe import publishable_recipe
    from saha_st.card.render import render_card
    from saha_st.card.results import copy_results

__all__ = ["SaHaModelCardData", "copy_results", "draw_mining", "publishable_recipe", "render_card"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "SaHaModelCardData": "data",
        "copy_results": "results",
        "draw_mining": "figure",
        "publishable_recipe": "recipe",
        "render_card": "render",
    },
)
