from __future__ import annotations

import math

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss
from tiny_embedder import copied, mixed_features, picture

from saha_st.losses import SaHaLoss


def loss_and_gradients(loss: torch.nn.Module, features: list[dict], labels=None) -> tuple[float, dict]:
    loss.model.zero_grad()
    value = loss(copied(features), labels)
    value.backward()
    gradients = {name: p.grad.clone() for name, p in loss.model.named_parameters() if p.grad is not None}
    assert any("visual" in name for name in gradients) and any("language" in name for name in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert sum(gradient.abs().sum() for gradient in gradients.values()) > 0.1
    return value.item(), gradients


def assert_same(left: tuple[float, dict], right: tuple[float, dict]) -> None:
    assert left[0] == pytest.approx(right[0], rel=1e-5)
    assert left[1].keys() == right[1].keys()
    for name, gradient in left[1].items():
        scale = max(gradient.abs().max().item(), 1.0)
        torch.testing.assert_close(gradient, right[1][name], atol=2e-5 * scale, rtol=1e-3, msg=lambda m, n=name: n + m)


class Uncached(torch.nn.Module):
    """InfoNCE by hand: all embeddings in one graph, a loop over the pairs, the rules of masking spelt out."""

    def __init__(self, model: torch.nn.Module, margin: float | None = None, scale: float = 50.0) -> None:
        super().__init__()
        self.model = model
        self.margin = margin
        self.scale = scale

    def forward(self, features: list[dict], labels: torch.Tensor | None) -> torch.Tensor:
        anchors, *columns = (self.model(column)["sentence_embedding"] for column in features)
        documents = torch.cat(columns)
        losses = []
        for i in range(len(anchors)):
            own = anchors[i] @ documents[i]
            scores = [own]
            for j in range(len(documents)):
                cosine = anchors[i] @ documents[j]
                too_close = self.margin is not None and cosine > own + self.margin
                if j != i and not too_close and not self.is_known(labels, i, j):
                    scores.append(cosine)
            losses.append(torch.logsumexp(self.scale * torch.stack(scores), dim=0) - self.scale * own)
        return torch.stack(losses).mean()

    def is_known(self, labels: torch.Tensor | None, i: int, j: int) -> bool:
        if labels is None or j >= len(labels):
            return False
        return (labels[i, 1] == labels[j, 1] or labels[i, 2] == labels[j, 2]).item()


class Fixed(torch.nn.Module):
    """A model that hands out given embeddings, for tests of closed forms and of gradients of single documents."""

    def __init__(self, *columns: torch.Tensor) -> None:
        super().__init__()
        self.columns = torch.nn.ParameterList(columns)

    def __getitem__(self, index: int) -> torch.nn.Module:
        return self

    def forward(self, features: dict) -> dict:
        return {"sentence_embedding": self.columns[int(features["column"][0, 0])][features["row"][:, 0]]}

    def features(self) -> list[dict]:
        return [
            {"column": torch.full((len(c), 1), i), "row": torch.arange(len(c))[:, None]}
            for i, c in enumerate(self.columns)
        ]


def random_columns(*rows: int, dim: int = 8, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1) for n in rows]


def fixed_loss(*columns: torch.Tensor, labels: list | None = None, **options) -> tuple[SaHaLoss, torch.Tensor]:
    model = Fixed(*(column.clone() for column in columns))
    loss = SaHaLoss(model, **options)
    value = loss(model.features(), None if labels is None else torch.tensor(labels))
    value.backward()
    return loss, value.detach()


# --- the value ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 32])
def test_equal_embeddings_give_the_logarithm_of_the_number_of_documents(rows: int):
    equal = torch.ones(rows, 4)
    _, value = fixed_loss(equal, equal, mask_duplicates=False)
    assert value.item() == pytest.approx(math.log(rows), abs=1e-5)


def test_further_columns_are_further_documents():
    equal = torch.ones(6, 4)
    _, value = fixed_loss(equal, equal, equal, equal, mask_duplicates=False)
    assert value.item() == pytest.approx(math.log(18), abs=1e-5)


