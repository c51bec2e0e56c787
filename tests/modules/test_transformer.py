"""The input module: canonical inputs, truncation that spares the prompt, and what it saves."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from saha_st.modules import HierarchicalPromptTransformer
from saha_st.prompts import SYSTEM

SUFFIX = {True: "\nRepresent the given text/image in one word.", False: "\nRepresent the given text in one word."}


def rendered(embedder, inputs, **kwargs) -> list[str]:
    """What the model reads, image tokens folded back into their placeholder."""
    features = embedder[0].preprocess(inputs, **kwargs)
    rows = [ids[mask.bool()] for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True)]
    texts = [embedder.tokenizer.decode(row) for row in rows]
    pad = "<|image_pad|>"
    return [pad.join(part for i, part in enumerate(text.split(pad)) if part or i == 0) for text in texts]


def max_difference(left, right) -> float:
    return float(np.abs(np.asarray(left) - np.asarray(right)).max())


@pytest.mark.parametrize("task", ["query", "document", None])
@pytest.mark.parametrize("prompt", [None, "Name it."])
def test_what_the_model_reads_is_byte_exact(embedder, image, task, prompt):
    inputs = ["stars", {"image": image}, {"text": "stars", "image": image}, image]
    for cell, text in zip(inputs, rendered(embedder, inputs, task=task, prompt=prompt), strict=True):
        has_image, has_text = cell != "stars", cell == "stars" or isinstance(cell, dict) and "text" in cell
        content = "<|vision_start|><|image_pad|><|vision_end|>" * has_image + "stars" * has_text
        assert text == (
            f"<|im_start|>system\n{prompt or SYSTEM}<|im_end|>\n"
            f"<|im_start|>user\n{content}{SUFFIX[has_image] * (task == 'query')}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )


def test_a_system_message_of_the_caller_replaces_prompt_and_default(embedder):
    messages = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "stars"}]
    for prompt in (None, "From ST."):
        (text,) = rendered(embedder, [messages], prompt=prompt, task="query")
        assert text.count("<|im_start|>system") == 1
        assert text.startswith("<|im_start|>system\nMine.<|im_end|>")


def test_embeddings_are_unit_vectors_of_the_last_token(embedder, image):
    inputs = ["stars", {"image": image, "text": "stars"}]
    features = embedder[0].forward(embedder.preprocess(inputs))
    last = [
        row[mask.bool()][-1]
        for row, mask in zip(features["token_embeddings"], features["attention_mask"], strict=True)
    ]
    expected = [(vector / vector.norm()).detach().numpy() for vector in last]
    assert max_difference(embedder.encode(inputs), expected) < 1e-6


def test_query_document_and_image_change_the_vector(embedder, image, other_image):
    cell = {"image": image, "text": "stars"}
    assert max_difference(embedder.encode_query([cell]), embedder.encode_document([cell])) > 1e-3
    assert max_difference(embedder.encode([cell]), embedder.encode([{**cell, "image": other_image}])) > 1e-3


def test_batch_order_and_batch_size_do_not_matter(embedder, image, other_image):
    inputs = [
        "stars",
        image,
        {"image": [image, other_image], "text": "both"},
        "a longer text about stars",
        {"text": ""},
    ]
    one_by_one = np.concatenate([embedder.encode_query([cell]) for cell in inputs])
    assert max_difference(one_by_one, embedder.encode_query(inputs)) < 1e-5
    assert max_difference(one_by_one[::-1], embedder.encode_query(inputs[::-1], batch_size=2)) < 1e-5


@pytest.mark.parametrize(
    "variant",
    [
        lambda image: {"text": "stars", "image": image},
        lambda image: {"image": image, "text": "stars", "video": None},
        lambda image: {"image": [image], "text": "stars"},
    ],
)
def test_key_order_and_none_parts_do_not_change_the_vector(embedder, image, variant):
    expected = embedder.encode([{"image": image, "text": "stars"}])
    assert max_difference(embedder.encode([variant(image)]), expected) == 0


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_a_picture_of_any_colour_mode_is_read_as_rgb(embedder, mode):
    grey = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)) if mode == "I;16" else None
    picture = grey or Image.radial_gradient("L").resize((64, 64)).convert(mode)
    assert picture.mode == mode
    assert max_difference(embedder.encode([picture]), embedder.encode([picture.convert("RGB")])) == 0


def test_image_files_bytes_and_pictures_are_the_same(embedder, image, tmp_path):
    image.save(tmp_path / "a.png")
    expected = embedder.encode([image])
    stored = {"path": None, "bytes": (tmp_path / "a.png").read_bytes()}
    for source in (str(tmp_path / "a.png"), {"path": str(tmp_path / "a.png"), "bytes": None}, stored):
        assert max_difference(embedder.encode([{"image": source}]), expected) == 0


def test_a_text_that_looks_like_a_file_or_url_stays_text(embedder, image, tmp_path, caplog):
    image.save(tmp_path / "a.png")
    for text in (str(tmp_path / "a.png"), "https://example.org/cat.jpg"):
        assert max_difference(embedder.encode([text]), embedder.encode([{"text": text}])) == 0
        assert rendered(embedder, [text])[0].count(text) == 1


def test_text_is_cut_so_that_image_suffix_and_header_survive(embedder, image):
    whole = {"image": image, "text": "word " * 300}
    embedder[0].max_seq_length = limit = 160
    features = embedder[0].preprocess([whole, "short", "x y " * 300], task="query")
    assert features["attention_mask"].sum(dim=1).tolist() == [limit, features["attention_mask"].sum(dim=1)[1], limit]
    assert (features["input_ids"][0] == embedder[0].config.image_token_id).sum() == 12
    texts = rendered(embedder, [whole, "short", "x y " * 300], task="query")
    for text, has_image in zip(texts, (True, False, False), strict=True):
        assert text.endswith(f"{SUFFIX[has_image]}<|im_end|>\n<|im_start|>assistant\n")
    assert "word word" in texts[0]
    assert embedder.encode([whole]).shape == (1, 32)


def test_a_row_is_cut_the_same_alone_and_in_a_mixed_batch(embedder, image):
    embedder[0].max_seq_length = 160
    inputs = ["x y " * 300, {"image": image, "text": "word " * 300}, image]
    alone = np.concatenate([embedder.encode_query([cell]) for cell in inputs])
    assert max_difference(alone, embedder.encode_query(inputs)) < 1e-5


@pytest.mark.parametrize("argument", ["processing_kwargs", "max_length"])
def test_every_way_to_set_the_limit_is_obeyed(embedder, image, argument):
    value = {"text": {"max_length": 150}} if argument == "processing_kwargs" else 150
    cell = {"image": image, "text": "word " * 300}
    features = embedder[0].preprocess([cell], task="query", **{argument: value})
    assert features["input_ids"].shape[1] == 150


@pytest.mark.parametrize("cell", ["text", "image"])
def test_a_limit_without_room_for_text_is_refused_with_counts(embedder, image, cell):
    embedder[0].max_seq_length = 30
    with pytest.raises(ValueError, match=r"Input 0 of the batch: \d+ tokens .* max_seq_length=30"):
        embedder[0].preprocess(["many words" if cell == "text" else image])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "it is None"),
        ({}, "no content"),
        ({"text": None, "image": None}, "no content"),
        ({"image": "missing/picture.png"}, "'missing/picture.png' does not exist"),
        (Image.new("RGB", (800, 4)), "800x4 pixels"),
        ({"audio": np.zeros(16)}, "'audio'"),
    ],
)
def test_an_input_that_cannot_be_embedded_is_refused_with_its_position(embedder, cell, message):
    with pytest.raises(ValueError, match=f"Input 1 of the batch: .*{message}"):
        embedder[0].preprocess(["fine", cell])


def test_an_unreadable_picture_is_refused(embedder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match="broken.png' cannot be read"):
        embedder.encode([{"image": str(tmp_path / "broken.png")}])


def test_copies_and_pickles_stay_this_class_and_give_the_same_vectors(embedder, image):
    expected = embedder.encode([image])
    for copied in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        assert type(copied[0]) is HierarchicalPromptTransformer
        assert max_difference(copied.encode([image]), expected) == 0


def test_a_checkpoint_names_stock_classes_and_the_versions_it_needs(embedder, tmp_path):
    embedder.save_pretrained(str(tmp_path))
    types = [module["type"] for module in json.loads((tmp_path / "modules.json").read_text())]
    assert len(types) == 3
    assert all(name.startswith("sentence_transformers.") for name in types)
    config = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert config["requirements"]["sentence-transformers"]["specifier"] == ">=6.2"
    assert config["prompts"] == {"query": SYSTEM, "document": SYSTEM}
    assert not list(tmp_path.rglob("*.py")) + list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.pkl"))


def test_a_checkpoint_keeps_nothing_of_the_last_calls_truncation_and_padding(embedder, tmp_path):
    embedder.max_seq_length = 60
    embedder.encode(["a short text"])
    backend = embedder.tokenizer.backend_tokenizer
    assert backend.truncation is not None and backend.padding is not None, "else this proves nothing"
    embedder.save_pretrained(str(tmp_path))
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert stored["truncation"] is None and stored["padding"] is None
