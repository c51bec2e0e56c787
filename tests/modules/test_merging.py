"""An adapter's effect is measured on all that a model reads, and a merge is believed only if it kept that effect.

Merged models that are saved and loaded again: test_foreign_checkpoints, training/test_run.
"""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from sentence_transformers import SentenceTransformer

from saha_st.modules import load_embedder
from saha_st.modules.merging import adapter_effect, default_probes, has_adapter, merge_adapter

LANGUAGE = r"language_model\.layers\..*\.(q_proj|down_proj)"
VISION = r"visual\.blocks\..*\.(qkv|fc1)"
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def _in_half_precision(tiny_mllm):
    return load_embedder(str(tiny_mllm), device="cpu", model_kwargs={"dtype": torch.bfloat16})


@pytest.fixture
def adapted(embedder, _in_half_precision):
    """Put an adapter on some layers of the tiny model; ``std`` is how much of one, ``None`` untrained."""

    def build(layers: str, *, std: float | None, dtype: torch.dtype = torch.float32) -> SentenceTransformer:
        model = embedder if dtype == torch.float32 else copy.deepcopy(_in_half_precision)
        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=layers))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
            if "lora_B" in name and std is not None:
                parameter.data.normal_(std=std)
        assert model.dtype == dtype and has_adapter(model)
        return model

    return build


def angle(vectors: np.ndarray, others: np.ndarray) -> float:
    """The largest angle, as 1 - cosine, of vectors that need not have length 1."""
    vectors, others = (v / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (vectors, others))
    return float((1 - (vectors * others).sum(axis=1)).max())


def test_an_adapter_on_the_vision_tower_alone_is_counted_and_measured(adapted, image):
    model = adapted(VISION, std=0.5)
    effect = adapter_effect(model)
    assert (effect.tensors, effect.layers) == (8, 4) and effect.change > 1e-3
    with pytest.raises(ValueError, match="8 tensors on 4 layers, and changes nothing"):
        adapter_effect(model, probes=["a text, which the vision tower does not see"])


def test_an_adapter_on_the_vision_tower_alone_merges(adapted, embedder, image):
    cells = [image, {"image": image, "text": "Which?"}, "red"]
    untouched = embedder.encode(cells)
    model = adapted(VISION, std=0.5)
    expected = model.encode(cells)
    assert angle(expected[:1], untouched[:1]) > 1e-3
    merge_adapter(model)
    assert not has_adapter(model)
    np.testing.assert_allclose(model.encode(cells), expected, atol=1e-5)


def test_a_vision_tower_whose_adapter_got_lost_in_the_merge_is_noticed(adapted, monkeypatch):
    model = adapted(rf"{LANGUAGE}|{VISION}", std=0.2)
    tower = [layer for layer in model[0].model.visual.modules() if isinstance(layer, Linear)]
    merge = Linear.merge
    monkeypatch.setattr(Linear, "merge", lambda layer, **how: None if layer in tower else merge(layer, **how))
    assert len(tower) == 4 and adapter_effect(model, probes=["red"]).change > 1e-3  # texts tell of the others only
    with pytest.raises(RuntimeError, match="Merging the adapter changed the vectors"):
        merge_adapter(model)


def test_probes_have_pictures_only_for_models_that_see_and_have_room_for_them(embedder, monkeypatch):
    assert [type(cell).__name__ for cell in default_probes(embedder)] == ["str", "str", "Image", "dict"]
    assert len(set(default_probes(embedder)[2].get_flattened_data())) >= 4  # not uniform
    embedder.max_seq_length = 44
    assert len(default_probes(embedder)) == 2
    monkeypatch.setattr(type(embedder[0]), "modalities", ["text"])
    embedder.max_seq_length = None
    assert len(default_probes(embedder)) == 2


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_gradients_and_modes_as_they_were(adapted, training):
    model = adapted(LANGUAGE, std=0.1)
    model.train(training)
    model[0].model.visual.train(not training)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 == 0)  # adapters partly frozen, weights partly trained

    def state():
        gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        return gradients, {name: module.training for name, module in model.named_modules()}

    before = state()
    assert all(set(values.values()) == {True, False} for values in before)
    assert adapter_effect(model).change > 1e-3
    assert state() == before
    vectors = model.encode(["red"])
    assert adapter_effect(model).change > 1e-3  # the adapter is switched on again
    np.testing.assert_array_equal(model.encode(["red"]), vectors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merge_that_is_nearer_to_the_adapter_than_to_the_base_is_believed(adapted, caplog, dtype):
    model = adapted(LANGUAGE, std=0.1, dtype=dtype)
    probes = default_probes(model)
    expected, change = model.encode(probes), adapter_effect(model).change
    with caplog.at_level(logging.WARNING):
        merge_adapter(model)
    assert angle(model.encode(probes), expected) < change and not caplog.records


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merge_that_leaves_the_bases_weights_is_refused_however_little_the_adapter_does(adapted, monkeypatch, dtype):
    model = adapted(LANGUAGE, std=3e-4, dtype=dtype)
    assert 0 < adapter_effect(model).change < {torch.float32: 1e-6, torch.bfloat16: 2e-3}[dtype]
    monkeypatch.setattr(Linear, "merge", lambda layer, safe_merge: None)
    with pytest.raises(RuntimeError, match="changed no weight"):
        merge_adapter(model)


def test_an_adapter_that_half_precision_cannot_hold_is_told(adapted, caplog):
    model = adapted(LANGUAGE, std=1e-4, dtype=torch.bfloat16)
    base = copy.deepcopy(model[0].model.state_dict())
    assert adapter_effect(model).change > 0
    with caplog.at_level(logging.WARNING):
        merge_adapter(model)
    assert "Merging lost the adapter" in caplog.text and "bfloat16 are too coarse" in caplog.text
    merged = model[0].model.state_dict()
    differ = [name for name in merged if not torch.equal(merged[name], base.get(name, base.get(_wrapped(name))))]
    assert differ  # weights did change, only not enough


def test_an_adapter_that_was_never_trained_merges_into_the_base(adapted, embedder, caplog):
    expected = embedder.encode(["red"])
    model = adapted(LANGUAGE, std=None)
    with pytest.raises(ValueError, match="changes nothing"):
        adapter_effect(model)
    with caplog.at_level(logging.WARNING):
        merge_adapter(model)
    np.testing.assert_array_equal(model.encode(["red"]), expected)
    assert not has_adapter(model) and not caplog.records


def _wrapped(name: str) -> str:
    """The name of a layer's weight while an adapter is on it."""
    layer, _, part = name.rpartition(".")
    return f"{layer}.base_layer.{part}"