def test_equal_embeddings_of_one_document_give_no_loss():
    equal = torch.ones(6, 4)
    _, value = fixed_loss(equal, equal, labels=[[i, i, 3] for i in range(6)])
    assert value.item() == pytest.approx(0.0, abs=1e-6)


def test_bfloat16_embeddings_are_contrasted_in_float32():
    anchors, positives = (column.bfloat16() for column in random_columns(16, 16))
    _, value = fixed_loss(anchors, positives, mask_duplicates=False)
    _, exact = fixed_loss(anchors.float(), positives.float(), mask_duplicates=False)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, autocast = fixed_loss(anchors.float(), positives.float(), mask_duplicates=False)
    assert autocast.item() == pytest.approx(exact.item(), rel=1e-6)


# --- on a real multimodal LLM: gradient caching ------------------------------------------------------------------


@pytest.mark.parametrize("mini_batch_size", [1, 2, 3, 4])
def test_cached_equals_uncached_in_loss_and_gradients_with_images_and_text_mixed(model, mini_batch_size: int):
    features = mixed_features(model)
    labels = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 2, 1], [1, 3, 3]])
    cached = loss_and_gradients(SaHaLoss(model, mini_batch_size=mini_batch_size), features, labels)
    assert_same(cached, loss_and_gradients(Uncached(model), features, labels))
    unmasked = loss_and_gradients(Uncached(model), features)
    assert unmasked[0] != pytest.approx(cached[0], rel=1e-3)


def test_mini_batches_filled_by_tokens_change_nothing(model):
    features = mixed_features(model)
    by_tokens = SaHaLoss(model, mini_batch_num_tokens=40, mask_duplicates=False)
    assert_same(loss_and_gradients(by_tokens, features), loss_and_gradients(Uncached(model), features))


def test_it_equals_the_stock_cached_loss_of_the_same_scale_without_masks(model):
    features = mixed_features(model)
    ours = loss_and_gradients(SaHaLoss(model, mini_batch_size=2, mask_duplicates=False), features)
    stock = CachedMultipleNegativesRankingLoss(model, scale=50, mini_batch_size=2)
    assert_same(ours, loss_and_gradients(stock, features))


def test_it_equals_the_stock_cached_loss_where_the_labels_show_no_duplicates(model):
    features = mixed_features(model)
    labels = torch.tensor([[0, i, 10 + i] for i in range(4)])
    stock = CachedMultipleNegativesRankingLoss(model, scale=50)
    assert_same(loss_and_gradients(SaHaLoss(model), features, labels), loss_and_gradients(stock, features))


def test_hard_negative_columns_equal_the_stock_cached_loss(model):
    features = [*mixed_features(model), model.preprocess(["a star", picture(5), "a blue square", "a picture"])]
    ours = loss_and_gradients(SaHaLoss(model, mini_batch_size=3, mask_duplicates=False), features)
    stock = CachedMultipleNegativesRankingLoss(model, scale=50)
    assert_same(ours, loss_and_gradients(stock, features))


def test_evaluation_gives_the_loss_of_training_and_no_gradient(model):
    features = mixed_features(model)
    loss = SaHaLoss(model, mask_duplicates=False)
    expected = loss_and_gradients(loss, features)[0]
    loss.pop_metrics()
    with torch.no_grad():
        value = loss(copied(features), None)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert not value.requires_grad
    assert loss.pop_metrics() == {}


# --- masks -------------------------------------------------------------------------------------------------------


def seen_by_first_anchor(anchors: torch.Tensor, documents: torch.Tensor, labels: list, **options) -> list[bool]:
    """For each document, whether moving it a little changes the gradient of the first anchor."""

    def gradient(documents: torch.Tensor) -> torch.Tensor:
        loss, _ = fixed_loss(anchors, documents, labels=labels, scale=1.0, **options)
        return loss.model.columns[0].grad[0]

    unmoved = gradient(documents)
    assert unmoved.norm() > 1e-3
    moved = []
    for index in range(len(documents)):
        other = documents.clone()
        other[index] += 0.02 * torch.randn(documents.shape[1], generator=torch.Generator().manual_seed(index))
        moved.append(not torch.equal(gradient(other), unmoved))
    return moved


