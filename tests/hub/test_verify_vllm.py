"""`verify` against a server like vLLM: equal, different, or no such server at all."""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from vllm_server import serve

from saha_st.cli import main
from saha_st.hub import verify


def test_a_server_like_vllm_agrees(exported):
    with serve(exported) as server:
        assert verify(str(exported), backend="vllm", server=f"{server}/v1").is_equal


def test_a_server_that_forgets_the_task_or_the_generation_prompt_is_found_out(exported):
    with serve(exported, chat_template_kwargs={}) as server:
        problems = verify(str(exported), backend="vllm", server=server).problems
    assert problems and all("query" in problem and "token" in problem for problem in problems)
    with serve(exported, add_generation_prompt=False) as server:
        problems = verify(str(exported), backend="vllm", server=server).problems
    assert len(problems) == 9 and "is missing" in problems[0]


def test_every_kind_of_input_is_asked_for_with_its_task(exported):
    with serve(exported) as server:
        found = verify(str(exported), backend="vllm", server=server)
    kinds = {each.label.split(". ")[1] for each in found.comparisons}
    assert {f"{task}: {kind}" for task in ("query", "document") for kind in ("text", "image", "image + text")} <= kinds
    assert all(each.is_equal and each.misfit is None for each in found.comparisons) and found.hint is None


def test_the_request_in_the_readme_gives_the_vector_of_a_query(exported, embedder):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf8")
    (line,) = re.findall(r"^curl .*/v1/embeddings .*", readme, flags=re.MULTILINE)
    url, *_, body = shlex.split(line)[1:]
    with serve(exported) as server:
        data = json.dumps(json.loads(body) | {"model": "served"}).encode()
        request = urllib.request.Request(url.replace("http://localhost:8000", server), data)
        with urllib.request.urlopen(request) as response:
            vector = json.load(response)["data"][0]["embedding"]
    np.testing.assert_allclose(vector, embedder.encode_query(["a red circle"])[0], atol=1e-5)


def test_a_server_that_embeds_without_the_task_is_told_from_other_weights(exported, capsys):
    with serve(exported, embeds_with_task=False) as server:
        found = verify(str(exported), backend="vllm", server=server)
        assert main(["verify", str(exported), "--backend", "vllm", "--server", server]) == 1
    assert all("query" in problem and "the cosine is" in problem for problem in found.problems)
    assert len(found.problems) == sum("query" in each.label for each in found.comparisons)
    assert "makes vectors without the task" in found.hint and "takes chat_template_kwargs" in found.hint
    assert found.hint in capsys.readouterr().out
    with serve(exported, chat_template_kwargs={}) as server:
        assert "makes tokens and vectors without the task" in verify(str(exported), backend="vllm", server=server).hint


def test_another_chat_template_is_found_by_its_first_token(exported):
    template = (exported / "chat_template.jinja").read_text(encoding="utf8")
    other = template.replace("Given only text, describe the text in one word.", "Describe it.")
    assert other != template
    with serve(exported, chat_template=other) as server:
        found = verify(str(exported), backend="vllm", server=server)
    assert len(found.problems) == len(found.comparisons)
    assert all("token" in problem and "instead of" in problem for problem in found.problems)
    assert "serve this repository, without --chat-template" in found.hint


@pytest.mark.parametrize("change", [{"pooling": "MEAN"}, {"normalizes": False}], ids=["mean", "not normalised"])
def test_another_pooler_is_found_by_its_vectors(exported, change):
    with serve(exported, **change) as server:
        found = verify(str(exported), backend="vllm", server=server)
    expected = "the cosine is" if "pooling" in change else "the vector has length"
    assert len(found.problems) == len(found.comparisons) and all(expected in problem for problem in found.problems)
    assert all(each.difference is None for each in found.comparisons), "the tokens are right"
    assert """--pooler-config '{"pooling_type": "LAST"}'""" in found.hint


def test_the_key_of_a_server_is_sent_and_what_it_refuses_is_said(exported):
    with serve(exported, api_key="k") as server:
        assert verify(str(exported), backend="vllm", server=server, api_key="k").is_equal
        with pytest.raises(OSError, match="401.*Unauthorized"):
            verify(str(exported), backend="vllm", server=server)
    with pytest.raises(OSError, match="vllm serve MODEL --runner pooling"):
        verify(str(exported), backend="vllm", server="http://127.0.0.1:9")


