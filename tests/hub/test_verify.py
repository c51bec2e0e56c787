"""`verify` finds every engine equal on what was exported, and names what differs when something does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from vllm_server import serve

from saha_st.cli import main
from saha_st.hub import verify
from saha_st.hub.engines import PARITY, Comparison, Fixture, Part, first_difference, read_fixtures
from saha_st.hub.export import export_model
from saha_st.hub.parity import write_parity
from saha_st.modules import load_embedder


@pytest.fixture(scope="module")
def exported(_embedder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(_embedder, folder)
    write_parity(_embedder, folder)
    return folder


@pytest.fixture
def changed(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "changed"))


def test_the_layout_is_that_of_the_generative_base_and_of_sentence_transformers(exported, tiny_mllm):
    ours, base = load_file(exported / "model.safetensors"), load_file(tiny_mllm / "model.safetensors")
    assert ours.keys() == base.keys() and all(ours[name].equal(base[name]) for name in base)
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["Qwen2VLForConditionalGeneration"]
    pooling = json.loads((exported / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "lasttoken" and pooling["pooling_mode_lasttoken"] is True
    types = [module["type"] for module in json.loads((exported / "modules.json").read_text())]
    assert all(name.startswith("sentence_transformers.") for name in types)
    assert (exported / "chat_template.jinja").exists() and (exported / "processor_config.json").exists()


def test_an_output_layer_that_is_not_tied_is_left_out_and_the_rest_is_whole(embedder, tmp_path):
    for config in (embedder[0].model.config, embedder[0].model.config.text_config):
        config.tie_word_embeddings = False
    export_model(embedder, tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert "lm_head.weight" not in names and "model.embed_tokens.weight" in names
    again = load_embedder(str(tmp_path), device="cpu")
    assert abs(again.encode_query(["a"]) - embedder.encode_query(["a"])).max() <= 1e-6


def test_the_fixtures_cover_both_tasks_and_every_kind_of_input(exported):
    fixtures, tolerance = read_fixtures(exported)
    labels = {fixture.label for fixture in fixtures}
    assert {"query: text", "document: text", "query: image + text", "document: image"} <= labels
    assert "query: 2 images + text" in labels and tolerance == 1e-5
    assert all(len(fixture.input_ids) == len(fixture.tokens) > 10 for fixture in fixtures)
    distinct = {fixture.vector.round(4).tobytes() for fixture in fixtures}
    assert len(distinct) == len(fixtures), "equal vectors would hide a mistake"


@pytest.mark.parametrize("backend", ["sentence-transformers", "transformers"])
def test_engines_that_load_the_model_agree(exported, backend):
    found = verify(str(exported), backend=backend, device="cpu")
    assert found.is_equal and len(found.comparisons) == 9
    assert min(each.cosine for each in found.comparisons) > 1 - 1e-6


def test_a_server_like_vllm_agrees(exported):
    with serve(exported) as server:
        assert verify(str(exported), backend="vllm", server=f"{server}/v1").is_equal


def test_a_server_that_forgets_the_task_or_the_generation_prompt_is_found_out(exported):
    with serve(exported, chat_template_kwargs={}) as server:
        problems = verify(str(exported), backend="vllm", server=server).problems
    assert problems and all(problem.startswith("query") and "token" in problem for problem in problems)
    with serve(exported, add_generation_prompt=False) as server:
        problems = verify(str(exported), backend="vllm", server=server).problems
    assert len(problems) == 9 and "is missing" in problems[0]


def test_the_key_of_a_server_is_sent_and_what_it_refuses_is_said(exported):
    with serve(exported, api_key="k") as server:
        assert verify(str(exported), backend="vllm", server=server, api_key="k").is_equal
        with pytest.raises(OSError, match="401.*Unauthorized"):
            verify(str(exported), backend="vllm", server=server)
    with pytest.raises(OSError, match="vllm serve MODEL --runner pooling"):
        verify(str(exported), backend="vllm", server="http://127.0.0.1:9")


def test_other_weights_are_found_by_their_cosine(changed):
    weights = load_file(changed / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = -weights[name]
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    found = verify(str(changed), device="cpu")
    assert not found.is_equal and "the cosine is" in found.problems[0]
    assert all(each.difference is None for each in found.comparisons)


def test_another_prompt_is_found_by_its_first_token(changed, capsys):
    template = (changed / "chat_template.jinja").read_text()
    (changed / "chat_template.jinja").write_text(
        template.replace("the given text in one word", "the given text in two")
    )
    assert main(["verify", str(changed), "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "Different: sentence-transformers" in printed and "instead of" in printed
    assert "| document: image | equal | 1.000000 |" in printed, "documents have no suffix, so they stay the same"


def test_the_command_says_equal(exported, capsys):
    assert main(["verify", str(exported), "--device", "cpu"]) == 0
    assert "Equal: sentence-transformers gives the vectors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tei"}, "backend must be one of sentence-transformers, transformers, vllm; got 'tei'"),
        ({"backend": "vllm"}, "vllm serve MODEL --runner pooling"),
        ({"server": "http://localhost"}, "server is for the backend 'vllm'"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(exported, options, message):
    with pytest.raises(ValueError, match=message):
        verify(str(exported), **options)


def test_a_folder_without_or_with_damaged_fixtures_is_said(tiny_mllm, changed):
    with pytest.raises(FileNotFoundError, match="has no parity/parity.json"):
        verify(str(tiny_mllm))
    with pytest.raises(ValueError, match="There is no model folder './nowhere'"):
        verify("./nowhere")
    (changed / PARITY / "parity.json").write_text('{"entries": [{"task": "query"}], "tolerance": 1}')
    with pytest.raises(ValueError, match="is damaged"):
        verify(str(changed))


@pytest.mark.parametrize("name", ["/etc/hostname", "../model.safetensors", "missing.png"])
def test_a_repository_names_pictures_of_its_own_only(changed, name):
    file = changed / PARITY / "parity.json"
    file.write_text(file.read_text().replace("image-0.png", name))
    with pytest.raises(ValueError, match="is no picture in it"):
        verify(str(changed))


def test_nothing_to_compare_is_not_equal(changed):
    (changed / PARITY / "parity.json").write_text('{"entries": [], "tolerance": 1}')
    with pytest.raises(ValueError, match="is damaged"):
        verify(str(changed))


def test_a_vector_that_is_not_a_number_is_not_equal():
    assert not Comparison("query: text", "x", float("nan"), None, 1e-5).is_equal
    assert Comparison("query: text", "x", 1.0, None, 1e-5).problem is None


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 2, 3], None),
        ([1, 2, 3], "token 2 is 3 ('c') instead of 2 ('b')"),
        ([1, 2, 2, 9], "token 3 is 9 instead of 3 ('c')"),
        ([1, 2, 2], "token 3 is missing: 3 ('c')"),
        ([1, 2, 2, 3, 3], "1 tokens too many, from position 4"),
    ],
)
def test_the_first_difference_is_named(ids, message):
    fixture = Fixture("query", (Part("text", "x"),), (1, 2, 2, 3), ("a", "b", "b", "c"), None)
    assert first_difference(fixture, ids) == message


def test_runs_of_equal_tokens_count_once_for_engines_that_do_not_unfold_images():
    fixture = Fixture("query", (Part("text", "x"),), (1, 2, 2, 2, 3), ("a", "b", "b", "b", "c"), None)
    assert first_difference(fixture, [1, 2, 3], folded=True) is None
    assert first_difference(fixture, [1, 3], folded=True) == "token 1 is 3 ('c') instead of 2 ('b')"
