"""The endpoints for programs: typed, documented, and plain JSON. The page has events of its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import gradio as gr

from saha_st.demo.components import TOGETHER
from saha_st.demo.detective import NUM_NEGATIVES, POOL_MULTIPLIER, Case
from saha_st.demo.engine import Hit
from saha_st.demo.errors import UserError, shielded
from saha_st.demo.limits import uploaded_path
from saha_st.demo.show import PICTURES, TEXTS, Show

_SNIPPET = """\
from gradio_client import Client, handle_file

client = Client("https://…")  # the address of this page
client.predict(text="three red circles", image=None, find="pictures", count=5, api_name="/search")
client.predict(text="", image=handle_file("photo.png"), find="texts", count=5, api_name="/search")
client.predict(text="three red circles", image=None, count=5, api_name="/hat")
client.predict(anchor=0, num_negatives=4, pool_multiplier=2, api_name="/detective")"""


def snippet(show: Show) -> str:
    """Example calls in Python: those that this gallery can answer."""
    lines = _SNIPPET.splitlines()
    if not show.engine.gallery.texts:
        lines = [line for line in lines if '"texts"' not in line]
    if show.detective.obstacle:
        lines = [line for line in lines if "/detective" not in line]
    return "\n".join(lines)


def add_endpoints(show: Show) -> None:
    """Declare the endpoints; call it inside of the `gr.Blocks`."""
    gallery = show.engine.gallery

    def found(hits: list[Hit], texts: bool = False) -> list[dict[str, Any]]:
        names = gallery.texts if texts else gallery.names
        kind = "text" if texts else "picture"
        captions = [{} if texts else {"caption": gallery.caption(hit.index)} for hit in hits]
        return [
            {"rank": place, "score": hit.score, kind: names[hit.index], "index": hit.index, **caption}
            for place, (hit, caption) in enumerate(zip(hits, captions, strict=True), start=1)
        ]

    def search(
        text: str = "",
        image: dict[str, Any] | None = None,
        find: Literal["pictures", "texts"] = "pictures",
        count: int = 8,
    ) -> list[dict[str, Any]]:
        """Search the gallery by text, picture, or both.

        Args:
            text: What to look for; always text, also if it reads like an address or a file name. May be empty.
            image: A picture to look for: handle_file("picture.png") of gradio_client. PNG, JPEG, WebP or GIF.
            find: What to find; "texts" only in a gallery with captions.
            count: How many results, 1 to 24.

        Returns:
            Best first: rank, score (cosine), picture (its name) with caption, or text, and index in the gallery.
        """
        if find not in ("pictures", "texts"):
            raise UserError("find must be 'pictures' or 'texts'.")
        texts = find == "texts"
        return found(show.hits(text, uploaded_path(image), TEXTS if texts else PICTURES, count), texts)

    def hat(text: str = "", image: dict[str, Any] | None = None, count: int = 6) -> list[dict[str, Any]]:
        """Search with no prompt, the system level alone, and both levels.

        Args:
            text: What to look for. May be empty.
            image: A picture to look for: handle_file("picture.png") of gradio_client.
            count: How many results each, 1 to 24.

        Returns:
            For each level: its name, the prompt as the model reads it, the modality gap, the spread of the
            clouds, the share of texts that rank a right picture first, and the results.
        """
        return [
            {
                "level": panel.level.value,
                "prompt": panel.prompt,
                "modality_gap": panel.gap,
                "spread": panel.spread,
                "right_picture_first": panel.first,
                "results": found(panel.hits),
            }
            for panel in show.panels(text, uploaded_path(image), count)
        ]

    def detective(
        anchor: int = 0, num_negatives: int = NUM_NEGATIVES, pool_multiplier: int = POOL_MULTIPLIER
    ) -> dict[str, Any]:
        """Explain what SaHa mining does with one pair of the gallery, which needs captions.

        Args:
            anchor: Number of the pair, from 0.
            num_negatives: Mates of a full cluster, K.
            pool_multiplier: m; the 2 K m nearest pictures are looked at.

        Returns:
            The pair whose visit is told, the phase, every candidate with rank, score, owner, owner similarity and
            fate, the pairs of the cluster, and its similarity matrix.
        """
        return _as_json(show.case(anchor, num_negatives, pool_multiplier))

    for function in (search, hat, detective):
        gr.api(shielded(function), api_name=function.__name__, concurrency_id=TOGETHER)


def _as_json(case: Case) -> dict[str, Any]:
    return {
        "anchor": case.anchor,
        "phase": case.phase,
        "clusters_before": case.visit,
        "candidates": [
            {**asdict(suspect.candidate), "fate": suspect.candidate.fate.value, "same_concept": suspect.same}
            for suspect in case.suspects
        ],
        "cluster": case.cluster,
        "similarities": case.similarities.astype(float).tolist(),
    }
