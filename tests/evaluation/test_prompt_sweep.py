"""A sweep scores what the model does with each prompt, and tells a difference from noise."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from saha_st.data import load_pairs
from saha_st.encoding.engine import Encoder
from saha_st.encoding.modality_gap import modality_gap
from saha_st.evaluation.prompt_presets import AS_LOADED, PRESETS
from saha_st.evaluation.prompt_sweep import (
    PromptResult,
    PromptSweep,
    is_own_prompt,
    ranks_of,
    sweep_prompts,
)
from saha_st.modules import load_embedder
from saha_st.modules.loading import with_prompt
from saha_st.prompts import HierarchicalPrompt


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def literal_ranks(queries, documents, right):
    found = []
    for query, vector in enumerate(queries):
        own = [document for asked, document in right if asked == query]
        scores = {document: float(vector @ each) for document, each in enumerate(documents)}
        best = max(scores[document] for document in own)
        found.append(1 + sum(score >= best for document, score in scores.items() if document not in own))
    return found


def test_ranks_are_those_of_the_literal_rule(monkeypatch):
    monkeypatch.setattr("saha_st.evaluation.prompt_sweep._BLOCK", 7)  # several blocks, the last one not full
    random = np.random.default_rng(0)
    queries, documents = unit(random.standard_normal((30, 4))), unit(random.standard_normal((20, 4)))
    pairs = {(query, query % 20) for query in range(30)} | {(3, 8), (3, 9), (29, 0)}
    right = np.array(sorted(pairs))
    ranks = ranks_of(queries, documents, right)
    assert ranks.tolist() == literal_ranks(queries, documents, right.tolist())
    assert ranks.min() == 1 and ranks.max() > 5


def test_a_prompt_that_makes_all_vectors_alike_finds_nothing():
    same = unit(np.ones((6, 3), dtype=np.float32))
    right = np.stack([np.arange(6), np.arange(6)], axis=1)
    assert ranks_of(same, same, right).tolist() == [6] * 6


def result(name, hits, gap=None):
    return PromptResult(name, HierarchicalPrompt(system=name), np.where(hits, 1, 3), gap)


def test_the_interval_of_a_share_is_that_of_the_binomial():
    hits = np.arange(400) < 120
    ((low, high),) = PromptSweep.of([result("a", hits)], 500).intervals
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert abs(low - (0.3 - half)) < 0.01 and abs(high - (0.3 + half)) < 0.01


def test_the_best_stands_first_and_noise_is_told_from_a_difference():
    hits = np.arange(400) % 4 == 0
    one_less, far_less = hits.copy(), hits & (np.arange(400) < 200)
    one_less[0] = False
    sweep = PromptSweep.of([result("far", far_less), result("best", hits, 0.5), result("near", one_less)], 400)
    assert [each.name for each in sweep.results] == ["best", "near", "far"]
    assert sweep.within_noise == [True, True, False]
    table = sweep.to_markdown().splitlines()
    assert table[2].startswith("| `best` | 25.0 (") and table[2].endswith("| 0.50 |")
    assert "≈" in table[3] and "≈" not in table[4] and table[4].endswith("| – |")
    assert any("do not tell `near` from `best`" in note for note in sweep.notes)


def test_differences_are_shown_from_any_prompt():
    hits = np.arange(400) % 2 == 0
    sweep = PromptSweep.of([result("best", hits), result("none", hits & (np.arange(400) < 200))], 400)
    low, high = sweep.differences(1)[0]
    assert low > 0 and (low + high) / 2 == pytest.approx(0.25)
    assert (sweep.differences(1)[0] == -sweep.differences()[1][::-1]).all()
    header, _, best, none = sweep.to_markdown(against=["none"]).splitlines()
    assert header.endswith("| from `none` (95 %) |") and none.endswith("|  |")
    assert best.endswith(f"| 25.0 ({100 * low:.1f} to {100 * high:.1f}) |")


def test_many_hard_queries_do_not_hide_a_difference_between_two_prompts():
    """One prompt is right where the other is, and on 3 % more: far less than the interval of either."""
    base = np.arange(1000) < 400
    sweep = PromptSweep.of([result("base", base), result("more", np.arange(1000) < 430)], 1000)
    (low, high), (other_low, other_high) = sweep.intervals
    assert low < other_high and other_low < high  # the intervals overlap
    assert sweep.within_noise == [True, False]


def test_of_many_equal_prompts_the_unluckiest_is_not_called_worse():
    """Six prompts whose worst is below the best by more than two standard errors of that pair, as happens by luck."""
    random = np.random.default_rng(3)
    for _ in range(100):
        sweep = PromptSweep.of([result(str(number), random.random(200) < 0.3) for number in range(6)], 200)
        lost = sweep.best.hits - sweep.results[-1].hits
        if lost.mean() > 2.2 * lost.std() / np.sqrt(200):
            break
    else:
        pytest.fail("no such split")
    assert all(sweep.within_noise)
    alone = PromptSweep.of([sweep.best, sweep.results[-1]], 200)
    assert not all(alone.within_noise)


def test_few_queries_tell_nothing_and_say_so():
    sweep = PromptSweep.of([result("all", np.ones(5, bool)), result("none", np.zeros(5, bool))], 5)
    assert sweep.within_noise == [True, True] and any(note.startswith("few queries") for note in sweep.notes)
    assert "| `all` | 100.0 (56.6 to 100.0) |" in sweep.to_markdown()
    many = PromptSweep.of([result("all", np.ones(30, bool)), result("none", np.zeros(30, bool))], 30)
    assert many.within_noise == [True, False] and not any("few" in note for note in many.notes)


@pytest.fixture(scope="module")
def model():
    return load_embedder("saha-tiny-base", device="cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for colour in ("red", "green", "blue", "yellow", "black", "white"):
        Image.new("RGB", (48, 48), colour).save(folder / f"{colour}.png")
        rows.append({"anchor": f"a {colour} picture", "positive": {"image": f"{colour}.png"}})
    rows.append({"anchor": "a red picture", "positive": {"image": "blue.png"}})  # one query, two right documents
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load_pairs(folder / "pairs.jsonl")


@pytest.fixture(scope="module")
def swept(model, pairs, tmp_path_factory):
    cache, prompts = tmp_path_factory.mktemp("vectors"), {name: PRESETS[name] for name in ("both", "user")}
    return sweep_prompts(pairs, model, prompts, cache_folder=cache, show_progress_bar=False), prompts, cache


def test_each_prompt_is_scored_as_an_embedder_that_has_it(swept, pairs):
    sweep, prompts, _ = swept
    anchors = list(dict.fromkeys(pairs["anchor"]))
    pictures = pairs.select(range(6))["positive"]
    right = np.array([[0, 0], [0, 2], *([i, i] for i in range(1, 6))])
    for each in sweep.results:
        alone = load_embedder("saha-tiny-base", device="cpu", prompt=prompts[each.name])
        queries, documents = alone.encode_query(anchors), alone.encode_document(list(pictures))
        assert each.ranks.tolist() == literal_ranks(queries, documents, right.tolist())
        assert each.gap == pytest.approx(modality_gap(documents, queries), abs=1e-4) and each.gap > 0.05
    gaps = [each.gap for each in sweep.results]
    assert abs(gaps[0] - gaps[1]) > 1e-3  # two prompts, not one twice
    assert sweep.queries == 6 and sweep.documents == 6


def state(model):
    module, backend = model[0], model.tokenizer.backend_tokenizer
    found = {name: getattr(model, name) for name in ("prompts", "default_prompt_name", "truncate_dim", "training")}
    found |= {name: getattr(module, name) for name in ("prompt", "processing_kwargs", "max_seq_length")}
    found |= {"templates": [module.processor.chat_template, module.tokenizer.chat_template]}
    found |= {"backend": [backend.truncation, backend.padding], "cache": dict(module._chat_template_suffix_cache)}
    found |= {"weights": [tensor.data_ptr() for tensor in model.parameters()], "modes": module.model.training}
    return copy.deepcopy(found | {"processor": module.processor.to_dict()})


def test_the_model_is_what_it_was_after_a_sweep_and_after_an_error_in_the_middle(pairs, monkeypatch):
    model = load_embedder("saha-tiny-base", device="cpu", max_seq_length=80, truncate_dim=64)
    model.train()
    vectors = model.encode_query(["two stars", "a"])  # which leaves padding and truncation in the tokenizer
    model.train()
    before = state(model)
    assert before["prompt"] == HierarchicalPrompt() and before["backend"][1] is not None and before["training"]
    prompts = {"user": PRESETS["user"], AS_LOADED: None, "none": PRESETS["none"]}
    sweep_prompts(pairs, model, prompts, show_progress_bar=False)
    assert state(model) == before
    encode_windows, calls = Encoder.encode_windows, []

    def third_fails(self, *args):
        calls.append(self)
        if len(calls) == 3:
            raise ValueError("a broken row")
        return encode_windows(self, *args)

    monkeypatch.setattr(Encoder, "encode_windows", third_fails)
    with pytest.raises(ValueError, match="Prompt 'as loaded': a broken row"):
        sweep_prompts(pairs, model, prompts, show_progress_bar=False)
    assert state(model) == before
    monkeypatch.undo()
    np.testing.assert_array_equal(model.encode_query(["two stars", "a"]), vectors)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An embedder of others: a template without our prompt, and a text in front of queries alone."""
    model = load_embedder("saha-tiny-base", device="cpu")
    for owner in (model[0].processor, model[0].tokenizer):
        owner.chat_template = HierarchicalPrompt.strip(owner.chat_template)
    model.prompts = {"query": "Instruct: find", "document": ""}
    folder = tmp_path_factory.mktemp("foreign")
    model.save_pretrained(str(folder))
    return load_embedder(str(folder), device="cpu")


