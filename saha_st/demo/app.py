"""The app: header, three tabs, and what a server that stands on the open internet must not do."""

from __future__ import annotations

import tempfile
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from saha_st.demo import gpu
from saha_st.demo.api import add_endpoints, snippet
from saha_st.demo.components import html
from saha_st.demo.engine import Engine
from saha_st.demo.examples import hat_examples, search_examples
from saha_st.demo.gallery import open_gallery
from saha_st.demo.guard import Guard
from saha_st.demo.limits import MAX_FILE_BYTES
from saha_st.demo.settings import DemoSettings
from saha_st.demo.show import PICTURES, Show
from saha_st.demo.tab_detective import detective_tab
from saha_st.demo.tab_hat import COUNT as HAT_COUNT
from saha_st.demo.tab_hat import hat_tab
from saha_st.demo.tab_search import COUNT, search_tab
from saha_st.demo.theme import css, javascript, theme
from saha_st.demo.views import notice
from saha_st.modules import load_embedder
from saha_st.modules.sources import EMBEDDED_MODELS, shown_name

TITLE = "SaHa: one embedder for pictures and text"
_WORLD_TOKENS = (4, 16)  # the embedded models know pictures of 64 pixels, which are 16 tokens
_HEAD = """\
<header class="saha-head">
  <h1>One embedder for pictures and text</h1>
  <p>A language model that sees, turned into a search engine: with a prompt in two levels, and with training on hard
  negatives that it found itself. The method is SaHa
  (<a href="https://arxiv.org/abs/2508.00955" rel="noopener">Ju &amp; Lee, 2025</a>).</p>
  <ul class="saha-chips" aria-label="What this demo runs on">
    <li class="saha-chip">model: {model}</li><li class="saha-chip">gallery: {gallery}</li>
    <li class="saha-chip">{pictures} pictures, {texts} texts</li>
  </ul>
</header>"""

_API = """\
<p class="saha-note">Every tab has an endpoint that answers in JSON; “Use via API” at the foot of the page documents
them.</p>
<pre class="saha-prompt" tabindex="0" role="region" aria-label="Example in Python">{snippet}</pre>"""


def build_demo(settings: DemoSettings | None = None, *, show_progress_bar: bool = True) -> gr.Blocks:
    """Load model and gallery, encode the gallery (once; the vectors are kept on disk), and lay out the app.

    Args:
        settings: What to show; by default what the environment says.
        show_progress_bar: Show bars while the gallery is encoded.

    Raises:
        ValueError: There is no such model or gallery, or fewer than two pictures, or settings that do not fit them.
        OSError: A model or gallery that cannot be loaded.
    """
    settings = DemoSettings.from_environment() if settings is None else settings
    settings.require_sources()
    gallery = open_gallery(settings)
    model = load_embedder(
        settings.model,
        device="cuda" if gpu.ON_ZERO_GPU else settings.device,
        revision=settings.revision,
        image_tokens=_WORLD_TOKENS if settings.model in EMBEDDED_MODELS else None,
    )
    engine = Engine(
        model,
        gallery,
        name=shown_name(settings.model),
        cache_folder=settings.cache_folder,
        show_progress_bar=show_progress_bar,
    )
    return lay_out(engine, tempfile.mkdtemp(prefix="saha-demo-"))


def lay_out(engine: Engine, example_folder: str) -> gr.Blocks:
    """Lay out the app around an engine.

    Args:
        engine: Model and gallery.
        example_folder: A folder in the temporary directory, for the example pictures.
    """
    show, gallery = Show(engine, get_upload_folder()), engine.gallery
    searches, texts = search_examples(gallery, Path(example_folder)), hat_examples(gallery)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as demo:
        add_endpoints(show)  # first: gradio would rename an endpoint that is called like an event of the page
        head = {"model": engine.name, "gallery": gallery.title}
        counts = {"pictures": len(gallery.pictures), "texts": len(gallery.texts)}
        html(_HEAD.format(**{name: escape(value) for name, value in head.items()}, **counts))
        first = _first_views(show, searches[0].text, texts)
        with gr.Tabs():
            with gr.Tab("Search", id="search"):
                search_tab(show, searches, first["search"])
            with gr.Tab("The hat", id="hat"):
                hat_tab(show, texts, first["hat"])
            with gr.Tab("The detective", id="detective"):
                detective_tab(show, first["anchor"], first["detective"])
        with gr.Accordion("Use the API", open=False):
            html(_API.format(snippet=escape(snippet(show))))
    return demo.queue(api_open=False, max_size=32, default_concurrency_limit=4)


def _first_views(show: Show, text: str, texts: list[str]) -> dict[str, Any]:
    """What stands in the tabs when the page opens. On a ZeroGPU nothing can be encoded before a visitor asks."""
    if gpu.ON_ZERO_GPU:
        hint = notice("Ask something, or click an example.")
        return {"search": hint, "hat": hint, "anchor": 0, "detective": notice("Choose another anchor.")}
    show.engine.pictures(), show.engine.texts()
    views: dict[str, Any] = {"anchor": 0, "search": notice("Type a text or add a picture to search with.")}
    views |= {"hat": notice("Type a text or add a picture to compare with."), "detective": ""}
    if text:
        views["search"] = show.search(text, None, PICTURES, COUNT, None)
    if texts:
        views["hat"] = show.compare(texts[0], None, HAT_COUNT)
    if not show.detective.obstacle:
        views["anchor"] = show.detective.most_telling()
        views["detective"] = show.views.case(show.detective.investigate(views["anchor"]))
    return views


def launch_options() -> dict[str, Any]:
    """What `demo.launch` needs for the app to look right and to be safe; host and port are left to the caller."""
    return {
        "theme": theme(),
        "css": css(),
        "js": javascript(),
        "footer_links": ["api"],
        "ssr_mode": False,
        "show_error": False,  # of an error that is not meant for visitors nothing is told
        "allowed_paths": [],
        "max_file_size": MAX_FILE_BYTES,
        "state_session_capacity": 200,
        "enable_monitoring": False,
        "mcp_server": False,
        "run_history": False,
        "app_kwargs": {"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None, "openapi_url": None},
    }
