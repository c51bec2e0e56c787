"""The table "Backbones" of the README, from the entries that the suite runs.

``python -m tests.backbones.backbone_table`` writes it.
"""

from __future__ import annotations

import re
from pathlib import Path

from saha_st.modules.families import FAMILIES, Family

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(<!-- backbones -->\n)(.*?)(<!-- /backbones -->)", re.DOTALL)
SETTINGS = {
    "pixels": "any",
    "longest_edge": "whole tiles a side",
    "tiles": "whole tiles",
    "grids": "whole grids of tiles",
    "soft_tokens": "70, 140, 280, 560, 1120",
}


def render() -> str:
    """The table in Markdown."""
    rows = [_unsupported(family) if family.unsupported else _supported(family) for family in FAMILIES]
    head = ["family (`model_type`)", "inputs", "adapters on", "`image_tokens`", "shared prefix", "notes"]
    lines = [head, [":--"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def update(readme: Path = README) -> None:
    """Put the table into the README."""
    text = readme.read_text(encoding="utf8")
    readme.write_text(BLOCK.sub(lambda found: found[1] + render() + found[3], text), encoding="utf8")


def _supported(family: Family) -> list[str]:
    shared = ", ".join(batch for batch in ("text", "images") if batch in family.shares_prefix)
    return [
        _name(family),
        "text" + ", images" * bool(family.vision) + ", videos" * family.videos,
        f"`{family.language_model}`" if family.language_model else "all layers",
        SETTINGS[family.image_tokens] if family.image_tokens else "fixed" if family.vision else "",
        shared or "no",
        family.note,
    ]


def _unsupported(family: Family) -> list[str]:
    return [_name(family), "**not supported**", "", "", "", family.unsupported or ""]


def _name(family: Family) -> str:
    return f"{family.name} ({', '.join(f'`{model_type}`' for model_type in family.model_types)})"


if __name__ == "__main__":
    update()
