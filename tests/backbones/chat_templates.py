"""Chat templates of the families' published checkpoints, written out short: their turns, their places for pictures.

Contents are strings or lists of parts, as the published templates have them; nothing is added to a text.
"""

from __future__ import annotations


def _turns(begin: str, part: str, end: str, opened: str, first: str = "") -> str:
    """A template that renders every turn in the same way, part by part."""
    return (
        first
        + "{%- for message in messages -%}"
        + begin
        + "{%- for part in message['content'] -%}"
        + part
        + "{%- endfor -%}"
        "" + end + "{%- endfor -%}{%- if add_generation_prompt -%}{{- '" + opened + "' -}}{%- endif -%}"
    )


def _part(image: str, video: str = "") -> str:
    return (
        "{%- if part['type'] == 'image' -%}{{- '"
        + image
        + "' -}}"
        + ("{%- elif part['type'] == 'video' -%}{{- '" + video + "' -}}" if video else "")
        + "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    )


SMOLVLM = _turns(
    "{{- message['role'] | capitalize + (':' if message['content'][0]['type'] == 'image' else ': ') -}}",
    _part("<image>"),  # and none for videos: transformers renders those by a template of its own
    "{{- '<end_of_utterance>\\n' -}}",
    "Assistant:",
    first="{{- '<|im_start|>' -}}",
)

LLAVA_NEXT = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- '<<SYS>>\\n' + message['content'][0]['text'] + '\\n<</SYS>>\\n\\n' -}}
{%- else -%}
{{- '[INST] ' if message['role'] == 'user' else ' ' -}}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{{- ' [/INST]' if message['role'] == 'user' else '</s>' -}}
{%- endif -%}
{%- endfor -%}
"""

LLAVA_ONEVISION = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + ' ' -}}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'video' -%}{{- '<video>\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

INTERNVL = _turns(
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}",
    _part("<IMG_CONTEXT>\\n", "<video>\\n"),
    "{{- '<|im_end|>\\n' -}}",
    "<|im_start|>assistant\\n",
)

GEMMA_3 = """\
{{- bos_token -}}
{%- set system = '' -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'][0]['text'] + '\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
{%- for message in turns -%}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' -}}
{{- system if loop.first else '' -}}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<start_of_image>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] | trim -}}
{%- endif -%}
{%- endfor -%}
{{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""

GEMMA_4 = _turns(
    "{{- '<|turn>' + message['role'] + '\\n' -}}",
    "{%- if part['type'] == 'image' -%}{{- '\\n\\n<|image|>\\n\\n' -}}"
    "{%- elif part['type'] == 'video' -%}{{- '\\n\\n<|video|>\\n\\n' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] | trim -}}{%- endif -%}",
    "{{- '<turn|>\\n' -}}",
    "<|turn>model\\n",
    first="{{- bos_token -}}",
)

PHI_4 = _turns("{{- '<|' + message['role'] + '|>' -}}", _part("<|image|>"), "{{- '<|end|>' -}}", "<|assistant|>")

CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

LLAMA_3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""
