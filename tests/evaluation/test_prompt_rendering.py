"""What is shown of an input is what the model reads of it: of models that see, of text alone, and of others."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import build_tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from saha_st.evaluation.prompt_presets import PRESETS
from saha_st.evaluation.prompt_rendering import features_of, renderings
from saha_st.modules import load_embedder
from saha_st.modules.loading import with_prompt
from saha_st.prompts import QUERY_SUFFIX, SYSTEM, HierarchicalPrompt

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A tiny model of text alone, with a template that takes plain strings."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_hidden_layers=1, pad_token_id=tokenizer.pad_token_id, **sizes)
    folder = tmp_path_factory.mktemp("reader")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_embedder(str(folder), device="cpu")


def test_a_model_of_text_alone_is_shown_no_picture(reader):
    assert "image" not in reader[0].modalities
    query, document = renderings(reader, "two stars")
    system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\ntwo stars"
    assert query.title == "query" and document.title == "document"
    assert query.text == f"{system}{QUERY_SUFFIX['text']}<|im_end|>\n<|im_start|>assistant\n"
    assert document.text == f"{system}<|im_end|>\n<|im_start|>assistant\n"
    assert query.tokens == len(reader.tokenizer(query.text)["input_ids"]) > document.tokens
    bare = renderings(with_prompt(reader, PRESETS["none"], "none"), "two stars")
    assert {each.text for each in bare} == {"<|im_start|>user\ntwo stars<|im_end|>\n<|im_start|>assistant\n"}


def test_a_model_that_sees_is_shown_a_picture_whose_tokens_are_counted(embedder):
    _, seen, _ = renderings(embedder, "two stars")
    assert "<|image_pad|>×16" in seen.text and QUERY_SUFFIX["image"] in seen.text
    whole = seen.text.replace("<|image_pad|>×16", "<|image_pad|>" * 16)
    assert seen.tokens == len(embedder.tokenizer(whole)["input_ids"])


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_the_text_in_front_is_the_one_that_encode_takes(embedder, monkeypatch, name):
    """An embedder of others may keep its texts under other names, and has a default for what has none."""
    for owner in (embedder[0].processor, embedder[0].tokenizer):
        owner.chat_template = HierarchicalPrompt.strip(owner.chat_template)
    embedder.prompts, embedder.default_prompt_name = {name: "About stars", "other": "In short"}, "other"
    query, _, document = renderings(embedder, "a")
    assert "system\nIn short<" in query.text and "system\nAbout stars<" in document.text
    read = []
    preprocess = embedder[0].preprocess
    monkeypatch.setattr(
        embedder[0], "preprocess", lambda *args, **kw: read.append(preprocess(*args, **kw)) or read[-1]
    )
    embedder.encode_query("a")
    embedder.encode_document("a")
    texts = [embedder.tokenizer.decode(features["input_ids"][0]) for features in read]
    assert texts == [query.text, document.text]


def test_a_prompt_that_leaves_no_room_is_said(reader):
    short = copy.deepcopy(reader)
    short.max_seq_length = 12
    with pytest.raises(ValueError, match="max_seq_length=12"):
        features_of(short, "two stars", "query")
