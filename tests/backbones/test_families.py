"""The entries themselves: what is refused and why, what is said of a backbone without one, and the README's table."""

from __future__ import annotations

import logging
import re
import shutil

import backbone_inputs as inputs
import backbone_table
import chat_templates
import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from transformers import AutoModel, AutoProcessor, Mistral3Config, MistralConfig

from saha_st.modules import families, load_embedder
from saha_st.modules.families import FAMILIES, check_family, family_by_structure, family_of
from saha_st.training.adapters import language_model_layers

UNSUPPORTED = [name for name in ARCHITECTURES if family_of(name).unsupported]


def test_no_model_type_has_two_entries():
    model_types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(set(model_types)) == len(model_types) and len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.parametrize("with_template", [False, True])
def test_what_cannot_be_used_is_refused_with_the_reason(folder_of, tmp_path, name, with_template):
    folder = shutil.copytree(folder_of(name), tmp_path / name)
    if with_template:
        (folder / "chat_template.jinja").write_text(chat_templates.PHI_4)
    with pytest.raises(ValueError, match=f"{family_of(name).name}, which cannot be an embedder here") as caught:
        load_embedder(str(folder), device="cpu")
    assert family_of(name).unsupported in str(caught.value)


def test_the_reasons_why_are_still_true(folder_of):
    """When one of these fails, a new release of transformers can be tried."""
    paligemma = AutoProcessor.from_pretrained(folder_of("paligemma"))
    assert paligemma.chat_template is None
    with pytest.raises(ValueError, match="`images` are expected"):
        paligemma(text=["a text"])
    assert (folder_of("phi4_multimodal") / "chat_template.jinja").exists()
    assert AutoProcessor.from_pretrained(folder_of("phi4_multimodal")).chat_template is None


def test_a_prefix_lm_lets_a_token_see_what_follows_it(folder_of):
    """Why PaliGemma's last token would not be an embedding that a prefix can be shared of."""
    model = AutoModel.from_pretrained(folder_of("paligemma")).eval()
    processor = AutoProcessor.from_pretrained(folder_of("paligemma"))
    texts = ["<image>red stars here", "<image>red stars there"]
    batch = processor(text=texts, images=[[inputs.picture(0, 32, 32)]] * 2, return_tensors="pt", padding=True)
    batch = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    same = int((batch["input_ids"][0] == batch["input_ids"][1]).cumprod(dim=0).sum())
    assert same > 17 and (states[0, : same - 1] - states[1, : same - 1]).abs().max() > 1e-3


@pytest.fixture
def unlisted(monkeypatch):
    """A table without Qwen2-VL, LLaVA-NeXT and Llama."""
    names = ("qwen2_vl", "llava_next", "smolvlm", "llama")
    rest = {name: family for name, family in families._OF_MODEL_TYPE.items() if name not in names}
    monkeypatch.setattr(families, "_OF_MODEL_TYPE", rest)
    monkeypatch.setattr(families, "_warned", set())


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next", "smolvlm", "llama"])
def test_a_backbone_without_an_entry_is_taken_by_its_structure_and_warned_of_once(folder_of, unlisted, caplog, name):
    listed = next(family for family in FAMILIES if name in family.model_types)
    with caplog.at_level(logging.WARNING, logger="saha_st"):
        models = [load_embedder(str(folder_of(name)), device="cpu") for _ in range(2)]
    (message,) = [record.getMessage() for record in caplog.records if record.name == "saha_st.modules.families"]
    assert f"'{name}' is none of those that are tested" in message
    assert ("image_tokens" in message) == ("mini-batches with pictures" in message) == bool(listed.vision)
    assert ("videos" in message) == listed.videos
    found = family_by_structure(models[0][0].model)
    assert (found.language_model, set(found.vision)) == (listed.language_model, set(listed.vision))
    rows = inputs.mixed() if listed.vision else inputs.texts()
    alone = np.concatenate([models[0].encode_query([row]) for row in rows])
    np.testing.assert_allclose(models[0].encode_query(rows), alone, atol=1e-5)


def test_adapters_keep_off_the_vision_tower_of_a_backbone_without_an_entry():
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = text | {"image_size": 32, "patch_size": 8, "model_type": "pixtral", "head_dim": 16}
    text |= {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64, "model_type": "mistral"}
    backbone = AutoModel.from_config(Mistral3Config(text_config=MistralConfig(**text), vision_config=vision))
    assert family_of(backbone.config.model_type) is None
    check_family(backbone, "a name", modalities=("text", "image"))
    pattern = language_model_layers(backbone, ("q_proj", "k_proj"))
    adapted = [name for name, _ in backbone.named_modules() if re.fullmatch(pattern, name)]
    assert adapted == ["language_model.layers.0.self_attn.q_proj", "language_model.layers.0.self_attn.k_proj"]


def test_the_table_of_the_readme_is_what_the_entries_say():
    found = backbone_table.BLOCK.search(backbone_table.README.read_text(encoding="utf8"))
    assert found, "README.md has no table of backbones"
    assert found[2] == backbone_table.render(), "run: python -m tests.backbones.backbone_table"
    assert all(f"`{name}`" in found[2] for name in ARCHITECTURES)
