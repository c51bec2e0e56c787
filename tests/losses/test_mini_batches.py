"""Mini-batches by tokens: bounded with the padding counted, every row once, no influence on the result."""

from __future__ import annotations

import copy

import pytest
import torch
from test_saha_loss import Uncached, assert_same, loss_and_gradients
from tiny_embedder import copied, mixed_features, picture

from saha_st.losses import SaHaLoss
from saha_st.losses.mini_batches import FailedMiniBatch, MiniBatches, fill, take_rows, without_padding


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
