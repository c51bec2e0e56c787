"""`verify` finds every engine equal on what was exported, and names what differs when something does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file

from saha_st.cli import main
from saha_st.hub import verification, verify
from saha_st.hub.engines import PARITY, read_parity


@pytest.mark.parametrize("backend", ["sentence-transformers", "transformers"])
def test_engines_that_load_the_model_agree(exported, backend):
    found = verify(str(exported), backend=backend, device="cpu")
    assert found.is_equal and len(found.comparisons) == 9
    assert min(each.cosine for each in found.comparisons) > 1 - 1e-6


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = -weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_other_weights_are_found_by_their_cosine(changed):
    change_weights(changed)
    found = verify(str(changed), device="cpu")
    assert not found.is_equal and "the cosine is" in found.problems[0]
    assert all(each.difference is None for each in found.comparisons)


def test_the_tolerance_is_the_callers_where_given(changed):
    """Rounded to bfloat16, the weights give cosines between 1 - 1e-2 and 1 - 1e-5."""
    weights = load_file(changed / "model.safetensors")
    rounded = {name: weight.to(torch.bfloat16).float() for name, weight in weights.items()}
    save_file(rounded, changed / "model.safetensors", metadata={"format": "pt"})
    found = verify(str(changed), device="cpu")
    assert not found.is_equal and "1e-05 is allowed" in found.problems[0]
    assert verify(str(changed), device="cpu", tolerance=1e-2).is_equal
    assert main(["verify", str(changed), "--device", "cpu", "--tolerance", "1e-2"]) == 0
    lowest = min(each.cosine for each in found.comparisons)
    assert not verify(str(changed), device="cpu", tolerance=(1 - lowest) / 2).is_equal


def test_a_repository_cannot_allow_itself_everything(changed):
    file = changed / PARITY / "parity.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tolerance": 1}))
    assert {each.tolerance for each in verify(str(changed), device="cpu").comparisons} == {1e-2}


def test_another_prompt_is_found_by_its_first_token(changed, capsys):
    template = (changed / "chat_template.jinja").read_text()
    (changed / "chat_template.jinja").write_text(
        template.replace("the given text in one word", "the given text in two")
    )
    assert main(["verify", str(changed), "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "Different: sentence-transformers" in printed and "instead of" in printed
    assert "| 5. document: image | equal | 1.000000 |" in printed, "documents have no suffix, so they stay the same"
    assert "| 1. query: text | differ | " in printed and "\n  1. query: text (sentence-transformers): token" in printed


def test_the_command_prints_what_it_compared_the_table_and_the_verdict(exported, capsys, caplog):
    assert main(["verify", str(exported), "--device", "cpu"]) == 0
    first, empty, *table, before, verdict = capsys.readouterr().out.splitlines()
    assert first == f"{exported}, float32; computed by sentence-transformers" and empty == before == ""
    assert len(table) == 11 and all(line.startswith("|") for line in table)
    assert verdict == f"Equal: sentence-transformers gives the vectors that {exported} was published with."
    assert f"Loading {str(exported)!r} with sentence-transformers." in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tei"}, "backend must be one of sentence-transformers, transformers, vllm; got 'tei'"),
        ({"backend": "vllm"}, r"vllm serve MODEL --runner pooling.*as server \(--server\)"),
        ({"server": "http://localhost"}, r"server \(--server\) does not go with .*loads the model itself"),
        ({"api_key": "k"}, r"api_key \(--api_key\) does not go with the backend 'sentence-transformers'"),
        ({"backend": "vllm", "server": "http://localhost", "device": "cpu"}, r"device \(--device\) does not go with"),
        ({"revision": "v1"}, r"revision \(--revision\) goes with a repository on the Hub, and '.*' is a folder here"),
        ({"tolerance": -1}, "tolerance must lie between 0 and 1, got -1"),
        ({"tolerance": float("nan")}, "tolerance must lie between 0 and 1, got nan"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(exported, options, message):
    with pytest.raises(ValueError, match=message):
        verify(str(exported), **options)


def test_a_folder_without_or_with_damaged_fixtures_is_said(tiny_mllm, changed):
    with pytest.raises(FileNotFoundError, match=f"^'{tiny_mllm}' has no parity/parity.json"):
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


@pytest.mark.parametrize("backend", ["sentence-transformers", "transformers"])
def test_a_home_and_the_folder_of_a_run_are_found(exported, tmp_path, monkeypatch, backend):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(exported, tmp_path / "run" / "final")
    for name in ("~/run/final", "~/run", tmp_path / "run"):
        found = verify(name, backend=backend, device="cpu")
        assert found.is_equal and found.model == str(tmp_path / "run" / "final") and found.commit is None


def upload(folder: Path, **options) -> str:
    HfApi().create_repo("org/saha", exist_ok=True)
    return HfApi().upload_folder(repo_id="org/saha", folder_path=folder, **options).oid


@pytest.mark.parametrize("backend", ["sentence-transformers", "transformers"])
def test_vectors_and_weights_are_of_one_commit_whatever_is_pushed_in_between(
    hub, exported, changed, monkeypatch, backend
):
    first = upload(exported)
    change_weights(changed)

    def read_and_push(*args, **kwargs):
        parity = read_parity(*args, **kwargs)
        upload(changed)
        return parity

    with monkeypatch.context() as patched:
        patched.setattr(verification, "read_parity", read_and_push)
        found = verify("org/saha", backend=backend, device="cpu")
    assert found.is_equal and found.commit == first != hub.head("org/saha")
    assert not verify("org/saha", backend=backend, device="cpu").is_equal


@pytest.mark.parametrize("revision", ["v1", "main", "commit"])
def test_a_revision_is_verified_and_its_commit_named(hub, exported, changed, capsys, revision):
    first = upload(exported)
    HfApi().create_tag("org/saha", tag="v1")
    change_weights(changed)
    second = upload(changed)
    revision = first if revision == "commit" else revision
    status = main(["verify", "org/saha", "--revision", revision, "--device", "cpu"])
    commit = second if revision == "main" else first
    assert status == (1 if commit == second else 0)
    printed = capsys.readouterr().out
    assert printed.startswith(f"org/saha at {commit[:12]}, float32; computed by sentence-transformers\n")


@pytest.mark.parametrize("backend", ["sentence-transformers", "transformers"])
def test_what_is_in_the_cache_is_verified_without_a_connection(hub, exported, monkeypatch, backend):
    commit = upload(exported)
    assert verify("org/saha", backend=backend, device="cpu").is_equal
    asked = len(hub.log)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (None, "main", commit):
        found = verify("org/saha", backend=backend, revision=revision, device="cpu")
        assert found.is_equal and found.commit == commit
    assert len(hub.log) == asked


def test_a_repository_without_fixtures_or_with_damaged_ones_is_called_by_its_name(hub, tiny_mllm, changed):
    commit = upload(tiny_mllm)
    with pytest.raises(FileNotFoundError, match=f"^'org/saha' at {commit[:12]} has no parity/parity.json"):
        verify("org/saha", device="cpu")
    with pytest.raises(FileNotFoundError, match="^'org/saha' at main has no parity/parity.json"):
        verify("org/saha", revision="main", device="cpu")
    (changed / PARITY / "vectors.safetensors").unlink()
    upload(changed, revision="main")
    with pytest.raises(ValueError, match="^parity/ of 'org/saha' at [0-9a-f]{12} is damaged"):
        verify("org/saha", device="cpu")


def test_a_revision_or_a_repository_that_is_not_there_is_said(hub, exported):
    upload(exported)
    with pytest.raises(OSError, match="'org/saha'.*(?s:.*)v9"):
        verify("org/saha", revision="v9", device="cpu")
    with pytest.raises(OSError, match="There is no repository 'org/other' that you may read"):
        verify("org/other", device="cpu")
    with pytest.raises(ValueError, match="Did you mean 'saha-tiny'"):
        verify("saha-tinny", device="cpu")