def test_an_embedder_of_others_is_scored_as_it_is_loaded(foreign, pairs):
    assert foreign[0].prompt is None
    sweep = sweep_prompts(pairs, foreign, {AS_LOADED: None, "both": PRESETS["both"]}, show_progress_bar=False)
    found = {each.name: each for each in sweep.results}
    anchors, pictures = list(dict.fromkeys(pairs["anchor"])), list(pairs.select(range(6))["positive"])
    right = [[0, 0], [0, 2], *([i, i] for i in range(1, 6))]
    queries, documents = foreign.encode_query(anchors), foreign.encode_document(pictures)
    assert found[AS_LOADED].ranks.tolist() == literal_ranks(queries, documents, right)
    assert found[AS_LOADED].gap == pytest.approx(modality_gap(documents, queries), abs=1e-4)
    assert found[AS_LOADED].gap != pytest.approx(found["both"].gap, abs=1e-3)
    entries = {each["name"]: each for each in sweep.to_dict()["prompts"]}
    assert entries[AS_LOADED]["as_loaded"] is True and entries["both"]["system"] == PRESETS["both"].system


def test_a_model_s_own_prompt_is_known_by_what_it_does(model, foreign):
    assert [name for name, prompt in PRESETS.items() if is_own_prompt(model, prompt)] == ["both"]
    assert not any(is_own_prompt(foreign, prompt) for prompt in PRESETS.values())
    other = with_prompt(model, PRESETS["both"], "both")
    other.prompts = {"query": "Another text.", "document": ""}  # wins over the system level of the template
    assert not is_own_prompt(other, PRESETS["both"])


