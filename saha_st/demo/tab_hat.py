"""The second tab: the hat."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from saha_st.demo.components import PRIVATE, html, picture_upload, query_text, small_button
from saha_st.demo.errors import shielded
from saha_st.demo.show import Show

INTRO = (
    "The same model and the same query, three times: as a plain language model, with a system text that tells it its "
    "one job, and with one more sentence after the query. See what it reads, what it finds, and where pictures and "
    "texts lie in its space."
)
COUNT = 6
"""Results to begin with."""


def hat_tab(show: Show, examples: Sequence[str], first: str) -> None:
    """Lay out the tab.

    Args:
        show: What answers.
        examples: Texts to click on.
        first: The comparison to begin with, that of the first example.
    """
    html(f'<p class="saha-intro">{INTRO}</p>')
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=260):
            picture = picture_upload()
        with gr.Column(scale=3, min_width=300):
            text = query_text(examples[0] if examples else "")
            with gr.Row(elem_classes="saha-examples"):
                buttons = [small_button(example) for example in examples]
            count = gr.Slider(3, 12, value=COUNT, step=3, label="Number of results")
            button = gr.Button("Compare", variant="primary")
    panels = html(first, elem_id="hat-panels")
    asked = [text, picture, count]
    compare = shielded(show.compare)
    gr.on([button.click, text.submit], compare, asked, panels, **PRIVATE)
    for clickable, example in zip(buttons, examples, strict=True):
        filled = clickable.click(lambda example=example: (example, None), None, [text, picture], **PRIVATE)
        filled.then(compare, asked, panels, **PRIVATE)
