"""What the template of the card shows, computed from the model and its card data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from saha_st.card import facts
from saha_st.card.readme import TRAINED, hidden_note
from saha_st.card.recipe import hub_datasets, is_hub_id
from saha_st.card.tables import (
    CHANCE_NOTE,
    has_owner_filter,
    is_of_communities,
    mining_table,
    results_table,
    shows_chance,
)

if TYPE_CHECKING:
    from saha_st.card.data import SaHaModelCardData

PLACEHOLDER = "org/model"
"""Stands in examples for the name of a model that has none yet."""


def template_variables(data: SaHaModelCardData) -> dict[str, Any]:
    """Return the template's variables, beside those of Sentence Transformers."""
    model, recipe = data.model, data.recipe
    prompt, config = facts.prompt_of(model), facts.adapter_of(model)
    return {
        "prompt": prompt,
        "other_prompts": {
            name: text for name, text in (model.prompts or {}).items() if text and text != (prompt and prompt.system)
        },
        "repo": data.model_id or PLACEHOLDER,
        "sees": data.sees,
        "is_trained": data.is_trained,
        "is_trained_here": TRAINED in data.tags,
        "adapter_kind": config and ("DoRA" if getattr(config, "use_dora", False) else "LoRA"),
        "base_is_on_hub": is_hub_id(data.base_model),
        "kept_adapter_is_on_hub": data.kept_adapter and is_hub_id(data.kept_adapter["base"]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": facts.dtype_of(model),
        "is_last_token": facts.is_last_token(model),
        "is_in_template": facts.is_in_template(model),
        "is_stock": facts.is_stock(model),
        "steps": facts.steps_of(model),
        "truncate_dim": model.truncate_dim,
        "whole_dimension": facts.whole_dimension(model),
        "nested_dims": _nested_dims(recipe, model.truncate_dim or facts.whole_dimension(model)),
        "pixels": facts.pixel_bounds(model),
        "recipe_text": recipe and yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=119),
        "hub_datasets": hub_datasets(recipe),
        "mining_table": data.mining and mining_table(data.mining),
        "communities": any(map(is_of_communities, (data.mining or {}).values())),
        "owners_filtered": any(map(has_owner_filter, (data.mining or {}).values())),
        "results": [_shown(report) for report in data.reports],
        "fence": fence,
        "hidden_note": hidden_note(data),
    }


def fence(text: str) -> str:
    """Return a fence of backticks that no run of them in ``text`` closes."""
    return "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))


def _nested_dims(recipe: Mapping[str, Any] | None, dimension: int) -> list[int]:
    """How many of a vector's first dimensions were trained to be an embedding; the largest number first."""
    return sorted((dim for dim in (recipe or {}).get("matryoshka_dims") or () if dim < dimension), reverse=True)


def _shown(report: dict[str, Any]) -> dict[str, Any]:
    tables = {part: results_table(report, part) for part in ("means", "tasks")}
    return {"report": report, "chance_note": CHANCE_NOTE if shows_chance(report) else None, **tables}