def test_a_duplicate_of_the_positive_elsewhere_in_the_batch_gets_no_gradient_as_a_negative():
    anchors, documents = random_columns(4, 4)
    documents[2] = documents[0]
    labels = [[0, 0, 7], [0, 1, 8], [1, 2, 7], [1, 3, 9]]
    assert seen_by_first_anchor(anchors, documents, labels) == [True, True, False, True]
    assert seen_by_first_anchor(anchors, documents, labels, mask_duplicates=False) == [True] * 4


def test_another_positive_of_the_same_anchor_gets_no_gradient_as_a_negative():
    anchors, documents = random_columns(4, 4)
    anchors[3] = anchors[0]
    labels = [[0, 5, 0], [0, 1, 1], [1, 2, 2], [1, 5, 3]]
    assert seen_by_first_anchor(anchors, documents, labels) == [True, True, True, False]
    assert seen_by_first_anchor(anchors, documents, labels, mask_duplicates=False) == [True] * 4


def test_a_document_beyond_the_margin_gets_no_gradient_and_one_within_it_does():
    anchors = torch.eye(4)[:3]
    cosines = torch.tensor([0.5, 0.55, 0.7])  # with the first anchor
    documents = torch.stack([cosines, torch.zeros(3), torch.zeros(3), (1 - cosines**2).sqrt()], dim=1)
    labels = [[0, i, i] for i in range(3)]
    assert seen_by_first_anchor(anchors, documents, labels) == [True] * 3
    assert seen_by_first_anchor(anchors, documents, labels, false_negative_margin=0.1) == [True, True, False]


@pytest.mark.parametrize("margin", [0.1, 0.0, -2.0])
def test_the_own_positive_is_never_masked(margin: float):
    anchors, positives = random_columns(6, 6)
    loss, value = fixed_loss(
        anchors, positives, labels=[[0, 1, 2]] * 6, false_negative_margin=margin, mini_batch_size=4
    )
    assert value.item() == pytest.approx(0.0, abs=1e-6)  # nothing but the own positive is left
    assert loss.pop_metrics()["masked_share"].item() == 1.0
    assert all(parameter.grad.isfinite().all() for parameter in loss.model.parameters())


@pytest.mark.parametrize("margin", [None, 0.1])
def test_both_masks_together_equal_the_rules_spelt_out(margin: float | None):
    columns = random_columns(12, 12, 12, dim=4)
    documents = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(1))
    labels = torch.stack([torch.zeros(12).long(), torch.arange(12), documents], dim=1)
    options = {"scale": 2.0, "mini_batch_size": 5}
    _, value = fixed_loss(*columns, labels=labels.tolist(), false_negative_margin=margin, **options)
    model = Fixed(*columns)
    assert value.item() == pytest.approx(Uncached(model, margin, scale=2.0)(model.features(), labels).item(), rel=1e-5)
    assert value.item() < 0.98 * fixed_loss(*columns, mask_duplicates=False, **options)[1].item()


def test_hard_negatives_of_the_same_anchor_stay_negatives():
    anchors, positives, negatives = random_columns(4, 4, 4)
    loss, _ = fixed_loss(anchors, positives, negatives, labels=[[0, 1, 2]] * 4)
    assert loss.pop_metrics()["masked_share"].item() == pytest.approx(3 / 7)


@pytest.mark.parametrize("labels", [None, [1, 0, 1, 1]])
def test_without_pairs_in_the_labels_nothing_is_masked_and_one_warning_says_so(labels, caplog):
    anchors, positives = random_columns(4, 4)
    model = Fixed(anchors, positives)
    loss = SaHaLoss(model)
    for _ in range(2):
        loss(model.features(), None if labels is None else torch.tensor(labels)).backward()
    assert ["mask_duplicates=False" in record.message for record in caplog.records].count(True) == 1
    assert loss.pop_metrics()["masked_share"].item() == 0.0


# --- metrics -----------------------------------------------------------------------------------------------------


