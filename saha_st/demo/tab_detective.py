"""The third tab: the detective."""

from __future__ import annotations

import gradio as gr

from saha_st.demo.components import PRIVATE, html, small_button
from saha_st.demo.detective import MAX_MULTIPLIER, MAX_NEGATIVES, NUM_NEGATIVES, POOL_MULTIPLIER
from saha_st.demo.errors import shielded
from saha_st.demo.show import Show
from saha_st.demo.views import notice

INTRO = (
    "Training needs wrong answers that are nearly right. But what lies nearest is often a right answer, too. SaHa "
    "asks who owns each picture: if its owner asks nearly what the anchor asks, the picture is thrown out."
)


def detective_tab(show: Show, chosen: int, first: str) -> None:
    """Lay out the tab.

    Args:
        show: What answers.
        chosen: The anchor to begin with.
        first: Its case.
    """
    gallery = show.engine.gallery
    html(f'<p class="saha-intro">{INTRO}</p>')
    if show.detective.obstacle:
        html(notice(show.detective.obstacle))
        return
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            anchor = gr.Dropdown(
                [(f"{row}: {gallery.texts[text]}", row) for row, (text, _) in enumerate(gallery.pairs)],
                value=chosen,
                label="Anchor, in the order in which mining visits them",
            )
            with gr.Row(elem_classes="saha-examples"):
                steps = [(small_button("Previous anchor"), -1), (small_button("Next anchor"), 1)]
        with gr.Column(scale=2, min_width=220):
            mates = gr.Slider(1, MAX_NEGATIVES, value=NUM_NEGATIVES, step=1, label="Mates of a cluster, K")
        with gr.Column(scale=2, min_width=220):
            pool = gr.Slider(1, MAX_MULTIPLIER, value=POOL_MULTIPLIER, step=1, label="Width of the pool, m")
    case = html(first, elem_id="detective-case")
    asked = [anchor, mates, pool]
    changed = [part.change for part in asked]
    gr.on(changed, shielded(show.investigate), asked, case, trigger_mode="always_last", **PRIVATE)
    for button, step in steps:
        button.click(lambda row, step=step: ((row or 0) + step) % len(gallery.pairs), anchor, anchor, **PRIVATE)
