"""What must not be published is found, each kind by name; what belongs to a model is left alone.

By content: test_secret_strings, test_local_paths, test_file_kinds.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from saha_st.hub.contents import find_problems, list_files
from saha_st.modules.sources import resolve_model


def found(folder: Path, **options) -> dict[str, str]:
    return {finding.file: str(finding) for finding in find_problems(folder, **options)}


def png(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(file, format="PNG")


@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "results/Task.json", "chat_template.jinja", "LICENSE"])
def test_secrets_and_paths_are_named_with_their_line_whatever_file_they_are_in(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"fine\nfine\ntoken: hf_{'a1B2' * 9}\nfrom /home/ann/x\n")
    problems = [str(problem) for problem in find_problems(tmp_path)]
    assert len(problems) == 2 and all(problem.startswith(name) for problem in problems)
    assert "line 3 looks like a Hugging Face token" in problems[0]
    assert "line 4 names a path of this machine, '/home/ann/x'" in problems[1]


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"])
def test_in_a_vocabulary_a_path_means_nothing_and_a_secret_does(tmp_path, name):
    (tmp_path / name).write_text('{"/home/ann/x": 1, "/usr/local/bin": 2}')
    assert not find_problems(tmp_path)
    (tmp_path / name).write_text('{"hf_' + "a1B2" * 9 + '": 1}')
    assert "Hugging Face token" in found(tmp_path)[name]


@pytest.mark.parametrize("name", ["saha-tiny", "saha-tiny-base"])
def test_the_models_that_come_with_the_package_may_be_published(name):
    assert not find_problems(resolve_model(name), wanted_pictures=frozenset({"assets/mining.png"}))


def test_a_plain_model_may_be_published(tiny_mllm):
    assert len(list_files(tiny_mllm)) > 4 and not find_problems(tiny_mllm)


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
    for name in ("assets/mining.png", "assets/sample-0.jpg", "photo.webp", "sample.txt", "LICENSE"):
        png(tmp_path / name)
    problems = found(tmp_path, wanted_pictures=frozenset({"assets/mining.png"}))
    assert set(problems) == {"assets/sample-0.jpg", "photo.webp", "sample.txt", "LICENSE"}
    assert all("a picture that nothing accounts for" in problem for problem in problems.values())


def test_a_wanted_picture_is_one(tmp_path):
    (tmp_path / "mining.png").write_text("names and addresses")
    assert "not the picture" in found(tmp_path, wanted_pictures=frozenset({"mining.png"}))["mining.png"]


def test_embedded_pictures_are_found_and_how_to_embed_one_may_be_told(tmp_path):
    (tmp_path / "README.md").write_text("![](data:image/png;base64,iVBORw0KGgo=)")
    (tmp_path / "usage.md").write_text('{"url": f"data:image/png;base64,{encoded}"}')
    assert set(found(tmp_path)) == {"README.md"}


def test_of_parity_there_is_what_its_inputs_are_made_of(tmp_path):
    for name in ("image-0.png", "image-1.png", "photo.png"):
        png(tmp_path / "parity" / name)
    content = [{"type": "image", "image": "image-0.png"}, {"type": "text", "text": "Which?"}]
    (tmp_path / "parity" / "parity.json").write_text(json.dumps({"entries": [{"content": content}]}))
    (tmp_path / "parity" / "pairs.jsonl").write_text('{"query": "a customer"}\n')
    save_file({"vectors": np.zeros((1, 2), np.float32)}, tmp_path / "parity" / "vectors.safetensors")
    save_file({"vectors": np.zeros((1, 2), np.float32)}, tmp_path / "parity" / "train.safetensors")
    assert set(found(tmp_path)) == {f"parity/{name}" for name in _UNACCOUNTED}


_UNACCOUNTED = ("image-1.png", "photo.png", "pairs.jsonl", "train.safetensors")


def test_without_an_account_parity_holds_nothing(tmp_path):
    png(tmp_path / "parity" / "image-0.png")
    assert set(found(tmp_path)) == {"parity/image-0.png"}


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "LICENSE"])
def test_what_is_called_a_text_and_is_none_is_found(tmp_path, name):
    (tmp_path / name).write_bytes(b"SQLite format 3\0\x10\0")
    assert "not the text" in found(tmp_path)[name]


def test_a_vocabulary_may_be_binary_and_is_looked_at(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0")
    assert not find_problems(tmp_path)


def test_weights_that_are_none_are_found(tmp_path):
    (tmp_path / "model.safetensors").write_text("names and addresses")
    assert "no safetensors file" in found(tmp_path)["model.safetensors"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_text_is_read_by_its_byte_order_mark(tmp_path, encoding):
    (tmp_path / "notes.txt").write_text("fine\nhf_" + "a1B2" * 9, encoding=encoding)
    (tmp_path / "config.json").write_text('{"data": "/scratch"}', encoding=encoding)
    problems = found(tmp_path)
    assert (
        "line 2 looks like a Hugging Face token" in problems["notes.txt"] and "'/scratch'" in problems["config.json"]
    )


def test_the_metadata_of_weights_is_looked_at(tmp_path):
    save_file({"x": np.zeros(2, np.float32)}, tmp_path / "model.safetensors", metadata={"made": "/scratch"})
    assert "'/scratch'" in found(tmp_path)["model.safetensors"]


def test_files_are_listed_with_their_sizes(tmp_path):
    (tmp_path / ".eval_results").mkdir()
    (tmp_path / ".eval_results" / "Task.yaml").write_text("a: 1")
    (tmp_path / "config.json").write_text("{}")
    assert list_files(tmp_path) == {".eval_results/Task.yaml": 4, "config.json": 2}
