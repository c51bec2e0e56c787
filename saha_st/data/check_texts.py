"""Look for texts that are not what they seem (addresses, file names, image placeholders), or are too long."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from saha_st.data.problems import Finding

_URL = re.compile(r"\s*(?:(?:https?|ftp|file|s3|gs|hf)://\S+|data:image/\S+)\s*", re.IGNORECASE)
_IMAGE_NAME = re.compile(r"\s*[^\n]{1,1000}\.(?:png|jpe?g|webp|gif|bmp|tiff?|heic|avif)\s*", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<\|image_\d+\|>|<\|(?:image|video|vision)_\w+\|>|<image>")


class TextChecker:
    """Checks texts.

    Args:
        tokenizer: A tokenizer of transformers to measure in its tokens; `None` measures in characters.
        max_length: The length above which a text is too long; `None` measures nothing.
    """

    def __init__(self, tokenizer: Callable[..., Any] | None = None, max_length: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def check(self, texts: Sequence[str | None]) -> Iterator[tuple[int, Finding]]:
        """Yield the index of each text with which something is wrong, and what; `None` is no text."""
        for index, text in enumerate(texts):
            if not text:
                continue
            if _URL.fullmatch(text):
                yield index, Finding("text that reads like a URL", text)
            elif _reads_like_a_file(text):
                yield index, Finding("text that reads like an image path", text)
            if mark := _PLACEHOLDER.search(text):
                yield index, Finding("image placeholder in a text", f"{mark.group()} in: {text}")
        if self.max_length is not None:
            yield from self._too_long(texts, self.max_length)

    def _too_long(self, texts: Sequence[str | None], limit: int) -> Iterator[tuple[int, Finding]]:
        # A text has at most as many tokens, or characters, as bytes: few need to be measured.
        long = [index for index, text in enumerate(texts) if text and len(text.encode(errors="replace")) > limit]
        if not long:
            return
        if self.tokenizer is None:
            lengths, unit = [len(texts[index]) for index in long], "characters"
        else:
            encoded = self.tokenizer([texts[index] for index in long], add_special_tokens=False)
            lengths, unit = [len(ids) for ids in encoded["input_ids"]], "tokens"
        for index, length in zip(long, lengths, strict=True):
            if length > limit:
                yield index, Finding("text too long", f"{length} {unit}: {texts[index]}")


def _reads_like_a_file(text: str) -> bool:
    """Tell whether a text is the name of an image: one word that ends like one, or a file that exists."""
    return _IMAGE_NAME.fullmatch(text) is not None and (len(text.split()) == 1 or os.path.isfile(text.strip()))
