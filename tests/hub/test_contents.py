"""What must not be published is found, each kind by name; what belongs to a model is left alone."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from saha_st.hub.contents import find_problems, list_files


def found(folder: Path, **options) -> dict[str, str]:
    return {finding.file: str(finding) for finding in find_problems(folder, **options)}


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a Hugging Face token", "token: hf_" + "a1B2" * 9),
        ("an OpenAI or Anthropic key", "key=sk-proj-" + "x7" * 20),
        ("a GitHub token", "ghp_" + "Z9" * 18),
        ("an AWS key", "AKIA" + "ABCDEFGH12345678"),
        ("a Google key", "AIza" + "b" * 35),
        ("a private key", "-----BEGIN RSA PRIVATE KEY-----"),
        ("a password in a URL", "https://somebody:secret@example.org/data"),
    ],
)
@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "results/Task.json", "chat_template.jinja"])
def test_a_secret_is_named_with_its_line_whatever_file_it_is_in(tmp_path, name, what, text):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"fine\nfine\n{text}\n")
    assert f"line 3 looks like {what}" in found(tmp_path)[name]


@pytest.mark.parametrize(
    "path",
    ["/home/ann/data/photos", "/root/run/final", "~/models/x", "/tmp/abc/x.json", r"C:\Users\Ann\data", "/nfs/team/x"],
)
def test_a_path_of_this_machine_is_named(tmp_path, path):
    (tmp_path / "recipe.yaml").write_text(f"model: org/name\ndata:\n- path: '{path}'\n")
    assert repr(path) in found(tmp_path)["recipe.yaml"]


def test_what_only_looks_like_a_path_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text(
        "See https://example.org/home/page, `org/name`, </head>, 1/2, and/or; POST /v1/embeddings, \\nRepresent/text."
    )
    (tmp_path / "config.json").write_text(
        '{"_name": "Qwen/Qwen2-VL-2B-Instruct", "route": "/v1", "suffix": "text/image"}'
    )
    (tmp_path / "chat_template.jinja").write_text("{{ 'Q:\\nHow many? A:\\n' }}")
    (tmp_path / "tokenizer.json").write_text('{"vocab": {"/home/x": 1, "/usr/local/bin": 2}}')
    assert not found(tmp_path)


def test_pickles_are_found_by_name_and_by_content(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04anything")
    (tmp_path / "training_args.json").write_bytes(pickle.dumps({"lr": 1e-5}))
    with zipfile.ZipFile(tmp_path / "notes.txt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    problems = found(tmp_path)
    assert len(problems) == 3 and all("pickle" in text for text in problems.values())


def test_code_links_and_files_of_other_kinds_are_found(tmp_path):
    (tmp_path / "modeling.py").write_text("print()")
    (tmp_path / "db.sqlite3").write_bytes(b"SQLite format 3")
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    problems = found(tmp_path)
    assert "code" in problems["modeling.py"] and "kind" in problems["db.sqlite3"] and "link" in problems["link.json"]


def test_pictures_are_only_where_they_are_accounted_for(tmp_path):
    for name in ("parity/image-0.png", "assets/mining.png", "assets/sample-0.jpg", "photo.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "README.md").write_text("![](data:image/png;base64,iVBORw0KGgo=)")
    problems = found(tmp_path, wanted_pictures=frozenset({"assets/mining.png"}))
    assert set(problems) == {"assets/sample-0.jpg", "photo.webp", "README.md"}


def test_the_metadata_of_weights_is_looked_at(tmp_path):
    save_file({"x": np.zeros(2, np.float32)}, tmp_path / "model.safetensors", metadata={"made": "/home/ann/run/7"})
    assert "/home/ann/run/7" in found(tmp_path)["model.safetensors"]


def test_files_are_listed_with_their_sizes(tmp_path):
    (tmp_path / ".eval_results").mkdir()
    (tmp_path / ".eval_results" / "Task.yaml").write_text("a: 1")
    (tmp_path / "config.json").write_text("{}")
    assert list_files(tmp_path) == {".eval_results/Task.yaml": 4, "config.json": 2}
