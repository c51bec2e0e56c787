"""The first tab: search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from saha_st.demo.components import PRIVATE, html, picture_upload, pictures_upload, query_text, small_button
from saha_st.demo.errors import shielded
from saha_st.demo.limits import MAX_FILE_BYTES, MAX_PICTURES, MAX_RESULTS
from saha_st.demo.show import OWN, PICTURES, TEXTS, Show

INTRO = (
    "Describe what you are looking for, add a picture, or do both. Texts and pictures live in one space, so either "
    "finds either."
)
COUNT = 10
"""Results to begin with."""

_OWN = """\
<p class="saha-note">Up to {count} pictures of {size} MB each, as PNG, JPEG, WebP or GIF. They stay in this session,
and are deleted after about an hour.</p>"""


@dataclass(frozen=True)
class Example:
    """A query to click on: what the button says and shows, and what goes into the inputs."""

    label: str
    text: str
    picture: Path | None = None
    find: str = PICTURES


def search_tab(show: Show, examples: Sequence[Example], first: str) -> None:
    """Lay out the tab.

    Args:
        show: What answers.
        examples: Queries to click on.
        first: The results to begin with, those of the first example.
    """
    html(f'<p class="saha-intro">{INTRO}</p>')
    own = gr.State(None, time_to_live=3600)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            text = query_text(examples[0].text)
            picture = picture_upload()
            choices = [PICTURES, TEXTS, OWN] if show.engine.gallery.texts else [PICTURES, OWN]
            find = gr.Radio(choices, value=PICTURES, label="Find")
            count = gr.Slider(1, MAX_RESULTS, value=COUNT, step=1, label="Number of results")
            button = gr.Button("Search", variant="primary")
            with gr.Accordion("Search in your own pictures", open=False):
                html(_OWN.format(count=MAX_PICTURES, size=MAX_FILE_BYTES // 2**20))
                with gr.Row():
                    files = pictures_upload("Add pictures")
                    forget = gr.Button("Forget them", size="sm", min_width=110)
                status = html("", elem_id="own-pictures")
        with gr.Column(scale=5, min_width=320):
            with gr.Row(elem_classes="saha-examples"):
                buttons = [small_button(example.label, example.picture) for example in examples]
            results = html(first, elem_id="search-results")
    asked = [text, picture, find, count, own]
    search = shielded(show.search)
    gr.on([button.click, text.submit], search, asked, results, **PRIVATE)
    for clickable, example in zip(buttons, examples, strict=True):
        filled = clickable.click(_fill_in(example), None, [text, picture, find], **PRIVATE)
        filled.then(search, asked, results, **PRIVATE)
    adopted = files.upload(shielded(show.adopt), [files, own], [own, status], **PRIVATE)
    adopted.success(lambda: OWN, None, find, **PRIVATE)
    forget.click(lambda: (None, "", PICTURES), None, [own, status, find], **PRIVATE)


def _fill_in(example: Example) -> Callable[[], tuple[Any, ...]]:
    picture = None if example.picture is None else str(example.picture)
    return lambda: (example.text, picture, example.find)
