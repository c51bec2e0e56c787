"""`write_parity` covers every kind of input, and says how exact and by which engines its vectors can be computed."""

from __future__ import annotations

import json

import pytest
import torch
from sentence_transformers.base.modules import Dense

from saha_st.hub import publish, verify
from saha_st.hub.engines import ENGINES, FIXTURES_FILE, PARITY, read_parity
from saha_st.hub.export import export_model
from saha_st.hub.parity import engines_for, write_parity
from saha_st.prompts import HierarchicalPrompt


def test_the_fixtures_cover_both_tasks_and_every_kind_of_input(exported):
    fixtures = read_parity(exported).fixtures
    labels = {fixture.label.split(". ")[1] for fixture in fixtures}
    assert {"query: text", "document: text", "query: image + text", "document: image"} <= labels
    assert "query: 2 images + text" in labels
    assert all(len(fixture.input_ids) == len(fixture.tokens) > 10 for fixture in fixtures)
    distinct = {fixture.vector.round(4).tobytes() for fixture in fixtures}
    assert len(distinct) == len(fixtures), "equal vectors would hide a mistake"


def test_the_inputs_are_told_apart_by_their_place(exported):
    labels = [fixture.label for fixture in read_parity(exported).fixtures]
    assert labels[:4] == ["1. query: text", "2. query: text", "3. query: text", "4. document: text"]
    assert [int(label.split(".")[0]) for label in labels] == list(range(1, 10))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3), (torch.float16, 5e-3)], ids=str
)
def test_the_tolerance_is_that_of_the_precision(embedder, tmp_path, dtype, tolerance):
    embedder.to(dtype)
    write_parity(embedder, tmp_path)
    found = read_parity(tmp_path)
    assert found.tolerance == tolerance and found.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("backend", ["sentence-transformers", "transformers"])
def test_a_model_in_half_precision_is_equal_by_its_own_tolerance(embedder, tmp_path, backend):
    embedder.to(torch.bfloat16)
    export_model(embedder, tmp_path)
    write_parity(embedder, tmp_path)
    found = verify(str(tmp_path), backend=backend, device="cpu")
    assert found.is_equal and found.dtype == "bfloat16" and {each.tolerance for each in found.comparisons} == {5e-3}


def pool_means(model):
    model[1].pooling_mode = "mean"


def add_dense(model):
    torch.manual_seed(0)
    model.insert(2, Dense(32, 16, activation_function=torch.nn.Identity()))


def leave_lengths(model):
    del model[-1]


def shorten(model):
    model.truncate_dim = 16


def prompt_outside_the_template(model):
    model.prompts = {"query": "Find what is asked for.", "document": "Find what is asked for."}


def prompt_a_task_outside_the_template(model):
    model.prompts["document"] = "Say what it is."


def no_hierarchical_prompt(model):
    model[0].processor.chat_template = HierarchicalPrompt.strip(model[0].chat_template)
    model[0].tokenizer.chat_template = model[0].processor.chat_template


def close_the_turn(model):
    model[0].processing_kwargs["chat_template"]["add_generation_prompt"] = False


def tell_the_template_more(model):
    model[0].processing_kwargs["chat_template"]["enable_thinking"] = False


def test_every_engine_computes_the_last_token_of_a_prompt_in_the_template(embedder, exported):
    assert engines_for(embedder) == list(ENGINES) == ["sentence-transformers", "transformers", "vllm"]
    assert read_parity(exported).engines == tuple(ENGINES)
    embedder.prompts = {}  # the template has it all
    assert engines_for(embedder) == list(ENGINES)


@pytest.mark.parametrize(
    "change",
    [
        pool_means,
        add_dense,
        leave_lengths,
        shorten,
        prompt_outside_the_template,
        prompt_a_task_outside_the_template,
        no_hierarchical_prompt,
        close_the_turn,
        tell_the_template_more,
    ],
)
def test_other_engines_are_left_out_where_they_know_only_a_part_of_the_steps(embedder, change):
    change(embedder)
    assert engines_for(embedder) == ["sentence-transformers"]


@pytest.mark.parametrize("change", [pool_means, add_dense, shorten, prompt_outside_the_template])
def test_the_engines_that_are_left_out_are_refused_and_do_get_other_vectors(embedder, tmp_path, change):
    change(embedder)
    export_model(embedder, tmp_path)
    write_parity(embedder, tmp_path)
    assert verify(str(tmp_path), device="cpu").is_equal
    for options in ({"backend": "transformers", "device": "cpu"}, {"backend": "vllm", "server": "http://127.0.0.1:9"}):
        with pytest.raises(ValueError, match=r"cannot compute .*last token.*\(--backend\) sentence-transformers\.$"):
            verify(str(tmp_path), **options)
    file = tmp_path / PARITY / FIXTURES_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "engines": list(ENGINES)}))
    assert not verify(str(tmp_path), backend="transformers", device="cpu").is_equal


@pytest.mark.slow
def test_a_model_that_only_sentence_transformers_can_run_is_published(embedder):
    pool_means(embedder)
    found = publish(embedder, "org/saha", dry_run=True)
    assert {each.engine for each in found.comparisons} == {"sentence-transformers"} and len(found.comparisons) == 9


def test_files_that_name_no_engines_are_those_of_every_engine(changed):
    file = changed / PARITY / FIXTURES_FILE
    stored = json.loads(file.read_text())
    del stored["engines"]
    file.write_text(json.dumps(stored))
    assert read_parity(changed).engines == tuple(ENGINES)
    assert verify(str(changed), backend="transformers", device="cpu").is_equal
