"""Every supported family does everything: the same tests for all, on the real architecture and processor, tiny."""

from __future__ import annotations

import copy
import json
import re

import backbone_inputs as inputs
import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from datasets import Dataset, Features, Image, Value
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from turns import TURNS

from saha_st.hub.export import export_model
from saha_st.losses import SaHaLoss
from saha_st.mining import mine_saha_clusters
from saha_st.modules import load_embedder
from saha_st.modules.families import FAMILIES, Family, family_of
from saha_st.modules.image_tokens import count_image_tokens, image_setting, set_image_tokens
from saha_st.modules.merging import merge_adapter
from saha_st.modules.shared_prefix import SharedPrefix
from saha_st.modules.token_counts import tokens_of_pictures
from saha_st.prompts import QUERY_SUFFIX, SYSTEM
from saha_st.training.adapters import add_adapter, freeze_vision
from saha_st.training.config import AdapterConfig

SUPPORTED = [name for name in ARCHITECTURES if not family_of(name).unsupported]
VISUAL = [name for name in SUPPORTED if family_of(name).vision]
TOLERANCE = 1e-5
AUTO_CLASSES = {True: AutoModelForImageTextToText, False: AutoModelForCausalLM}

SLOW = ("qwen4_exp", "idefics3")  # experts take their time even if tiny; Idefics3 is cut into tiles as SmolVLM is


def _each(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]
    )


all_backbones, backbones_that_see = _each(SUPPORTED), _each(VISUAL)


FORBIDDEN = [
    (name, batch)
    for name in SUPPORTED
    for batch in ("text", "images")
    if batch not in family_of(name).shares_prefix and (batch == "text" or name in VISUAL)
]
"""Batches whose prefix an entry says not to share."""


def sees(model: SentenceTransformer) -> bool:
    return "image" in model[0].modalities


def rows_of(model: SentenceTransformer) -> list:
    return inputs.mixed() if sees(model) else inputs.texts()


def test_every_entry_of_the_table_is_tested_here():
    assert sorted(ARCHITECTURES) == sorted(model_type for family in FAMILIES for model_type in family.model_types)
    assert sorted(TURNS) == sorted(SUPPORTED)


@all_backbones
def test_both_levels_of_the_prompt_are_rendered_to_the_byte(backbone, name):
    cells = {"text": ("red stars", 0)}
    if sees(backbone):
        image = inputs.picture(0, 32, 32)
        cells |= {"image": ({"image": image}, 1), "both": ({"image": image, "text": "red stars"}, 1)}
        cells |= {"several": ({"image": [image, image], "text": "red stars"}, 2)}
    for cell, images in cells.values():
        text = cell if isinstance(cell, str) else cell.get("text", "")
        messages = backbone[0].input_formatter.to_message({"text": cell} if isinstance(cell, str) else cell)
        for task, suffix in (("query", QUERY_SUFFIX["image" if images else "text"]), ("document", "")):
            rendered = backbone[0].processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, task=task
            )
            assert rendered == TURNS[name].render(SYSTEM, text + suffix, images=images)
    ids = backbone.preprocess(["red stars"], task="query")["input_ids"][0]
    rendered = TURNS[name].render(SYSTEM, "red stars" + QUERY_SUFFIX["text"])
    if name == "llava_next":  # whose tokenizer begins every text, and whose template does not
        rendered = "<s>" + rendered
    assert backbone.tokenizer.decode(ids) == rendered


@all_backbones
def test_every_weight_of_the_generative_model_is_in_the_embedder(backbone, folder_of, name):
    generative = AUTO_CLASSES[name in VISUAL].from_pretrained(folder_of(name))
    expected, found = generative.base_model.state_dict(), backbone[0].model.state_dict()
    assert found.keys() == expected.keys() and len(found) >= 20
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, rtol=0, atol=0)


@all_backbones
def test_a_row_has_the_same_vector_alone_and_in_any_batch(backbone, name):
    rows = rows_of(backbone)
    for encode in (backbone.encode_query, backbone.encode_document):
        alone = np.concatenate([encode([row]) for row in rows])
        np.testing.assert_allclose(encode(rows), alone, atol=TOLERANCE)
        np.testing.assert_allclose(encode(rows, batch_size=2), alone, atol=TOLERANCE)
    different = 1 - (alone @ alone.T)[np.triu_indices(len(rows), 1)]
    assert different.min() > 1e-3  # vectors that are all alike would pass the rest
    assert np.abs(backbone.encode_query(rows) - backbone.encode_document(rows)).max() > 1e-3


