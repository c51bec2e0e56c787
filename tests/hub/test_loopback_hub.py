"""The loopback Hub behaves as the Hub where a client depends on it."""

from __future__ import annotations

from urllib.request import Request, urlopen

import pytest
from hub.loopback_hub import READER, WRITER
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError

SPACE = "---\ntitle: Demo\nsdk: gradio\ncolorFrom: indigo\ncolorTo: blue\n---\nA demo.\n"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "folder"
    (place / "sub").mkdir(parents=True)
    (place / "README.md").write_text("---\nlicense: mit\n---\nHello.\n")
    (place / "sub" / "weights.safetensors").write_bytes(bytes(range(256)) * 8)
    return place


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_a_folder_comes_back_as_it_went(hub, folder, repo_type):
    if repo_type == "space":
        (folder / "README.md").write_text(SPACE)
    HfApi().create_repo("org/name", repo_type=repo_type, space_sdk="gradio" if repo_type == "space" else None)
    HfApi().upload_folder(repo_id="org/name", repo_type=repo_type, folder_path=folder)
    assert HfApi().repo_info("org/name", repo_type=repo_type).sha == hub.head("org/name", repo_type + "s")
    (folder.parent / "came").mkdir()
    came = snapshot_download("org/name", repo_type=repo_type, local_dir=folder.parent / "came")
    for name in ("README.md", "sub/weights.safetensors"):
        assert (folder / name).read_bytes() == (folder.parent / "came" / name).read_bytes(), came


def test_stale_files_are_deleted_and_the_attributes_stay(hub, folder):
    HfApi().create_repo("org/name")
    HfApi().upload_folder(repo_id="org/name", folder_path=folder)
    (folder / "sub" / "weights.safetensors").rename(folder / "other.safetensors")
    HfApi().upload_folder(repo_id="org/name", folder_path=folder, delete_patterns=["*"])
    assert hub.files("org/name").keys() == {".gitattributes", "README.md", "other.safetensors"}


@pytest.mark.parametrize(
    ("repo_type", "card", "message"),
    [
        ("model", "---\nlicense: [\n---\n", "flow"),
        ("model", "---\nbase_model: /home/ann/model\n---\n", "base_model"),
        ("space", SPACE.replace("indigo", "mauve"), "colorFrom"),
    ],
)
def test_a_card_that_the_hub_would_refuse_is_refused(hub, folder, repo_type, card, message):
    (folder / "README.md").write_text(card)
    HfApi().create_repo("org/name", repo_type=repo_type, space_sdk="gradio" if repo_type == "space" else None)
    with pytest.raises(ValueError, match=f"(?s)Invalid metadata.*{message}"):
        HfApi().upload_folder(repo_id="org/name", repo_type=repo_type, folder_path=folder)


def test_who_may_read_and_write_what(hub, folder):
    HfApi().create_repo("org/secret", private=True)
    HfApi().create_repo("org/open")
    for token in (False, READER):
        with pytest.raises(RepositoryNotFoundError):
            HfApi().model_info("org/secret", token=token)
        with pytest.raises(HfHubHTTPError, match="40[13]"):
            HfApi().upload_folder(repo_id="org/open", folder_path=folder, token=token)
        with pytest.raises(RemoteEntryNotFoundError):
            hf_hub_download("org/open", "config.json", token=token)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi().model_info("org/open", token="hf_mistyped")
    with pytest.raises(HfHubHTTPError, match="409"):
        HfApi().create_repo("org/open", token=WRITER)


def test_a_part_of_a_file_can_be_asked_for(hub, folder):
    HfApi().create_repo("org/name")
    HfApi().upload_folder(repo_id="org/name", folder_path=folder)
    url = f"{hub.url}/org/name/resolve/main/sub/weights.safetensors"
    with urlopen(Request(url, headers={"Range": "bytes=250-259"})) as part:
        assert part.status == 206 and part.headers["Content-Range"] == "bytes 250-259/2048"
        assert part.read() == (folder / "sub" / "weights.safetensors").read_bytes()[250:260]
