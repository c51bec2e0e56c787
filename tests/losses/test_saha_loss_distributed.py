"""Two processes over gloo against one process on the same rows."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_saha_training import mined, trainer_for
from tiny_embedder import build_embedder, picture
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from saha_st.losses import SaHaLoss

pytestmark = pytest.mark.slow

# Row 2's document is row 0's again, on the other rank; rows 1 and 3 share an anchor across ranks.
LABELS = torch.tensor([[0, 0, 10], [0, 1, 11], [1, 2, 10], [1, 1, 13]])
OPTIONS = {
    "masked": {"mini_batch_size": 1, "false_negative_margin": 0.3},
    "plain": {"mini_batch_size": 2, "mask_duplicates": False},
    "tokens": {"mini_batch_num_tokens": 64, "false_negative_margin": 0.3},
}


def three_columns(model: SentenceTransformer, rows: slice) -> list[dict]:
    anchors = ["a red circle", {"image": picture(1), "text": "what is it?"}, picture(2), "two yellow stars, a square"]
    positives = [picture(3), "the green triangle", {"image": picture(4), "text": "left of it"}, "stars"]
    negatives = ["a star", picture(5), "a blue square", "a picture"]
    return [model.preprocess(column[rows]) for column in (anchors, positives, negatives)]


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}


def contrast(rank: int, model: SentenceTransformer, folder: Path) -> None:
    """Loss, gradients and metrics of this rank's half of the rows."""
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    for name, options in OPTIONS.items():
        loss = SaHaLoss(model, gather_across_devices=True, **options)
        loss.model = wrapped
        rows = slice(2 * rank, 2 * rank + 2)
        wrapped.zero_grad()
        forwards = []
        handle = wrapped.register_forward_pre_hook(lambda *args, forwards=forwards: forwards.append(1))
        value = loss(three_columns(model, rows), LABELS[rows])
        value.backward()
        handle.remove()
        result = {"loss": value.detach(), "gradients": gradients_of(wrapped), "metrics": loss.pop_metrics()}
        result["forwards"] = len(forwards)
        torch.save(result, folder / f"{name}-{rank}.pt")


def train(rank: int, model: SentenceTransformer, folder: Path, *, resume: bool) -> None:
    """Two datasets with unequal columns, which would hang if the ranks drew different ones; 2 x 3 steps."""
    from datasets import DatasetDict

    one = mined([4, 4, 2, 2, 4])
    two = mined([4] * 9, first_row=16)
    two = two.add_column("negative", [f"{text} not" for text in two["positive"]])
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1, "dataloader_pin_memory": False}
    trainer = trainer_for(
        model, DatasetDict({"one": one, "two": two}), folder / "run", **options, ddp_find_unused_parameters=True
    )
    trainer.loss.gather_across_devices = True
    trainer.train(resume_from_checkpoint=str(folder / "run" / "checkpoint-4") if resume else None)
    result = {"batches": trainer.loss.batches, "weights": {n: p.detach() for n, p in model.named_parameters()}}
    torch.save(result, folder / f"trained-{'resumed' if resume else 'unbroken'}-{rank}.pt")


def worker(rank: int, port: int, folder: Path, mllm: Path) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"
    )
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    contrast(rank, build_embedder(mllm).train(), folder)
    train(rank, build_embedder(mllm).train(), folder, resume=False)
    train(rank, build_embedder(mllm).train(), folder, resume=True)
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tiny_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what both ranks found."""
    folder = tmp_path_factory.mktemp("two-ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, args=(port, folder, tiny_mllm), nprocs=2)
    return folder


def both(folder: Path, name: str) -> list[dict]:
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", list(OPTIONS))
def test_two_ranks_equal_one_process_on_the_whole_batch(two_ranks: Path, model, name: str):
    loss = SaHaLoss(model, **OPTIONS[name] | {"mini_batch_size": 1, "mini_batch_num_tokens": None})
    value = loss(three_columns(model, slice(None)), LABELS)
    value.backward()
    expected = gradients_of(model)
    metrics = loss.pop_metrics()
    assert (metrics["masked_share"] > 0) == (name != "plain")
    assert sum(gradient.abs().sum() for gradient in expected.values()) > 0.1

    ranks = both(two_ranks, name)
    assert (ranks[0]["forwards"] != ranks[1]["forwards"]) == (name == "tokens")
    assert ranks[0]["loss"].item() != pytest.approx(ranks[1]["loss"].item(), rel=1e-3)
    assert torch.stack([rank["loss"] for rank in ranks]).mean().item() == pytest.approx(value.item(), rel=1e-5)
    for metric, expected_value in metrics.items():
        mean = torch.stack([rank["metrics"][metric] for rank in ranks]).mean()
        assert mean.item() == pytest.approx(expected_value.item(), rel=1e-5), metric
    for rank in ranks:  # DDP has averaged: on every rank the gradients of the one process, without any factor
        assert rank["gradients"].keys() == expected.keys()
        for key, gradient in expected.items():
            bound = 2e-5 * max(gradient.abs().max().item(), 1.0)
            torch.testing.assert_close(rank["gradients"][key], gradient, atol=bound, rtol=1e-3)


def test_the_ranks_train_disjoint_full_batches_of_one_task_a_step(two_ranks: Path):
    ranks = both(two_ranks, "trained-unbroken")
    steps = list(zip(*(rank["batches"] for rank in ranks), strict=True))
    assert len(steps) == 6
    for left, right in steps:
        assert len(left) == len(right) == 8
        rows = [label[1] for label in left + right]
        assert len(set(rows)) == 16
        assert len({row >= 16 for row in rows}) == 1
    assert {steps[i][0][0][1] >= 16 for i in range(6)} == {True, False}
    for name, weight in ranks[0]["weights"].items():
        assert torch.equal(weight, ranks[1]["weights"][name]), name


def test_two_ranks_resumed_in_the_second_epoch_end_with_the_weights_of_an_unbroken_run(two_ranks: Path, model):
    initial = dict(model.named_parameters())
    for unbroken, resumed in zip(both(two_ranks, "trained-unbroken"), both(two_ranks, "trained-resumed"), strict=True):
        assert resumed["batches"] == unbroken["batches"][4:]
        assert any(not torch.equal(weight, initial[name]) for name, weight in unbroken["weights"].items())
        for name, weight in unbroken["weights"].items():
            assert torch.equal(weight, resumed["weights"][name]), name
