"""Publish over HTTP, load as a stranger would, and break the connection in between."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub.loopback_hub import DROP, READER, VISITOR, WRITER, Fault, LoopbackHub
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from sentence_transformers import SentenceTransformer

from saha_st.cli import main
from saha_st.hub import publish, verify
from saha_st.hub.repository import Repository
from saha_st.modules import load_embedder
from saha_st.modules.merging import has_adapter

STRANGER = """
import sys
sys.modules["saha_st"] = None  # whoever imports it gets an ImportError
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

model, image = SentenceTransformer("org/saha", device="cpu"), Image.open(sys.argv[1])
inputs = ["stars", {"image": image}, {"image": image, "text": "stars"}]
np.savez(sys.argv[2], query=model.encode_query(inputs), document=model.encode_document(inputs))
"""


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def load(hub: LoopbackHub, tmp_path: Path):
    """Load with plain Sentence Transformers, each time from an empty cache."""
    caches = iter(range(100))

    def load(name: str = "org/saha", **options) -> SentenceTransformer:
        return SentenceTransformer(name, device="cpu", cache_folder=str(tmp_path / f"cache-{next(caches)}"), **options)

    return load


def vectors(model: SentenceTransformer) -> np.ndarray:
    return model.encode_query(["stars", "a red circle"])


def change(model: SentenceTransformer, seed: int = 0) -> None:
    """Give a model other weights, as training would."""
    before, generator = vectors(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model[0].model.language_model.layers.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    assert np.abs(vectors(model) - before).max() > 0.01


def same(left: SentenceTransformer, right: SentenceTransformer) -> bool:
    return bool(np.allclose(vectors(left), vectors(right), atol=1e-5))


@pytest.mark.slow
def test_a_stranger_with_an_empty_cache_and_without_this_package_gets_the_vectors(
    hub, embedder, picture, stranger, tmp_path
):
    published = publish(embedder, "org/saha")
    assert published.commit == hub.head("org/saha") and published.commit in published.url
    assert hub.files("org/saha").keys() - {".gitattributes"} == published.files.keys()
    picture.save(tmp_path / "image.png")
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "image.png"), str(tmp_path / "out.npz")]
    asked = len(hub.log)
    finished = subprocess.run(command, capture_output=True, text=True, env=stranger, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    inputs = ["stars", {"image": picture}, {"image": picture, "text": "stars"}]
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["query"], embedder.encode_query(inputs), atol=1e-5)
    np.testing.assert_allclose(found["document"], embedder.encode_document(inputs), atol=1e-5)
    assert np.ptp(found["document"], axis=0).max() > 0.01  # the rows differ, so equality means something
    revisions = {line.split("/resolve/")[1].split("/")[0] for line in hub.log[asked:] if "/resolve/" in line}
    assert revisions == {published.commit}  # every file is of the one commit
    assert any(line.startswith("GET /_lfs/") for line in hub.log[asked:])


@pytest.mark.parametrize("mode", ["lfs", "regular"])
def test_what_is_published_is_what_is_loaded(hub, unchecked, embedder, load, monkeypatch, mode):
    hub.mode = mode
    # With hf_xet, huggingface_hub uploads by another way, even where the Hub wants every file as a regular one.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", mode == "lfs")
    publish(embedder, "org/saha")
    assert any(line.startswith("PUT /_lfs/") for line in hub.log) == (mode == "lfs")
    assert same(load(), embedder)


@pytest.mark.slow
def test_a_new_revision_is_loaded_and_the_old_one_can_be_pinned(hub, unchecked, embedder, load, tmp_path):
    cache, old = str(tmp_path / "cache"), vectors(embedder)
    first = publish(embedder, "org/saha")
    HfApi().create_tag("org/saha", tag="v1")
    np.testing.assert_allclose(
        vectors(SentenceTransformer("org/saha", cache_folder=cache, device="cpu")), old, atol=1e-5
    )
    change(embedder)
    second = publish(embedder, "org/saha", commit_message="Train on")
    assert first.commit != second.commit == hub.head("org/saha")
    assert same(SentenceTransformer("org/saha", cache_folder=cache, device="cpu"), embedder)  # a cache is no obstacle
    assert same(load(), embedder)
    for revision in (first.commit, first.commit[:8], "v1"):
        np.testing.assert_allclose(vectors(load(revision=revision)), old, atol=1e-5)
        np.testing.assert_allclose(vectors(load_embedder("org/saha", revision=revision, device="cpu")), old, atol=1e-5)
    with pytest.raises(OSError, match="(?i)revision"):
        load_embedder("org/saha", revision="v2", device="cpu")


def test_a_branch_and_a_pull_request_leave_main_as_it_is(hub, unchecked, embedder, load):
    publish(embedder, "org/saha")
    main_head, old = hub.head("org/saha"), vectors(embedder)
    change(embedder)
    publish(embedder, "org/saha", revision="next")
    pull_request = publish(embedder, "org/saha", create_pr=True)
    assert hub.head("org/saha") == main_head and pull_request.url.endswith("/discussions/1")
    np.testing.assert_allclose(vectors(load()), old, atol=1e-5)
    assert same(load(revision="next"), embedder) and same(load(revision="refs/pr/1"), embedder)


def test_who_may_not_write_may_open_a_pull_request_on_what_is_there(hub, unchecked, embedder, monkeypatch, load):
    publish(embedder, "org/saha", revision="next", commit_message="First")
    assert hub.repos["models", "org/saha"].commits[hub.repos["models", "org/saha"].branches["next"]].message == "First"
    monkeypatch.setenv("HF_TOKEN", VISITOR)
    change(embedder)
    with pytest.raises(OSError, match="does not let you write"):
        publish(embedder, "org/saha")
    publish(embedder, "org/saha", create_pr=True)
    assert same(load(revision="refs/pr/1"), embedder)
    monkeypatch.setattr("saha_st.hub.publishing._write", lambda *args, **kwargs: pytest.fail("the long work began"))
    with pytest.raises(ValueError, match="revision: 'org/saha' has no 'nxt' to open a pull request on"):
        publish(embedder, "org/saha", create_pr=True, revision="nxt")
    with pytest.raises(ValueError, match="create_pr: there is no repository 'org/other'"):
        publish(embedder, "org/other", create_pr=True)


def test_what_is_public_is_not_published_as_private(hub, unchecked, embedder):
    publish(embedder, "org/saha")
    with pytest.raises(ValueError, match="private: the repository 'org/saha' exists and is public"):
        publish(embedder, "org/saha", private=True)


def test_of_what_was_there_only_what_a_loader_or_card_reads_goes_and_a_dry_run_says_so(
    hub, unchecked, embedder, monkeypatch
):
    ours = ["model-00001-of-00002.safetensors", "adapter/adapter_config.json", "2_Dense/config.json", "results/T.json"]
    ours += ["model.safetensors.index.json", "adapter_model.safetensors", "vocab.json", "preprocessor_config.json"]
    theirs = ["LICENSE", "saha-Q4_K_M.gguf", "docs/usage.md", "assets/logo.svg", "onnx/model.onnx"]
    theirs += ["results/mine/a.csv", "data.json", "labels.bin"]
    HfApi().create_repo("org/saha")
    for name in ours + theirs:
        HfApi().upload_file(repo_id="org/saha", path_in_repo=name, path_or_fileobj=b"{}")
    for revision in (None, "next"):
        lines = []
        publish(embedder, "org/saha", dry_run=True, report=lines.append, revision=revision)
        assert sorted(line.split()[1] for line in lines if line.strip().startswith("delete")) == sorted(ours)
        assert sorted(line.split()[1] for line in lines if line.strip().startswith("keep")) == sorted(theirs)
        outdated = [line.split()[1] for line in lines if "convert it anew" in line]
        assert sorted(outdated) == ["onnx/model.onnx", "saha-Q4_K_M.gguf"]
    published = publish(embedder, "org/saha")
    assert hub.files("org/saha").keys() == {".gitattributes", *theirs, *published.files}


def test_a_push_in_between_is_not_overwritten(hub, unchecked, embedder, monkeypatch):
    publish(embedder, "org/saha")
    change(embedder)
    listed = Repository.changes

    def list_and_push(self, files):
        found = listed(self, files)
        HfApi().upload_file(repo_id="org/saha", path_in_repo="LICENSE", path_or_fileobj=b"terms")
        return found

    monkeypatch.setattr(Repository, "changes", list_and_push)
    with pytest.raises(OSError, match="refused .A commit has happened since"):
        publish(embedder, "org/saha")


def test_a_dry_run_says_that_it_sees_no_repository(hub, unchecked, embedder, logged_out):
    publish(embedder, "org/saha", private=True)
    logged_out()
    for name in ("org/saha", "org/new"):
        lines = []
        publish(embedder, name, dry_run=True, report=lines.append)
        assert f"On the Hub there is no {name} yet, or none that you may see." in lines


def test_an_unchanged_model_makes_no_commit(hub, unchecked, embedder, tmp_path):
    embedder.save_pretrained(str(tmp_path / "model"))
    first = publish(tmp_path / "model", "org/saha")
    again = publish(tmp_path / "model", "org/saha")
    assert again.commit == first.commit
    assert sum("/commit/" in line for line in hub.log) == 1


@pytest.mark.parametrize(
    "fault",
    [("PUT /_lfs/", DROP), ("PUT /_lfs/", 403), ("POST .*/commit/", 403), ("POST .*/commit/", DROP)],
    ids=["connection lost", "upload refused", "commit refused", "connection lost in the commit"],
)
def test_an_interrupted_upload_changes_nothing_visible_and_can_be_repeated(hub, unchecked, embedder, load, fault):
    publish(embedder, "org/saha")
    head, files, old = hub.head("org/saha"), hub.files("org/saha"), vectors(embedder)
    change(embedder)
    pattern, status = fault
    hub.fail[pattern] = Fault(status)
    what = "interrupted" if status == DROP else "refused"
    with pytest.raises(OSError, match=f"(?s)upload to 'org/saha' was {what} .*run the same command again") as raised:
        publish(embedder, "org/saha")
    assert status == DROP or "Told to answer 403" in str(raised.value)
    assert hub.head("org/saha") == head and hub.files("org/saha") == files
    np.testing.assert_allclose(vectors(load()), old, atol=1e-5)
    hub.fail.clear()
    publish(embedder, "org/saha")
    assert same(load(), embedder)


def test_a_connection_that_is_lost_once_is_no_interruption(hub, unchecked, embedder, load):
    hub.fail["PUT /_lfs/"] = Fault(DROP, times=1)
    publish(embedder, "org/saha")
    assert hub.fail["PUT /_lfs/"].times == 0
    assert same(load(), embedder)


def test_a_first_upload_that_is_interrupted_leaves_an_empty_repository(hub, unchecked, embedder, load, tmp_path):
    hub.fail["POST .*/commit/"] = Fault(DROP)
    with pytest.raises(OSError, match="interrupted"):
        publish(embedder, "org/saha", output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists(), "so that the same command can be run again"
    assert hub.files("org/saha").keys() == {".gitattributes"}
    hub.fail.clear()
    publish(embedder, "org/saha", output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file() and list(tmp_path.glob(".saha-st-publish-*")) == []
    assert same(load(), embedder)


@pytest.fixture
def adapter_repository(hub, tiny_mllm, tmp_path) -> str:
    """A repository as `save_pretrained` of an unmerged model makes it, which loads as base and adapter."""
    from peft import LoraConfig

    model = load_embedder(str(tiny_mllm), device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(str(tmp_path / "adapter"))
    HfApi().create_repo("org/saha")
    HfApi().upload_folder(repo_id="org/saha", folder_path=tmp_path / "adapter")
    return "org/saha"


def test_merged_weights_replace_an_adapter_that_was_there(hub, unchecked, adapter_repository, embedder, load):
    assert {"adapter_config.json", "adapter_model.safetensors"} <= hub.files("org/saha").keys()
    old = load_embedder("org/saha", device="cpu")
    assert has_adapter(old) and not same(old, embedder)
    published = publish("org/saha", "org/saha")  # as it is, merged
    assert published.adapter is not None
    assert not any(name.startswith("adapter") for name in hub.files("org/saha"))
    merged = load()
    assert same(merged, old) and not has_adapter(merged)
    publish(embedder, "org/saha")
    assert same(load(), embedder)


def test_a_private_repository_is_said_to_be_out_of_reach(hub, unchecked, embedder, load, logged_out, capsys):
    publish(embedder, "org/saha", private=True)
    assert hub.repos["models", "org/saha"].private
    assert same(load(), embedder)
    logged_out()
    for token in (None, READER):
        with pytest.raises(OSError, match="(?s)'org/saha'.*private.*token"):
            load_embedder("org/saha", token=token, device="cpu")
        with pytest.raises(OSError, match="(?s)'org/saha'.*private.*HF_TOKEN"):
            verify("org/saha", token=token, device="cpu")
        with pytest.raises(OSError, match="(?s)'org/saha'"):
            publish("org/saha", "org/copy", token=token, dry_run=True)
    assert main(["verify", "org/saha"]) != 0
    assert "private" in capsys.readouterr().err
    assert same(load_embedder("org/saha", token=WRITER, device="cpu"), embedder)
    assert verify("org/saha", token=WRITER, device="cpu").is_equal


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "Not logged in.*HF_TOKEN"),
        ("hf_mistyped", "does not let you write.*hf auth login"),
        (READER, "org/saha"),
    ],
    ids=["none", "mistyped", "may only read"],
)
@pytest.mark.parametrize("exists", [True, False], ids=["existing", "new"])
def test_a_token_that_may_not_write_is_found_out_before_the_long_work(
    hub, monkeypatch, logged_out, token, message, exists
):
    if exists:
        HfApi().create_repo("org/saha")
    repositories = len(hub.repos)
    logged_out()
    monkeypatch.setattr("saha_st.hub.publishing._write", lambda *args, **kwargs: pytest.fail("the long work began"))
    with pytest.raises(OSError, match=f"(?s){message}"):
        publish("saha-tiny", "org/saha", token=token)
    assert len(hub.repos) == repositories


def test_the_command_publishes_and_says_where(hub, unchecked, embedder, load, tmp_path, capsys):
    embedder.save_pretrained(str(tmp_path / "model"))
    assert main(["publish", str(tmp_path / "model"), "org/saha", "--dry-run"]) == 0
    assert not hub.repos
    assert main(["publish", str(tmp_path / "model"), "org/saha", "--private"]) == 0
    assert hub.repos["models", "org/saha"].private
    assert f"/org/saha/commit/{hub.head('org/saha')}" in capsys.readouterr().out
    assert same(load(), embedder)


@pytest.fixture
def authors(hub, tiny_mllm, tmp_path) -> dict[str, SentenceTransformer]:
    """The authors' repositories: full weights, and an adapter of a base whose main has moved on since."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2VLForConditionalGeneration

    api = HfApi()
    for name in ("lab/base", "lab/weights", "lab/adapter"):
        api.create_repo(name)
    base = api.upload_folder(repo_id="lab/base", folder_path=tiny_mllm).oid
    api.upload_folder(repo_id="lab/weights", folder_path=tiny_mllm)
    config = LoraConfig(r=2, use_dora=True, target_modules=["q_proj", "down_proj"], revision=base)
    model = get_peft_model(Qwen2VLForConditionalGeneration.from_pretrained("lab/base"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["revision"] == base
    api.upload_folder(repo_id="lab/adapter", folder_path=tmp_path / "adapter")
    api.delete_file("model.safetensors", "lab/base")
    return {name: load_embedder(f"lab/{name}", device="cpu") for name in ("weights", "adapter")}


@pytest.mark.parametrize("name", ["weights", "adapter"])
def test_the_authors_checkpoints_are_published_in_the_new_layout(hub, unchecked, authors, embedder, load, name):
    assert same(authors[name], embedder) == (name == "weights")
    publish(f"lab/{name}", "org/saha")
    files = hub.files("org/saha")
    assert "modules.json" in files and "adapter_config.json" not in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == {"weights": "lab/weights", "adapter": "lab/base"}[name]
    assert ("lab/adapter" in card.text) == (name == "adapter")
    assert same(load(), authors[name])
