"""What a card says follows the kind of the model: what it sees, how it pools, whether its weights are an adapter."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from card.test_card_data import WEIGHTS, blocks, front_matter, saved
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from tiny import build_tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from saha_st import SaHaModelCardData, load_embedder
from saha_st.card import render_card
from saha_st.card.sidecars import Sidecars
from saha_st.hub.export import export_adapter, export_model
from saha_st.modules.merging import merge_adapter
from saha_st.prompts import HierarchicalPrompt

PROMPT = HierarchicalPrompt(system="In one word.", query_suffix="\nAsk.")


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory) -> Path:
    """Folder of a random LLM of text alone."""
    folder, tokenizer = tmp_path_factory.mktemp("llm"), build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, initializer_range=0.2, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(example: str) -> dict:
    namespace = {}
    exec(compile(example, "README.md", "exec"), namespace)  # noqa: S102
    return namespace


def prose(card: str) -> str:
    return re.sub(r"^(`{3,})\w*\n.*?^\1$", "", card, flags=re.MULTILINE | re.DOTALL)


def with_adapter(model: SentenceTransformer, **options) -> SentenceTransformer:
    model[0].model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **options))
    return model


@pytest.mark.parametrize("train_vision", [True, False])
@pytest.mark.parametrize("adapter", [None, {"r": 2, "lora_alpha": 4, "use_dora": True}])
def test_the_card_of_a_model_of_text_alone_speaks_of_no_pictures(tiny_llm, train_vision, adapter):
    recipe = Sidecars.read(WEIGHTS).recipe | {"train_vision": train_vision, "adapter": adapter}
    model = load_embedder(str(tiny_llm), device="cpu", prompt=PROMPT)
    card = render_card(
        model,
        SaHaModelCardData(
            recipe=recipe, base_model="llm", parity=True, kept_adapter={"base": "llm", "revision": None}
        ),
    )
    shown = card.replace(blocks(card, "yaml")[0], "")
    assert not re.findall(r"(?i)pictur|image|vision|pillow|PIL\b|multimodal (?!llm)", shown.split("## Citation")[0])
    assert "This model embeds text into 32-dimensional" in card and "pip install -U sentence-transformers\n" in card
    assert not {"image-text-to-text", "multimodal-embedding"} & set(front_matter(card)["tags"])


def pooled_by_mean(model: SentenceTransformer) -> SentenceTransformer:
    return SentenceTransformer(modules=[model[0], Pooling(32, pooling_mode="mean"), Normalize()], device="cpu")


def with_dense(model: SentenceTransformer) -> SentenceTransformer:
    return SentenceTransformer(modules=[model[0], model[1], Dense(32, 8), Normalize()], device="cpu")


def without_prompt(model: SentenceTransformer) -> SentenceTransformer:
    for owner in (model[0].processor, model[0].tokenizer):
        owner.chat_template = HierarchicalPrompt.strip(owner.chat_template)
    return SentenceTransformer(modules=list(model), device="cpu", prompts={"query": "A question:"})


def with_other_prompts(model: SentenceTransformer) -> SentenceTransformer:
    model.prompts = {"query": "A question:", "document": model[0].prompt.system}
    return model


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        (pooled_by_mean, "Transformer, Pooling (mean), Normalize."),
        (with_dense, "Transformer, Pooling (lasttoken), Dense, Normalize."),
        (without_prompt, "Transformer, Pooling (lasttoken), Normalize; the prompts are put before the inputs."),
        (with_other_prompts, "Transformer, Pooling (lasttoken), Normalize; the prompts are put before the inputs."),
    ],
)
def test_no_commands_are_given_for_engines_that_would_give_other_vectors(embedder, change, steps):
    card = render_card(change(embedder), SaHaModelCardData(repo_id="org/m"))
    assert f"The vectors come of these steps: {steps}" in card
    assert "vllm serve" not in card and "AutoModel" not in card
    assert ("hidden state of a generative" in card) is (change in (without_prompt, with_other_prompts))
    assert ("hidden state of the last token" in card) is (change is with_other_prompts)
    assert ("A question:" in card) is (change in (without_prompt, with_other_prompts))
    assert ("arXiv:2508" not in prose(card)) is (change is without_prompt)
    assert ("every engine that renders it" in card) is (change in (pooled_by_mean, with_dense))


def test_the_examples_of_a_shortened_model_agree_and_say_what_others_return(embedder, tmp_path):
    embedder.truncate_dim = 8
    card = saved(embedder, tmp_path)
    assert "| Dimensions | 8, the first of 32 |" in card and "keep the first 8, as Sentence Transformers does" in card
    stock, plain = (run(each.replace("org/model", str(tmp_path))) for each in blocks(card))
    assert stock["queries"].shape == (2, 8) and plain["query"].shape == (8,)
    wanted = stock["queries"][1] / np.linalg.norm(stock["queries"][1])
    np.testing.assert_allclose(plain["query"].numpy(), wanted, atol=1e-5)


class Foreign(Normalize):
    """A module that plain Sentence Transformers does not have."""


def test_a_model_that_needs_other_code_is_not_said_to_load_without(embedder):
    foreign = SentenceTransformer(modules=[*list(embedder)[:2], Foreign()], device="cpu")
    shown = [render_card(model, SaHaModelCardData()) for model in (embedder, foreign)]
    assert ["no code from this repository is run" in card for card in shown] == [True, False]


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_an_adapter_is_called_one_until_it_is_merged(embedder, tiny_mllm, tmp_path, kind):
    model = with_adapter(embedder, use_dora=kind == "DoRA")
    model.model_card_data.base_model = "org/base"
    model.model_card_data.register_model(model)
    card = saved(model, tmp_path / "adapter")
    assert front_matter(card)["base_model_relation"] == "adapter" and f"| Weights | a {kind} adapter, " in card
    assert 'pip install -U "sentence-transformers[image]" peft' in card and "vllm serve" not in card
    assert "without further training" not in card and "trainer of Sentence Transformers" not in card
    again = load_embedder(str(tmp_path / "adapter"), device="cpu")
    merge_adapter(again)
    merged = saved(again, tmp_path / "merged")
    stated = front_matter(merged)
    assert (stated["base_model"], stated["base_model_relation"]) == ("org/base", "finetune")
    assert "| Weights |" not in merged and "vllm serve" in merged and "fine-tuned from [org/base]" in merged


def test_the_card_of_an_adapter_of_peft_names_its_base_and_the_adapter(embedder, tiny_mllm, tmp_path):
    with_adapter(embedder)[0].model.save_pretrained(str(tmp_path / "lora"))
    model = load_embedder(str(tmp_path / "lora"), device="cpu")
    model.model_card_data.adapter = "lab/lora"
    assert f"has the weights of `{tiny_mllm.name}`, with the adapter `lab/lora`. It loads" in render_card(model)
    merge_adapter(model)
    card = saved(model, tmp_path / "merged")
    assert f"`{tiny_mllm.name}`, with the adapter `lab/lora` merged into them." in card
    assert "It was trained; the recipe is not recorded." in card


def test_a_base_model_that_nobody_states_is_the_one_in_the_adapters_config(embedder, tiny_mllm, tmp_path):
    with_adapter(embedder).save_pretrained(str(tmp_path))
    (tmp_path / "README.md").unlink()
    card = render_card(load_embedder(str(tmp_path), device="cpu"))
    assert f"| Base model | `{tiny_mllm.name}` |" in card and str(tiny_mllm) not in card


def test_the_example_for_a_kept_adapter_gives_the_merged_models_numbers(embedder, tiny_mllm, tmp_path):
    model = with_adapter(embedder, use_dora=True)
    export_adapter(model, tmp_path, base_model="org/base")
    merge_adapter(model)
    export_model(model, tmp_path)
    card = render_card(model, SaHaModelCardData.of_folder(tmp_path, base_model="org/other", repo_id="org/m"))
    example = blocks(card)[-1]
    assert 'PeftModel.from_pretrained(base, "org/m", subfolder="adapter")' in example
    adapted = run(example.replace("org/m", str(tmp_path)).replace("org/base", str(tiny_mllm)))["model"].eval()
    merged = SentenceTransformer(str(tmp_path), device="cpu")[0].model
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        found, wanted = (each(input_ids=ids).last_hidden_state for each in (adapted, merged))
        base = adapted.unload()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (found - base).abs().max() > 1e-2
    assert "folder `adapter`" not in saved(load_embedder(str(tmp_path), device="cpu"), tmp_path / "again")


def everything(embedder: SentenceTransformer) -> tuple[SentenceTransformer, SaHaModelCardData]:
    found = Sidecars.read(WEIGHTS)
    report = {**found.reports[0], "notes": ["A note.", "Another."]}
    data = SaHaModelCardData(
        about="About.", license="other", license_name="L", license_link="https://x.org", language=["en", "de"],
        base_model="org/base", base_model_revision="abc", repo_id="org/m", recipe=found.recipe, mining=found.mining,
        reports=[report, report], mining_figure="assets/mining.png", parity=True,
        kept_adapter={"base": "org/base", "revision": "abc"},
        datasets=["org/pairs"], adapter="lab/lora", model_name="A name",
    )  # fmt: skip
    return embedder, data


def nothing(embedder: SentenceTransformer) -> tuple[SentenceTransformer, SaHaModelCardData]:
    model = without_prompt(pooled_by_mean(embedder))
    model.prompts, model.max_seq_length = {}, None
    return model, SaHaModelCardData()


@pytest.mark.parametrize("kind", [everything, nothing, lambda model: (with_adapter(model), SaHaModelCardData())])
def test_cards_with_all_and_with_nothing_have_neither_holes_nor_doubled_lines(embedder, kind):
    card = render_card(*kind(embedder))
    text = prose(card)
    assert "\n\n\n" not in re.sub(r"^(`{3,})\w*\n.*?^\1$", "x", card, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"\bNone\b|\bnone\b|Undefined|``|\(\)", text)
    headings = re.findall(r"^#.*", text, flags=re.MULTILINE)
    assert {"## Prompt", "## Usage", "## Training", "## Results", "## Limits", "## Licence"} <= set(headings)
    for heading in headings:  # each stands by itself
        assert f"\n\n{heading}\n\n" in card
    assert not re.findall(r"^[a-z][^|\n]*\.$", text.split("---\n", maxsplit=2)[2], flags=re.MULTILINE)


@pytest.mark.parametrize("options", [{"truncate_dim": 8}, {"model_kwargs": {"dtype": "bfloat16"}}], ids=str)
def test_results_are_not_those_of_a_checkpoint_that_is_loaded_in_another_way(options, tmp_path):
    assert load_embedder("saha-tiny", device="cpu").model_card_data.reports, "else this proves nothing"
    model = load_embedder("saha-tiny", device="cpu", **options)
    assert "Not evaluated" in saved(model, tmp_path) and not (tmp_path / "results").exists()
