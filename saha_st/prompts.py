"""The hierarchical embedding prompt, as data that travels inside a chat template.

Two levels tell a generative model its one job: a *system* text for every input, and a *suffix* at the end of the
user turn, for queries only in the paper. `HierarchicalPrompt.compile` puts a short Jinja preamble in front of the
base model's chat template; the preamble rebuilds ``messages`` and the template follows unchanged. Every engine that
renders chat templates (Sentence Transformers, transformers, vLLM) then computes the same vector, and no code of
ours is needed to load the model.

Source: Ju & Lee, "From Generator to Embedder", arXiv 2508.00955, section 3.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SYSTEM = "Given an image, summarize the provided image in one word. Given only text, describe the text in one word."
QUERY_SUFFIX = {
    "text": "\nRepresent the given text in one word.",
    "image": "\nRepresent the given text/image in one word.",
}

_MODALITIES = ("text", "image")

# The first line of a compiled template states the prompt as JSON, so that it can be read back and replaced.
_HEADER = "{#- hierarchical-prompt "
_HEADER_PATTERN = re.compile(re.escape(_HEADER) + r"(?P<prompt>\{.*?\}) -#\}", re.DOTALL)
# Prints nothing. It marks where the base template begins, and it shields the template's first characters from the
# trimming that a statement block at this place would cause.
_FOOTER = '{{- "" }}'

# `saha` is a namespace because Jinja scopes plain assignments to the loop. A part without a "text" key is media.
# The literal "type" is written as a keyword: Sentence Transformers takes templates that contain it quoted for
# templates that want structured content, and this preamble must not change what the base template wants.
_PREAMBLE = """\
{%- set saha = namespace(system=none, turns=[], last_user=-1, plain=false) -%}
{%- for message in messages -%}
{%- if message.role == "system" -%}
{%- set saha.system = message -%}
{%- else -%}
{%- if message.role == "user" -%}
{%- set saha.last_user = saha.turns | length -%}
{%- set saha.plain = message.content is string -%}
{%- endif -%}
{%- set saha.turns = saha.turns + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set suffixes = @SUFFIXES@.get(task | default("", true), {}) -%}
{%- if suffixes and saha.last_user >= 0 -%}
{%- set turn = saha.turns[saha.last_user] -%}
{%- if saha.plain -%}
{%- set content = turn.content + suffixes.text -%}
{%- else -%}
{%- set parts = turn.content -%}
{%- set media = parts | rejectattr("text", "defined") | list -%}
{%- set suffix = suffixes.image if media else suffixes.text -%}
{%- if parts and parts[-1].text is defined -%}
{%- set content = parts[:-1] + [dict(parts[-1], text=parts[-1].text + suffix)] -%}
{%- else -%}
{%- set content = parts + [dict(type="text", text=suffix)] -%}
{%- endif -%}
{%- endif -%}
{%- set saha.turns = saha.turns[:saha.last_user] + [dict(turn, content=content)] + saha.turns[saha.last_user + 1:] -%}
{%- endif -%}
{%- set system = @SYSTEM@ -%}
{%- if saha.system is none and system -%}
{%- set content = system if saha.plain else [dict(type="text", text=system)] -%}
{%- set saha.system = dict(role="system", content=content) -%}
{%- endif -%}
{%- set messages = ([saha.system] if saha.system else []) + saha.turns -%}
"""


@dataclass(frozen=True)
class HierarchicalPrompt:
    """Both levels of the hierarchical embedding prompt. The default is the paper's.

    Args:
        system: System text for queries and documents alike; ``None`` leaves the base template's own default. A
            system message in the input, or Sentence Transformers' ``prompt=``, takes its place.
        query_suffix: Text appended to the last user turn when ``task == "query"``, by modality: ``"text"`` for
            text alone, ``"image"`` when the turn holds an image or a video. A single string serves both, ``None``
            appends nothing.
        document_suffix: The same for ``task == "document"``. ``None`` in the paper.

    Raises:
        ValueError: An empty text, or a suffix mapping whose keys are not exactly ``"text"`` and ``"image"``.

    Example:
        >>> prompt = HierarchicalPrompt(system="Name the product in one word.", query_suffix=None)
        >>> template = prompt.compile("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")
        >>> HierarchicalPrompt.from_chat_template(template) == prompt
        True
    """

    system: str | None = SYSTEM
    query_suffix: Mapping[str, str] | str | None = field(default_factory=lambda: QUERY_SUFFIX)
    document_suffix: Mapping[str, str] | str | None = None

    def __post_init__(self) -> None:
        if self.system is not None and (not isinstance(self.system, str) or not self.system.strip()):
            raise ValueError(f"system must be a non-empty string, or None for no system text; got {self.system!r}.")
        for name in ("query_suffix", "document_suffix"):
            object.__setattr__(self, name, _by_modality(name, getattr(self, name)))

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def compile(self, chat_template: str) -> str:
        """Return ``chat_template`` with this prompt in front of it.

        A template that already carries a hierarchical prompt gets this one instead.

        Args:
            chat_template: Jinja source, as in a tokenizer's or processor's ``chat_template``.

        Returns:
            Jinja source that reads ``messages`` and, where given, ``task``.

        Raises:
            ValueError: ``chat_template`` is missing or empty.
        """
        if not isinstance(chat_template, str) or not chat_template.strip():
            raise ValueError(
                f"chat_template must be the Jinja source of a chat template, got {chat_template!r}. "
                "A base model without one cannot be prompted; use its instruction-tuned sibling."
            )
        suffixes = {"query": self.query_suffix, "document": self.document_suffix}
        preamble = _PREAMBLE.replace("@SUFFIXES@", _literal({k: dict(v) for k, v in suffixes.items() if v}))
        preamble = preamble.replace("@SYSTEM@", _literal(self.system))
        # "#}" would end the comment, and is the same string to JSON when written like this.
        header = json.dumps(self.to_dict(), ensure_ascii=False).replace("#}", "#\\u007d")
        return f"{_HEADER}{header} -#}}\n{preamble}{_FOOTER}{self.strip(chat_template)}"

    @staticmethod
    def strip(chat_template: str) -> str:
        """Return the base template without a prompt that `compile` put in front of it."""
        if not chat_template.startswith(_HEADER):
            return chat_template
        return chat_template.split(_FOOTER, maxsplit=1)[1]

    @classmethod
    def from_chat_template(cls, chat_template: str | None) -> HierarchicalPrompt | None:
        """Read back the prompt that `compile` put in front of a template; ``None`` if there is none."""
        found = _HEADER_PATTERN.match(chat_template or "")
        return cls(**json.loads(found["prompt"])) if found else None

    def to_dict(self) -> dict[str, Any]:
        """The prompt as plain JSON values."""
        return {
            "system": self.system,
            "query_suffix": dict(self.query_suffix) if self.query_suffix else None,
            "document_suffix": dict(self.document_suffix) if self.document_suffix else None,
        }


def _by_modality(name: str, suffix: Mapping[str, str] | str | None) -> Mapping[str, str] | None:
    """Normalise a suffix to a mapping with one text per modality, or to None."""
    if suffix is None:
        return None
    texts = dict.fromkeys(_MODALITIES, suffix) if isinstance(suffix, str) else dict(suffix)
    if set(texts) != set(_MODALITIES) or not all(isinstance(text, str) and text for text in texts.values()):
        raise ValueError(
            f'{name} must be a non-empty string, a mapping {{"text": ..., "image": ...}} of non-empty strings, '
            f"or None for no suffix; got {suffix!r}."
        )
    return {modality: texts[modality] for modality in _MODALITIES}


def _literal(value: Any) -> str:
    """Write a JSON value as a Jinja literal; both read the same escapes."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
