"""Vectors that `saha-st encode` wrote are read with what made them, and compared by it before anything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saha_st.cli.encode import write_vectors
from saha_st.encoding import VectorOrigin, read_vectors, vector_fingerprint, weights_digest

ORIGIN = VectorOrigin("org/model", "document", "f" * 32, "w" * 32, ("6.2.0", "5.23.0"), {"image_tokens": [4, 64]})
OTHER = replace(ORIGIN, fingerprint="0" * 32)
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture(params=["safetensors", "parquet"])
def path(request, tmp_path):
    return tmp_path / f"vectors.{request.param}"


def test_what_was_written_is_read(path):
    write_vectors(path, ["a", "ä/b", "c"], VECTORS, ORIGIN.to_metadata())
    written = read_vectors(path)
    assert written.ids == ["a", "ä/b", "c"] and written.origin == ORIGIN
    assert written.embeddings.dtype == np.float32 and np.array_equal(written.embeddings, VECTORS)


def test_a_file_of_an_earlier_version_says_less_and_is_read(path):
    facts = {"model": "org/model", "task": "query", "fingerprint": "f" * 32}
    write_vectors(path, ["a", "b", "c"], VECTORS, facts)
    origin = read_vectors(path).origin
    assert origin == VectorOrigin("org/model", "query", "f" * 32)
    with pytest.raises(ValueError, match="the prompt, the tokenizer or settings"):
        origin.require_same(replace(ORIGIN, fingerprint="0" * 32, task="query", options={}), place="It", remedy="No.")


def test_a_file_that_does_not_say_what_made_it_is_refused(path):
    write_vectors(path, ["a", "b", "c"], VECTORS, {"model": "org/model"})
    with pytest.raises(ValueError, match=f"{path.name}' does not say which model made its vectors.*saha-st encode"):
        read_vectors(path)


def test_an_id_of_several_rows_is_refused(path):
    write_vectors(path, ["a", "b", "b"], VECTORS, ORIGIN.to_metadata())
    with pytest.raises(ValueError, match="the id 'b' names 2 rows.*--id_column"):
        read_vectors(path)


def test_a_damaged_file_is_said(path):
    write_vectors(path, ["a", "b", "c"], VECTORS, ORIGIN.to_metadata())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is no intact file of `saha-st encode`.*Encode again"):
        read_vectors(path)


def test_other_files_and_none_are_said(tmp_path):
    with pytest.raises(ValueError, match=r"a .safetensors or .parquet file .*, got 'photos'"):
        read_vectors("photos")
    with pytest.raises(FileNotFoundError, match="There is no file 'photos.parquet'. Write it with"):
        read_vectors("photos.parquet")


def test_equal_fingerprints_pass_whatever_the_model_is_called():
    ORIGIN.require_same(replace(ORIGIN, model="a/copy"), place="It", remedy="No.")


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"weights": "v" * 32}, "the weights, or their dtype, are others"),
        ({"versions": ("6.2.0", "5.24.0")}, "made with sentence-transformers 6.2.0 and transformers 5.23.0, then"),
        ({"task": "query"}, "encoded as document, then as query"),
        ({"options": {"image_tokens": [4, 256]}}, r"image_tokens \[4, 64\], then \[4, 256\]"),
        ({"options": {}}, r"image_tokens \[4, 64\], then the model's own"),
        ({}, "the prompt, the tokenizer or settings of the model are others"),
    ],
    ids=["weights", "versions", "task", "other tokens", "no tokens", "prompt"],
)
def test_what_differs_is_named(changed, difference):
    with pytest.raises(ValueError, match=rf"^It holds vectors of 'org/model' .*: {difference}.* No\.$"):
        ORIGIN.require_same(replace(OTHER, **changed), place="It", remedy="No.")


def test_the_origin_of_a_model_is_what_its_vectors_are_kept_under(embedder):
    options = {"image_tokens": (4, 64)}
    origin = VectorOrigin.of(embedder, "tiny", task="query", options=options)
    assert origin.fingerprint == vector_fingerprint(embedder, task="query")
    assert origin.weights == weights_digest(embedder) and origin.options == {"image_tokens": [4, 64]}
    embedder.prompts["document"] = "Something else."
    with pytest.raises(ValueError, match="the prompt, the tokenizer or settings"):
        origin.require_same(VectorOrigin.of(embedder, "tiny", task="query", options=options), place="It", remedy="No.")


def test_the_model_is_loaded_as_it_was_or_not_at_all(tiny_mllm, tmp_path):
    from saha_st.modules import load_embedder

    options = {"max_seq_length": 99, "image_tokens": (4, 16)}
    model = load_embedder(str(tiny_mllm), device="cpu", **options)
    origin = VectorOrigin.of(model, str(tiny_mllm), options=options)
    loaded = origin.load_model(device="cpu")
    assert loaded.max_seq_length == 99 and vector_fingerprint(loaded, task="document") == origin.fingerprint
    with pytest.raises(ValueError, match="It holds vectors of .*: the prompt, the tokenizer or settings"):
        replace(origin, options={"image_tokens": [4, 16]}).load_model(device="cpu", place="It")
    with pytest.raises(ValueError, match=r"no model folder.*It was made with '/nowhere/model'.*\(--model\)"):
        replace(origin, model="/nowhere/model").load_model(place="It")
