"""What reaches the model: every image, every text to the letter, both levels of the prompt, each input once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmeb_folder import MARK, paint, write_rows
from mteb.types import PromptType

import saha_st.evaluation
from saha_st.evaluation import Embedder, evaluate, mmeb_tasks
from saha_st.prompts import QUERY_SUFFIX, SYSTEM, HierarchicalPrompt

QUIET = {"show_progress_bar": False}
END = "<|im_end|>\n<|im_start|>assistant\n"


def user_turns(rendered: list[str]) -> set[str]:
    turns = set()
    for text in rendered:
        system, user = text.split("<|im_end|>\n<|im_start|>user\n")
        assert system == f"<|im_start|>system\n{SYSTEM}"
        turns.add(user)
    return turns


def test_both_prompt_levels_and_untouched_texts_reach_the_model(embedder, rendered, tmp_path: Path):
    paint(tmp_path / "a.png", 0)
    picture = "<|vision_start|><image><|vision_end|>"
    rows = [(f"{MARK}\nHow many?\n", "a.png", ["two\n", " two stars ", str(tmp_path / "a.png")], [""] * 3)]
    write_rows(tmp_path, "OK-VQA", rows)
    rows = [(f"{MARK}\nFind it.\n", "", [f"{MARK}\nRepresent the image.\n", f"{MARK}\n"], ["a.png", "a.png"])]
    write_rows(tmp_path, "WebQA", rows)

    evaluate(embedder, mmeb_tasks(tmp_path, "OK-VQA"), **QUIET)
    assert user_turns(rendered) == {
        f"{picture}How many?\n{QUERY_SUFFIX['image']}{END}",
        f"two\n{END}",
        f" two stars {END}",
        f"{tmp_path / 'a.png'}{END}",  # a text, though it is the path of an image
    }
    rendered.clear()
    evaluate(embedder, mmeb_tasks(tmp_path, "WebQA"), **QUIET)
    assert user_turns(rendered) == {
        f"Find it.\n{QUERY_SUFFIX['text']}{END}",
        f"{picture}Represent the image.\n{END}",
        f"{picture}{END}",
    }


def test_targets_as_queries_get_the_query_suffix(embedder, rendered, mmeb: Path):
    evaluate(embedder, mmeb_tasks(mmeb, "RefCOCO-Matching"), **QUIET)
    assert len(rendered) > 10 and all(text.endswith(QUERY_SUFFIX["image"] + END) for text in rendered)


def test_each_distinct_input_is_encoded_once_and_never_again(embedder, rendered, mmeb: Path):
    encoder, tasks = Embedder(embedder, **QUIET), mmeb_tasks(mmeb, ["CIRR", "OK-VQA"])
    first = evaluate(encoder, tasks, **QUIET)
    assert 20 < len(rendered) < 60  # of 44 queries and 240 candidates
    assert max(Counter(text for text in rendered if "<image>" not in text).values()) == 1
    rendered.clear()
    assert evaluate(encoder, tasks, **QUIET) == first
    assert not rendered


def test_a_cache_folder_spares_a_second_run_the_encoding(embedder, rendered, mmeb: Path, tmp_path: Path):
    options = {"cache_folder": tmp_path / "vectors", **QUIET}
    first = evaluate(embedder, mmeb_tasks(mmeb, "WebQA"), **options)
    assert rendered
    rendered.clear()
    assert evaluate(embedder, mmeb_tasks(mmeb, "WebQA"), **options) == first
    assert not rendered


def test_vectors_are_float32_and_those_of_the_model_with_the_image(embedder, mmeb: Path):
    from mteb._create_dataloaders import create_dataloader

    (task,) = mmeb_tasks(mmeb, "CIRR")
    task.load_data()
    queries = task.dataset["default"]["test"]["queries"]
    inputs = create_dataloader(queries, task_metadata=task.metadata, prompt_type=PromptType.query)
    encoder = Embedder(embedder, **QUIET)
    vectors = encoder.encode(
        inputs, task_metadata=task.metadata, hf_split="test", hf_subset="default", prompt_type=PromptType.query
    )
    assert vectors.dtype == np.float32 and vectors.shape == (20, 32)
    with_image = embedder.encode_query([{"image": row["image"], "text": row["text"]} for row in queries])
    without = embedder.encode_query([{"text": row["text"]} for row in queries])
    assert np.allclose(vectors, with_image, atol=1e-5)
    assert np.abs(vectors - without).max(axis=1).min() > 0.05
    assert np.abs(vectors[0] - vectors[5]).max() > 0.05  # the same question about another image


def test_the_metadata_say_what_the_model_takes_and_name_it_by_its_content(embedder):
    meta = Embedder(embedder).mteb_model_meta
    assert set(meta.modalities) == {"image", "text", "video"} and meta.embed_dim == 32
    assert meta.name.startswith("local/") and len(meta.revision) == 32
    assert Embedder(embedder, name="org/m", revision="abc").mteb_model_meta.model_name_as_path() == "org__m"
    embedder[0].prompt = HierarchicalPrompt(query_suffix=None)
    assert Embedder(embedder).mteb_model_meta.revision != meta.revision


def test_a_cell_that_cannot_be_encoded_is_named_with_its_task(embedder, tmp_path: Path):
    paint(tmp_path / "a.png", 0)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    documents = [f"{MARK}\nRepresent the image.\n"] * 2
    write_rows(tmp_path, "MSCOCO_t2i", [("a caption", "", documents, ["a.png", "broken.png"])])
    with pytest.raises(ValueError, match="MMEB_MSCOCO_t2i, document 1: .*broken.png"):
        evaluate(embedder, mmeb_tasks(tmp_path, "MSCOCO_t2i"), **QUIET)
    paint(tmp_path / "broken.png", 0, size=(8, 1800))
    with pytest.raises(ValueError, match="MMEB_MSCOCO_t2i, document 1: the image is 8x1800"):
        evaluate(embedder, mmeb_tasks(tmp_path, "MSCOCO_t2i"), **QUIET)


def test_without_mteb_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saha_st.evaluation, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "saha-st\[eval\]"'):
        saha_st.evaluation.evaluate  # noqa: B018
    assert saha_st.evaluation.Scores


def test_the_package_imports_no_mteb_until_it_is_used():
    code = "import sys, saha_st.evaluation; from saha_st.evaluation import Scores; sys.exit('mteb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
