"""How the demo looks: Gradio's calm default, with system fonts and contrasts that pass WCAG AA in light and dark."""

from __future__ import annotations

from importlib import resources

import gradio as gr

_SANS = ["system-ui", "Liberation Sans", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "Liberation Mono", "monospace"]


def theme() -> gr.themes.Base:
    """The theme; its fonts are the visitor's own, so that nothing is loaded from elsewhere."""
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=_SANS, font_mono=_MONO).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        block_radius="12px",
        block_shadow="none",
        block_shadow_dark="none",
    )


def css() -> str:
    """The style sheet."""
    return (resources.files("saha_st.demo") / "style.css").read_text(encoding="utf8")


def javascript() -> str:
    """A function that runs when the page has loaded."""
    return (resources.files("saha_st.demo") / "accessible.js").read_text(encoding="utf8")