@backbones_that_see
def test_a_vector_tells_which_pictures_were_shown_and_in_which_order(backbone, name):
    one, two = inputs.picture(0, 48, 48), inputs.picture(1, 48, 48)
    cells = [{"image": images, "text": "what"} for images in ([one], [two], [one, two], [two, one])]
    vectors = backbone.encode_query(cells)
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=-1)
    assert distances[np.triu_indices(4, 1)].min() > 1e-3


@all_backbones
def test_a_shared_prefix_gives_the_plain_vectors_where_it_is_shared(backbone, name):
    plain = copy.deepcopy(backbone)
    plain[0]._may_share_prefix = lambda *args: False
    batches = {"text": inputs.texts()} | ({"images": inputs.mixed()} if sees(backbone) else {})
    for batch, rows in batches.items():
        verdicts = backbone[0]._shared_prefix._agrees
        verdicts.clear()
        for _ in range(2):  # the first batch of a kind is run in both ways
            np.testing.assert_allclose(backbone.encode_query(rows), plain.encode_query(rows), atol=TOLERANCE)
        assert set(verdicts.values()) == ({True} if batch in family_of(name).shares_prefix else set())


def test_a_prefix_that_is_not_shared_is_one_of_a_family_that_is_tried_here():
    assert {name for name, _ in FORBIDDEN} == {"qwen3_5", "qwen4_exp", "gemma3", "gemma4"}


@pytest.mark.parametrize(
    ("name", "batch"), [pytest.param(*pair, marks=[pytest.mark.slow] * (pair[0] in SLOW)) for pair in FORBIDDEN]
)
def test_the_entry_forbids_no_sharing_that_would_do(backbone, name, batch):
    sharing = backbone[0].__dict__["_shared_prefix"] = SharedPrefix(backbone[0].config, backbone[0].processor)
    sharing._shareable = {"text", "images"}
    sharing._may_share_with_media = lambda *args: True  # the guard that keeps Gemma 3 from being tried
    backbone.encode_query(inputs.texts() if batch == "text" else inputs.mixed())
    assert set(sharing._agrees.values()) == {False}  # tried, and found to give other states


@all_backbones
def test_truncation_cuts_text_and_neither_pictures_nor_the_suffix(backbone, name):
    rows = ["red " * 40]
    if sees(backbone):
        rows += [{"image": inputs.picture(1, 64, 48), "text": "red " * 40}]
    for row in rows:
        whole = backbone.preprocess([row], task="query")["input_ids"][0].tolist()
        backbone.max_seq_length = len(whole) - 20
        cut = backbone.preprocess([row], task="query")["input_ids"][0].tolist()
        assert len(whole) - 24 <= len(cut) <= backbone.max_seq_length
        suffix = backbone.tokenizer("one word.", add_special_tokens=False)["input_ids"]
        assert cut[-len(suffix) - 2 :] == whole[-len(suffix) - 2 :]
        assert (
            backbone.tokenizer.decode(cut).split("Represent")[1:]
            == backbone.tokenizer.decode(whole).split("Represent")[1:]
        )
        if isinstance(row, dict):
            image = getattr(backbone[0].config, "image_token_id", None)
            assert whole.count(image) == cut.count(image) > 0
        assert np.isfinite(backbone.encode_query([row])).all()
        backbone.max_seq_length = 24
        with pytest.raises(ValueError, match="do not leave room"):
            backbone.encode_query([row])
        backbone.max_seq_length = 2048


@backbones_that_see
def test_image_tokens_bound_what_a_picture_takes_and_are_saved(backbone, folder_of, name, tmp_path):
    large = inputs.picture(5, 320, 320)
    rows = [large, "a red circle", {"image": [inputs.picture(6, 40, 90), large], "text": "two"}]
    most = count_image_tokens(backbone[0].processor, large)
    assert image_setting(backbone[0].processor) == family_of(name).image_tokens
    if family_of(name).image_tokens is None:
        with pytest.raises(ValueError, match="image_tokens is not available"):
            set_image_tokens(backbone[0].processor, (1, most))
        return
    bounded = load_embedder(str(folder_of(name)), device="cpu", image_tokens=(1, most - 1))
    assert 0 < count_image_tokens(bounded[0].processor, large) < most
    vectors = bounded.encode_query(rows)
    np.testing.assert_allclose(np.concatenate([bounded.encode_query([row]) for row in rows]), vectors, atol=TOLERANCE)
    assert np.abs(vectors[0] - backbone.encode_query(rows[:1])[0]).max() > 1e-3
    bounded.save_pretrained(str(tmp_path))
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(plain.encode_query(rows), vectors, atol=TOLERANCE)
    if family_of(name).image_tokens != "pixels":
        with pytest.raises(ValueError, match=r"spends at least \d+ tokens"):
            set_image_tokens(backbone[0].processor, (1, 1), config=backbone[0].config)


