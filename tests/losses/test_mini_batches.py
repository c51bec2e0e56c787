"""Mini-batches by tokens: bounded with the padding counted, every row once, no influence on the result."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sentence_transformers.base.losses.gradcache import RandContext
from test_saha_loss import Uncached, assert_same, loss_and_gradients
from tiny_embedder import copied, mixed_features, picture

from saha_st.losses import SaHaLoss
from saha_st.losses.mini_batches import FailedMiniBatch, MiniBatches, fill, take_rows, without_padding
from saha_st.training.adapters import add_adapter
from saha_st.training.config import AdapterConfig


@pytest.mark.parametrize("num_tokens", [1, 7, 60, 64, 1000])
def test_no_mini_batch_exceeds_the_tokens_padding_counted_unless_it_is_one_row(num_tokens: int):
    lengths = torch.randint(1, 60, (97,), generator=torch.Generator().manual_seed(0)).tolist()
    mini_batches = fill(lengths, num_tokens)
    assert sorted(row for rows in mini_batches for row in rows) == list(range(97))
    for rows in mini_batches:
        assert rows == sorted(rows)
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= num_tokens
    longest = [max(lengths[row] for row in rows) for rows in mini_batches]
    assert longest == sorted(longest, reverse=True) and len(mini_batches) <= 97


def test_a_long_row_does_not_pad_short_ones():
    assert fill([1000] + [20] * 150, 4096) == [[0, 1, 2, 3], list(range(4, 151))]
    assert fill([], 10) == []


def test_rows_are_put_back_in_line():
    dealt = MiniBatches.of(
        {"attention_mask": torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0]])}, 3, rows_without_lengths=9
    )
    assert dealt.rows == [[1], [2], [0]] and dealt.place_of_row == [2, 0, 1] and dealt.lengths == [1, 3, 2]
    without = MiniBatches.of({"input_ids": torch.zeros(5, 2)}, 3, rows_without_lengths=2)
    assert without.rows == [[0, 1], [2, 3], [4]] and without.lengths == []


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", [[0], [1], [0, 2], [1, 3], [0, 1, 3], [0, 1, 2, 3]])
def test_some_rows_with_their_images_give_the_vectors_that_they_give_in_the_whole_batch(model, side, rows):
    model.eval()
    model.tokenizer.padding_side = side
    inputs = [
        "a red circle",
        {"image": [picture(1), picture(5)], "text": "what is it?"},
        picture(2),
        "two yellow stars, a square, and what is left of them",
    ]
    features = model.preprocess(inputs)
    assert (features["attention_mask"][0, 0 if side == "left" else -1]) == 0
    with torch.no_grad():
        whole = model(dict(features))["sentence_embedding"]
        taken = take_rows(features, rows)
        some = model(dict(taken))["sentence_embedding"]
    torch.testing.assert_close(some, whole[rows], atol=1e-5, rtol=1e-4)
    assert taken["attention_mask"].shape[1] == features["attention_mask"][rows].sum(dim=1).max()


def mask_of(lengths: list[int]) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def test_videos_go_with_their_rows():
    grid = torch.tensor([[2, 1, 1], [1, 2, 2], [3, 1, 1]])  # 2, 4 and 3 patches
    features = {
        "input_ids": torch.arange(20).reshape(4, 5),
        "attention_mask": mask_of([5, 3, 4, 2]),
        "num_videos_per_sample": torch.tensor([1, 0, 2, 0]),
        "video_grid_thw": grid,
        "pixel_values_videos": torch.arange(9.0)[:, None],
        "second_per_grid_ts": torch.tensor([0.5, 1.0, 2.0]),
    }
    taken = take_rows(features, [1, 2])
    assert taken["pixel_values_videos"].flatten().tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert taken["video_grid_thw"].tolist() == grid[1:].tolist()
    assert taken["second_per_grid_ts"].tolist() == [1.0, 2.0] and taken["num_videos_per_sample"].tolist() == [0, 2]
    assert taken["input_ids"].tolist() == features["input_ids"][1:3, :4].tolist()
    assert take_rows(features, [0, 3])["pixel_values_videos"].flatten().tolist() == [0, 1]
    without = take_rows(features, [1, 3])
    assert "pixel_values_videos" not in without and "video_grid_thw" not in without


def test_pictures_numbered_through_go_with_their_rows():
    pixels = torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2)  # LLaVA: (images, 3, height, width)
    features = {
        "input_ids": torch.arange(12).reshape(4, 3),
        "attention_mask": mask_of([3, 3, 3, 3]),
        "num_images_per_sample": torch.tensor([1, 0, 2, 1]),
        "pixel_values": pixels,
        "image_sizes": torch.arange(8).reshape(4, 2),
    }
    for rows, images in (([0, 2], [0, 1, 2]), ([2, 3], [1, 2, 3]), ([0, 3], [0, 3]), ([0, 1, 2, 3], [0, 1, 2, 3])):
        taken = take_rows(features, rows)
        assert torch.equal(taken["pixel_values"], pixels[images])
        assert torch.equal(taken["image_sizes"], features["image_sizes"][images])
        assert torch.equal(taken["input_ids"], features["input_ids"][rows])
    assert not {"pixel_values", "image_sizes"} & set(take_rows(features, [1]))


def test_pictures_padded_for_each_row_go_with_their_rows():
    pixels = torch.arange(4.0 * 2).reshape(4, 2, 1, 1, 1).expand(4, 2, 3, 2, 2)  # SmolVLM: (rows, images, 3, h, w)
    features = {
        "input_ids": torch.arange(12).reshape(4, 3),
        "attention_mask": mask_of([3, 3, 3, 3]),
        "num_images_per_sample": torch.tensor([1, 0, 2, 1]),  # in all as many as rows, which must not mislead
        "pixel_values": pixels,
        "pixel_attention_mask": torch.arange(4 * 2 * 4).reshape(4, 2, 2, 2),
    }
    for rows in ([0, 2], [1], [1, 2, 3], [0, 1, 2, 3]):
        taken = take_rows(features, rows)
        assert torch.equal(taken["pixel_values"], pixels[rows])
        assert torch.equal(taken["pixel_attention_mask"], features["pixel_attention_mask"][rows])


@pytest.mark.parametrize(
    "media",
    [
        {"pixel_values": torch.zeros(5, 3, 2, 2)},
        {"pixel_values": torch.zeros(6, 4), "image_grid_thw": torch.ones(6, 3).long()},
    ],
)
def test_pictures_of_which_nothing_says_whose_they_are_are_refused(media):
    features = {"input_ids": torch.zeros(3, 2), "attention_mask": torch.ones(3, 2)} | media
    with pytest.raises(ValueError, match="nothing says which"):
        take_rows(features, [0, 2])
    assert take_rows(features, [0, 1, 2])["pixel_values"] is media["pixel_values"]


def test_padding_that_all_rows_have_is_left_out_on_either_side():
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 0]])
    ids = torch.arange(10).reshape(2, 5)
    features = {"attention_mask": mask, "input_ids": ids, "num_images_per_sample": torch.zeros(2), "modality": "text"}
    short = without_padding(features)
    assert (
        short["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
        and short["input_ids"].tolist() == ids[:, 1:4].tolist()
    )
    assert short["num_images_per_sample"].shape == (2,) and short["modality"] == "text"
    assert without_padding(short) is short and without_padding({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("num_tokens", [1, 30, 60, 4096])
def test_any_number_of_tokens_gives_the_loss_and_gradients_of_the_whole_batch(model, side, num_tokens):
    model.tokenizer.padding_side = side
    features = [*mixed_features(model), model.preprocess(["a star " * 9, picture(5), "a blue square", "a picture"])]
    labels = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 2, 1], [1, 3, 3]])
    loss = SaHaLoss(model, mini_batch_num_tokens=num_tokens)
    by_tokens = loss_and_gradients(loss, features, labels)
    assert_same(by_tokens, loss_and_gradients(Uncached(model), features, labels))
    with torch.no_grad():
        assert loss(copied(features), labels).item() == pytest.approx(by_tokens[0], rel=1e-5)


def test_tokens_are_the_default_and_a_number_of_rows_takes_their_place(model):
    for options, expected in (({}, 4096), ({"mini_batch_size": 4}, None), ({"mini_batch_num_tokens": 99}, 99)):
        assert SaHaLoss(model, **options).mini_batch_num_tokens == expected
    assert SaHaLoss(model, mini_batch_size=4).mini_batch_size == 4


def test_a_row_longer_than_the_tokens_is_embedded_alone_and_said_once(model, caplog):
    loss = SaHaLoss(model, mini_batch_num_tokens=10, mask_duplicates=False)
    for _ in range(2):
        loss(mixed_features(model), None)
    (message,) = [record.getMessage() for record in caplog.records if "mini_batch_num_tokens" in record.getMessage()]
    assert "more than mini_batch_num_tokens=10" in message and "max_seq_length" in message


def test_the_dropout_of_an_adapter_is_the_same_in_both_passes_and_with_the_same_seed(model):
    add_adapter(model, AdapterConfig(r=2, lora_dropout=0.5, target_modules=("q_proj", "v_proj")))
    features = mixed_features(model)
    loss = SaHaLoss(model, mini_batch_num_tokens=40, mask_duplicates=False)
    vectors = []
    model.register_forward_hook(lambda module, inputs, output: vectors.append(output["sentence_embedding"].detach()))

    def run(seed: int) -> tuple[float, dict[str, torch.Tensor]]:
        torch.manual_seed(seed)
        model.zero_grad()
        value = loss(copied(features), None)
        value.backward()
        return value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    # B starts at zero, so that nothing would depend on the dropout but its gradient.
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    (value, gradients), (again, gradients_again), (other, _) = run(0), run(0), run(1)
    first, second = vectors[: len(vectors) // 6], vectors[len(vectors) // 6 : len(vectors) // 3]
    assert len(first) > 2 and all(map(torch.equal, first, second))  # without gradients, and with them
    assert math.isfinite(value) and value == again != other
    assert gradients and all("lora" in name for name in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert sum(gradient.abs().sum() for gradient in gradients.values()) > 0
    assert all(torch.equal(gradient, gradients_again[name]) for name, gradient in gradients.items())


@pytest.mark.parametrize("ranges", [[(0, 2)], [(0, 1)], [(0, 1), (1, 2)], [(1, 2), (0, 1), (2, 3)]])
def test_mini_batches_counted_otherwise_than_dealt_out_are_refused(model, ranges):
    loss = SaHaLoss(model, mini_batch_num_tokens=60)
    column = loss._dealt_out(mixed_features(model)[0])
    assert len(column["dealt_out"].rows) == 3
    with pytest.raises(RuntimeError, match="3 mini-batches were dealt out by tokens, but Sentence Transformers"):
        loss.embed_minibatch_iter(column, with_grad=False, copy_random_state=False, ranges=ranges)
    assert len(list(loss.embed_minibatch_iter(column, with_grad=False, copy_random_state=False))) == 3
    # Under DDP a single one is embedded a third time.
    ((_, state),) = loss.embed_minibatch_iter(
        column, with_grad=False, copy_random_state=True, random_states=[RandContext()], ranges=[(2, 3)]
    )
    assert state is not None


def test_given_both_the_tokens_decide_what_is_embedded_and_the_rows_how_scores_are_computed(model, monkeypatch):
    loss = SaHaLoss(model, mini_batch_size=3, mini_batch_num_tokens=4096, mask_duplicates=False)
    embedded, scored = [], []
    model.register_forward_pre_hook(lambda module, inputs: embedded.append(len(inputs[0]["attention_mask"])))
    monkeypatch.setattr(loss, "_observe", lambda cosines, masked, own: scored.append(len(own)))
    loss(mixed_features(model), None)
    assert embedded == [4, 4] and scored == [3, 1]


@pytest.mark.parametrize("options", [{"mini_batch_num_tokens": 60}, {"mini_batch_size": 2}])
@pytest.mark.parametrize("in_backward", [False, True])
def test_out_of_memory_says_which_rows_of_which_column(model, options, in_backward):
    model = copy.deepcopy(model)
    features = mixed_features(model)
    labels = [[0, i, 10 + i] for i in range(4)]
    loss = SaHaLoss(model, **options)

    def full(module, inputs):
        if torch.is_grad_enabled() == in_backward and "pixel_values" in inputs[0]:
            raise torch.OutOfMemoryError("full")

    model.register_forward_pre_hook(full)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        loss(features, torch.tensor(labels)).backward()
    failed: FailedMiniBatch = caught.value.mini_batch
    assert failed.column == 0 and failed.labels == labels
    assert {1, 2} & set(failed.rows) and len(failed.rows) < 4
    mask = features[0]["attention_mask"]
    assert failed.tokens == tuple(int(mask[row].sum()) for row in failed.rows)


@pytest.mark.parametrize("name", ["mini_batch_size", "mini_batch_num_tokens"])
def test_a_mini_batch_of_nothing_is_refused(model, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SaHaLoss(model, **{name: 0})
