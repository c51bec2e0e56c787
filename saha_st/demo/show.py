"""What visitors get: their inputs, as gradio hands them over, to results for programs or HTML for people.

No layout here, and no gradio. Whatever comes in is checked here, for the page and the endpoints alike.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from saha_st.demo import views
from saha_st.demo.detective import MAX_MULTIPLIER, MAX_NEGATIVES, Case, Detective
from saha_st.demo.engine import Engine, Hit, Query, rank
from saha_st.demo.errors import UserError
from saha_st.demo.hat import Hat, Panel
from saha_st.demo.limits import MAX_PICTURES, clean_count, clean_text, read_picture, read_pictures
from saha_st.demo.session import OwnPictures

PICTURES, TEXTS, OWN = "Pictures", "Texts", "My pictures"
_MOST_ROWS = 10**6  # more than any gallery has; the detective says how many this one has


class Show:
    """Answers the visitors of one demo.

    Args:
        engine: Model and gallery.
        uploads: Folder that uploads are in; no other file is opened.
    """

    def __init__(self, engine: Engine, uploads: str | os.PathLike[str]) -> None:
        self.engine, self.uploads = engine, uploads
        self.hat, self.detective = Hat(engine), Detective(engine)
        self.views = views.Views(engine.gallery)

    def query(self, text: Any, upload: Any) -> Query:
        """Check what is asked.

        Raises:
            UserError: Neither text nor picture, or one that is refused.
        """
        query = Query(clean_text(text), read_picture(upload, self.uploads))
        if not query.cell:
            raise UserError("Type a text or add a picture to search with.")
        return query

    def hits(self, text: Any, upload: Any, find: Any, count: Any, own: OwnPictures | None = None) -> list[Hit]:
        """Search among pictures, texts, or the visitor's own pictures.

        Raises:
            UserError: A query or a count that is refused, or nothing of that kind to search in.
        """
        query, count = self.query(text, upload), clean_count(count)
        documents = self._documents(find, own)
        return rank(self.engine.embed(query), documents, count)

    def panels(self, text: Any, upload: Any, count: Any) -> list[Panel]:
        """The same query under the three levels of the prompt."""
        return self.hat.compare(self.query(text, upload), clean_count(count))

    def case(self, row: Any, num_negatives: Any, pool_multiplier: Any) -> Case:
        """What mining does with one anchor."""
        return self.detective.investigate(
            clean_count(row, smallest=0, largest=_MOST_ROWS, what="number of the anchor"),
            num_negatives=clean_count(num_negatives, largest=MAX_NEGATIVES, what="number of mates"),
            pool_multiplier=clean_count(pool_multiplier, largest=MAX_MULTIPLIER, what="width of the pool"),
        )

    def search(self, text: Any, upload: Any, find: Any, count: Any, own: OwnPictures | None) -> str:
        """Show what a search finds."""
        hits = self.hits(text, upload, find, count, own)
        if find == OWN:
            return views.own_pictures(hits, own.sources)
        return self.views.texts(hits) if find == TEXTS else self.views.pictures(hits)

    def compare(self, text: Any, upload: Any, count: Any) -> str:
        """Show the three levels of the prompt."""
        return self.views.hat(self.panels(text, upload, count))

    def investigate(self, row: Any, num_negatives: Any, pool_multiplier: Any) -> str:
        """Show what mining does with one anchor."""
        return self.views.case(self.case(row, num_negatives, pool_multiplier))

    def adopt(self, uploads: Any, own: OwnPictures | None) -> tuple[OwnPictures, str]:
        """Take in pictures of a visitor, beside those that they have here already, and show them all."""
        pictures = read_pictures(uploads, self.uploads, room=MAX_PICTURES - (len(own.sources) if own else 0))
        if not pictures:
            raise UserError("Choose at least one picture.")
        own = OwnPictures.of(pictures, self.engine, before=own)
        return own, views.own_gallery(own.sources)

    def _documents(self, find: Any, own: OwnPictures | None) -> np.ndarray:
        if find == PICTURES:
            return self.engine.pictures()
        if find == TEXTS and self.engine.gallery.texts:
            return self.engine.texts()
        if find == TEXTS:
            raise UserError("This gallery has no captions, so there are no texts to find. Search for pictures.")
        if find == OWN and own is not None:
            return own.vectors
        if find == OWN:
            raise UserError("You have no pictures here yet. Add some under “Search in your own pictures”.")
        raise UserError(f"Find must be one of {PICTURES}, {TEXTS} and {OWN}.")
