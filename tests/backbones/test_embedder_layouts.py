"""Checkpoints that are embedders already keep what they were trained with, unless a prompt is given.

Tiny checkpoints in the layouts of Qwen3-VL-Embedding, GME and VLM2Vec; the real ones could not be downloaded.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import backbone_inputs as inputs
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import AutoModelForImageTextToText, AutoProcessor

from saha_st.modules import load_embedder
from saha_st.modules.merging import has_adapter
from saha_st.prompts import HierarchicalPrompt
from saha_st.quickstart.tiny_model import CHAT_TEMPLATE

INSTRUCTED = CHAT_TEMPLATE.replace("You are a helpful assistant.", "Represent the input of the user.")
ENDING_IN_EOS = CHAT_TEMPLATE.replace("assistant\\n' -}}", "assistant\\n<|endoftext|>' -}}")
assert CHAT_TEMPLATE not in (INSTRUCTED, ENDING_IN_EOS)


def save_embedder(
    base: Path, folder: Path, template: str, *, opened: bool, pooling: str = "lasttoken", **more
) -> Path:
    """Save a checkpoint as Sentence Transformers does, from none of our code."""
    transformer = Transformer(str(base))
    transformer.processor.chat_template = transformer.tokenizer.chat_template = template
    if opened:
        transformer.processing_kwargs = {"chat_template": {"add_generation_prompt": True}}
    size = transformer.get_embedding_dimension()
    dense = [Dense(size, 16)] if more.pop("dense", False) else []
    modules = [transformer, Pooling(size, pooling), *dense, Normalize()]
    torch.manual_seed(1)
    SentenceTransformer(modules=modules, device="cpu", **more).save_pretrained(str(folder))
    return folder


LAYOUTS = {
    "Qwen3-VL-Embedding": lambda folder_of, folder: save_embedder(
        folder_of("qwen3_vl"), folder, INSTRUCTED, opened=True
    ),
    "GME": lambda folder_of, folder: save_embedder(
        folder_of("qwen2_vl"), folder, ENDING_IN_EOS, opened=True, prompts={"query": "Find a picture.", "document": ""}
    ),
    "no answer begun": lambda folder_of, folder: save_embedder(
        folder_of("qwen2_vl"), folder, INSTRUCTED, opened=False
    ),
    "mean pooling and a dense layer": lambda folder_of, folder: save_embedder(
        folder_of("smolvlm"),
        folder,
        AutoProcessor.from_pretrained(folder_of("smolvlm")).chat_template,
        opened=False,
        pooling="mean",
        dense=True,
    ),
}


@pytest.fixture
def embedder_folder(folder_of, tmp_path, layout: str) -> Path:
    return LAYOUTS[layout](folder_of, tmp_path / "embedder")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_embedder_keeps_its_template_and_pooling(embedder_folder, tmp_path, layout):
    plain = SentenceTransformer(str(embedder_folder), device="cpu")
    model = load_embedder(str(embedder_folder), device="cpu")
    assert model[0].prompt is None and model[0].chat_template == plain[0].processor.chat_template
    assert [type(module).__name__ for module in model] == [type(module).__name__ for module in plain]
    assert model[1].pooling_mode == plain[1].pooling_mode and model.prompts == plain.prompts
    for encode in ("encode_query", "encode_document"):
        expected = getattr(plain, encode)(inputs.mixed())
        np.testing.assert_allclose(getattr(model, encode)(inputs.mixed()), expected, atol=1e-5)
    model.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(again.encode_document(inputs.mixed()), expected, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_that_is_given_takes_the_place_of_the_embedders_own(embedder_folder, tmp_path, layout):
    plain = SentenceTransformer(str(embedder_folder), device="cpu")
    model = load_embedder(str(embedder_folder), device="cpu", prompt=HierarchicalPrompt())
    assert model[0].prompt == HierarchicalPrompt() and model[1].pooling_mode == plain[1].pooling_mode
    vectors = model.encode_query(inputs.mixed())
    assert np.abs(vectors - plain.encode_query(inputs.mixed())).max() > 1e-3
    model.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(again.encode_query(inputs.mixed()), vectors, atol=1e-5)


VLM2VEC = {
    "qwen2_vl": ("model.language_model.", "model."),
    "llava_next": ("model.language_model.", "language_model.model."),
}
"""Backbones of VLM2Vec, and how the releases of transformers that it was trained with began the names of layers."""


@pytest.fixture
def adapter(folder_of, tmp_path, name: str) -> Path:
    """A LoRA adapter as PEFT wrote it then: no pooling, no prompt, no processor."""
    torch.manual_seed(2)
    pattern = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    config = LoraConfig(r=4, target_modules=pattern, init_lora_weights=False)
    generative = AutoModelForImageTextToText.from_pretrained(folder_of(name))
    get_peft_model(generative, config).save_pretrained(tmp_path / "adapter")
    path, (today, then) = tmp_path / "adapter" / "adapter_model.safetensors", VLM2VEC[name]
    written = load_file(path)
    assert len(written) == 28 and all(key.startswith(f"base_model.model.{today}") for key in written)
    renamed = {key.replace(f".{today}", f".{then}", 1): tensor for key, tensor in written.items()}
    save_file(renamed, path, metadata={"format": "pt"})
    return tmp_path / "adapter"


@pytest.mark.parametrize("name", VLM2VEC)
def test_an_adapter_without_pooling_gets_the_papers_prompt(adapter, folder_of, name):
    model, base = load_embedder(str(adapter), device="cpu"), load_embedder(str(folder_of(name)), device="cpu")
    assert has_adapter(model) and model[0].prompt == HierarchicalPrompt() and model[1].pooling_mode == "lasttoken"
    vectors = model.encode_query(inputs.mixed())
    assert np.abs(vectors - base.encode_query(inputs.mixed())).max() > 1e-2
    merged = merged_by_peft(adapter, folder_of(name))
    found = {name: p for name, p in base[0].model.named_parameters()}
    with torch.no_grad():
        for weight, tensor in merged.items():
            found[weight].copy_(tensor)
    np.testing.assert_allclose(base.encode_query(inputs.mixed()), vectors, atol=1e-4)


def merged_by_peft(adapter: Path, base: Path) -> dict[str, torch.Tensor]:
    """What the adapter makes of the weights, by the formula of LoRA."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    scale = json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"] / 4
    weights = AutoModelForImageTextToText.from_pretrained(base).base_model.state_dict()
    merged = {}
    for key, down in tensors.items():
        if key.endswith("lora_A.weight"):
            layer = re.search(r"layers\..*(?=\.lora_A)", key)[0]
            name = f"language_model.{layer}.weight"
            merged[name] = weights[name] + scale * tensors[key.replace("lora_A", "lora_B")] @ down
    return merged


def test_full_weights_without_pooling_get_the_papers_prompt_and_last_token(folder_of):
    model = load_embedder(str(folder_of("llava_next")), device="cpu")
    assert not (folder_of("llava_next") / "modules.json").exists()
    assert model[0].prompt == HierarchicalPrompt() and model[1].pooling_mode == "lasttoken"
