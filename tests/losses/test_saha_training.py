"""The loss and the samplers in the stock trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import TrainerCallback

from saha_st.losses import SaHaLoss
from saha_st.samplers import ClusterBatchSampler, SameTaskBatchSampler, SetEpochCallback

NAMES = ["a red circle", "a blue square", "a green triangle", "two yellow stars", "the picture", "left of it"]


def mined(sizes: list[int], first_row: int = 0) -> Dataset:
    clusters = [index for index, size in enumerate(sizes) for _ in range(size)]
    rows = range(first_row, first_row + len(clusters))
    return Dataset.from_dict(
        {
            "anchor": [f"{NAMES[row % 6]} {row}" for row in rows],
            "positive": [f"{NAMES[(row + 1) % 6]} {row} two" for row in rows],
            "label": [[name, row, row] for name, row in zip(clusters, rows, strict=True)],
        }
    )


class RecordingLoss(SaHaLoss):
    """Keeps the labels of every batch it was trained on."""

    def forward(self, sentence_features: list[dict], labels: torch.Tensor) -> torch.Tensor:
        self.__dict__.setdefault("batches", []).append(labels.tolist())
        return super().forward(sentence_features, labels)


class LogMetrics(TrainerCallback):
    """What the docstring of ``pop_metrics`` says."""

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.trainer.track_loss_components(self.trainer.loss.pop_metrics())


def trainer_for(model, dataset, folder: Path, **options) -> SentenceTransformerTrainer:
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        batch_sampler=ClusterBatchSampler,
        multi_dataset_batch_sampler=SameTaskBatchSampler,
        learning_rate=1e-3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **{"save_strategy": "no", "logging_steps": 1, **options},
    )
    loss = RecordingLoss(model, mini_batch_size=3)
    callback = LogMetrics()
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=dataset, loss=loss, callbacks=[callback, SetEpochCallback()]
    )
    callback.trainer = trainer
    return trainer


def test_the_stock_trainer_trains_on_whole_clusters_and_logs_the_metrics(model, tmp_path):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sizes = [4, 4, 2, 2, 4, 4, 2, 2]
    trainer = trainer_for(model, mined(sizes), tmp_path, num_train_epochs=1)
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(trainer.loss.batches) == 3
    for batch in trainer.loss.batches:
        assert len(batch) == 8
        clusters = [label[0] for label in batch]
        assert all(clusters.count(name) == sizes[name] for name in clusters)
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert any("language" in name for name in moved)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 3
    for entry in logs:
        assert -1 <= entry["hardest_negative_cosine"] <= 1
        assert 0 < entry["positive_cosine"] <= 1
        assert entry["masked_share"] == 0 <= entry["in_batch_accuracy"] <= 1


@pytest.mark.parametrize("checkpoint", [2, 5])
def test_a_run_resumed_in_the_middle_of_an_epoch_trains_the_same_batches_to_the_same_weights(
    model, tiny_mllm, tmp_path, checkpoint: int
):
    import copy

    dataset = DatasetDict({"one": mined([4, 4, 2, 2, 4]), "two": mined([4, 4, 4, 4, 2], first_row=16)})
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    fresh = copy.deepcopy(model)
    unbroken = trainer_for(model, dataset, tmp_path, **options)
    unbroken.train()
    assert unbroken.state.global_step == 8
    batches = unbroken.loss.batches
    assert batches[:4] != batches[4:]
    assert all(len({label[1] >= 16 for label in batch}) == 1 for batch in batches)

    resumed = trainer_for(fresh, dataset, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{checkpoint}"))
    assert resumed.loss.batches == batches[checkpoint:]
    for (name, left), (_, right) in zip(model.named_parameters(), fresh.named_parameters(), strict=True):
        assert torch.equal(left, right), name
