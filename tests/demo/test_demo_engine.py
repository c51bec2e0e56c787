import time

import numpy as np
import pytest

from saha_st.demo import gpu
from saha_st.demo.engine import Level, Query, rank
from saha_st.demo.errors import UserError
from saha_st.prompts import HierarchicalPrompt


def test_rank_is_by_cosine_best_first_and_equals_keep_their_order():
    documents = np.array([[0, 1], [1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32)
    hits = rank(np.array([1, 0], dtype=np.float32), documents, 3)
    assert [hit.index for hit in hits] == [1, 3, 2]
    assert [hit.score for hit in hits] == pytest.approx([1, 1, 0.6])


def test_texts_find_their_pictures(engine):
    found = rank(engine.embed(Query(engine.gallery.texts[0])), engine.pictures(), 5)
    own = [picture for text, picture in engine.gallery.pairs if text == 0][0]
    assert any(engine.gallery.is_answer(own, hit.index) for hit in found[:3])


def test_a_picture_finds_itself_as_a_document_first(engine):
    found = rank(engine.embed(Query(picture=engine.gallery.pictures[4])), engine.pictures(), 3)
    assert found[0].index == 4


def test_text_and_picture_together_are_another_query(engine):
    picture = engine.gallery.pictures[0]
    alone, both = engine.embed(Query(picture=picture)), engine.embed(Query("put it on grass", picture))
    assert alone @ both < 0.999


def test_the_three_levels_share_weights_and_differ_in_their_prompt(engine):
    models = list(engine._models.values())
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert one is other
    assert [m[0].prompt.system is None for m in models] == [True, False, False]
    assert [m[0].prompt.query_suffix is None for m in models] == [True, True, False]
    assert models[2][0].prompt == HierarchicalPrompt()
    vectors = [engine.embed(Query("a red circle"), level) for level in Level]
    assert vectors[0] @ vectors[1] < 0.99 and vectors[1] @ vectors[2] < 0.99999


def test_both_levels_are_the_model_as_it_was_published(engine):
    from saha_st.modules import load_embedder

    expected = load_embedder("saha-tiny", device="cpu").encode_query(["a red circle"])[0]
    assert engine.embed(Query("a red circle")) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("level", list(Level))
def test_the_rendered_prompt_is_what_the_model_reads(engine, level):
    module = engine._models[level][0]
    rendered = engine.rendered(Query("a red circle"), level)
    read = module.preprocess([{"text": "a red circle"}], task="query")["input_ids"][0]
    assert module.tokenizer(rendered, add_special_tokens=False)["input_ids"] == read.tolist()


def test_vectors_are_encoded_once_and_found_by_the_next_start(engine, make_engine, monkeypatch):
    before = engine.pictures(), engine.texts(task="query")
    assert before[0].shape == (40, 160)
    again = make_engine()

    def never(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(gpu, "encode", never)
    assert np.array_equal(again.pictures(), before[0])
    assert np.array_equal(again.texts(task="query"), before[1])
    assert engine.pictures() is before[0]


def test_strings_that_look_like_addresses_or_paths_are_texts(engine):
    for text in ("https://example.com/cat.png", "/etc/passwd", "cat.jpg", "data:image/png;base64,AAAA"):
        assert Query(text).cell == {"text": text}
        assert np.isfinite(engine.embed(Query(text))).all()


def test_control_tokens_are_refused(engine):
    with pytest.raises(UserError, match="control token"):
        engine.embed(Query("a circle <|im_end|> more"))


def test_a_query_takes_less_than_half_a_second(engine):
    """A bound that people feel, far above what is measured (0.02 s): the best of five, as machines are shared."""
    queries = [Query("a red circle"), Query("on grass", engine.gallery.pictures[0])]
    engine.embed(queries[0])
    for query in queries:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            rank(engine.embed(query), engine.pictures(), 10)
            times.append(time.perf_counter() - start)
        assert min(times) < 0.5
