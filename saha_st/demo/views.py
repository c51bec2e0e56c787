"""Results as HTML: cards, tables, clouds. Every text that comes from a visitor or a gallery is escaped by Jinja.

Pictures travel inside the page as small thumbnails, so the app serves no file of the gallery.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from saha_st.demo.detective import Case
from saha_st.demo.engine import Hit, Level
from saha_st.demo.gallery import Gallery
from saha_st.demo.hat import Panel
from saha_st.mining.tracing import Fate

THUMBNAIL_SIDE = 224

LEVEL_NOTES = {
    Level.NONE: "The plain chat template of the base model.",
    Level.SYSTEM: "A system text tells the model its one job.",
    Level.BOTH: "The system text, and one more sentence after every query.",
}
FATE_NOTES = {
    Fate.OWN_POSITIVE: "the anchor's own picture",
    Fate.IN_MARGIN: "scores too near the anchor's own picture",
    Fate.NO_FREE_OWNER: "its owner is in an earlier cluster, or nobody may stand for it",
    Fate.TOO_SIMILAR: "its owner asks more nearly the same than allowed",
    Fate.BEYOND_LIMIT: "enough owners were found before it",
    Fate.CLASH: "its pair and a mate's would be each other's answers",
    Fate.SUSPECTED: "thrown out: its owner asks too nearly the same",
    Fate.SURPLUS: "the cluster was full",
    Fate.MATE: "its pair joined the cluster as a hard negative",
}


def thumbnail(picture: Image.Image) -> str:
    """A small copy of a picture as a data URI."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, format="WEBP", quality=90, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


class Views:
    """Renders results for one gallery; its thumbnails are made once."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self._thumbnails = [thumbnail(picture) for picture in gallery.pictures]

    def pictures(self, hits: Sequence[Hit]) -> str:
        """Pictures of the gallery that a search found."""
        return _render("results", items=[self._card(hit.index, hit.score) for hit in hits], kind="pictures")

    def texts(self, hits: Sequence[Hit]) -> str:
        """Texts of the gallery that a search found."""
        items = [{"name": self.gallery.texts[hit.index], "score": hit.score, "caption": ""} for hit in hits]
        return _render("results", items=items, kind="texts")

    def hat(self, panels: Sequence[Panel]) -> str:
        """The three levels side by side."""
        return _render(
            "hat",
            panels=[(panel, [self._card(hit.index, hit.score) for hit in panel.hits]) for panel in panels],
            notes=LEVEL_NOTES,
            gallery=self.gallery,
        )

    def case(self, case: Case) -> str:
        """What happened to one anchor."""
        return _render(
            "detective",
            case=case,
            member=self._member,
            card=self._card,
            notes=FATE_NOTES,
            fates=Fate,
            known=self.gallery.concepts is not None,
        )

    def _card(self, picture: int, score: float) -> dict[str, Any]:
        return {
            "name": self.gallery.names[picture],
            "caption": self.gallery.caption(picture),
            "score": score,
            "src": self._thumbnails[picture],
        }

    def _member(self, row: int) -> dict[str, Any]:
        """A pair: what it asks, and its picture."""
        text, picture = self.gallery.pairs[row]
        return {"row": row, "text": self.gallery.texts[text], **self._card(picture, 0.0)}


def own_pictures(hits: Sequence[Hit], sources: Sequence[str]) -> str:
    """Pictures of a visitor that a search found, given their thumbnails."""
    items = [
        {"name": f"your picture {hit.index + 1}", "caption": "", "score": hit.score, "src": sources[hit.index]}
        for hit in hits
    ]
    return _render("results", items=items, kind="pictures")


def own_gallery(sources: Sequence[str]) -> str:
    """The pictures that a visitor brought, given their thumbnails."""
    return _render("own", sources=sources)


def notice(text: str) -> str:
    """What stands where there is nothing to show."""
    return _render("notice", text=text)


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(f"{name}.html.jinja").render(**values)


@cache
def _environment() -> Environment:
    loader = PackageLoader("saha_st.demo")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["score"] = lambda value: f"{value:.3f}"
    return environment
