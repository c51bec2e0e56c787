"""A chat template with a place for videos, where the model's own has none and its processor brings another.

SmolVLM's published templates leave videos out, and its processor renders rows with videos by one of its own, which
transformers keeps in the code. One template that chooses says the same, and can carry a prompt: a row with a video is
rendered by the processor's template, every other row by the model's own, as before.
"""

from __future__ import annotations

import sys
from typing import Any

from jinja2 import TemplateError

from saha_st.prompts import HierarchicalPrompt

_HAS_VIDEO = """\
{%- set films = namespace(there=false) -%}
{%- for message in messages -%}
{%- for part in message.content or [] if part.type == 'video' -%}
{%- set films.there = true -%}
{%- endfor -%}
{%- endfor -%}
"""


def place_for_videos(template: str, processor: Any) -> tuple[bool, str]:
    """Whether a chat template renders videos at all, and what it makes of one beside a text."""
    text = {"type": "text", "text": "a text"}
    conversations = [[{"role": "user", "content": parts}] for parts in ([{"type": "video"}, text], [text])]
    try:
        with_video, without = (
            processor.apply_chat_template(conversation, chat_template=template, tokenize=False)
            for conversation in conversations
        )
    except (TemplateError, TypeError) as error:  # it refuses one, or parts at all
        return False, str(error)
    return with_video != without, with_video


def with_place_for_videos(template: str, processor: Any) -> str:
    """Return a chat template that renders videos by the processor's own where ``template`` leaves them out.

    Args:
        template: The model's chat template, with a prompt in front of it or not.
        processor: A processor that renders videos by a template in its module, as SmolVLM's.
    """
    own = getattr(sys.modules[type(processor).__module__], "DEFAULT_CHAT_TEMPLATE", None)
    if own is None or place_for_videos(template, processor)[0]:
        return template
    base = HierarchicalPrompt.strip(template)
    chosen = f"{_HAS_VIDEO}{{%- if films.there -%}}{_whole(own)}{{%- else -%}}{_whole(base)}{{%- endif -%}}"
    prompt = HierarchicalPrompt.from_chat_template(template)
    return chosen if prompt is None else prompt.compile(chosen)


def _whole(template: str) -> str:
    """A template between two statements that trim nothing of it; the newline at its end is one that Jinja drops."""
    return '{{- "" }}' + template.removesuffix("\n") + '{{ "" }}'
