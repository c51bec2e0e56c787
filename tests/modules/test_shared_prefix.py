"""What all rows of a batch begin with runs once, and no hidden state is another for it."""

from __future__ import annotations

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from saha_st.modules import load_embedder
from saha_st.modules.shared_prefix import SharedPrefix, _difference

RNG = np.random.default_rng(0)
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
LLAMA = SMALL | {"intermediate_size": 48, "num_key_value_heads": 1}
VISION = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
TOKENS = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
IMAGE = TOKENS["image_token_id"]


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 255, (height, width, 3), dtype=np.uint8))


INPUTS = {
    "text": ["red", "a longer text than the other one", "x", "two words"],
    "image": [picture(56, 56), picture(84, 28), {"image": picture(28, 28)}],
    "mixed": ["only text here", {"image": picture(56, 28)}, {"image": picture(28, 84), "text": "beside a picture"}],
    "several images": [{"image": [picture(28, 28), picture(56, 28)], "text": "two"}, {"image": picture(28, 28)}],
}


@pytest.fixture
def forwards(embedder, monkeypatch) -> list:
    """Collects the shape of the tokens of every forward of the backbone."""
    shapes = []
    backbone = embedder[0].model
    forward = type(backbone).forward

    def counted(self, *args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(backbone), "forward", counted)
    return shapes


@pytest.fixture
def plain(embedder, tmp_path) -> SentenceTransformer:
    embedder.save_pretrained(str(tmp_path / "model"))
    return SentenceTransformer(str(tmp_path / "model"), device="cpu")


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
def test_vectors_are_those_of_the_stock_module_while_the_prefix_runs_once(
    embedder, plain, forwards, kind, side, pooling
):
    for model in (embedder, plain):
        model.tokenizer.padding_side = side
        model[0].processor.tokenizer.padding_side = side
        model[1].pooling_mode = pooling
    for encode in ("encode_query", "encode_document"):
        expected = getattr(plain, encode)(INPUTS[kind])
        getattr(embedder, encode)(INPUTS[kind])  # the first batch of a kind is run in both ways
        forwards.clear()
        found = getattr(embedder, encode)(INPUTS[kind])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        (one, prefix), (rows, rest) = forwards
        assert (one, rows) == (1, len(INPUTS[kind])) and prefix > 8 and rest > 0
        repeated = getattr(embedder, encode)(INPUTS[kind])
        np.testing.assert_array_equal(found, repeated)


