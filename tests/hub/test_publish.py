"""What is about to be published: merged, told about, looked at, loaded without `saha_st`. Uploads: test_round_trip."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from tiny import build_tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from saha_st import SaHaLoss
from saha_st.card.run_folders import RunFolder
from saha_st.cli import main
from saha_st.encoding import results_revision
from saha_st.evaluation.report import Report
from saha_st.evaluation.scores import Scores, TaskScore
from saha_st.hub import publish
from saha_st.hub.publishing import check_in_clean_process
from saha_st.modules import load_embedder
from saha_st.modules.merging import has_adapter
from saha_st.training import AdapterConfig
from saha_st.training.adapters import add_adapter

TEXTS = ["a red circle", "two blue stars left of a square"]


@pytest.fixture(scope="module")
def adapted(_embedder, tmp_path_factory):
    """Folder of a checkpoint with a DoRA adapter that does something, and its vectors."""
    model = copy.deepcopy(_embedder)
    add_adapter(model, AdapterConfig())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    folder = tmp_path_factory.mktemp("adapted") / "checkpoint"
    model.save_pretrained(str(folder))
    return folder, model.encode_query(TEXTS)


@pytest.fixture(scope="module")
def published(adapted, tmp_path_factory):
    """A dry run of publishing the adapted checkpoint."""
    folder = tmp_path_factory.mktemp("published") / "repository"
    return folder, publish(
        adapted[0],
        "org/saha",
        dry_run=True,
        keep_adapter=True,
        license="apache-2.0",
        base_model="org/base",
        output_dir=folder,
    )


def test_a_dry_run_checks_everything_and_uploads_nothing(published):
    folder, found = published
    assert found.url is None and found.commit is None and found.repo_id == "org/saha"
    assert {each.engine for each in found.comparisons} == {"sentence-transformers", "transformers"}
    assert len(found.comparisons) == 18 and all(each.is_equal for each in found.comparisons)
    assert set(found.files) == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_adapters_are_merged_counted_and_kept_beside_the_weights(published, adapted):
    folder, found = published
    assert found.adapter.tensors == len(load_file(adapted[0] / "adapter_model.safetensors")) > 0
    assert found.adapter.layers == found.adapter.tensors / 3 and found.adapter.change > 1e-3
    assert not (folder / "adapter_config.json").exists() and "model.safetensors" in found.files
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(found.files)
    base = json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == "org/base"
    vectors = SentenceTransformer(str(folder), device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(vectors, adapted[1], atol=1e-5)


def test_it_holds_data_only_and_the_class_that_servers_look_for(published):
    folder, found = published
    suffixes = {Path(name).suffix for name in found.files}
    assert suffixes <= {".json", ".jinja", ".safetensors", ".md", ".png", ".yaml"}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen2VLForConditionalGeneration"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "sentence-transformers"
    assert 'SentenceTransformer("org/saha")' in card.text and "saha-st verify" in card.text


def test_a_model_that_is_passed_in_keeps_its_adapter(adapted, tmp_path, monkeypatch):
    monkeypatch.setattr("saha_st.hub.publishing.check_in_clean_process", lambda *args: ())
    model = load_embedder(str(adapted[0]), device="cpu")
    publish(model, "org/saha", dry_run=True, output_dir=tmp_path / "out")
    assert has_adapter(model)
    np.testing.assert_array_equal(model.encode_query(TEXTS), adapted[1])


def test_an_adapter_that_changes_nothing_is_refused(embedder, tmp_path):
    add_adapter(embedder, AdapterConfig(use_dora=False))
    with pytest.raises(ValueError, match="changes nothing"):
        publish(embedder, "org/saha", dry_run=True)


@pytest.mark.slow
def test_what_gives_other_vectors_without_saha_st_is_not_published(published, tmp_path):
    folder = Path(shutil.copytree(published[0], tmp_path / "changed"))
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = -weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"other vectors where saha_st is not installed:\n1. query: text"):
        check_in_clean_process(folder)


@pytest.mark.slow
def test_what_does_not_load_without_saha_st_is_not_published(published, tmp_path):
    folder = Path(shutil.copytree(published[0], tmp_path / "changed"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "saha_st.modules.HierarchicalPromptTransformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(RuntimeError, match="does not load where saha_st is not installed"):
        check_in_clean_process(folder)


def test_secrets_and_paths_in_what_goes_along_stop_it_by_name(tiny_mllm, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: mit\n---\nTrained in /home/ann/runs/7 with hf_" + "a1B2" * 9)
    with pytest.raises(ValueError, match="(?s)README.md: line 4 looks like a Hugging Face token.*'/home/ann/runs/7'"):
        publish(str(tiny_mllm), "org/saha", dry_run=True, card=card)


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory) -> Path:
    """Folder of a random LLM of text alone, whose chat template wants plain strings; its output layer is its own."""
    folder, tokenizer = tmp_path_factory.mktemp("llm"), build_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role + '\\n' + message.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, initializer_range=0.2, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_model_of_text_alone_is_published_as_one(tiny_llm, tmp_path):
    found = publish(tiny_llm, "org/llm", dry_run=True, output_dir=tmp_path / "out")
    assert len(found.comparisons) == 8 and all(each.is_equal for each in found.comparisons)
    assert not any(name.endswith(".png") for name in found.files)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "This model embeds text into 32-dimensional vectors" in card.text and "PIL" not in card.text
    assert "image-text-to-text" not in card.data.tags and "feature-extraction" in card.data.tags
    for example in re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL):
        exec(compile(example.replace("org/llm", str(tmp_path / "out")), "README.md", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("name", ["saha", "a/b/c", "org/sa ha", "/org", ""])
def test_a_name_that_the_hub_does_not_take_is_refused_at_once(name):
    with pytest.raises(ValueError, match="repo_id must be 'organisation/name'"):
        publish("nowhere", name, dry_run=True)


def evaluated(folder: Path, name: str, revision: str) -> Path:
    """What `saha-st evaluate` leaves of a benchmark with one task."""
    scores = Scores({"T": TaskScore(score=0.5, metric="ndcg", num_queries=10, meta_task="Retrieval", chance=0.1)})
    run = RunFolder(folder, name, revision)
    run.results.mkdir(parents=True)
    result = {
        "task_name": "T",
        "scores": {"test": [{"main_score": 0.5}]},
        "mteb_version": "2",
        "dataset_revision": "1",
    }
    (run.results / "T.json").write_text(json.dumps(result))
    Report("Bench", {name: scores}, (), revision, {}).write(folder)
    return folder


def test_results_go_along_by_the_vectors_that_they_are_of(unchecked, tiny_mllm, tmp_path):
    revision = results_revision(load_embedder(str(tiny_mllm), device="cpu"))
    results = evaluated(tmp_path / "evaluation", "local/another-name", revision)
    evaluated(results, "org/saha", "older")
    found = publish(tiny_mllm, "org/saha", dry_run=True, results=results, output_dir=tmp_path / "out")
    assert {"results/T.json", "results/reports/Bench.json"} <= found.files.keys()
    assert "### Bench" in (tmp_path / "out" / "README.md").read_text()
    # Published again from there, they come along.
    again = publish(tmp_path / "out", "org/copy", dry_run=True, output_dir=tmp_path / "copy")
    assert {"results/T.json", "results/reports/Bench.json"} <= again.files.keys()
    assert "### Bench" in (tmp_path / "copy" / "README.md").read_text()


def test_results_of_other_vectors_are_refused(embedder, tmp_path):
    results = evaluated(tmp_path / "evaluation", "org/saha", "26a0")
    with pytest.raises(FileNotFoundError, match="holds results of org/saha @ 26a0, none of these weights"):
        publish(embedder, "org/saha", dry_run=True, results=results)


def test_results_that_other_versions_of_the_libraries_computed_are_this_models(unchecked, tiny_mllm, tmp_path):
    model = load_embedder(str(tiny_mllm), device="cpu")
    revision = results_revision(model, versions=("6.1.0", "5.4.0"))
    assert revision != results_revision(model)
    results = evaluated(tmp_path / "evaluation", "org/saha", revision)
    with pytest.raises(FileNotFoundError, match="none of these weights"):
        publish(tiny_mllm, "org/saha", dry_run=True, results=results)
    (file,) = RunFolder(results, "org/saha", revision).reports.glob("*.json")
    report = json.loads(file.read_text())
    report["versions"] |= {"sentence-transformers": "6.1.0", "transformers": "5.4.0"}
    file.write_text(json.dumps(report))
    assert "results/T.json" in publish(tiny_mllm, "org/saha", dry_run=True, results=results).files


def test_results_without_a_report_are_refused_as_the_card_would_not_show_them(unchecked, tiny_mllm, tmp_path):
    revision = results_revision(load_embedder(str(tiny_mllm), device="cpu"))
    results = evaluated(tmp_path / "evaluation", "org/saha", revision)
    shutil.rmtree(results / "reports")
    with pytest.raises(FileNotFoundError, match="no report on them.*what is done is not done again"):
        publish(tiny_mllm, "org/saha", dry_run=True, results=results)


def test_files_beside_a_plain_llm_are_not_taken_along(unchecked, tiny_mllm, tmp_path):
    base = Path(shutil.copytree(tiny_mllm, tmp_path / "base"))
    for name in ("results/rows.jsonl", ".eval_results/gsm8k.yaml"):
        (base / name).parent.mkdir()
        (base / name).write_text("{}")
    found = publish(base, "org/saha", dry_run=True)
    assert not any(name.startswith(("results/", ".eval_results/")) for name in found.files)


@pytest.mark.slow
def test_a_model_that_takes_short_inputs_only_is_published(embedder, tmp_path):
    embedder.max_seq_length = 100
    found = publish(embedder, "org/saha", dry_run=True)
    assert found.comparisons and all(each.is_equal for each in found.comparisons)
    embedder.max_seq_length = 30
    with pytest.raises(ValueError, match="max_seq_length=30 leaves no room"):
        publish(embedder, "org/saha", dry_run=True)


def test_what_only_people_state_goes_along(unchecked, embedder, tmp_path):
    embedder.model_card_data.datasets = ["org/pairs"]
    embedder.model_card_data.tags.append("fashion")
    publish(embedder, "org/saha", dry_run=True, output_dir=tmp_path / "out")
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.datasets == ["org/pairs"] and "fashion" in data.tags


def test_a_model_that_is_not_there_is_not_looked_for_on_the_hub_unless_it_may_be():
    with pytest.raises(ValueError, match="'saha-tinny' is no folder here.*Did you mean 'saha-tiny'"):
        publish("saha-tinny", "org/saha", dry_run=True)
    with pytest.raises(ValueError, match="There is no model folder './saha'"):
        publish("./saha", "org/saha", dry_run=True)


@pytest.mark.parametrize("change", ["weights", "an adapter"])
def test_results_that_a_model_carries_are_left_out_once_it_is_another(unchecked, tmp_path, caplog, change):
    model = load_embedder("saha-tiny", device="cpu")
    kept = publish(model, "org/saha", dry_run=True)
    assert "results/reports/mini-mmeb.json" in kept.files and "left out" not in caplog.text
    if change == "an adapter":
        add_adapter(model, AdapterConfig())
    with torch.no_grad():
        for name, parameter in model[0].model.named_parameters():
            if "lora_B" in name or (change == "weights" and "language_model.layers" in name):
                parameter.add_(0.02)
    found = publish(model, "org/saha", dry_run=True, output_dir=tmp_path / "out")
    assert not any(name.startswith("results/") for name in found.files)
    assert "Not evaluated" in (tmp_path / "out" / "README.md").read_text()
    assert "The results that came with the model are left out" in caplog.text


def test_samples_of_the_training_data_stay_at_home(unchecked, embedder, tmp_path):
    picture = Image.new("RGB", (32, 32), "red")
    rows = {"anchor": [f"a secret {number}" for number in range(4)], "positive": [picture] * 4}
    embedder.model_card_data.show_training_samples = True
    args = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True
    )
    loss = SaHaLoss(embedder, mini_batch_size=2)
    SentenceTransformerTrainer(embedder, args, train_dataset=Dataset.from_dict(rows), loss=loss).train()
    embedder.save_pretrained(str(tmp_path / "saved"))
    assert "a secret 1" in (tmp_path / "saved" / "README.md").read_text(), "else this proves nothing"
    for model, name in ((embedder, "object"), (tmp_path / "saved", "folder")):
        found = publish(model, "org/saha", dry_run=True, output_dir=tmp_path / name)
        assert "a secret" not in (tmp_path / name / "README.md").read_text()
        assert {file for file in found.files if file.startswith("assets/")} <= {"assets/mining.png"}


def test_an_adapter_that_the_weights_cannot_hold_is_not_published(unchecked, adapted, monkeypatch):
    monkeypatch.setattr("saha_st.hub.publishing.merge_adapter", lambda model: False)
    with pytest.raises(ValueError, match="lost when it is merged: weights in float32 are too coarse"):
        publish(adapted[0], "org/saha", dry_run=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_dir": "full"}, "output_dir .* is not empty"),
        ({"card": "none.md"}, "card: there is no file"),
        ({"card": "broken.md"}, "card: the front matter of .* cannot be read"),
        ({"card": "card.md", "license": "mit"}, "license goes into a card that is made here"),
        ({"card": "card.md", "base_model": "org/base"}, "base_model goes into a card"),
        ({"card": "foo.md"}, "no licence 'foo-9'"),
        ({"license": "apache2"}, "license: the Hub has no licence 'apache2'. Did you mean apache-2.0"),
        ({"license": "other"}, "says nothing without a name"),
        ({"results": "full"}, "holds no results"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_the_model_is_loaded(tmp_path, monkeypatch, options, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n# A card")
    (tmp_path / "foo.md").write_text("---\nlicense: foo-9\n---\n# A card")
    (tmp_path / "broken.md").write_text("---\nlicense: [mit\n---\n# A card")
    monkeypatch.setattr("saha_st.hub.publishing.load_embedder", lambda *args, **kwargs: pytest.fail("it was loaded"))
    paths = {name: tmp_path / value for name, value in options.items() if name in ("output_dir", "card", "results")}
    with pytest.raises((ValueError, OSError), match=message):
        publish("saha-tiny", "org/saha", dry_run=True, **options | paths)


def test_an_adapter_that_is_not_there_cannot_be_kept(embedder):
    with pytest.raises(ValueError, match="keep_adapter: the model has no adapter"):
        publish(embedder, "org/saha", dry_run=True, keep_adapter=True)


@pytest.mark.parametrize(("token", "message"), [("hf_x", "HF_HUB_OFFLINE is set"), (None, "Not logged in")])
def test_without_a_connection_or_a_token_it_says_so_before_the_long_work(monkeypatch, token, message):
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    with pytest.raises(OSError, match=message):
        publish("saha-tiny", "org/saha", token=token)


@pytest.mark.slow
def test_the_command_lists_the_files_of_a_run_folder(tiny_mllm, tmp_path, capsys):
    run = tmp_path / "run"
    load_embedder(str(tiny_mllm), device="cpu").save_pretrained(str(run / "final"))
    (run / "final" / "recipe.yaml").write_text(yaml.safe_dump({"model": "org/base", "data": [{"path": "org/pairs"}]}))
    out = tmp_path / "out"
    assert main(["publish", str(run), "org/saha", "--dry-run", "--output_dir", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed and "Dry run: nothing was uploaded." in printed
    assert "the tokens of all 9 inputs are equal, the lowest cosine is 1.000000" in printed
    assert ModelCard.load(out / "README.md").data.base_model == "org/base"
