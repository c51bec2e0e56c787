"""What `benchmarks/ablation.py` says of negatives is what a step trained on, counted again pair by pair."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

COLOURS = ("red", "green", "blue", "black")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import ablation
    import ablation_arms
    import ablation_data

    return ablation, ablation_arms, ablation_data


@pytest.fixture
def data(benchmark, embedder, tmp_path):
    """24 questions, whose answers are four colours in three wordings each: eight rows are right for each."""
    wordings = ("{} it is", "the colour {}", "{}")
    truth = [COLOURS[row % 4] for row in range(24)]
    positives = [wordings[row % 3].format(colour) for row, colour in enumerate(truth)]
    pairs = Dataset.from_dict(
        {"anchor": [f"which colour is thing {row}?" for row in range(24)], "positive": positives}
    )
    return benchmark[2]._joined({"colours": (pairs, True)}, {"colours": truth}, embedder, tmp_path / "vectors")


def step(benchmark, data, model, batches, rows, **masks):
    """One step of the audited loss on rows of the only task; its label and audit."""
    loss = benchmark[1].AuditedLoss(model, data, batches, **masks)
    (dataset,) = batches.datasets.values()
    taken = dataset.select(rows)[:]
    columns = [name for name in dataset.column_names if name != "label"]
    features = [model.preprocess(taken[name], task="query" if name == "anchor" else "document") for name in columns]
    labels = torch.tensor(taken["label"])
    loss(features, labels).backward()
    return labels.numpy(), loss


def test_truth_goes_with_what_documents_say_not_with_which_rows_hold_them(data):
    (task,) = data.tasks.values()
    assert len(data.truth_of_document) == 12 and len(np.unique(data.truth_of_document)) == 4
    right = data.are_right(task.anchors[:, None], task.documents)
    rows = np.arange(24)
    assert (right == (rows[:, None] % 4 == rows % 4)).all()


def test_the_batch_is_counted_pair_by_pair(benchmark, data, embedder):
    batches = benchmark[1].in_batch(data, embedder, None, mixed=False)
    rows = [0, 1, 2, 4, 12, 13]
    _, loss = step(benchmark, data, embedder, batches, rows, mask_duplicates=False)
    others = [(i, j) for i in rows for j in rows if i != j]
    right = sum(i % 4 == j % 4 for i, j in others)
    assert loss.counts == {"kept": len(others), "kept_right": right, "mined": 0, "mined_right": 0}
    assert loss.audit()["contamination_mined"] is None


def test_what_is_masked_is_no_negative(benchmark, data, embedder):
    batches = benchmark[1].in_batch(data, embedder, None, mixed=False)
    rows = [0, 12, 4, 1]  # 0 and 12 have the same document, 4 another one that is right as well
    _, loss = step(benchmark, data, embedder, batches, rows, mask_duplicates=True)
    assert (loss.counts["kept"], loss.counts["kept_right"]) == (10, 4)


def test_hardness_is_that_of_the_hardest_true_negatives(benchmark, data, embedder):
    batches = benchmark[1].in_batch(data, embedder, None, mixed=False)
    rows = list(range(20))
    labels, loss = step(benchmark, data, embedder, batches, rows, mask_duplicates=False)
    cosines = data.cosines(labels[:, 1], labels[:, 2])
    hardest = [np.sort(cosines[i][[j for j in rows if j % 4 != i % 4]])[-7:] for i in rows]
    assert loss.audit()["hardness"] == pytest.approx(np.mean(hardest), abs=1e-6)


def test_clusters_count_their_mates_as_mined(benchmark, data, embedder, tmp_path):
    batches = benchmark[1].clusters(data, embedder, tmp_path / "vectors", num_negatives=3)
    (mined,) = batches.datasets.values()
    labels, loss = step(benchmark, data, embedder, batches, range(len(mined)), mask_duplicates=False)
    (task,) = data.tasks.values()
    colour_of_document = dict(zip(task.documents.tolist(), (np.arange(24) % 4).tolist(), strict=True))
    mates = [(a, b) for a in range(len(labels)) for b in range(len(labels)) if a != b and labels[a, 0] == labels[b, 0]]
    right = sum(colour_of_document[labels[a, 2]] == colour_of_document[labels[b, 2]] for a, b in mates)
    assert (loss.counts["mined"], loss.counts["mined_right"]) == (len(mates), right)


def test_columns_hold_the_nearest_documents_and_are_counted_as_mined(benchmark, data, embedder):
    batches = benchmark[1].explicit(data, embedder, None, relative_margin=None)
    (tuples,) = batches.datasets.values()
    (task,) = data.tasks.values()
    text_of = dict(zip(task.documents.tolist(), task.pairs["positive"][:], strict=True))
    cosines = data.cosines(task.anchors, np.arange(12))
    for row, (group, anchor, document) in enumerate(tuples["label"][:]):
        ranked = [other for other in np.argsort(-cosines[anchor]).tolist() if other != document][:7]
        held = [tuples[f"negative_{number}"][row] for number in range(7)]
        assert held == [text_of[other] for other in batches.negatives[group].tolist()]
        assert sorted(cosines[anchor][batches.negatives[group]]) == pytest.approx(sorted(cosines[anchor][ranked]))
    rows = [0, 1, 2]
    labels, loss = step(benchmark, data, embedder, batches, rows, mask_duplicates=False)
    mined = [(a, d) for g, a, _ in labels.tolist() for d in batches.negatives[g].tolist()]
    right = sum(bool(data.are_right(np.array(a), np.array(d))) for a, d in mined)
    assert (loss.counts["mined"], loss.counts["mined_right"]) == (21, right)
    assert loss.counts["kept"] == 3 * (3 + 21) - 3


def test_an_interval_holds_the_mean_as_often_as_it_says(benchmark):
    drawn = np.random.default_rng(0).normal(0.5, 0.1, (2000, 5))
    halves = [float(benchmark[0].interval(sample).split(" ± ")[1]) for sample in drawn]
    held = np.abs(100 * drawn.mean(axis=1) - 50) <= halves
    assert 0.93 < held.mean() < 0.97


@pytest.fixture
def setting(benchmark, data, tiny_mllm, monkeypatch):
    """Seven steps of eight pairs on the colours."""
    monkeypatch.setattr(benchmark[0], "MODEL", str(tiny_mllm))
    monkeypatch.setattr(benchmark[0], "BATCH_SIZE", 8)
    scores = {"Overall": 0.5}
    return benchmark[2].Setting(7, 5e-4, lambda folder, seed, model: data, lambda folder, model: scores)


def arm_named(benchmark, name):
    return next(arm for arm in benchmark[1].ARMS if arm.name == name)


@pytest.mark.parametrize(
    ("name", "inputs", "parts"),
    [
        ("same-task in-batch", 2, [7]),
        ("mine_hard_negatives, top 7", 9, [7]),
        ("mine_hard_negatives, top 7, 2/9 of the steps", 9, [1]),
        ("SaHa + both masks, mined again half-way", 2, [3, 4]),
        ("communities, ranks from 0, owner filter + both masks", 2, [7]),
    ],
)
def test_all_ways_train_on_as_many_pairs_or_inputs(benchmark, setting, tmp_path, monkeypatch, name, inputs, parts):
    steps = []
    train = benchmark[0].train
    monkeypatch.setattr(
        benchmark[0], "train", lambda *args, **given: (steps.append(given["steps"]), train(*args, **given))
    )
    result = benchmark[0].train_cell(setting, arm_named(benchmark, name), 0, tmp_path)
    assert steps == parts
    assert result["inputs"] == pytest.approx(inputs) and result["hit@1"] == {"Overall": 0.5}
    assert 0 < result["rows"] < 1.5 and 0 <= result["contamination"] < 1 and result["seconds"] > 0


def test_a_way_that_keeps_no_batch_of_pairs_has_no_scores(benchmark, setting, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark[0], "BATCH_SIZE", 32)
    empty = benchmark[0].train_cell(setting, arm_named(benchmark, "same-task in-batch"), 0, tmp_path)
    assert empty == {"rows": 0.0}
    scored = {"rows": 1.0, "contamination": 0.1, "contamination_mined": None, "hardness": 0.4}
    scored |= {"inputs": 2.0, "seconds": 0.04, "hit@1": {"Overall": 0.5}}
    first, second = benchmark[0].rows_of({"a way": [scored], "another": [empty]})
    assert first[:4] == ["a way", "100", "10.00", "–"] and len(first) == len(second)
    assert second == ["another", "0"] + ["–"] * (len(first) - 2)


def test_where_no_row_has_enough_negatives_there_is_nothing_to_train_on(benchmark, setting, data, embedder, tmp_path):
    batches = benchmark[1].explicit(data, embedder, None, relative_margin=5.0)
    assert batches.datasets == {} and batches.negatives is None
    arm = benchmark[1].Arm("none", partial(benchmark[1].explicit, relative_margin=5.0), {})
    assert benchmark[0].train_cell(setting, arm, 0, tmp_path) == {"rows": 0.0}


def test_only_whole_lines_of_the_same_settings_are_runs(benchmark, tmp_path):
    ablation, runs = benchmark[0], tmp_path / "runs.jsonl"
    assert dict(ablation.finished(runs)) == {}
    run = {"setting": "digits", "arm": "a way", "seed": 0, "settings": ablation.settings_of("digits")}
    others = run | {"seed": 1, "settings": run["settings"] | {"steps": 1}}
    runs.write_text(f'{json.dumps(run)}\n{json.dumps(others)}\n{{"setting": "dig')
    for _ in range(2):
        ablation.end_last_line(runs)
    with runs.open("a") as file:
        file.write(json.dumps(run | {"arm": "another way"}) + "\n")
    assert list(dict(ablation.finished(runs))) == [("digits", "a way", 0), ("digits", "another way", 0)]


def test_the_report_tells_where_its_runs_were_made(benchmark):
    ablation = benchmark[0]
    run = {"rows": 1.0, "contamination": 0.1, "contamination_mined": None, "hardness": 0.4, "inputs": 2.0}
    run |= {"seconds": 0.04, "hit@1": {"Overall": 0.5}, "machine": "Measured on a toaster.", "side_by_side": 3}
    cells = {("digits", "a way", seed): run for seed in range(2)}
    options = SimpleNamespace(settings=["digits"], seeds=2, baselines=ablation.BASELINES)
    text = ablation.report(cells, options)
    assert text.startswith("Measured on a toaster. 3 runs side by side.\n\n### digits, 36 steps of 32 pairs, 2 seeds")
    cells[("digits", "a way", 1)] = run | {"side_by_side": 1}
    assert ablation.report(cells, options).count("toaster") == 2


def test_of_many_equal_ways_hardly_one_seems_to_differ(benchmark):
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        means = {f"way {number}": rng.normal(0.5, 0.02, 5) for number in range(14)}
        wrong += any("*" in found for found in benchmark[0].differences(means, "way 0").values())
    assert wrong / 300 < 0.08
    means["better"] = means["way 0"] + rng.normal(0.1, 0.005, 5)
    assert "*" in benchmark[0].differences(means, "way 0")["better"]


def test_runs_go_on_where_they_were_stopped_and_failures_are_named(benchmark, tmp_path, monkeypatch):
    ablation, started = benchmark[0], []

    def run(command, **_):
        setting, arm, seed = json.loads(command[-1])
        started.append((arm, seed))
        cell = {"setting": setting, "arm": arm, "seed": seed, "settings": ablation.settings_of(setting), "rows": 0.0}
        failed = arm == "SaHa as in the paper" and started.count((arm, seed)) == 1
        return SimpleNamespace(returncode=int(failed), stdout=f"noise\n{json.dumps(cell)}\n")

    monkeypatch.setattr(ablation.subprocess, "run", run)
    monkeypatch.setattr(ablation, "prepare", lambda *_: None)
    options = SimpleNamespace(settings=["digits"], seeds=2, jobs=1, output_dir=tmp_path, runs=tmp_path / "runs.jsonl")
    options.arms = ["same-task in-batch", "SaHa as in the paper", "random in-batch"]  # the last is not for digits
    with pytest.raises(SystemExit, match=r"Failed.*'SaHa as in the paper', 0.*the same command runs these again"):
        ablation.run_all(options)
    assert len(started) == 4 and len(options.runs.read_text().splitlines()) == 2
    found = ablation.run_all(options)
    assert len(started) == 6 and len(options.runs.read_text().splitlines()) == 4
    assert list(found) == [("digits", arm, seed) for seed in range(2) for arm in options.arms[:2]]
    assert ablation.run_all(options) == found and len(started) == 6


def test_digits_go_with_others_of_their_class_and_never_with_themselves(benchmark, embedder, tmp_path, monkeypatch):
    data, (pictures, classes) = benchmark[2], benchmark[2]._digits()
    assert len(pictures) == 1797 and {picture.size for picture in pictures} == {(64, 64)}
    monkeypatch.setattr(data, "_DIGITS_FOR_TRAINING", 60)
    joined = {}
    monkeypatch.setattr(data, "_joined", lambda sources, truth, *_: joined.update(sources=sources, truth=truth))
    data.load_digits(tmp_path, 0, embedder)
    pairs, _ = joined["sources"]["digits"]
    class_of = {picture.tobytes(): label for picture, label in zip(pictures[:60], classes[:60].tolist(), strict=True)}
    sides = [[class_of[picture.tobytes()] for picture in pairs[side]] for side in ("anchor", "positive")]
    assert sides[0] == sides[1] == list(map(int, joined["truth"]["digits"])) and len(set(sides[0])) == 10
    assert not any(row["anchor"].tobytes() == row["positive"].tobytes() for row in pairs)