LIST_OF_NUMBERS = r'expected \{"data": \[\{"embedding": \[number, …\]\}\]\}'


@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        ("/v1/models", b'{"data": []}', r'/v1/models does not .*expected \{"data": \[\{"id": name\}\]\}, got \{"data'),
        ("/v1/models", b'["served"]', "/v1/models does not answer as `vllm serve MODEL --runner pooling` does"),
        ("/v1/models", b"<html>Welcome</html>", "/v1/models .*got <html>Welcome</html>"),
        ("/v1/models", b"", "/v1/models does not answer as"),
        ("/tokenize", b'{"count": 3}', r'/tokenize .*expected \{"tokens": \[number, …\]\}, got \{"count": 3\}'),
        ("/tokenize", b'{"tokens": null}', "/tokenize does not answer as"),
        ("/tokenize", b'{"tokens": ["a"]}', "/tokenize does not answer as"),
        ("/v1/embeddings", b'{"data": []}', f"/v1/embeddings .*{LIST_OF_NUMBERS}"),
        ("/v1/embeddings", b'{"data": [{"embedding": "zcxMPQ=="}]}', f"{LIST_OF_NUMBERS}, got .*zcxMPQ=="),
        ("/v1/embeddings", b'{"data": [{"embedding": [[1, 0]]}]}', LIST_OF_NUMBERS),
        ("/v1/embeddings", b'{"data": [{"embedding": [null]}]}', LIST_OF_NUMBERS),
        ("/v1/embeddings", b'{"object": "error", "message": "no such model"}', "got .*no such model"),
    ],
)
def test_an_answer_that_vllm_would_not_give_is_said_with_what_was_expected(exported, path, answer, message):
    with serve(exported, answers={path: answer}) as server:
        with pytest.raises(OSError, match=message) as error:
            verify(str(exported), backend="vllm", server=server)
        assert str(error.value).startswith(server) and "\n" not in str(error.value)


@pytest.mark.parametrize("server", ["localhost:9", "http://127.0.0.1:port", "http://127.0.0.1:9/v1"])
def test_an_address_without_a_server_is_said(exported, server, capsys):
    assert main(["verify", str(exported), "--backend", "vllm", "--server", server]) == 2
    assert "does not answer" in (printed := capsys.readouterr().err) and "server (--server)" in printed


def test_a_vector_of_other_dimensions_is_said(exported):
    with serve(exported, answers={"/v1/embeddings": b'{"data": [{"embedding": [1, 0]}]}'}) as server:
        found = verify(str(exported), backend="vllm", server=server)
    assert found.problems[0] == "1. query: text (vllm): the vector has 2 dimensions instead of 32"
    assert "which normalises all dimensions" in found.hint and "| equal | nan, but the vector has 2 dim" in found.table


def test_what_the_server_serves_is_named(exported, capsys):
    name = json.dumps({"data": [{"id": "served"}, {"id": "another"}]}).encode()
    with serve(exported, answers={"/v1/models": name}) as server:
        assert verify(str(exported), backend="vllm", server=server).served == "served"
        assert main(["verify", str(exported), "--backend", "vllm", "--server", server]) == 0
    assert f"{exported}, float32; computed by vllm, which serves 'served'\n" in capsys.readouterr().out


def test_half_precision_on_the_server_is_told_from_other_weights(exported, changed, capsys):
    with serve(exported, dtype="bfloat16") as server:
        found = verify(str(exported), backend="vllm", server=server)
        assert not found.is_equal and "--dtype float32" in found.hint
        assert verify(str(exported), backend="vllm", server=server, tolerance=1e-2).hint is None
        assert main(["verify", str(exported), "--backend", "vllm", "--server", server]) == 1
        assert "--dtype float32" in capsys.readouterr().out
    weights = load_file(changed / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= -1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    with serve(changed) as server:
        found = verify(str(exported), backend="vllm", server=server)
    assert not found.is_equal and "or has other weights" in found.hint
