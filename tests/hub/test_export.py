"""What is exported has the layout that every engine reads."""

from __future__ import annotations

import json

from safetensors.torch import load_file

from saha_st.hub.export import export_model
from saha_st.modules import load_embedder


def test_the_layout_is_that_of_the_generative_base_and_of_sentence_transformers(exported, tiny_mllm):
    ours, base = load_file(exported / "model.safetensors"), load_file(tiny_mllm / "model.safetensors")
    assert ours.keys() == base.keys() and all(ours[name].equal(base[name]) for name in base)
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["Qwen2VLForConditionalGeneration"]
    pooling = json.loads((exported / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "lasttoken" and pooling["pooling_mode_lasttoken"] is True
    types = [module["type"] for module in json.loads((exported / "modules.json").read_text())]
    assert all(name.startswith("sentence_transformers.") for name in types)
    assert (exported / "chat_template.jinja").exists() and (exported / "processor_config.json").exists()


def test_an_output_layer_that_is_not_tied_is_left_out_and_the_rest_is_whole(embedder, tmp_path):
    for config in (embedder[0].model.config, embedder[0].model.config.text_config):
        config.tie_word_embeddings = False
    export_model(embedder, tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert "lm_head.weight" not in names and "model.embed_tokens.weight" in names
    again = load_embedder(str(tmp_path), device="cpu")
    assert abs(again.encode_query(["a"]) - embedder.encode_query(["a"])).max() <= 1e-6
