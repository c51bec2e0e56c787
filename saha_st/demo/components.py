"""What the tabs are built of: events, pictures, and HTML without Gradio's own styles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ListFiles

from saha_st.demo.limits import FORMATS, MAX_TEXT

TOGETHER = "visitors"
"""The concurrency of all events: what one visitor does in many of them would else add up."""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": TOGETHER}
"""Options of every event of the page: programs have endpoints of their own, see `api`."""


def query_text(value: str) -> gr.Textbox:
    """The text of a query."""
    return gr.Textbox(
        value, label="Text", placeholder="What are you looking for?", max_length=MAX_TEXT, lines=1, max_lines=4
    )


def picture_upload() -> gr.Image:
    """The picture of a query; its value is a path."""
    picture = gr.Image(
        label="Picture",
        type="filepath",
        sources=["upload", "clipboard"],
        height=190,
        buttons=[],
        placeholder="Drop an image file here to upload",  # its accessible name, which the visible text must repeat
    )
    picture.preprocess = _paths
    return picture


def pictures_upload(label: str) -> gr.UploadButton:
    """A button to add several pictures; its value is a list of paths."""
    button = gr.UploadButton(
        label, size="sm", file_count="multiple", file_types=[*FORMATS.values(), ".jpeg"], min_width=110
    )
    button.preprocess = _paths
    return button


def _paths(payload: Any) -> Any:
    """The paths of uploads, and nothing else: `limits` looks at a file before anything opens it.

    Gradio's own would open whatever Pillow knows. It is replaced on the object, as gradio writes a ``.pyi`` file
    beside the source of every subclass.
    """
    if payload is None:
        return None
    return [file.path for file in payload.root] if isinstance(payload, ListFiles) else payload.path


def small_button(label: str, picture: Path | None = None) -> gr.Button:
    """A small button, with a picture on it."""
    button = gr.Button(label, size="sm", icon=picture, min_width=0)
    if button.icon:
        button.keep_in_cache.add(button.icon["path"])  # it would be deleted like an upload
    return button


def html(value: str, **options: Any) -> gr.HTML:
    """Markup that brings its own classes (`style.css`)."""
    return gr.HTML(value, apply_default_css=False, js_on_load=None, **options)