@backbones_that_see
def test_tokens_of_pictures_are_counted_as_the_processor_writes_them(backbone, name):
    processor = backbone[0].processor
    sizes = [(28, 28), (64, 48), (32, 96), (300, 400)]
    written = [count_image_tokens(processor, inputs.picture(0, width, height)) for height, width in sizes]
    counted = tokens_of_pictures(processor, sizes)
    assert (counted is None) == (name == "smolvlm")
    assert counted is None or len({one - other for one, other in zip(written, counted, strict=True)}) == 1


@all_backbones
def test_what_is_saved_loads_as_a_plain_sentence_transformer_with_the_same_vectors(backbone, name, tmp_path):
    backbone.save_pretrained(str(tmp_path))
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    assert {type(module).__module__.split(".")[0] for module in plain} == {"sentence_transformers"}
    for encode in ("encode_query", "encode_document"):
        expected = getattr(backbone, encode)(rows_of(backbone))
        np.testing.assert_allclose(getattr(plain, encode)(rows_of(backbone)), expected, atol=TOLERANCE)


@all_backbones
def test_what_is_published_names_the_generative_class_and_has_the_same_vectors(backbone, folder_of, name, tmp_path):
    export_model(backbone, tmp_path)
    exported, base = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, folder_of(name)))
    assert exported["architectures"] == base["architectures"]
    expected = backbone.encode_query(rows_of(backbone))
    for load in (SentenceTransformer, load_embedder):
        again = load(str(tmp_path), device="cpu")
        np.testing.assert_allclose(again.encode_query(rows_of(backbone)), expected, atol=TOLERANCE)


@all_backbones
def test_mining_finds_clusters_of_whole_rows(backbone, name):
    anchors = [f"{number}: {inputs.LONG[: 9 * number + 5]}" for number in range(8)]
    positives: list = [f"the answer to {anchor}" for anchor in anchors]
    features = Features({"anchor": Value("string"), "positive": Value("string")})
    if sees(backbone):
        images = [inputs.picture(number, 32 + 16 * (number % 3), 48) for number in range(8)]
        positives = [{"image": image, "text": text} for image, text in zip(images, positives, strict=True)]
        features["positive"] = {"image": Image(), "text": Value("string")}
    pairs = Dataset.from_dict({"anchor": anchors, "positive": positives}, features=features)
    mined = mine_saha_clusters(pairs, backbone, num_negatives=2, show_progress_bar=False)
    clusters, rows, _ = np.array(mined["label"]).T
    assert set(rows) == set(range(8)) and mined["anchor"] == [anchors[row] for row in rows]
    assert np.bincount(clusters).max() == 3


def columns_of(model: SentenceTransformer) -> list[list]:
    rows = rows_of(model)
    return [rows, [*rows[1:], rows[0]]]


def features_of(model: SentenceTransformer) -> list[dict]:
    anchors, positives = columns_of(model)
    return [model.preprocess(anchors, task="query"), model.preprocess(positives, task="document")]


