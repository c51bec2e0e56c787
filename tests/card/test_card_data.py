"""A card is written whenever a model is saved, says what is known, and shows nothing of what it was trained on."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import jinja2
import jinja2.meta
import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from jinja2 import TemplateError
from PIL import Image
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

from saha_st import SaHaModelCardData, load_embedder
from saha_st.card import render_card
from saha_st.losses import SaHaLoss
from saha_st.prompts import QUERY_SUFFIX, SYSTEM, HierarchicalPrompt

ROOT = Path(__file__).parents[2]
GOLDEN, WEIGHTS = ROOT / "model_card", ROOT / "saha_st" / "quickstart" / "saha-tiny"
SECRET = "a text of the training set"


@pytest.fixture(scope="module")
def _saha_tiny() -> SentenceTransformer:
    return load_embedder("saha-tiny", device="cpu")


def saved(model: SentenceTransformer, folder: Path) -> str:
    model.save_pretrained(str(folder))
    return (folder / "README.md").read_text(encoding="utf8")


def front_matter(card: str) -> dict:
    return ModelCard(card).data.to_dict()


def blocks(card: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)


def without_versions(card: str) -> str:
    return re.sub(r"^## Framework versions\n.*?(?=\n<!--|\Z)", "", card, flags=re.MULTILINE | re.DOTALL)


def test_the_golden_card_renders_again_to_the_same_text():
    spec = importlib.util.spec_from_file_location("render_model_card", GOLDEN / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.render() == (GOLDEN / "README.md").read_text(encoding="utf8")


def test_what_lies_beside_the_embedded_weights_is_what_the_golden_card_was_rendered_from():
    for name in ("README.md", "recipe.yaml", "mining.json", "results/reports/mini-mmeb.json", "assets/mining.png"):
        assert (WEIGHTS / name).read_bytes() == (GOLDEN / name).read_bytes(), name


def test_saving_a_checkpoint_again_writes_the_whole_card_and_its_files(_saha_tiny, tmp_path):
    pytest.importorskip("matplotlib")
    card = saved(_saha_tiny, tmp_path)
    assert without_versions(card) == without_versions((GOLDEN / "README.md").read_text(encoding="utf8"))
    assert f"* torch: {torch.__version__}\n" in card
    for name in ("recipe.yaml", "mining.json", "results/reports/mini-mmeb.json"):
        assert (tmp_path / name).read_text() == (GOLDEN / name).read_text()
    with Image.open(tmp_path / "assets" / "mining.png") as figure:
        assert figure.width <= 1000


def test_the_examples_of_the_card_run_and_agree(_saha_tiny):
    card = render_card(_saha_tiny, SaHaModelCardData(repo_id="org/saha"))
    examples = [block.replace("org/saha", str(WEIGHTS)) for block in blocks(card)]
    assert len(examples) == 2
    stock, plain = {}, {}
    for example, namespace in zip(examples, (stock, plain), strict=True):
        exec(compile(example, "README.md", "exec"), namespace)  # noqa: S102
    assert stock["model"].__class__ is SentenceTransformer and stock["queries"].shape == (2, 160)
    np.testing.assert_allclose(plain["query"].numpy(), stock["queries"][1], atol=1e-5)
    np.testing.assert_allclose(plain["document"].numpy(), stock["documents"][0], atol=1e-5)
    picture = plain["embed"]([{"type": "image", "image": plain["picture"]}], task="document")
    np.testing.assert_allclose(picture.numpy(), stock["documents"][1], atol=1e-5)


def test_the_vllm_request_is_json_with_the_task_and_an_open_turn(_saha_tiny):
    import json

    (install, serve, request) = blocks(render_card(_saha_tiny, SaHaModelCardData(repo_id="org/saha")), "bash")
    assert install == 'pip install -U "sentence-transformers[image]"\n'
    assert serve.startswith("vllm serve org/saha --runner pooling")
    body = json.loads(re.search(r"-d '(.*)'", request, flags=re.DOTALL)[1])
    assert body["chat_template_kwargs"] == {"task": "query"} and body["add_generation_prompt"] is True


def test_the_card_of_a_prompted_llm_says_that_nothing_was_trained_or_measured(embedder, tiny_mllm, tmp_path):
    card = saved(embedder, tmp_path)
    for text in (SYSTEM, *QUERY_SUFFIX.values(), f"the weights of `{tiny_mllm.name}`", "Not evaluated"):
        assert text in card, text
    assert "fine-tuned" not in card and "Nothing is appended to documents." in card
    assert not (tmp_path / "recipe.yaml").exists() and not (tmp_path / "assets").exists()
    data = front_matter(card)
    assert data["library_name"] == "sentence-transformers" and data["pipeline_tag"] == "sentence-similarity"
    assert {"sentence-transformers", "feature-extraction", "multimodal-embedding"} <= set(data["tags"])
    assert not {"base_model", "datasets", "license", "base_model_relation"} & set(data)
    assert f"\nThis model embeds text, pictures, and both together into {embedder.get_embedding_dimension()}-" in card
    assert "mteb" not in data["tags"]


@pytest.mark.parametrize("kind", ["a plain LLM", "a checkpoint"])
def test_a_readme_beside_the_weights_is_not_passed_on_but_what_a_checkpoint_states_is(
    embedder, tiny_mllm, tmp_path, kind
):
    source = tmp_path / "source"
    if kind == "a checkpoint":
        embedder.save_pretrained(str(source))
    else:
        shutil.copytree(tiny_mllm, source)
    readme = "---\nlicense: mit\nlanguage: de\nbase_model: Org/Base\n---\n# Their own words\n"
    (source / "README.md").write_text(readme + "<!-- about -->\nAbout *it*.\n<!-- /about -->\n")
    card = saved(load_embedder(str(source), device="cpu"), tmp_path / "again")
    assert "Their own words" not in card
    stated = front_matter(card)
    if kind == "a checkpoint":
        assert (stated["license"], stated["language"], stated["base_model"]) == ("mit", ["de"], "Org/Base")
        assert "About *it*." in card and "Its base model is [Org/Base]" in card
        assert "without further training" not in card  # which nobody said
    else:
        assert not {"license", "base_model"} & set(stated) and "About" not in card


def test_writing_a_card_neither_runs_the_model_nor_asks_the_hub(embedder, monkeypatch, tmp_path):
    import huggingface_hub
    from sentence_transformers.base import model_card

    asked = []
    for module, name in (
        (model_card, "get_model_info"),
        (model_card, "get_dataset_info"),
        (huggingface_hub, "model_info"),
    ):
        monkeypatch.setattr(module, name, lambda *args, name=name, **kwargs: asked.append(name))
    monkeypatch.setattr(embedder, "forward", lambda *args, **kwargs: asked.append("forward"))
    embedder.model_card_data.train_datasets = embedder.model_card_data.validate_datasets([{"id": "org/pairs"}])
    assert front_matter(saved(embedder, tmp_path))["datasets"] == ["org/pairs"]
    assert asked == []


def train_on_images(model: SentenceTransformer, folder: Path) -> Path:
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green", "white")]
    dataset = Dataset.from_dict({"anchor": pictures, "positive": [f"{SECRET} {i}" for i in range(4)]})
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=2, save_steps=2, per_device_train_batch_size=4, use_cpu=True,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    loss = SaHaLoss(model, mini_batch_size=4)
    SentenceTransformerTrainer(model=model, args=args, train_dataset=dataset, loss=loss).train()
    return folder / "checkpoint-2"


def test_a_trainers_checkpoint_has_the_card_and_nothing_of_the_training_data(_saha_tiny, tmp_path):
    import copy

    model = copy.deepcopy(_saha_tiny)
    model.model_card_data.register_model(model)
    assert model.model_card_data.reports
    checkpoint = train_on_images(model, tmp_path)
    card = (checkpoint / "README.md").read_text()
    assert SYSTEM in card and SECRET not in card and not list(checkpoint.rglob("*.jpg"))
    assert not (checkpoint / "assets").exists()
    # What was measured and mined was of the weights before.
    assert "Not evaluated" in card and "fine-tuned from `saha-tiny`" in card and "recipe is not recorded" in card
    assert not (checkpoint / "results").exists() and "generated_from_trainer" in front_matter(card)["tags"]
    again = saved(load_embedder(str(checkpoint), device="cpu"), tmp_path / "again")
    shutil.copytree(WEIGHTS, tmp_path / "in-place")
    assert "Not evaluated" in saved(model, tmp_path / "in-place")  # nor are old files left there
    assert not SaHaModelCardData.of_folder(tmp_path / "in-place").reports
    assert "recipe is not recorded" in again and "without further training" not in again


def test_training_samples_are_shown_if_asked_for(embedder, tmp_path):
    embedder.model_card_data.show_training_samples = True
    checkpoint = train_on_images(embedder, tmp_path)
    assert SECRET in (checkpoint / "README.md").read_text()
    assert list((checkpoint / "assets").glob("*.jpg"))


NASTY = "a: \"b\" 'c' {{ messages }} {# #} {% raw %} #} `` ``` ```` --- | \\n"


def test_nasty_strings_stay_as_they_are_and_the_front_matter_stays_yaml(embedder, tmp_path):
    embedder[0].prompt = HierarchicalPrompt(system=NASTY, query_suffix={"text": f"\n{NASTY}", "image": "x\n---\ny"})
    data = embedder.model_card_data
    data.base_model, data.is_untrained = NASTY, False
    data.license, data.license_name, data.license_link = "other", NASTY, "https://x.org/a: b"
    data.recipe = {"model": NASTY, "data": [{"path": NASTY, "subset": [NASTY]}], "output_dir": NASTY, "mining": None}
    card = saved(embedder, tmp_path)
    stated = front_matter(card)
    assert stated["license_name"] == NASTY and stated["license_link"] == "https://x.org/a: b"
    assert card.count(f"\n{NASTY}\n") >= 2 and "\nx\n---\ny\n" in card
    longest = max(len(run) for run in re.findall(r"^(`+)text$", card, flags=re.MULTILINE))
    assert longest == 5  # one more than the prompt has
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == data.recipe
    again = load_embedder(str(tmp_path), device="cpu")
    assert again[0].prompt.system == NASTY and render_card(again) == card


def test_fields_that_are_given_win_over_what_a_folder_says():
    data = SaHaModelCardData.of_folder(WEIGHTS, license="mit", repo_id="org/saha", base_model="Org/Base", parity=True)
    card = render_card(load_embedder("saha-tiny", device="cpu"), data)
    stated = front_matter(card)
    assert (stated["license"], stated["base_model"], stated["base_model_relation"]) == ("mit", "Org/Base", "finetune")
    assert 'SentenceTransformer("org/saha")' in card and "# saha\n" in card and "`saha-st verify org/saha`" in card
    assert "saha-st verify" not in render_card(load_embedder("saha-tiny", device="cpu"))


def test_a_changed_prompt_takes_the_results_out_of_the_card():
    model = load_embedder("saha-tiny", prompt=HierarchicalPrompt(system="Another."), device="cpu")
    assert "Not evaluated" in render_card(model)


def given_fewer_pixels(model: SentenceTransformer) -> None:
    model[0].processor.image_processor.size = {"shortest_edge": 1024, "longest_edge": 4096}


CHANGES = {
    "prompt": lambda model: setattr(model[0], "prompt", HierarchicalPrompt(system="Another.")),
    "prompts": lambda model: model.prompts.update(query="Another."),
    "truncate_dim": lambda model: setattr(model, "truncate_dim", 32),
    "dtype": lambda model: model.to(torch.bfloat16),
    "pixels": given_fewer_pixels,
    "max_seq_length": lambda model: setattr(model, "max_seq_length", 64),
    "pooling": lambda model: setattr(model[1], "pooling_mode", "mean"),
    "similarity": lambda model: setattr(model, "similarity_fn_name", "dot"),
    "a setting at loading": lambda model: model.model_card_data.forget_results(),
}


@pytest.mark.parametrize("change", [*CHANGES, None])
def test_results_are_shown_and_kept_only_of_the_settings_that_they_were_measured_with(tmp_path, change):
    shutil.copytree(WEIGHTS, tmp_path / "model")
    model = load_embedder(str(tmp_path / "model"), device="cpu")
    assert "### mini-mmeb" in render_card(model)
    if change:
        CHANGES[change](model)
    card = render_card(model)
    assert ("Not evaluated" in card) is bool(change) and ("mteb" in front_matter(card)["tags"]) is not bool(change)
    in_place = saved(model, tmp_path / "model")
    assert without_versions(in_place) == without_versions(card)
    assert bool(SaHaModelCardData.of_folder(tmp_path / "model").reports) is not bool(change)
    assert "## What was mined" in in_place  # which is still true of the weights


def test_results_that_were_measured_after_a_change_are_shown(_saha_tiny, tmp_path):
    import copy

    model = copy.deepcopy(_saha_tiny)
    model.truncate_dim = 32
    model.model_card_data.reports = list(model.model_card_data.reports)
    assert "### mini-mmeb" in saved(model, tmp_path) and list((tmp_path / "results" / "reports").iterdir())


def test_whoever_reports_results_is_not_said_to_be_the_author(_saha_tiny):
    card = render_card(_saha_tiny)
    assert "Measured with `saha-st evaluate` (saha_st " in card and "reported by the publisher of this" in card
    assert "a digest of weights, prompt, settings and library versions" in card and "uthors of this" not in card


NAMED = {
    "model_name": "A --> <!-- name",
    "base_model": "a folder",
    "base_model_revision": "abc",
    "adapter": "lab/lora",
}


@pytest.mark.parametrize("base", ["a folder", "org/base"])
def test_names_and_revisions_without_a_place_in_the_front_matter_are_read_back(embedder, tmp_path, base):
    for name, value in (NAMED | {"base_model": base}).items():
        setattr(embedder.model_card_data, name, value)
    card = saved(embedder, tmp_path)
    assert "\n# A --> <!-- name\n" in card and "at `abc`" in card and "with the adapter `lab/lora` merged" in card
    again = load_embedder(str(tmp_path), device="cpu")
    assert {name: getattr(again.model_card_data, name) for name in NAMED} == NAMED | {"base_model": base}
    assert ("base_model" in front_matter(card)) is (base == "org/base")
    (tmp_path / "README.md").write_text(f"---\nbase_model: org/another\n---\n{card[card.index('# A') :]}")
    data = SaHaModelCardData.of_folder(tmp_path)
    assert (data.base_model, data.base_model_revision) == ("org/another", None)


def test_a_note_within_a_prompt_is_not_taken_for_that_of_the_card(embedder, tmp_path):
    embedder[0].prompt = HierarchicalPrompt(system='x\n<!-- noted: {"model_name": "Mallory"} -->')
    embedder.model_card_data.base_model = "org/base"
    assert "Mallory" in saved(embedder, tmp_path)
    assert SaHaModelCardData.of_folder(tmp_path).model_name is None


def test_what_is_said_of_the_weights_that_were_loaded_is_not_said_of_trained_ones(embedder, tmp_path):
    for name, value in NAMED.items():
        setattr(embedder.model_card_data, name, value)
    embedder.save_pretrained(str(tmp_path / "model"))
    model = load_embedder(str(tmp_path / "model"), device="cpu")
    card = (train_on_images(model, tmp_path / "run") / "README.md").read_text()
    assert "fine-tuned from `model`" in card
    assert not [name for name in ("A -->", "lab/lora", "abc", "a folder") if name in card]


def test_every_name_in_the_template_has_a_value(_saha_tiny):
    data = SaHaModelCardData.of_folder(WEIGHTS)
    data.register_model(_saha_tiny)
    template = jinja2.Environment().parse(data.template_path.read_text(encoding="utf8"))
    assert jinja2.meta.find_undeclared_variables(template) - {"card_data"} <= set(data.to_dict())


def test_rendering_raises_what_saving_would_only_log(embedder, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="load_embedder"):
        stock = SentenceTransformer(modules=list(embedder), device="cpu")
        render_card(stock)
    broken = tmp_path / "broken.jinja"
    broken.write_text("---\n{{ card_data }}\n---\n{{ nothing.at.all }}")
    embedder.model_card_data.template_path = broken
    with pytest.raises(TemplateError):
        render_card(embedder)


def test_rendering_writes_no_file_where_the_model_was_saved_last(embedder, tmp_path):
    embedder.model_card_data.recipe = {"model": "m", "data": []}
    saved(embedder, tmp_path)
    (tmp_path / "recipe.yaml").unlink()
    render_card(embedder)
    assert not (tmp_path / "recipe.yaml").exists()