def test_metrics_average_over_the_rows_since_they_were_last_taken():
    anchors = torch.eye(4)
    positives = torch.eye(4)[[0, 1, 3, 3]]  # the third anchor's positive is wrong, and a copy of the fourth's
    model = Fixed(anchors, positives)
    loss = SaHaLoss(model, mini_batch_size=3, mask_duplicates=False)
    for _ in range(2):
        loss(model.features(), None)
    metrics = {name: value.item() for name, value in loss.pop_metrics().items()}
    assert metrics == {
        "positive_cosine": 0.75,
        "hardest_negative_cosine": 0.25,  # of the fourth anchor, with the third's document
        "in_batch_accuracy": 0.5,  # a tie does not count
        "masked_share": 0.0,
    }
    assert loss.pop_metrics() == {}


def test_rows_without_a_negative_leave_the_negatives_metrics_alone():
    # The second anchor answers to all three documents, the other two only to their own.
    labels = torch.tensor([[0, 0, 0], [0, 1, 1], [0, 2, 2], [0, 1, 0], [0, 1, 2]])
    anchors = torch.eye(5)[[0, 1, 2, 1, 1]]
    positives = torch.eye(5)[[0, 1, 2, 0, 2]]
    model = Fixed(anchors, positives)
    loss = SaHaLoss(model, mini_batch_size=2)
    loss(model.features(), labels)
    metrics = {name: value.item() for name, value in loss.pop_metrics().items()}
    assert metrics["hardest_negative_cosine"] == 0.0  # rows 0 and 2
    assert metrics["in_batch_accuracy"] == 1.0  # 2 of 2; rows 1, 3 and 4 have nobody to beat
    assert metrics["positive_cosine"] == pytest.approx(0.6)
    loss(model.features(), torch.zeros(5, 3, dtype=torch.long))
    metrics = loss.pop_metrics()
    assert metrics["masked_share"] == 1.0
    assert metrics["in_batch_accuracy"].isnan() and metrics["hardest_negative_cosine"].isnan()


def test_metrics_hold_no_graph_and_do_not_alter_the_gradient():
    columns = random_columns(6, 6)
    loss, _ = fixed_loss(*columns, mask_duplicates=False)
    assert all(not value.requires_grad for value in loss.pop_metrics().values())
    silent = SaHaLoss(Fixed(*columns), mask_duplicates=False)
    silent._observe = lambda *args: None
    silent(silent.model.features(), None).backward()
    assert silent.model.columns[0].grad.norm() > 1e-3
    assert torch.equal(silent.model.columns[0].grad, loss.model.columns[0].grad)


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "[Ss]cale must be"),
        ({"mini_batch_size": 0}, "mini_batch_size must be at least 1, got 0"),
        ({"mini_batch_num_tokens": 0}, "mini_batch_num_tokens must be"),
        ({"false_negative_margin": float("nan")}, "false_negative_margin must be a finite .* got nan"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SaHaLoss(Fixed(torch.eye(2)), **options)


@pytest.mark.parametrize("labels", [torch.zeros(4, 2).long(), torch.zeros(3, 3).long(), torch.zeros(4, 3)])
def test_labels_of_another_form_are_refused(labels: torch.Tensor):
    model = Fixed(*random_columns(4, 4))
    with pytest.raises(ValueError, match=r"three integers for each of the 4 rows, .*mask_duplicates=False"):
        SaHaLoss(model)(model.features(), labels)


def test_the_model_card_gets_the_arguments_and_the_paper():
    loss = SaHaLoss(Fixed(torch.eye(2)), scale=20.0, false_negative_margin=0.1)
    assert loss.get_config_dict() == {
        "scale": 20.0,
        "mini_batch_size": 32,
        "mini_batch_num_tokens": 4096,  # the default
        "gather_across_devices": False,
        "false_negative_margin": 0.1,
        "mask_duplicates": True,
    }
    assert loss.temperature == pytest.approx(0.05)
    assert "2508.00955" in loss.citation and "2101.06983" in loss.citation


def test_it_works_inside_the_matryoshka_loss(model):
    features = mixed_features(model)
    plain = loss_and_gradients(SaHaLoss(model, mask_duplicates=False), features)
    nested = MatryoshkaLoss(model, SaHaLoss(model, mask_duplicates=False), [32], [1])
    assert_same(loss_and_gradients(nested, features), plain)
