"""What the tabs do: a visitor's inputs, as gradio hands them over, to HTML. No layout here, and no gradio."""

from __future__ import annotations

import os
from typing import Any

from saha_st.demo import views
from saha_st.demo.detective import MAX_MULTIPLIER, MAX_NEGATIVES, Detective
from saha_st.demo.engine import Engine, Query, rank
from saha_st.demo.errors import UserError
from saha_st.demo.hat import Hat
from saha_st.demo.limits import MAX_PICTURES, MAX_RESULTS, clean_count, clean_text, read_picture, read_pictures
from saha_st.demo.session import OwnPictures

PICTURES, TEXTS, OWN = "Pictures", "Texts", "My pictures"


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

    def search(self, text: Any, upload: Any, find: Any, count: Any, own: OwnPictures | None) -> str:
        """Search among pictures, texts, or the visitor's own pictures."""
        query, count = self.query(text, upload), clean_count(count)
        if find == OWN and own is None:
            raise UserError("You have no pictures here yet. Add some under “Search in your own pictures”.")
        if find == TEXTS and not self.engine.gallery.texts:
            raise UserError("This gallery has no texts to find. Search for pictures.")
        if find not in (PICTURES, TEXTS, OWN):
            raise UserError(f"Find must be one of {PICTURES}, {TEXTS} and {OWN}.")
        vector = self.engine.embed(query)
        if find == OWN:
            return views.own_pictures(rank(vector, own.vectors, count), own.sources)
        if find == TEXTS:
            return self.views.texts(rank(vector, self.engine.texts(), count))
        return self.views.pictures(rank(vector, self.engine.pictures(), count))

    def compare(self, text: Any, upload: Any, count: Any) -> str:
        """The same query under the three levels of the prompt."""
        query = self.query(text, upload)
        return self.views.hat(self.hat.compare(query, clean_count(count, largest=MAX_RESULTS)))

    def investigate(self, row: Any, num_negatives: Any, pool_multiplier: Any) -> str:
        """What mining does with one anchor."""
        if not self.detective.has_pairs:
            raise UserError("This gallery has too few pictures with texts to mine.")
        case = self.detective.investigate(
            clean_count(row, smallest=0, largest=len(self.engine.gallery.pairs) - 1, what="the anchor"),
            num_negatives=clean_count(num_negatives, largest=MAX_NEGATIVES, what="mates"),
            pool_multiplier=clean_count(pool_multiplier, largest=MAX_MULTIPLIER, what="the pool"),
        )
        return self.views.case(case)

    def adopt(self, uploads: Any, own: OwnPictures | None) -> tuple[OwnPictures, str]:
        """Take in pictures of a visitor, beside those that they have here already, and show them all."""
        pictures = read_pictures(uploads, self.uploads, room=MAX_PICTURES - (len(own.sources) if own else 0))
        if not pictures:
            raise UserError("Choose at least one picture.")
        own = OwnPictures.of(pictures, self.engine, before=own)
        return own, views.own_gallery(own.sources)