def test_the_first_batch_gives_the_vectors_of_the_later_ones_to_the_last_bit(embedder):
    first, second = (embedder.encode_query(INPUTS["mixed"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_token_states_of_rows_padded_on_the_left_stay_where_they_were(embedder, plain):
    for model in (embedder, plain):
        model[0].processor.tokenizer.padding_side = "left"
    found = embedder.encode(INPUTS["text"], output_value="token_embeddings")
    expected = plain.encode(INPUTS["text"], output_value="token_embeddings")
    mask = plain.preprocess(INPUTS["text"])["attention_mask"].bool()
    assert not mask.all() and not mask[:, 0].all()
    for row, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours[mask[row]], theirs[mask[row]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [["alone"], ["same", "same"], [{"image": picture(28, 28)}] * 2],
    ids=["one row", "equal rows", "pictures"],
)
def test_degenerate_batches_are_encoded_like_any_other(embedder, plain, inputs):
    np.testing.assert_allclose(embedder.encode_query(inputs), plain.encode_query(inputs), atol=1e-6)


def test_the_prefix_ends_before_the_first_picture(embedder, forwards):
    rows = [{"image": picture(28, 28), "text": word} for word in ("one", "two")]
    features = embedder.preprocess(rows)
    image = embedder[0].config.image_token_id
    first_image = int((features["input_ids"][0] == image).int().argmax())
    for _ in range(2):
        embedder.encode_document(rows)
    assert forwards[-2] == (1, first_image)


def test_training_and_gradients_run_the_plain_forward(embedder, forwards):
    features = embedder.preprocess(INPUTS["text"])
    embedder.train()
    with torch.no_grad():  # the first pass of a cached loss
        embedder(dict(features))
    embedder.eval()
    embedder(dict(features))["sentence_embedding"].sum().backward()
    assert forwards == [tuple(features["input_ids"].shape)] * 2
    assert embedder[0].model.language_model.norm.weight.grad.abs().sum() > 0


def test_a_model_that_has_encoded_can_be_copied_and_pickled(embedder):
    expected = embedder.encode_query(INPUTS["text"])
    for twin in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        np.testing.assert_array_equal(twin.encode_query(INPUTS["text"]), expected)


def test_a_change_of_the_weights_is_seen_by_the_next_batch(embedder):
    before = embedder.encode_query(INPUTS["text"])
    with torch.no_grad():
        embedder[0].model.language_model.layers[0].mlp.down_proj.weight.mul_(3)
    assert np.abs(embedder.encode_query(INPUTS["text"]) - before).max() > 1e-4


def test_half_precision_shares_too(tiny_mllm):
    model = load_embedder(str(tiny_mllm), device="cpu", model_kwargs={"dtype": "bfloat16"})
    vectors = model.encode_query(INPUTS["mixed"])
    assert set(model[0]._shared_prefix._agrees.values()) == {True}
    alone = np.concatenate([model.encode_query([row]) for row in INPUTS["mixed"]])
    assert (vectors * alone).sum(axis=1).min() > 0.99


def backbone(name: str, **config) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIG_MAPPING[name](**config)).eval()


def qwen(name: str, **vision) -> torch.nn.Module:
    text = LLAMA | {"rope_parameters": ROPE, "rope_scaling": ROPE, "head_dim": 16}
    return backbone(name, text_config=text, vision_config=VISION | vision, **TOKENS)


CAUSAL = {
    "llama": lambda: backbone("llama", **LLAMA),
    "qwen3": lambda: backbone("qwen3", **LLAMA, head_dim=16),
    "mistral, window 6": lambda: backbone("mistral", **LLAMA, head_dim=16, sliding_window=6),
    "gemma2, window 6": lambda: backbone("gemma2", **LLAMA, head_dim=16, sliding_window=6),
    "phi3": lambda: backbone("phi3", **LLAMA),
    "gpt2": lambda: backbone("gpt2", vocab_size=64, n_embd=32, n_layer=2, n_head=2),
}
OTHERS = {
    "bert": lambda: backbone("bert", **SMALL, intermediate_size=48),  # not causal
    "mamba": lambda: backbone(
        "mamba", vocab_size=64, hidden_size=32, num_hidden_layers=2, pad_token_id=0
    ),  # no such cache
}
VISUAL = {
    "qwen2_vl": lambda: qwen("qwen2_vl", embed_dim=32, hidden_size=32, mlp_ratio=2),
    "qwen2_5_vl": lambda: qwen(
        "qwen2_5_vl",
        hidden_size=32,
        out_hidden_size=32,
        intermediate_size=48,
        window_size=16,
        fullatt_block_indexes=[1],
    ),
    "qwen3_vl": lambda: qwen(
        "qwen3_vl",
        hidden_size=32,
        out_hidden_size=32,
        intermediate_size=48,
        deepstack_visual_indexes=[0],
        num_position_embeddings=16,
    ),
}


def features(pictures: bool = False, prefix: int = 12) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(1, 50, (4, 30))
    ids[:, :prefix] = ids[0, :prefix]
    ids[:, prefix] = torch.arange(1, 5)  # the rows differ here
    mask = torch.ones_like(ids)
    for row, length in enumerate((30, 25, 22, 28)):
        mask[row, length:], ids[row, length:] = 0, 0
    if not pictures:
        return {"input_ids": ids, "attention_mask": mask}
    grids = [(1, 4, 4), (1, 2, 6), (1, 4, 2)]
    for row, grid in zip((0, 1, 3), grids, strict=True):
        tokens = int(np.prod(grid)) // 4
        ids[row, prefix + 2] = TOKENS["vision_start_token_id"]
        ids[row, prefix + 3 : prefix + 3 + tokens] = IMAGE
        ids[row, prefix + 3 + tokens] = TOKENS["vision_end_token_id"]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(sum(int(np.prod(grid)) for grid in grids), 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor(grids),
    }


def runs(model, batch) -> tuple[torch.Tensor, torch.Tensor | None, SharedPrefix]:
    """The plain states, the shared ones of a second batch, and who shared them."""
    shared = SharedPrefix(model.config)

    def plain(features, **kwargs):
        return model(**features, **kwargs).last_hidden_state

    with torch.inference_mode():
        shared.forward(batch, plain, model)
        return plain(batch), shared.forward(batch, plain, model), shared


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_backbones_share_exactly(name):
    batch = features()
    expected, found, shared = runs(CAUSAL[name](), batch)
    mask = batch["attention_mask"].bool()
    assert set(shared._agrees.values()) == {True}
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VISUAL)
@pytest.mark.parametrize("pictures", [True, False])
def test_backbones_with_three_dimensional_positions_share_exactly(name, pictures):
    batch = features(pictures)
    expected, found, shared = runs(VISUAL[name](), batch)
    mask = batch["attention_mask"].bool()
    assert set(shared._agrees.values()) == {True}
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_text_after_pictures_does_not_inherit_their_positions():
    model, text = VISUAL["qwen2_vl"](), features()
    fresh = runs(model, text)[1]
    runs(model, features(pictures=True))
    torch.testing.assert_close(runs(model, text)[1], fresh, atol=0, rtol=0)


@pytest.mark.parametrize("name", OTHERS)
def test_others_fall_back_to_the_plain_forward_and_say_so_once(name, caplog):
    with caplog.at_level(logging.INFO, logger="saha_st"):
        _, found, shared = runs(OTHERS[name](), features())
    assert found is None and set(shared._agrees.values()) == {False}
    said = [record.message for record in caplog.records if record.name.startswith("saha_st")]
    assert len(said) == 1 and "runs the whole prompt of every row" in said[0]


def test_a_single_wrong_token_is_noticed_in_a_large_batch():
    right = torch.randn(64, 64, 16)
    mask = torch.ones(64, 64, dtype=torch.bool)
    for dtype, error in ((torch.float32, 1e-3), (torch.bfloat16, 0.5)):
        wrong = right.clone()
        wrong[17, -1] += error * wrong[17, -1].roll(1)
        assert _difference(wrong.to(dtype), right.to(dtype), mask).startswith("relative error")
        assert _difference(right.to(dtype), right.to(dtype), mask) == ""


def test_a_first_batch_in_half_precision_does_not_decide_for_later_ones(embedder):
    embedder[0]._shared_prefix._agrees.clear()  # which is copied with a model that others have encoded with
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedder.encode_query(INPUTS["text"])
    embedder.encode_query(INPUTS["text"])
    verdicts = embedder[0]._shared_prefix._agrees
    assert len(verdicts) == 2 and set(verdicts.values()) == {True}


def test_pictures_that_attend_in_both_directions_run_the_plain_forward():
    batch = features(pictures=True)
    batch["token_type_ids"] = batch["mm_token_type_ids"]  # as Gemma 3 has them
    model = VISUAL["qwen2_vl"]()
    assert SharedPrefix(model.config).forward(batch, lambda *args, **kwargs: pytest.fail("shared"), model) is None


def test_pictures_whose_placeholders_are_not_known_run_the_plain_forward():
    model, batch = VISUAL["qwen2_vl"](), features(pictures=True)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, 59)  # of another backbone
    shared = SharedPrefix(model.config)
    assert shared.forward(batch, lambda *args, **kwargs: pytest.fail("shared"), model) is None
