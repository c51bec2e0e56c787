"""Checkpoints that this package did not write: the authors' bare Qwen2-VL, as weights or as a LoRA/DoRA adapter.

Every form is compared with a reference that uses none of our code to load it: PEFT's own merge into the generative
class, a prompt written out by hand, the last hidden state, normalised.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny import build_tiny_mllm
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from saha_st.modules import load_embedder
from saha_st.modules.adapter_files import ADAPTER_FILE
from saha_st.modules.merging import has_adapter, merge_adapter
from saha_st.prompts import HierarchicalPrompt

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RENDERED = (
    "<|im_start|>system\nGiven an image, summarize the provided image in one word. Given only text, describe the text "
    "in one word.<|im_end|>\n<|im_start|>user\n{content}\nRepresent the given {kind} in one word.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def rename(path: Path, *rules: tuple[str, str]) -> None:
    """Rewrite the names of the tensors in a file, each by the first rule that fits."""
    tensors = {}
    for name, tensor in load_file(path).items():
        changed = (re.sub(pattern, to, name) for pattern, to in rules)
        tensors[next((new for new in changed if new != name), name)] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


def rename_as_in_2024(path: Path) -> None:
    """As transformers 4.46 named the tensors, with or without PEFT's prefix."""
    rename(path, (r"model\.language_model\.", "model."), (r"model\.visual\.", "visual."))


@pytest.fixture(scope="module")
def weights(tiny_mllm, tmp_path_factory) -> dict[str, Path]:
    """Full weights of the generative class; transformers itself still writes them as in 2024."""
    folders = {names: tmp_path_factory.mktemp("full") / names for names in ("old", "new")}
    for folder in folders.values():
        shutil.copytree(tiny_mllm, folder)
    rename_as_in_2024(folders["old"] / "model.safetensors")
    rename(
        folders["new"] / "model.safetensors", (r"^model\.", "model.language_model."), (r"^visual\.", "model.visual.")
    )
    names = {key: set(load_file(folder / "model.safetensors")) for key, folder in folders.items()}
    assert len(names["old"]) == len(names["new"]) and not names["old"] & names["new"]
    return folders


