"""A file of prompts: what it may say, and that what is refused is named."""

from __future__ import annotations

import json

import pytest
import yaml

from saha_st.evaluation.prompt_presets import PRESETS, as_entry, as_python, choose_prompts, read_prompts
from saha_st.prompts import SYSTEM, HierarchicalPrompt
from saha_st.training.config import RunConfig

OWN = {
    "product": HierarchicalPrompt(system="Name the product.", query_suffix=None),
    "ask": HierarchicalPrompt(system=None, query_suffix={"text": "\nT:", "image": "\nI:"}, document_suffix='\n"Doc":'),
}


def write(path, entries):
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
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
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_prompt_and_field(tmp_path, entries, named):
    with pytest.raises(ValueError, match=named):
        read_prompts(write(tmp_path / "prompts.yaml", entries))


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
