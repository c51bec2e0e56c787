"""`verify` against a server like vLLM: equal, different, or no such server at all."""

from __future__ import annotations

import json

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
    assert found.hint is None


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
    assert not found.is_equal and found.hint is None
