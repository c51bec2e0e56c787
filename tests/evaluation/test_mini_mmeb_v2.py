"""The generated mini-MMEB-V2: generated on the way, scored as MMEB-V2 is, and mined and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saha_st.cli import main
from saha_st.data import load_pairs
from saha_st.data.scenes import write_mini_mmeb_v2
from saha_st.data.scenes.mini_mmeb_v2 import TRAIN_DIR_V2
from saha_st.evaluation import evaluate, find_benchmark, mini_mmeb_v2_tasks
from saha_st.evaluation.mmeb_v2 import MMEBV2Task
from saha_st.evaluation.specs import VIDEO, VISDOC
from saha_st.mining import mine_saha_clusters
from saha_st.training import RunConfig, train

TASKS = ["Motions", "Moving_t2v", "Pages"]


@pytest.fixture(scope="module")
def mini_v2(tmp_path_factory) -> Path:
    return write_mini_mmeb_v2(tmp_path_factory.mktemp("generated") / "v2", train_rows=16, eval_rows=8)


def test_the_benchmark_is_generated_once_and_has_the_tasks_of_the_catalogue(tmp_path, monkeypatch):
    made = []

    def write(root: Path) -> Path:
        made.append(root)
        return write_mini_mmeb_v2(root, train_rows=2, eval_rows=1)

    monkeypatch.setattr("saha_st.evaluation.catalogue.write_mini_mmeb_v2", write)
    for _ in range(2):
        benchmark = find_benchmark("mini-mmeb-v2", data_dir=tmp_path / "v2")
        assert [task.spec.subset for task in benchmark.tasks] == TASKS
        assert all(isinstance(task, MMEBV2Task) for task in benchmark.tasks)
    assert made == [tmp_path / "v2"]
    (task,) = find_benchmark("MiniMMEBV2_Pages", data_dir=tmp_path / "v2").tasks
    assert "mini-MMEB-V2" in task.metadata.description


def test_a_place_without_the_data_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no Motions, Moving_t2v, Pages of mini-MMEB-V2.*write_mini"):
        mini_mmeb_v2_tasks(tmp_path)
    with pytest.raises(ValueError, match="no subset 'Motion'.*'Motions'"):
        mini_mmeb_v2_tasks(tmp_path, "Motion")


def test_videos_and_pages_are_scored_as_those_of_mmeb_v2(_embedder, mini_v2):
    scores = evaluate(_embedder, find_benchmark("mini-mmeb-v2", data_dir=mini_v2), show_progress_bar=False)
    assert list(scores.tasks) == TASKS
    assert [task.metric for task in scores.tasks.values()] == ["hit@1", "hit@1", "ndcg_linear@5"]
    assert [task.modality for task in scores.tasks.values()] == [VIDEO, VIDEO, VISDOC]
    assert all(task.num_queries == 8 and not task.is_degenerate for task in scores.tasks.values())
    assert scores.tasks["Motions"].chance == pytest.approx(1 / 7, abs=1e-5)
    assert scores.tasks["Moving_t2v"].chance == pytest.approx(1 / 8)
    assert {"Video classification", "Video retrieval", "Generated pages", VIDEO, VISDOC} <= scores.means.keys()


def test_the_command_keeps_generated_data_beside_the_results(tiny_mllm, tmp_path, monkeypatch, capsys):
    def write(root: Path) -> Path:
        return write_mini_mmeb_v2(root, train_rows=2, eval_rows=2)

    monkeypatch.setattr("saha_st.evaluation.catalogue.write_mini_mmeb_v2", write)
    out = tmp_path / "out"
    assert main(["evaluate", str(tiny_mllm), "--benchmark", "mini-mmeb-v2", "--output_dir", str(out), "--quiet"]) == 0
    assert "Moving_t2v" in capsys.readouterr().out
    assert (out / "mini-mmeb-v2" / "visdoc-tasks").is_dir()
    results = {path.stem for path in (out / "results").rglob("MiniMMEBV2_*.json")}
    assert results == {f"MiniMMEBV2_{task}" for task in TASKS}


def test_the_command_that_generates_tells_them_by_the_name_of_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("saha_st.data.scenes.write_mini_mmeb_v2", lambda root: Path(root) / "is-v2")
    assert main(["data", "generate", str(tmp_path / "mini-mmeb-v2")]) == 0
    assert f"Wrote mini-MMEB-V2 to {tmp_path / 'mini-mmeb-v2' / 'is-v2'}" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["Motions", "Moving_t2v"])
def test_pairs_of_videos_are_mined_into_clusters(task, embedder, mini_v2):
    pairs = load_pairs(mini_v2 / TRAIN_DIR_V2 / f"{task}.jsonl")
    mined = mine_saha_clusters(pairs, embedder, num_negatives=3, show_progress_bar=False)
    given, clustered = (
        {json.dumps([row["anchor"], row["positive"]]) for row in rows.select_columns(["anchor", "positive"])}
        for rows in (pairs, mined)
    )
    assert clustered <= given and len(clustered) > len(given) / 2
    clusters = [label[0] for label in mined["label"]]
    assert clusters == sorted(clusters) and len(set(clusters)) > 1
    for cluster in set(clusters):  # everybody's positive is everybody else's negative
        positives = [label[2] for label in mined["label"] if label[0] == cluster]
        assert len(positives) == len(set(positives)) > 1


def test_two_steps_of_training_on_videos_change_the_model(tiny_mllm, embedder, mini_v2, tmp_path):
    config = RunConfig.from_dict(
        {
            "model": str(tiny_mllm),
            "output_dir": str(tmp_path / "run"),
            "data": [{"path": str(mini_v2 / TRAIN_DIR_V2 / f"{task}.jsonl")} for task in ("Motions", "Moving_t2v")],
            "num_frames": 4,
            "mining": {"num_negatives": 3},
            "loss": {"mini_batch_size": 4},
            "adapter": {"r": 2, "lora_alpha": 16},
            "training": {
                "per_device_train_batch_size": 4,
                "max_steps": 2,
                "learning_rate": 1e-2,
                "logging_steps": 1,
                "use_cpu": True,
                "disable_tqdm": True,
            },
        }
    )
    model = train(config, show_progress_bar=False)
    before, after = dict(embedder.named_parameters()), dict(model.named_parameters())
    assert before.keys() == after.keys() and all(value.isfinite().all() for value in after.values())
    changed = [name for name, value in after.items() if (value - before[name]).abs().max() > 1e-4]
    assert changed and len(changed) < len(after)
