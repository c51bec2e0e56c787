"""Byte-exact renderings of the hierarchical prompt, on templates of three shapes."""

from __future__ import annotations

import copy
import pickle

import pytest
from tiny import CHAT_TEMPLATE

from saha_st.prompts import QUERY_SUFFIX, SYSTEM, HierarchicalPrompt

# A template that wants strings as content, and one of the [INST] kind that folds the system text into the user turn.
PLAIN_TEMPLATE = (
    "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
INST_TEMPLATE = (
    "\n{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'system' %}{{ '<<SYS>>' }}"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{{ '<</SYS>>' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ ' [/INST]' }}{% endif %}{% endfor %}"
)

IMAGE = {"type": "image", "image": "a picture"}
TEXT = {"type": "text", "text": "two red stars"}
CELLS = {"text": [TEXT], "image": [IMAGE], "text+image": [IMAGE, TEXT]}
TASKS = ("query", "document", None)


def render(template: str, messages: list, task: str | None) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    kwargs = {} if task is None else {"task": task}
    rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **kwargs)
    return rendered[0]


def suffix_of(cell: str, task: str | None) -> str:
    if task != "query":
        return ""
    return (
        "\nRepresent the given text in one word."
        if cell == "text"
        else "\nRepresent the given text/image in one word."
    )


def conversation(cell: str, systems: list[str]) -> list[dict]:
    systems = [{"role": "system", "content": [{"type": "text", "text": text}]} for text in systems]
    return [*systems, {"role": "user", "content": CELLS[cell]}]


# Messages as they arrive: nothing, the caller's own system message, ST's `prompt=` (a system message in front), both.
SYSTEMS = {"none": ([], SYSTEM), "own": (["Mine."], "Mine."), "both": (["From ST.", "Mine."], "Mine.")}


@pytest.mark.parametrize("systems", SYSTEMS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cell", CELLS)
def test_qwen2_vl_rendering_is_byte_exact(cell, task, systems):
    given, expected_system = SYSTEMS[systems]
    media = "<|vision_start|><|image_pad|><|vision_end|>" if cell != "text" else ""
    text = "two red stars" if cell != "image" else ""
    expected = (
        f"<|im_start|>system\n{expected_system}<|im_end|>\n"
        f"<|im_start|>user\n{media}{text}{suffix_of(cell, task)}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    template = HierarchicalPrompt().compile(CHAT_TEMPLATE)
    assert render(template, conversation(cell, given), task) == expected


@pytest.mark.parametrize("systems", SYSTEMS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cell", CELLS)
def test_inst_rendering_is_byte_exact(cell, task, systems):
    given, expected_system = SYSTEMS[systems]
    media, text = "<image>" if cell != "text" else "", "two red stars" if cell != "image" else ""
    # The base template begins with a newline: the preamble must not swallow it.
    expected = f"\n<s><<SYS>>{expected_system}<</SYS>>[INST] {media}{text}{suffix_of(cell, task)} [/INST]"
    template = HierarchicalPrompt().compile(INST_TEMPLATE)
    assert render(template, conversation(cell, given), task) == expected


@pytest.mark.parametrize("systems", SYSTEMS)
@pytest.mark.parametrize("task", TASKS)
def test_plain_string_rendering_is_byte_exact(task, systems):
    given, expected_system = SYSTEMS[systems]
    messages = [{"role": "system", "content": text} for text in given] + [{"role": "user", "content": "two red stars"}]
    expected = f"### system:\n{expected_system}\n### user:\ntwo red stars{suffix_of('text', task)}\n### assistant:\n"
    assert render(HierarchicalPrompt().compile(PLAIN_TEMPLATE), messages, task) == expected


def test_only_the_last_user_turn_carries_the_suffix():
    template = HierarchicalPrompt().compile(PLAIN_TEMPLATE)
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    rendered = render(template, [{"role": role, "content": text} for role, text in turns], "query")
    assert rendered.endswith(
        "### user:\na\n### assistant:\nb\n### user:\nc\nRepresent the given text in one word.\n### assistant:\n"
    )


def test_the_base_template_stays_as_it_was_for_every_template():
    for base in (CHAT_TEMPLATE, PLAIN_TEMPLATE, INST_TEMPLATE):
        compiled = HierarchicalPrompt().compile(base)
        assert compiled != base
        assert HierarchicalPrompt.strip(compiled) == base
        assert HierarchicalPrompt(system="Other.").compile(compiled) == HierarchicalPrompt(system="Other.").compile(
            base
        )


def test_the_preamble_does_not_change_which_content_the_template_seems_to_want():
    from sentence_transformers.base.modality import InputFormatter

    class Processor:
        chat_template = HierarchicalPrompt().compile(PLAIN_TEMPLATE)

    assert InputFormatter("any", processor=Processor()).message_format == "flat"


@pytest.mark.parametrize(
    "prompt",
    [
        HierarchicalPrompt(),
        HierarchicalPrompt(system=None, query_suffix="\nOne word:"),
        HierarchicalPrompt(query_suffix=None, document_suffix={"text": "\nT", "image": "\nI"}),
        HierarchicalPrompt(system="Quotes \" ' \\ {{ braces }} {% raw %} #} -#} line\nbreak, tab\t, é 🔎"),
    ],
)
def test_a_prompt_survives_its_template_and_renders_verbatim(prompt):
    compiled = prompt.compile(PLAIN_TEMPLATE)
    assert HierarchicalPrompt.from_chat_template(compiled) == prompt
    rendered = render(compiled, [{"role": "user", "content": "x"}], "query")
    system = f"### system:\n{prompt.system}\n" if prompt.system else ""
    suffix = prompt.query_suffix["text"] if prompt.query_suffix else ""
    assert rendered == f"{system}### user:\nx{suffix}\n### assistant:\n"


def test_a_document_suffix_goes_to_documents_only():
    compiled = HierarchicalPrompt(system=None, query_suffix=None, document_suffix="!").compile(PLAIN_TEMPLATE)
    messages = [{"role": "user", "content": "x"}]
    assert [render(compiled, messages, task).count("!") for task in TASKS] == [0, 1, 0]


def test_a_template_without_a_prompt_has_none():
    assert HierarchicalPrompt.from_chat_template(CHAT_TEMPLATE) is None
    assert HierarchicalPrompt.from_chat_template(None) is None


def test_prompts_are_values():
    prompt = HierarchicalPrompt()
    assert prompt.query_suffix == QUERY_SUFFIX
    assert copy.deepcopy(prompt) == pickle.loads(pickle.dumps(prompt)) == prompt
    assert len({prompt, HierarchicalPrompt(), HierarchicalPrompt(system="x")}) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"system": "  "}, "system"),
        ({"query_suffix": {"text": "x"}}, "query_suffix"),
        ({"query_suffix": {"text": "x", "image": ""}}, "query_suffix"),
        ({"document_suffix": ""}, "document_suffix"),
    ],
)
def test_a_malformed_prompt_is_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        HierarchicalPrompt(**arguments)


@pytest.mark.parametrize("template", [None, "", "  "])
def test_a_missing_template_is_refused(template):
    with pytest.raises(ValueError, match="chat_template"):
        HierarchicalPrompt().compile(template)
