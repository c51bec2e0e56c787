"""Real runs of the stock trainer on the tiny MLLM, from config to a checkpoint that plain ST loads."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from saha_st.errors import MemoryFullError
from saha_st.mining.miner import MinedClusters
from saha_st.modules import load_embedder
from saha_st.modules.merging import has_adapter, merge_adapter
from saha_st.training import AdapterConfig, RunConfig, train
from saha_st.training.adapters import add_adapter, freeze_vision
from saha_st.training.checkpoints import last_whole_checkpoint
from saha_st.training.run import save_verified

PROBES = ["number 7", {"image": Image.new("RGB", (32, 32), "red"), "text": "Which?"}]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, _small_run, pairs_file):
    """One run with everything in it; the tests look at what it left behind."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    values = copy.deepcopy(_small_run)
    values |= {"output_dir": str(folder), "eval_data": [{"path": str(pairs_file), "max_rows": 16}]}
    values["training"] |= {"eval_strategy": "steps", "eval_steps": 4, "gradient_checkpointing": True}
    config = RunConfig.from_dict(values)
    return train(config), folder


def test_a_run_ends_in_a_merged_model_that_plain_sentence_transformers_loads(finished, tiny_mllm):
    model, folder = finished
    assert not has_adapter(model)
    files = {path.name for path in (folder / "final").rglob("*")}
    assert "model.safetensors" in files and "adapter_model.safetensors" not in files
    plain = SentenceTransformer(str(folder / "final"), device="cpu")
    trained = model.encode_query(PROBES)
    np.testing.assert_allclose(plain.encode_query(PROBES), trained, atol=1e-5)
    untrained = load_embedder(str(tiny_mllm), image_tokens=(4, 16), device="cpu").encode_query(PROBES)
    assert np.abs(trained - untrained).max() > 1e-2


def test_checkpoints_name_stock_modules_only(finished):
    _, folder = finished
    for place in (folder / "final", folder / "checkpoint-2", folder / "checkpoint-4"):
        types = [module["type"] for module in json.loads((place / "modules.json").read_text())]
        assert len(types) == 3 and all(name.startswith("sentence_transformers.") for name in types)


def test_all_files_can_be_read_by_whom_the_umask_lets(finished, tmp_path):
    _, folder = finished
    (tmp_path / "any").touch()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".safetensors", ".json", ".parquet", ".npy", ".pt"}
    usual = (tmp_path / "any").stat().st_mode
    assert usual & 0o044 and not [path for path in files if path.stat().st_mode != usual]


def test_the_card_is_written_and_shows_no_training_data(finished):
    _, folder = finished
    for place in (folder / "final", folder / "checkpoint-2"):
        card = (place / "README.md").read_text()
        assert "SentenceTransformer" in card and "Which?" not in card and "number 7" not in card
        assert {path.name for path in (place / "assets").iterdir()} <= {"mining.png"}


def test_recipe_and_mining_lie_beside_the_weights_and_in_the_card(finished, tiny_mllm):
    _, folder = finished
    for place in (folder / "final", folder / "checkpoint-2"):
        text = (place / "recipe.yaml").read_text()
        assert str(folder) not in text and str(tiny_mllm.parent) not in text and "/" not in text
        recipe = RunConfig.from_file(place / "recipe.yaml")
        assert (recipe.model, recipe.output_dir) == (tiny_mllm.name, "run") and recipe.data[0].path == "pairs.jsonl"
        (mined,) = json.loads((place / "mining.json").read_text()).values()
        card = (place / "README.md").read_text()
        assert f"| pairs | {mined['rows']} | {mined['clusters']} |" in card and mined["rows"] == 64
        assert f"fine-tuned from `{tiny_mllm.name}` with SaHa" in card and "rank 2, alpha 16" in card
        assert "Not evaluated" in card and "without further training" not in card


def test_an_adapter_checkpoint_loads_with_its_base(finished):
    _, folder = finished
    checkpoint = SentenceTransformer(str(folder / "checkpoint-4"), device="cpu")
    final = SentenceTransformer(str(folder / "final"), device="cpu")
    np.testing.assert_allclose(checkpoint.encode_query(PROBES), final.encode_query(PROBES), atol=1e-4)


def test_cosines_and_accuracy_are_logged_beside_the_loss(finished):
    _, folder = finished
    history = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    (entry, *_) = [entry for entry in history if "loss" in entry]
    for name in ("positive_cosine", "hardest_negative_cosine", "in_batch_accuracy"):
        assert -1 <= entry[name] <= 1 and entry[name] != 0
    assert any("eval_pairs_hit@1" in entry for entry in history)


