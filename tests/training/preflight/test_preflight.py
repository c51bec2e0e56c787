"""Before a run: lengths counted as the model counts them, rows that do not fit named, the worst batch tried."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from saha_st.cli import main
from saha_st.training import RunConfig
from saha_st.training.preflight import preflight
from saha_st.training.preflight.lengths import ColumnLengths, TokenCounter
from saha_st.training.preflight.memory import MemoryEstimate, TextShape, activation_bytes
from saha_st.training.preflight.report import histogram
from saha_st.training.preflight.worst_batch import find_worst_batch

LONG, HUGE, BROKEN = 5, 9, 11


@pytest.fixture
def uneven(run_dict, tmp_path) -> dict:
    """Sixteen pairs; the text of one is too long, the picture of another too large."""
    rows = []
    for i in range(16):
        size = (640, 480) if i == HUGE else (32 + 16 * (i % 3), 32)
        Image.new("RGB", size, (9 * i, 0, 0)).save(tmp_path / f"{i}.png")
        text = "a red circle, " * (400 if i == LONG else 1 + i % 4)
        rows.append({"anchor_image": f"{i}.png", "anchor_text": f"Which {i}?", "positive": f"{text}{i}"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return run_dict | {"data": [{"path": str(path)}], "image_tokens": [4, 256], "max_seq_length": 256, "loss": {}}


@pytest.fixture
def report(uneven):
    return preflight(RunConfig.from_dict(uneven), run_steps=False, show_progress_bar=False)


def test_lengths_are_those_that_the_model_reads(uneven, report, embedder):
    anchors, positives = report.columns
    assert (anchors.task, positives.task) == ("query", "document") and anchors.limit == 256
    embedder.max_seq_length = 4096
    from saha_st.training.sources import load_sources

    (source,) = load_sources(RunConfig.from_dict(uneven).data, seed=0)
    for column in report.columns:
        for place in (0, 1, 7, LONG):
            read = embedder.preprocess(
                [source.dataset[place][column.column]], prompt=embedder.prompts[column.task], task=column.task
            )
            assert column.tokens[place] == read["attention_mask"].sum(), (column.column, place)
    assert anchors.images[HUGE] == ((640, 480),) and anchors.images[1] == ((48, 32),) and positives.images[1] == ()


def test_what_is_too_long_is_named_with_its_pictures_and_what_becomes_of_it(report):
    anchors, positives = report.columns
    assert anchors.fate(HUGE) == "refused" and positives.fate(LONG) == "cut" and anchors.fate(0) == "whole"
    assert positives.tokens[LONG] > positives.limit and list(anchors.refused) == [HUGE] and not positives.refused
    (problem,) = report.problems
    assert f"the model refuses row {HUGE}." in problem and "max_seq_length=256" in problem
    text = report.to_text(longest=2)
    assert f"pairs row {HUGE}, anchor, image 640x480  REFUSED: " in text
    assert f"pairs row {LONG}, positive  text is cut" in text and "1 over the limit of 256" in text
    assert HUGE not in report.batch.rows and LONG in report.batch.rows


def test_the_histogram_holds_the_counts_made_by_hand(report):
    assert histogram(np.array([64, 65, 80, 95, 128])) == [
        (64, 71, 2), (72, 79, 0), (80, 87, 1), (88, 95, 1), (96, 103, 0), (104, 111, 0), (112, 119, 0), (120, 127, 0),
        (128, 135, 1),
    ]  # fmt: skip
    assert histogram(np.array([7, 7])) == [(7, 7, 2)] and histogram(np.array([], dtype=int)) == []
    for column in report.columns:
        bins = histogram(column.tokens)
        for first, last, count in bins:
            assert count == sum(first <= tokens <= last for tokens in column.tokens.tolist())
        assert sum(count for *_, count in bins) == 16
    values = report.to_dict()["columns"][0]
    ordered = sorted(report.columns[0].tokens.tolist())
    assert values["percentiles"] == {"50": ordered[7], "90": ordered[14], "99": ordered[15], "100": ordered[15]}


def test_the_worst_batch_is_trained_and_what_it_takes_is_measured(uneven, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uneven["training"] |= {"per_device_train_batch_size": 8}
    before = sorted(tmp_path.rglob("*"))
    report = preflight(RunConfig.from_dict(uneven), show_progress_bar=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert report.measured.failure is None and report.measured.seconds > 0 and report.measured.growth > 0
    assert len(report.batch.rows) == 8 and report.batch.rows[0] == LONG
    assert sum(rows for rows, _ in report.mini_batches) == 16  # of both columns
    assert report.budget == 4096 and all(tokens <= 4096 for _, tokens in report.mini_batches)
    for line in ("The worst batch: 8 pairs of pairs", "weights", "measured peak", "time"):
        assert line in report.to_text()
    json.dumps(report.to_dict())


def test_out_of_memory_names_the_rows_their_pictures_and_what_to_lower(uneven, monkeypatch):
    uneven |= {"max_seq_length": 1024}

    def forward(self, features, **kwargs):
        if features["attention_mask"].shape[1] > 200:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return original(self, features, **kwargs)

    from sentence_transformers.base.modules import Transformer

    original = Transformer.forward
    monkeypatch.setattr(Transformer, "forward", forward)
    report = preflight(RunConfig.from_dict(uneven), show_progress_bar=False)
    failure = report.measured.failure
    assert failure in report.problems and "CUDA out of memory" in failure
    assert f"column 'anchor' of pairs: rows {HUGE} (image 640x480); " in failure
    assert "loss.mini_batch_num_tokens (now the default, 4096)" in failure and "gradient_checkpointing" in failure


def test_rows_that_cannot_be_read_are_problems_and_the_others_are_counted(uneven, tmp_path):
    (tmp_path / f"{BROKEN}.png").write_bytes(b"no picture")
    report = preflight(RunConfig.from_dict(uneven), run_steps=False, show_progress_bar=False)
    anchors, positives = report.columns
    assert set(anchors.refused) == {HUGE, BROKEN} and anchors.tokens[BROKEN] == 0
    assert (anchors.tokens > 0).sum() == 15 and (positives.tokens > 0).all()
    assert f"the model refuses rows {HUGE}, {BROKEN}. " in report.problems[0]


def test_a_sample_is_drawn_by_the_seed_and_keeps_the_row_numbers(uneven):
    config = RunConfig.from_dict(uneven)
    reports = [preflight(config, max_rows=6, run_steps=False, show_progress_bar=False) for _ in range(2)]
    rows = reports[0].columns[0].rows
    assert len(rows) == 6 and (np.diff(rows) > 0).all() and rows.max() < 16
    assert (rows == reports[1].columns[0].rows).all()


def test_what_is_likely_to_go_wrong_is_said(uneven, caplog):
    uneven |= {"adapter": None, "train_vision": True, "model_kwargs": {"dtype": "bfloat16"}}
    uneven["training"] |= {"gradient_accumulation_steps": 2, "ddp_find_unused_parameters": False}
    with caplog.at_level(logging.ERROR):
        report = preflight(RunConfig.from_dict(uneven), run_steps=False, show_progress_bar=False)
    accumulation, bits, vision = report.warnings
    assert "adds gradients, not negatives" in accumulation and "kept in 16 bits" in bits
    assert "16 inputs have no image" in vision and "whose last mini-batch has none" in vision
    assert all(f"Warning: {warning}" in report.to_text() for warning in report.warnings)


@pytest.mark.parametrize("find_unused", [None, True])
def test_a_trained_vision_tower_is_no_danger_where_ddp_looks_for_unused_parameters(uneven, find_unused):
    uneven |= {"adapter": None, "train_vision": True}
    uneven["training"] |= {"ddp_find_unused_parameters": find_unused}  # unset, the trainer takes it for true
    assert preflight(RunConfig.from_dict(uneven), run_steps=False, show_progress_bar=False).warnings == []


def test_a_config_that_cannot_work_is_refused_before_anything_is_loaded(uneven, monkeypatch):
    import saha_st.training.preflight.run as module

    monkeypatch.setattr(module, "load_sources", lambda *args, **kwargs: pytest.fail("data were loaded"))
    small = RunConfig.from_dict(uneven | {"training": {"per_device_train_batch_size": 3, "use_cpu": True}})
    with pytest.raises(ValueError, match="smaller than a cluster"):
        preflight(small)
    with pytest.raises(ValueError, match="max_rows must be at least 2, got 1"):
        preflight(RunConfig.from_dict(uneven), max_rows=1)


def test_the_memory_that_can_be_counted_is_counted(embedder):
    for parameter in embedder[0].model.parameters():
        parameter.requires_grad_(False)
    trained = next(embedder[0].model.parameters()).requires_grad_(True)
    options = {"half_precision": False, "checkpointing": False}
    estimate = MemoryEstimate.of(embedder, tokens=100, **options)
    assert estimate.gradients == 4 * trained.numel() and estimate.optimizer == 2 * estimate.gradients
    parts = (estimate.weights, estimate.gradients, estimate.optimizer, estimate.activations)
    assert estimate.total == sum(parts) and all(part > 0 for part in parts)
    assert MemoryEstimate.of(embedder, tokens=200, **options).activations == 2 * estimate.activations


def test_checkpointing_keeps_a_blocks_input_and_one_block():
    shape = TextShape(hidden=10, intermediate=20, layers=3)
    assert activation_bytes(shape, 2, False) == 2 * 3 * 180
    assert activation_bytes(shape, 2, True) == 2 * (3 * 10 + 180)


def test_pictures_count_the_same_by_size_as_through_the_processor(embedder):
    counter = TokenCounter(embedder, "query")
    cells = [{"image": Image.new("RGB", size), "text": "x"} for size in ((32, 32), (200, 90), (90, 300), (700, 700))]
    by_size = counter(cells)
    assert counter._by_size == {"image": True}
    counter._by_size = {"image": False}
    assert counter(cells) == by_size and len({tokens for tokens, _ in by_size}) == 4


def test_pictures_go_through_a_processor_that_does_not_tell_their_tokens_by_size(embedder, monkeypatch):
    cells = [{"image": Image.new("RGB", (200, 90)), "text": "x"}, "x"]
    expected = TokenCounter(embedder, "query")(cells)

    def count(self, **options):
        raise NotImplementedError

    monkeypatch.setattr(type(embedder[0].processor), "_get_num_multimodal_tokens", count)
    counter = TokenCounter(embedder, "query")
    assert counter(cells) == expected and counter._by_size == {"image": False}


def lengths(name: str, column: str, tokens: list[int], images: list | None = None) -> ColumnLengths:
    rows = np.arange(len(tokens))
    return ColumnLengths(name, column, None, rows, np.array(tokens), images or [()] * len(tokens), {})


def test_the_worst_batch_is_that_of_the_most_tokens_or_of_pictures_where_vision_is_trained():
    columns = [
        *(lengths("texts", "anchor", [9, 50, 40, 8]), lengths("texts", "positive", [9, 9, 9, 60])),
        *(lengths("pictures", "anchor", [30, 31, 32], [((8, 8),)] * 3), lengths("pictures", "positive", [5, 5, 5])),
    ]
    batch = find_worst_batch(columns, 2)
    assert batch.dataset == "texts" and batch.rows.tolist() == [3, 1]
    assert [tokens.tolist() for tokens in batch.tokens] == [[8, 50], [60, 9]]
    batch = find_worst_batch(columns, 2, train_vision=True)
    assert batch.dataset == "pictures" and batch.rows.tolist() == [2, 1]


def test_the_command_prints_the_report_writes_json_and_exits_with_the_problems(uneven, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(uneven))
    command = ["preflight", "--config", str(tmp_path / "run.yaml"), "--estimate_only", "--quiet"]
    output = tmp_path / "new" / "report.json"
    assert main([*command, "--output", str(output), "--per_device_train_batch_size", "4"]) == 1
    text = capsys.readouterr().out
    assert "pairs, anchor (read as query): 16 rows" in text and f"refuses row {HUGE}" in text
    values = json.loads(output.read_text())
    assert len(values["worst_batch"]["rows"]) == 4 and values["measured"] is None and len(values["problems"]) == 1
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(uneven | {"max_seq_length": 1024}))
    assert main(command) == 0
    assert "No problems found." in capsys.readouterr().out
    assert main([*command, "--output", "report.txt"]) == 2
    assert "--output must end in .json" in capsys.readouterr().err
