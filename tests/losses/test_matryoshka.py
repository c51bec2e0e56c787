"""`MatryoshkaLoss` of Sentence Transformers around `SaHaLoss`: cached, it is what it is without a cache."""

from __future__ import annotations

import copy

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from test_saha_loss import Uncached, assert_same, loss_and_gradients
from tiny_embedder import copied, mixed_features

from saha_st.losses import SaHaLoss

DIMS, WEIGHTS = [32, 16, 4], [1.0, 0.5, 2.0]
LABELS = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 2], [1, 3, 1]])  # row 2 asks as row 0, row 3 is answered as row 1


class Truncated(torch.nn.Module):
    """A model of which only the first dimensions are left, at length 1."""

    def __init__(self, model: torch.nn.Module, dim: int) -> None:
        super().__init__()
        self.model, self.dim = model, dim

    def forward(self, features: dict) -> dict:
        vectors = self.model(features)["sentence_embedding"][:, : self.dim]
        return {"sentence_embedding": torch.nn.functional.normalize(vectors, dim=1)}


class NestedByHand(torch.nn.Module):
    """The weighted sum over the dimensions, all embeddings in one graph."""

    def __init__(self, model: torch.nn.Module, margin: float | None = None) -> None:
        super().__init__()
        self.model, self.margin = model, margin

    def forward(self, features: list[dict], labels: torch.Tensor | None) -> torch.Tensor:
        return sum(
            weight * Uncached(Truncated(self.model, dim), self.margin)(copied(features), labels)
            for dim, weight in zip(DIMS, WEIGHTS, strict=True)
        )


def nested(model, **options) -> MatryoshkaLoss:
    return MatryoshkaLoss(model, SaHaLoss(model, **options), DIMS, WEIGHTS)


@pytest.mark.parametrize(
    "options",
    [{"mini_batch_size": 1}, {"mini_batch_size": 3}, {"mini_batch_num_tokens": 60}, {}],
    ids=["a row", "three rows", "60 tokens", "default"],
)
@pytest.mark.parametrize("margin", [None, 0.05])
def test_cached_equals_uncached_in_loss_and_gradients_masks_kept(model, options, margin):
    features = mixed_features(model)
    by_hand = loss_and_gradients(NestedByHand(model, margin), features, LABELS)
    assert_same(loss_and_gradients(nested(model, false_negative_margin=margin, **options), features, LABELS), by_hand)
    unmasked = loss_and_gradients(nested(model, mask_duplicates=False, **options), features)
    assert abs(unmasked[0] - by_hand[0]) > 1e-2, "the masks would not be seen"


def test_mini_batches_by_tokens_are_several_and_out_of_line(model):
    from saha_st.losses.mini_batches import MiniBatches

    dealt = [MiniBatches.of(column, 60, rows_without_lengths=1).rows for column in mixed_features(model)]
    assert all(len(rows) > 1 for rows in dealt) and any(rows != sorted(rows) for rows in dealt)


def test_it_equals_the_stock_nested_loss_without_a_cache(model):
    features = mixed_features(model)
    stock = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model, scale=50.0), DIMS, WEIGHTS)
    assert_same(
        loss_and_gradients(nested(model, mask_duplicates=False, mini_batch_size=2), features),
        loss_and_gradients(stock, features),
    )


def test_without_gradients_the_loss_is_that_of_training(model):
    features, loss = mixed_features(model), nested(model, mini_batch_size=2)
    trained = loss_and_gradients(loss, features, LABELS)[0]
    with torch.no_grad():
        assert loss(copied(features), LABELS).item() == pytest.approx(trained, rel=1e-5)


def test_metrics_are_those_of_the_whole_vectors(model):
    features, plain = mixed_features(model), SaHaLoss(model, mini_batch_size=2)
    loss = nested(model, mini_batch_size=2)
    for each in (plain, loss, loss):  # the second batch counts as the first did
        loss_and_gradients(each, features, LABELS)
    expected, found = plain.pop_metrics(), loss.loss.pop_metrics()
    assert found.keys() == expected.keys() and expected["masked_share"] > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_fewer_dimensions_are_trained_where_plain_training_leaves_them(model):
    """After a few steps, the loss of the first four dimensions alone is lower than after as many plain steps."""
    features, other = mixed_features(model), copy.deepcopy(model)
    losses = {}
    for name, each, loss in (("nested", model, nested(model)), ("plain", other, SaHaLoss(other))):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.02)
        for _ in range(4):
            optimizer.zero_grad()
            loss(copied(features), LABELS).backward()
            optimizer.step()
        with torch.no_grad():
            losses[name] = Uncached(Truncated(each, 4))(copied(features), LABELS).item()
    assert losses["nested"] < losses["plain"]