def test_what_was_mined_stays_with_the_run(finished):
    _, folder = finished
    statistics = json.loads((folder / "mining" / "pairs" / "mining.json").read_text())
    assert statistics["rows"] == 64 and statistics["anchors"] == 63 and statistics["documents"] == 63
    assert RunConfig.from_dict(json.loads((folder / "run_config.json").read_text())).mining.num_negatives == 3


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_loaded(run_dict, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("x")
    monkeypatch.setattr("saha_st.training.run.load_embedder", None)
    with pytest.raises(FileExistsError, match="not empty.*--resume"):
        train(RunConfig.from_dict(run_dict))
    assert os.listdir(tmp_path / "run") == ["precious.txt"]


def test_a_run_cannot_be_resumed_as_another_one(run_dict):
    folder = Path(run_dict["output_dir"])
    (folder / "mining").mkdir(parents=True)
    with pytest.raises(ValueError, match="no run to resume"):
        train(RunConfig.from_dict(run_dict), resume=True)
    (folder / "run_config.json").write_text(json.dumps(RunConfig.from_dict(run_dict).to_dict()))
    with pytest.raises(ValueError, match="other values of loss"):
        train(RunConfig.from_dict(run_dict | {"loss": {"scale": 20.0}}), resume=True)


def test_a_run_that_failed_before_it_made_anything_can_be_started_again(run_dict):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(RunConfig.from_dict(run_dict | {"data": [{"path": "nowhere/pairs.jsonl"}]}))
    with pytest.raises(ValueError, match="names no linear layer"):
        train(RunConfig.from_dict(run_dict | {"adapter": {"target_modules": ["nothing"]}}))
    assert os.listdir(run_dict["output_dir"]) == ["run_config.json"]


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path):
    for step, state in ((2, "{}"), (10, '{"global_step": 1'), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2"
    assert last_whole_checkpoint(tmp_path / "checkpoint-2") is None


def test_training_that_renders_otherwise_than_inference_is_refused(run_dict):
    run_dict["training"] |= {"router_mapping": {"anchor": "document", "positive": "document"}}
    with pytest.raises(RuntimeError, match=r"column 'anchor': training reads .* inference reads .*in one word"):
        train(RunConfig.from_dict(run_dict))


def test_two_datasets_train_together_and_vision_stays_frozen(run_dict, pairs_file):
    run_dict |= {"adapter": None, "data": [{"path": str(pairs_file)}, {"path": str(pairs_file), "name": "again"}]}
    run_dict["training"] |= {"max_steps": 2, "save_strategy": "no"}
    before = load_embedder(run_dict["model"], device="cpu").state_dict()
    after = train(RunConfig.from_dict(run_dict)).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not [name for name in changed if "visual" in name]
    assert sorted(path.name for path in (Path(run_dict["output_dir"]) / "mining").iterdir()) == ["again", "pairs"]


def test_mixed_precision_does_not_follow_the_model_out_of_training(run_dict):
    run_dict["training"] |= {"max_steps": 1, "save_strategy": "no", "bf16": True}
    model = train(RunConfig.from_dict(run_dict))
    plain = SentenceTransformer(str(Path(run_dict["output_dir"]) / "final"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(PROBES), model.encode_query(PROBES), atol=1e-6)


def test_positives_that_are_all_the_same_are_refused_by_name(run_dict, tmp_path):
    (tmp_path / "same.jsonl").write_text("\n".join(json.dumps({"anchor": f"{i}", "positive": "x"}) for i in range(9)))
    with pytest.raises(ValueError, match="all positives of 'same' are the same"):
        train(RunConfig.from_dict(run_dict | {"data": [{"path": str(tmp_path / "same.jsonl")}]}))


def test_the_in_batch_baseline_runs_without_mining(run_dict):
    run_dict |= {"mining": None, "adapter": None}
    run_dict["training"] |= {"max_steps": 1, "save_strategy": "no"}
    model = train(RunConfig.from_dict(run_dict))
    assert not (Path(run_dict["output_dir"]) / "mining").exists()
    assert model.encode_query(PROBES).shape == (2, 32)


def test_an_adapter_is_on_the_language_model_only_and_in_float32(embedder):
    embedder.bfloat16()
    add_adapter(embedder, AdapterConfig(r=2))
    trained = {name: p for name, p in embedder.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 3  # layers, projections, and A, B and the magnitude of DoRA
    assert all("language_model" in name and "visual" not in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in embedder.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_an_adapter_without_a_layer_to_sit_on_is_refused(embedder):
    with pytest.raises(ValueError, match="names no linear layer .* it has .*q_proj"):
        add_adapter(embedder, AdapterConfig(target_modules=("fc_one",)))


def test_freezing_vision_freezes_vision_and_nothing_else(embedder):
    frozen = freeze_vision(embedder)
    assert frozen == sum(p.numel() for p in embedder[0].model.visual.parameters()) > 0
    assert all(p.requires_grad == ("visual" not in name) for name, p in embedder.named_parameters())


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_merged_adapter_gives_the_vectors_it_gave_before(embedder, tmp_path, use_dora):
    untouched = embedder.encode(PROBES)
    add_adapter(embedder, AdapterConfig(r=2, use_dora=use_dora))
    with torch.no_grad():
        for name, parameter in embedder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    with_adapter = embedder.encode(PROBES)
    assert np.abs(with_adapter - untouched).max() > 1e-3
    merge_adapter(embedder)
    save_verified(embedder, tmp_path / "merged", probes=PROBES)
    plain = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    np.testing.assert_allclose(plain.encode(PROBES), with_adapter, atol=1e-5)


def test_a_saved_model_that_reads_back_differently_is_refused(embedder, tmp_path, monkeypatch):
    save = embedder.save_pretrained

    def spoil(folder):
        save(folder)
        other = load_embedder(folder, device="cpu")
        other[0].model.language_model.norm.weight.data.mul_(torch.linspace(0.1, 2, 32))
        other.save_pretrained(folder)

    monkeypatch.setattr(embedder, "save_pretrained", spoil)
    with pytest.raises(RuntimeError, match="gives other vectors"):
        save_verified(embedder, tmp_path / "model", probes=["x"])
    assert not (tmp_path / "model").exists()


def test_an_adapter_on_a_bfloat16_model_resumes_to_the_same_weights(run_dict):
    """Without rounding the adapter to bfloat16 on the way."""
    run_dict["model_kwargs"] = {"dtype": "bfloat16"}
    run_dict["training"] |= {"max_steps": 4, "save_steps": 2}
    folder = Path(run_dict["output_dir"])
    train(RunConfig.from_dict(run_dict))
    unbroken = load_file(folder / "checkpoint-4" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in unbroken.values()} == {torch.float32}
    shutil.rmtree(folder / "checkpoint-4")
    train(RunConfig.from_dict(run_dict), resume=True)
    resumed = load_file(folder / "checkpoint-4" / "adapter_model.safetensors")
    start = load_file(folder / "checkpoint-2" / "adapter_model.safetensors")
    assert any(not torch.equal(start[name], resumed[name]) for name in start)
    for name in unbroken:
        torch.testing.assert_close(resumed[name], unbroken[name], atol=1e-7, rtol=0, msg=name)


SLOW_RUN = """
import sys, time, yaml
from transformers import TrainerCallback
from saha_st.training import RunConfig, train
class Slow(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        time.sleep(0.5)
train(RunConfig.from_dict(yaml.safe_load(open(sys.argv[1]))), resume=True, callbacks=(Slow(),))
"""


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, {"r": 2, "lora_dropout": 0.1}])
def test_a_run_killed_with_sigkill_and_resumed_ends_with_the_same_weights(run_dict, tmp_path, adapter):
    run_dict["adapter"] = adapter
    run_dict["training"] |= {"max_steps": 14, "save_steps": 3, "seed": 5}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_dict))
    process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(tmp_path / "run.yaml")])
    folder, deadline = Path(run_dict["output_dir"]), time.monotonic() + 240
    while last_whole_checkpoint(folder) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.8)  # into the next steps
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "final").exists()
    first = last_whole_checkpoint(folder)
    assert first is not None and first.name in ("checkpoint-3", "checkpoint-6")
    resumed = train(RunConfig.from_dict(run_dict), resume=True)
    unbroken = train(RunConfig.from_dict(run_dict | {"output_dir": str(tmp_path / "unbroken")}))
    weights, expected = resumed.state_dict(), unbroken.state_dict()
    assert set(weights) == set(expected)
    start = load_embedder(run_dict["model"], device="cpu").state_dict()
    assert any(not torch.equal(start[name], expected[name]) for name in start)
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], atol=1e-6, rtol=0, msg=name)


