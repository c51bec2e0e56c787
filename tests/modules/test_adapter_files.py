"""DoRA adapters: every tensor arrives, whoever wrote the file and whoever reads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from saha_st.modules import load_embedder
from saha_st.modules.adapter_files import ADAPTER_FILE


@pytest.fixture
def adapted(embedder):
    from peft import LoraConfig

    embedder.add_adapter(LoraConfig(r=2, use_dora=True, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in embedder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
            if "magnitude" in name:
                parameter.mul_(1.3)
    return embedder


def test_plain_sentence_transformers_reads_our_dora_adapter_completely(adapted, tmp_path):
    adapted.save_pretrained(str(tmp_path))
    names = list(load_file(tmp_path / ADAPTER_FILE))
    assert sum("magnitude" in name for name in names) == 4
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(plain.encode(["stars"]), adapted.encode(["stars"]), atol=1e-6)


def test_an_adapter_written_by_peft_is_repaired(adapted, tmp_path):
    adapted.save_pretrained(str(tmp_path))
    tensors = load_file(tmp_path / ADAPTER_FILE)
    short = {name.replace("magnitude_vector.weight", "magnitude_vector"): t for name, t in tensors.items()}
    assert set(short) != set(tensors)
    save_file(short, tmp_path / ADAPTER_FILE, metadata={"format": "pt"})
    loaded = load_embedder(str(tmp_path), device="cpu")
    np.testing.assert_allclose(loaded.encode(["stars"]), adapted.encode(["stars"]), atol=1e-6)


def test_an_adapter_that_does_not_fit_is_refused(adapted, tmp_path):
    adapted.save_pretrained(str(tmp_path))
    tensors = load_file(tmp_path / ADAPTER_FILE)
    other = {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}
    save_file(other, tmp_path / ADAPTER_FILE, metadata={"format": "pt"})
    assert json.loads((tmp_path / "adapter_config.json").read_text())["use_dora"]
    with pytest.raises(ValueError, match=r"does not fit .*: 6 of 12 tensors have no place, such as .*layers\.7"):
        load_embedder(str(tmp_path), device="cpu")