def test_what_was_encoded_is_not_encoded_again(swept, model, pairs, monkeypatch):
    sweep, prompts, cache = swept
    rows_of = []
    encode_windows = Encoder.encode_windows

    def counted(self, reader, windows, *args):
        rows_of.extend(len(window) for window in windows)
        return encode_windows(self, reader, windows, *args)

    monkeypatch.setattr(Encoder, "encode_windows", counted)
    options = {"cache_folder": cache, "show_progress_bar": False}
    again = sweep_prompts(pairs, model, prompts, **options)
    assert sum(rows_of) == 0 and again.to_dict() == sweep.to_dict()
    more = sweep_prompts(pairs, model, prompts | {"none": PRESETS["none"]}, **options)
    assert sum(rows_of) == 12 and len(more.results) == 3


def test_pairs_of_text_have_no_gap(model):
    texts = Dataset.from_dict({"anchor": ["a dog", "a cat"], "positive": ["bark", "meow"]})
    sweep = sweep_prompts(texts, model, {"both": PRESETS["both"]}, show_progress_bar=False)
    assert sweep.best.gap is None and "gap" not in sweep.to_markdown()


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"anchor": [], "positive": []}, "pairs has no rows"),
        ({"anchor": ["a"], "positive": ["b"]}, "Column 'positive' has 1 distinct document in 1 rows"),
        ({"anchor": ["a", "b"], "positive": ["c", "c"]}, "Column 'positive' has 1 distinct document in 2 rows.*Take"),
    ],
)
def test_pairs_with_nothing_to_choose_among_are_refused(model, columns, named):
    with pytest.raises(ValueError, match=named):
        sweep_prompts(Dataset.from_dict(columns), model, PRESETS, show_progress_bar=False)


@pytest.mark.parametrize(
    ("suffixes", "column"),
    [
        ({"query_suffix": {"text": " word" * 70, "image": "?"}}, "anchor"),
        ({"query_suffix": None, "document_suffix": " word" * 70}, "positive"),
    ],
)
def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_encoded(pairs, monkeypatch, suffixes, column):
    short = load_embedder("saha-tiny-base", device="cpu", max_seq_length=70)
    monkeypatch.setattr(Encoder, "encode_windows", None)
    prompts = {"none": PRESETS["none"], "long": HierarchicalPrompt(system=None, **suffixes)}
    with pytest.raises(ValueError, match=f"Prompt 'long': row 0, column '{column}': .*max_seq_length=70"):
        sweep_prompts(pairs, short, prompts, show_progress_bar=False)


def test_no_prompts_and_one_that_the_template_drops_are_refused_before_anything_is_encoded(model, pairs, monkeypatch):
    with pytest.raises(ValueError, match="prompts is empty"):
        sweep_prompts(pairs, model, {})
    deaf = load_embedder("saha-tiny-base", device="cpu")
    for owner in (deaf[0].processor, deaf[0].tokenizer):
        owner.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content[0].text }}{% endfor %}"
    monkeypatch.setattr(Encoder, "encode_windows", None)
    with pytest.raises(ValueError, match="Prompt 'system': The chat template .* drops the system"):
        sweep_prompts(pairs, deaf, {"none": PRESETS["none"], "system": PRESETS["system"]}, show_progress_bar=False)
