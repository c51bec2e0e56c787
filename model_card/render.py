"""Render the card of the embedded `saha-tiny` again, from the files in this folder: `python model_card/render.py`.

`recipe.yaml` and `mining.json` are those of the run that trained it, and lie beside its weights as well; so does the
figure, which is drawn again, too.
`results` comes from these commands:

    saha-st evaluate saha-tiny --benchmark mini-mmeb --compare_with saha-tiny-base --output_dir evaluation
    python -c "from saha_st.card import copy_results as c; c('evaluation', 'model_card', model_name='local/saha-tiny')"

A test renders the card and compares. It is the README of the weights, too.
"""

from __future__ import annotations

import json
from pathlib import Path

from saha_st import SaHaModelCardData, load_embedder
from saha_st.card import draw_mining, render_card
from saha_st.card.sidecars import FIGURE_FILE

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER.parent / "saha_st" / "quickstart" / "saha-tiny"

ABOUT = """\
The model that comes with `saha_st`, so that embedding, mining and serving can be tried without a download. It was
trained by `saha-st quickstart` (seed 0, two CPU cores) on the generated mini-MMEB, which imitates the tasks of MMEB
with coloured shapes; the model is good at nothing else, and its numbers are not comparable with those on MMEB."""


def render() -> str:
    """Return the card."""
    data = SaHaModelCardData.of_folder(FOLDER, about=ABOUT, license="apache-2.0", language="en")
    saved = json.loads((WEIGHTS / "config_sentence_transformers.json").read_text(encoding="utf8"))["__version__"]
    data.version = {"torch": saved["pytorch"], **saved}
    return render_card(load_embedder("saha-tiny", device="cpu"), data)


if __name__ == "__main__":
    card = render()
    for folder in (FOLDER, WEIGHTS):
        draw_mining(json.loads((folder / "mining.json").read_text(encoding="utf8")), folder / FIGURE_FILE)
        (folder / "README.md").write_text(card, encoding="utf8")