def test_out_of_memory_in_training_names_the_rows_of_the_source_and_what_to_lower(run_dict, monkeypatch):
    from sentence_transformers.base.modules import Transformer

    plain = Transformer.forward

    def forward(self, features, **kwargs):
        if self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return plain(self, features, **kwargs)

    monkeypatch.setattr(Transformer, "forward", forward)
    with pytest.raises(MemoryFullError) as caught:
        train(RunConfig.from_dict(run_dict), show_progress_bar=False)
    message = str(caught.value)
    assert "a mini-batch of 4 rows" in message and "column 'anchor' of pairs: rows " in message
    assert "loss.mini_batch_size (now 4; or fill by loss.mini_batch_num_tokens)" in message
    assert message.count("(image 32x32)") == 4 and "CUDA out of memory" in message
    clusters = MinedClusters.load(Path(run_dict["output_dir"]) / "mining" / "pairs")
    failed = caught.value.__cause__.mini_batch
    rows = [int(part.split(" (")[0]) for part in message.split(": rows ")[1].split(". Lower")[0].split("; ")]
    assert len(rows) == len(failed.rows) == 4
    found = sorted(clusters.labels[clusters.rows == row].tolist() for row in rows)
    for label in (failed.labels[row] for row in failed.rows):
        assert any(label in labels for labels in found)