def gradients(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def uncached(model: SentenceTransformer, columns: list[dict]) -> torch.Tensor:
    """InfoNCE with both columns embedded whole."""
    anchors, positives = (model(dict(column))["sentence_embedding"] for column in columns)
    cosines = torch.nn.functional.normalize(anchors) @ torch.nn.functional.normalize(positives).T
    return torch.nn.functional.cross_entropy(50 * cosines, torch.arange(len(anchors)))


@all_backbones
def test_an_adapter_on_the_language_model_trains_through_the_cached_loss_and_merges(backbone, name, tmp_path):
    family: Family = family_of(name)
    add_adapter(backbone, AdapterConfig(r=2, lora_dropout=0.0))
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    part = "" if family.language_model is None else f"{re.escape(family.language_model)}\\."
    assert trained and all(re.match(rf"0\.model\.{part}.*\.lora_", name) for name in trained)
    backbone.train()
    columns = features_of(backbone)
    longest = max(int(column["attention_mask"].sum(dim=1).max()) for column in columns)
    loss = SaHaLoss(backbone, mini_batch_num_tokens=longest, mask_duplicates=False)
    optimizer = torch.optim.SGD([parameter for parameter in backbone.parameters() if parameter.requires_grad], lr=0.05)
    before = {name: parameter.detach().clone() for name, parameter in backbone.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        value = uncached(backbone, columns)
        value.backward()
        expected = gradients(backbone)
        optimizer.zero_grad()
        cached = loss([dict(column) for column in columns], None)
        cached.backward()
        found = gradients(backbone)
        assert cached.item() == pytest.approx(value.item(), rel=1e-4)
        assert found.keys() == expected.keys() and len(found) > 2
        scale = max(gradient.abs().max().item() for gradient in expected.values())
        assert scale > 0
        for parameter, gradient in expected.items():
            torch.testing.assert_close(found[parameter], gradient, atol=1e-4 * scale, rtol=1e-3)
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
    moved = {name for name, parameter in backbone.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved <= set(trained) and any("lora_B" in name for name in moved)
    backbone.eval()
    expected = backbone.encode_query(rows_of(backbone))
    assert merge_adapter(backbone)
    backbone.save_pretrained(str(tmp_path))
    assert not list(tmp_path.glob("adapter_*"))
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(plain.encode_query(rows_of(backbone)), expected, atol=1e-4)


@backbones_that_see
def test_mini_batches_of_any_size_give_the_loss_of_the_whole_batch(backbone, name):
    pictures = [{"image": inputs.picture(number, 48, 64)} for number in range(3)]
    two = {"image": [inputs.picture(4, 64, 48), inputs.picture(5, 48, 48)]}
    features = [backbone.preprocess(["a", "b", "c", "d"]), backbone.preprocess([two, *pictures])]

    def loss_of(**options: int) -> float:
        columns = [dict(column) for column in features]
        keys = [set(column) for column in columns]
        value = SaHaLoss(backbone.train(), mask_duplicates=False, **options)(columns, None).item()
        assert [set(column) for column in columns] == keys, "what is computed must not stay in the batch"
        return value

    longest = max(int(column["attention_mask"].sum(dim=1).max()) for column in features)
    for options in ({"mini_batch_size": 2}, {"mini_batch_size": 3}, {"mini_batch_num_tokens": 2 * longest}):
        assert loss_of(**options) == pytest.approx(loss_of(mini_batch_size=4), rel=1e-4)


@all_backbones
def test_a_saved_adapter_loads_with_the_same_vectors_in_a_resolution_of_its_own(backbone, name, tmp_path):
    rows = rows_of(backbone)
    if family_of(name).image_tokens:
        rows.append(inputs.picture(5, 320, 320))
        most = count_image_tokens(backbone[0].processor, rows[-1])
        set_image_tokens(backbone[0].processor, (1, most - 1), config=backbone[0].config)
    plain = backbone.encode_query(rows)
    add_adapter(backbone, AdapterConfig(r=2, lora_dropout=0.0))
    torch.manual_seed(1)
    for parameter_name, parameter in backbone.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_(std=0.5)
    vectors = backbone.eval().encode_query(rows)
    assert np.abs(vectors - plain).max() > 1e-2
    backbone.save_pretrained(str(tmp_path))
    assert (tmp_path / "adapter_model.safetensors").exists() and not (tmp_path / "model.safetensors").exists()
    for load in (SentenceTransformer, load_embedder):
        again = load(str(tmp_path), device="cpu")
        np.testing.assert_allclose(again.encode_query(rows), vectors, atol=TOLERANCE)


@backbones_that_see
def test_with_vision_frozen_a_batch_of_texts_gives_every_weight_its_gradient(backbone, name):
    family = family_of(name)
    parts = {name for name, _ in backbone[0].model.named_children()}
    parts |= {name for name, _ in backbone[0].model.named_parameters(recurse=False)}
    assert freeze_vision(backbone) > 0 and {part for part in family.vision if part not in parts} <= {
        "audio_tower",
        "embed_audio",
    }
    backbone.train()
    of_texts, of_pictures = (set(_gradients_of(backbone, rows)) for rows in (inputs.texts(), inputs.mixed()))
    assert of_texts == of_pictures and len(of_texts) > 10


def _gradients_of(model: SentenceTransformer, rows: list) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(model.preprocess(rows))["sentence_embedding"].sum().backward()
    return gradients(model)
