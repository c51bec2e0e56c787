"""What the template of the card shows, computed from the model and its card data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from saha_st.card.recipe import hub_datasets, is_hub_id
from saha_st.card.tables import mining_table, results_table, shows_chance
from saha_st.prompts import HierarchicalPrompt

if TYPE_CHECKING:
    from saha_st.card.data import SaHaModelCardData

PLACEHOLDER = "org/model"
"""Stands in examples for the name of a model that has none yet."""


def template_variables(data: SaHaModelCardData) -> dict[str, Any]:
    """Return the template's variables, beside those of Sentence Transformers."""
    model, recipe = data.model, data.recipe
    return {
        "prompt": _prompt_of(model[0]),
        "repo": data.model_id or PLACEHOLDER,
        "sees": "image" in model[0].modalities,
        "is_trained": data.is_trained,
        "base_is_on_hub": is_hub_id(data.base_model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "pixels": _pixel_bounds(model[0]),
        "recipe_text": recipe and yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=119),
        "hub_datasets": hub_datasets(recipe),
        "mining_table": data.mining and mining_table(data.mining),
        "results": [_shown(report) for report in data.reports],
        "fence": fence,
    }


def fence(text: str) -> str:
    """Return a fence of backticks that no run of them in ``text`` closes."""
    return "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))


def _shown(report: dict[str, Any]) -> dict[str, Any]:
    tables = {part: results_table(report, part) for part in ("means", "tasks")}
    return {"report": report, "has_chance": shows_chance(report), **tables}


def _prompt_of(transformer: Any) -> HierarchicalPrompt | None:
    owners = (getattr(transformer, "processor", None), getattr(transformer, "tokenizer", None))
    templates = [getattr(owner, "chat_template", None) for owner in owners]
    found = (HierarchicalPrompt.from_chat_template(each) for each in templates if isinstance(each, str))
    return next((prompt for prompt in found if prompt), None)


def _pixel_bounds(transformer: Any) -> tuple[int, int] | None:
    """Return the smallest and the largest number of pixels, where the processor is of the kind that bounds them."""
    processor = getattr(getattr(transformer, "processor", None), "image_processor", None)
    size = dict(getattr(processor, "size", None) or {})
    bounds = size.get("shortest_edge"), size.get("longest_edge")
    return bounds if isinstance(getattr(processor, "merge_size", None), int) and all(bounds) else None
