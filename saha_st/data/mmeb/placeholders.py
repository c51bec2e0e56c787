"""MMEB writes `<|image_1|>` where the image stands in its texts; here the image is a part of the cell.

The chat template of the model puts the model's own mark where the image is, so the placeholder has to go: left in, it
would be encoded as eleven characters of noise, or crash processors that find more marks than images. In MMEB it is
mostly a line of its own before the instruction, but the paraphrased instructions also use it as a noun.
"""

from __future__ import annotations

import re

_MARK = r"<\|image_\d+\|>"
_START = re.compile(rf"\A(?:\s*{_MARK}[ \t]*\n?)+")
_PREFIX = re.compile(rf"\A(?:\s*{_MARK}(?![ \t]+[a-z])[ \t]*\n?)+")  # before a lower-case word it is the subject
_AFTERWARDS = re.compile(rf"(?:[ \t]*\n[ \t]*|(?<=[.?!])[ \t]+){_MARK}(?=[ \t]*(?:\n|\Z))")
_APPOSITION = re.compile(rf"\b(image|photo|picture)(?:, {_MARK},|,? {_MARK})")
_DETERMINED = re.compile(rf"\b(the(?: given| provided)?|this) {_MARK}")
_SUBJECT = re.compile(rf"\A{_MARK}")
_NOUN = re.compile(_MARK)
_ANYWHERE = re.compile(rf"[ \t]*{_MARK}")


def remove_placeholder(text: str, *, has_image: bool) -> str:
    r"""Return a text of MMEB without its image placeholders; all else stays to the letter.

    * At the start, a placeholder goes with the space or line break after it:
      `"<|image_1|>\nRepresent the image.\n"` → `"Represent the image.\n"`. At the end of a text, or on a line of its
      own, it goes with the space or line break before it.
    * As a noun, beside an image, it becomes one: `"Represent <|image_1|> for classification."` → `"Represent the image
      for classification."`, `"the given <|image_1|>"` → `"the given image"`, `"the photo <|image_1|>"` → `"the
      photo"`.
    * Without an image there is nothing to refer to, and it goes with the space before it (WebQA asks text-only
      questions in this form).

    Args:
        text: A text from a column of MMEB.
        has_image: Whether the same cell has an image.
    """
    if "<|image_" not in text:
        return text
    if not has_image:
        return _ANYWHERE.sub("", _AFTERWARDS.sub("", _START.sub("", text)))
    text = _AFTERWARDS.sub("", _PREFIX.sub("", text))
    text = _DETERMINED.sub(r"\1 image", _APPOSITION.sub(r"\1", text))
    return _NOUN.sub("the image", _SUBJECT.sub("The image", text))
