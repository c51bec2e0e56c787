"""A file of prompts: what it may say, and that what is refused is named."""

from __future__ import annotations

import json

import pytest
import yaml

from saha_st.evaluation.prompt_presets import PRESETS, as_entry, as_python, as_yaml, choose_prompts, read_prompts
from saha_st.prompts import SYSTEM, HierarchicalPrompt
from saha_st.training.config import RunConfig

OWN = {
    "product": HierarchicalPrompt(system="Name the product.", query_suffix=None),
    "ask": HierarchicalPrompt(system=None, query_suffix={"text": "\nT:", "image": "\nI:"}, document_suffix='\n"Doc":'),
}


def write(path, entries):
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf8")
    return path


def test_the_presets_are_the_paper_s_levels_alone_and_together():
    assert PRESETS["both"] == HierarchicalPrompt()
    assert PRESETS["system"].system == PRESETS["both"].system and PRESETS["system"].query_suffix is None
    assert PRESETS["user"].system is None and PRESETS["user"].query_suffix == PRESETS["both"].query_suffix
    assert PRESETS["none"].to_dict() == {"system": None, "query_suffix": None, "document_suffix": None}
    assert PRESETS["user-turn"].document_suffix == {"text": f"\n{SYSTEM}", "image": f"\n{SYSTEM}"}
    assert len(set(PRESETS.values())) == 5


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
def test_what_is_written_is_read_and_what_is_not_named_is_not_there(tmp_path, dump):
    file = write(tmp_path / "prompts", dump([as_entry(name, prompt) for name, prompt in OWN.items()]))
    assert read_prompts(file) == OWN


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"a": {}}, "must hold a list of prompts"),
        ([], "must hold a list of prompts"),
        (["a"], "prompt 1: must be a mapping"),
        ([{"name": "a"}, {"system": "x"}], "prompt 2: name must be a non-empty string"),
        ([{"name": "a"}, {"name": "a"}], "prompt 2: the name 'a' is taken"),
        ([{"name": "a", "sytem": "x"}], "prompt 'a': unknown field 'sytem'; did you mean 'system'"),
        ([{"name": "a", "temperature": 1}], "unknown field 'temperature'; the fields are name, system"),
        ([{"name": "a", "system": 3}], "prompt 'a': system must be a text"),
        ([{"name": "a", "system": " "}], "prompt 'a': system must be a non-empty string"),
        ([{"name": "a", "query_suffix": {"text": "x"}}], "prompt 'a': query_suffix must be"),
        ("[{", "is not valid YAML or JSON"),
        ("- {name: a, system: 2001-99-99}", "is not valid YAML or JSON: month must be in 1..12"),
        ("- {name: a,\n  system: x, system: y}", "the field 'system' of the prompt 'a' stands there twice .line 1"),
        ('[{"name": "a", "system": "x", "system": "y"}]', "the field 'system' of the prompt 'a' stands there twice"),
        ("- {name: a, query_suffix: {text: x, text: y}}", "the field 'text' stands there twice"),
        ("- {? [a] : 1, name: x}", "is not valid YAML or JSON: found unhashable key"),
        ([{"name": "a"}, {"name": " a "}], "prompt 2: the name 'a' is taken"),
        ([{"name": "as loaded", "system": "x"}], "prompt 1: the name 'as loaded' is kept for the model"),
        ([{"name": "a"}, {"name": " as loaded"}], "prompt 2: the name 'as loaded' is kept for the model"),
        ([{"name": "a|b"}], "the name 'a|b' has a line break"),
        ([{"name": "a`b"}], "the name 'a`b' has a line break"),
        ([{"name": "a\nb"}], r"the name 'a\\nb' has a line break"),
        ([{"name": "a\u2028b"}], "has a line break"),
        ("- {name: yes}", "prompt 1: name must be a non-empty string, got True; YAML may want it in quotes"),
        ('[{"name": "a", "system": "\\ud83d"}]', "prompt 'a': system has half a character"),
        ('- {name: a, query_suffix: {text: "\\ud83d\\ude00", image: x}}', "query_suffix has half a character"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_prompt_and_field(tmp_path, entries, named):
    with pytest.raises(ValueError, match=named):
        read_prompts(write(tmp_path / "prompts.yaml", entries))


@pytest.mark.parametrize("name", ["prompts.json", "prompts.yaml"])
def test_json_is_read_as_json_whatever_the_file_is_called(tmp_path, name):
    text = json.dumps([{"name": " e ", "system": "\U0001f600 Name\tit.\x7f\x85"}], indent="\t")
    assert "\\ud83d" in text and "\t" in text
    file = tmp_path / name
    for mark in ("", "\ufeff"):
        file.write_text(mark + text, encoding="utf8")
        assert read_prompts(file) == {"e": HierarchicalPrompt("\U0001f600 Name\tit.\x7f\x85", query_suffix=None)}


def test_a_json_file_that_is_none_is_not_taken_for_yaml(tmp_path):
    with pytest.raises(ValueError, match="is not valid JSON: .*line 1 column"):
        read_prompts(write(tmp_path / "prompts.json", "[{'name': 'a'}]".replace("'", '"').replace("}", ",}")))


def test_a_merged_mapping_of_yaml_may_replace_a_field(tmp_path):
    text = "- &base {name: a, system: x}\n- {<<: *base, name: b, query_suffix: '?'}\n"
    found = read_prompts(write(tmp_path / "prompts.yaml", text))
    assert found["b"] == HierarchicalPrompt(system="x", query_suffix="?") and list(found) == ["a", "b"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.yaml"):
        read_prompts(tmp_path / "missing.yaml")


def test_presets_come_first_and_keep_their_names():
    assert list(choose_prompts(["both"], OWN)) == ["both", "product", "ask"]
    assert choose_prompts(["both"], {"both": HierarchicalPrompt()}) == {"both": HierarchicalPrompt()}
    with pytest.raises(ValueError, match="another one than the preset 'system'"):
        choose_prompts(["system"], {"system": OWN["product"]})
    assert choose_prompts([], {"system": OWN["product"]}) == {"system": OWN["product"]}


@pytest.mark.parametrize("prompt", [*PRESETS.values(), *OWN.values()])
def test_the_python_and_the_config_that_are_shown_make_the_prompt_again(prompt):
    assert eval(as_python(prompt), {"HierarchicalPrompt": HierarchicalPrompt}) == prompt  # noqa: S307
    values = {"model": "m", "output_dir": "o", "data": [{"path": "p"}], "prompt": prompt.to_dict()}
    assert RunConfig.from_dict(values).prompt == prompt


MARKS = [
    "a: b",
    "\n  two\nlines ",
    "a\x85b",
    "a\u2028b",
    "a\x7fb",
    "\ttab",
    "\U0001f600",
    "ä\xa0",
    "'",
    '"',
    "# no",
    "yes",
    "\ufeff",
]


@pytest.mark.parametrize("text", [*MARKS, "x" * 300 + " " + "y" * 300, "```\n", "\\n", "- a", "{{ x }}"])
def test_the_yaml_that_is_shown_makes_the_prompt_again(text):
    prompt = HierarchicalPrompt(system=f"say {text}", query_suffix={"text": text, "image": f"{text}?"})
    found = yaml.safe_load(as_yaml(prompt, max_seq_length=64))
    assert found["max_seq_length"] == 64 and HierarchicalPrompt(**found["prompt"]) == prompt
    assert eval(as_python(prompt), {"HierarchicalPrompt": HierarchicalPrompt}) == prompt  # noqa: S307


def test_what_a_model_comes_with_is_no_prompt_in_a_config():
    assert yaml.safe_load(as_yaml(None)) == {"prompt": None}
    assert as_entry("as loaded", None) == {"name": "as loaded", "as_loaded": True}