@pytest.fixture(scope="module")
def adapters(tiny_mllm, tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Adapters as ``PeftModel.save_pretrained`` leaves them: two files and no processor."""
    from peft import LoraConfig, get_peft_model

    folders, place = {}, tmp_path_factory.mktemp("adapters")
    for kind in ("lora", "dora"):
        torch.manual_seed(3)
        config = LoraConfig(r=4, lora_alpha=16, use_dora=kind == "dora", target_modules=list(LAYERS))
        model = get_peft_model(Qwen2VLForConditionalGeneration.from_pretrained(tiny_mllm), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
                if "magnitude" in name:
                    parameter.mul_(1 + torch.rand_like(parameter))
        for names in ("new", "old"):
            folders[kind, names] = place / f"{kind}-{names}"
            model.save_pretrained(folders[kind, names])
        rename_as_in_2024(folders[kind, "old"] / ADAPTER_FILE)
        names = {names: set(load_file(folders[kind, names] / ADAPTER_FILE)) for names in ("new", "old")}
        assert len(names["new"]) == len(names["old"]) == 14 * (3 if kind == "dora" else 2)
        assert not names["new"] & names["old"]
    return folders


@pytest.fixture
def adapter(adapters, tmp_path) -> Path:
    """A DoRA adapter that the test may change."""
    return Path(shutil.copytree(adapters["dora", "new"], tmp_path / "adapter"))


def reference(base: Path, image, adapter: Path | None = None) -> np.ndarray:
    """Vectors of a text and of an image with text, as queries."""
    from peft import PeftModel

    model = Qwen2VLForConditionalGeneration.from_pretrained(base).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    processor = AutoProcessor.from_pretrained(base)
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    rows = [
        processor(text=[RENDERED.format(content="red stars", kind="text")], return_tensors="pt"),
        processor(
            text=[RENDERED.format(content=picture + "red stars", kind="text/image")],
            images=[image],
            return_tensors="pt",
        ),
    ]
    with torch.no_grad():
        last = [model(**row, output_hidden_states=True).hidden_states[-1][0, -1] for row in rows]
    return torch.nn.functional.normalize(torch.stack(last), dim=1).numpy()


def queries(image) -> list:
    return ["red stars", {"image": image, "text": "red stars"}]


@pytest.mark.parametrize("names", ["old", "new"])
def test_full_weights_give_the_reference_vectors(weights, tiny_mllm, image, tmp_path, names):
    expected = reference(tiny_mllm, image)
    model = load_embedder(str(weights[names]), device="cpu")
    assert model[0].prompt == HierarchicalPrompt() and model[1].pooling_mode == "lasttoken"
    np.testing.assert_allclose(model.encode_query(queries(image)), expected, atol=1e-5)
    model.save_pretrained(str(tmp_path))
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(plain.encode_query(queries(image)), expected, atol=1e-5)


@pytest.mark.parametrize("names", ["new", "old"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_gives_the_reference_vectors_and_merges(adapters, tiny_mllm, image, tmp_path, kind, names):
    expected = reference(tiny_mllm, image, adapters[kind, "new"])
    assert np.abs(expected - reference(tiny_mllm, image)).max() > 0.05  # the adapter does something
    model = load_embedder(str(adapters[kind, names]), device="cpu")
    assert has_adapter(model) and not any(parameter.requires_grad for parameter in model.parameters())
    np.testing.assert_allclose(model.encode_query(queries(image)), expected, atol=1e-5)
    merge_adapter(model)
    model.save_pretrained(str(tmp_path))
    assert not list(tmp_path.glob("adapter_*"))
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(plain.encode_query(queries(image)), expected, atol=1e-5)


def test_an_adapter_on_renamed_weights_gives_the_reference_vectors(weights, adapter, tiny_mllm, image):
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(weights["new"])
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    model = load_embedder(str(adapter), device="cpu")
    np.testing.assert_allclose(model.encode_query(queries(image)), reference(tiny_mllm, image, adapter), atol=1e-5)


def test_an_adapter_that_is_saved_unmerged_loads_in_plain_sentence_transformers(adapter, image, tmp_path):
    model = load_embedder(str(adapter), device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(queries(image)), model.encode_query(queries(image)), atol=1e-5)


def test_a_whole_processor_in_the_adapters_folder_is_used_and_a_lone_tokenizer_is_not(adapter, tiny_mllm, image):
    processor = AutoProcessor.from_pretrained(tiny_mllm)
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": 1024}
    processor.chat_template = None
    processor.tokenizer.save_pretrained(adapter)
    settings = json.loads((adapter / "tokenizer_config.json").read_text())
    settings.pop("processor_class", None)
    (adapter / "tokenizer_config.json").write_text(json.dumps(settings))
    with_tokenizer = load_embedder(str(adapter), device="cpu")
    assert with_tokenizer.encode([image]).shape == (1, 32)
    processor.save_pretrained(adapter)
    with_processor = load_embedder(str(adapter), device="cpu")
    assert with_processor[0].processor.image_processor.size["longest_edge"] == 1024
    assert with_processor[0].prompt == HierarchicalPrompt()  # its chat template is the base's


def test_an_adapter_of_a_text_model_with_its_own_tokenizer_is_put_on(tiny_mllm, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_mllm)
    tokenizer.chat_template = (tiny_mllm / "chat_template.jinja").read_text()
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_attention_heads=2, num_key_value_heads=1, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    base = Qwen2ForCausalLM.from_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(
        tmp_path / "adapter"
    )
    for folder in (tmp_path / "base", tmp_path / "adapter"):
        tokenizer.save_pretrained(folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings.pop("processor_class")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_embedder(str(tmp_path / "adapter"), device="cpu")
    merged = PeftModel.from_pretrained(Qwen2ForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    row = tokenizer(RENDERED.format(content="red stars", kind="text"), return_tensors="pt")
    with torch.no_grad():
        last = merged.merge_and_unload()(**row, output_hidden_states=True).hidden_states[-1][:, -1]
    expected = torch.nn.functional.normalize(last, dim=1).numpy()
    np.testing.assert_allclose(model.encode_query(["red stars"]), expected, atol=1e-5)


def test_tensors_without_a_place_are_named(adapter):
    rename(adapter / ADAPTER_FILE, (r"layers\.1\.", "layers.7."))
    with pytest.raises(
        ValueError, match=r"21 of 42 tensors have no place, such as 'base_model.*layers\.7\..*', 'base"
    ):
        load_embedder(str(adapter), device="cpu")


def test_an_adapter_of_a_larger_model_is_refused(adapter, tmp_path):
    base = build_tiny_mllm(tmp_path / "wide", hidden_size=64)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    with pytest.raises(ValueError, match=r"does not fit Qwen2VLModel: \d+ of 42 tensors have no place"):
        load_embedder(str(adapter), device="cpu")


def test_an_adapter_that_lost_tensors_is_refused(adapter):
    tensors = load_file(adapter / ADAPTER_FILE)
    kept = {name: tensor for name, tensor in tensors.items() if "magnitude" not in name}
    save_file(kept, adapter / ADAPTER_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"incomplete: .* 42 tensors, .* has 28\. Missing .*magnitude"):
        load_embedder(str(adapter), device="cpu")


@pytest.mark.parametrize("base", ["/home/somebody/Qwen2-VL-2B-Instruct", "nobody/no-such-model", None])
def test_a_base_that_cannot_be_loaded_is_named(adapter, base):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    with pytest.raises(ValueError, match=f"(?s){base or 'names no base model'}.*base_model_name_or_path"):
        load_embedder(str(adapter), device="cpu")


def test_a_pickled_adapter_is_refused(adapter):
    (adapter / ADAPTER_FILE).rename(adapter / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin, which is a pickle"):
        load_embedder(str(adapter), device="cpu")


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ({"bias": "lora_only"}, "bias lora_only"),
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, r"modules_to_save \['embed_tokens'\]"),
    ],
    ids=str,
)
def test_an_adapter_of_another_kind_is_said_to_be_one(adapter, setting, what):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | setting))
    with pytest.raises(ValueError, match=f"of a kind that is not read here .*: {what}"):
        load_embedder(str(adapter), device="cpu")


def test_an_output_layer_in_an_adapter_plays_no_part(adapter, image):
    expected = load_embedder(str(adapter), device="cpu").encode_query(["red stars", image])
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": ["lm_head"]}))
    tensors = load_file(adapter / ADAPTER_FILE)
    save_file(tensors | {"base_model.model.lm_head.weight": torch.ones(4, 32)}, adapter / ADAPTER_FILE)
    np.testing.assert_array_equal(
        load_embedder(str(adapter), device="cpu").encode_query(["red stars", image]), expected
    )
