"""The embedded base model: an ordinary small checkpoint that answers, and a pre-training that is what it says."""

import json
from importlib import resources
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from saha_st.data.scenes import draw, sample_scene
from saha_st.data.scenes.scene import COLOURS, DIGITS, KINDS, NUMBERS, PLACES, SHAPES, WORDS
from saha_st.quickstart.answering import CHANCE, answer_held_out_questions
from saha_st.quickstart.lessons import ONE_WORD_SYSTEM, Exchange, Lesson, sample_lesson
from saha_st.quickstart.packing import LessonPacker
from saha_st.quickstart.pretrain import PretrainConfig, lesson_loss, main, pretrain

BASE = Path(str(resources.files("saha_st") / "quickstart" / "saha-tiny-base"))
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(BASE).eval()


def conversation(processor, lesson, exchange, *, answer):
    """The exchange as a user would hold it: rendered by the chat template, prepared by the processor."""
    image = [{"type": "image"}] if lesson.scene is not None else []
    chat = [
        {"role": "system", "content": lesson.system},
        {"role": "user", "content": [*image, {"type": "text", "text": lesson.text + exchange.tail}]},
    ]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + answer
    pictures = [draw(lesson.scene, lesson.seed)] if lesson.scene is not None else None
    return processor(text=[text], images=pictures, return_tensors="pt")


def test_folder_is_small_and_holds_no_pickle():
    files = [path for path in BASE.iterdir() if path.is_file()]
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= 8 * MEGABYTE
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl", ".py"}]


def test_model_is_a_float32_qwen2_vl_of_at_most_four_million_parameters(model):
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration"
    assert 10**6 < model.num_parameters() <= 4 * 10**6
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_sentence_transformers_loads_it_in_float32():
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(BASE), device="cpu")
    picture = draw(sample_scene(Random(0)), 0)
    vectors = model.encode([{"image": picture}, {"text": "a red circle"}])
    assert vectors.dtype == "float32" and vectors.shape == (2, 160)


def test_any_text_survives_the_tokenizer_and_the_words_of_the_world_are_single_tokens(processor):
    tokenizer = processor.tokenizer
    for text in ("Zürich, naïve 数 🙂 x=1\n\n tabs\t", "a red circle left of a blue square"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for word in (*COLOURS, *SHAPES, *PLACES, *NUMBERS, *DIGITS, *WORDS, "top", "bottom", "left", "right", "centre"):
        assert len(tokenizer(word)["input_ids"]) == len(tokenizer(f" {word}")["input_ids"]) == 1, word


def test_it_answers_held_out_questions_clearly_better_than_chance(model, processor):
    accuracy = answer_held_out_questions(model, processor, per_topic=12, seed=7)
    chance = sum(CHANCE.values()) / len(CHANCE)
    assert accuracy["mean"] > chance + 0.3
    for topic in ("colour", "count", "place", "digit"):
        assert accuracy[topic] > CHANCE[topic] + 0.2, topic


def test_readme_states_the_accuracy_of_the_log():
    record = json.loads((BASE / "pretraining.jsonl").read_text().splitlines()[-1])
    readme = (BASE / "README.md").read_text()
    assert record["event"] == "done"
    assert json.dumps(record["accuracy"]) in readme
    assert record["command"] in readme
    assert f"{record['parameters']:,}" in readme


def test_packed_pixels_equal_the_processors(processor):
    rng = Random(0)
    pictures = [draw(sample_scene(rng, kind=kind), 0) for kind in KINDS]
    expected = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    assert expected.abs().max() > 0
    assert torch.equal(torch.from_numpy(LessonPacker(processor).patches(pictures)), expected)


@pytest.mark.parametrize("with_image", [True, False])
def test_a_packed_exchange_is_scored_as_the_conversation_alone(model, processor, with_image):
    lesson = sample_lesson(Random(5), with_image=with_image)
    packer = LessonPacker(processor, length=256)
    batch = packer([lesson])
    assert len(lesson.exchanges) > 1
    with torch.inference_mode():
        packed = lesson_loss(model, batch)
        alone = sum(alone_loss(model, processor, lesson, exchange) for exchange in lesson.exchanges)
    assert alone > 0
    assert packed.item() == pytest.approx(alone.item(), rel=1e-4)


def alone_loss(model, processor, lesson, exchange):
    """Loss of one exchange through the public path, without packing; the weights as the packer's docstring says."""
    whole = conversation(processor, lesson, exchange, answer=f"{exchange.answer}<|im_end|>")
    asked = conversation(processor, lesson, exchange, answer="")["input_ids"].shape[1]
    scores = model(**whole).logits[0].log_softmax(-1)
    ids = whole["input_ids"][0]
    encode = processor.tokenizer.encode
    first = {encode(word)[0]: share for word, share in (exchange.first_words or {exchange.answer: 1.0}).items()}
    loss = -sum(share * scores[asked - 1, token] for token, share in first.items()) * exchange.weight
    for place in range(asked + 1, len(ids)):
        weight = 0.2 if place == len(ids) - 1 else exchange.weight
        loss = loss - weight * scores[place - 1, ids[place]]
    return loss


def test_no_lesson_shows_a_held_out_scene():
    from saha_st.data.scenes import is_held_out

    rng = Random(0)
    lessons = [sample_lesson(rng, with_image=True) for _ in range(300)]
    assert {lesson.scene.kind for lesson in lessons} == set(KINDS)
    assert not any(is_held_out(lesson.scene) for lesson in lessons)


def test_a_lesson_too_long_for_the_row_loses_its_last_exchanges_only(processor):
    exchanges = tuple(Exchange(f"\n{text}?", "red") for text in ("Which colour", "What colour is it", "Name it"))
    lesson = Lesson(ONE_WORD_SYSTEM, exchanges, text="a red circle")
    roomy = LessonPacker(processor, length=128)([lesson])
    tight = LessonPacker(processor, length=52)([lesson])
    assert 0 < len(tight.at) < len(roomy.at)
    assert torch.equal(tight.token, roomy.token[: len(tight.token)])
    with pytest.raises(ValueError, match="length=20 tokens hold no exchange"):
        LessonPacker(processor, length=20)([lesson])


def test_same_seed_gives_the_same_model_and_a_whole_checkpoint(tmp_path):
    settings = {"steps": 2, "images": 2, "texts": 1, "questions": 1, "warmup_steps": 1, "checkpoint_every": 0}
    first = pretrain(PretrainConfig(tmp_path / "a", **settings))
    pretrain(PretrainConfig(tmp_path / "b", **settings))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert set(first["accuracy"]) == {*CHANCE, "mean"}
    assert AutoProcessor.from_pretrained(tmp_path / "a").tokenizer.model_max_length == 2048
    assert "saha_st.quickstart.pretrain" in (tmp_path / "a" / "README.md").read_text()


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="steps must be positive; got 0"):
        PretrainConfig(Path("x"), steps=0)


def test_a_folder_that_holds_another_run_is_refused_and_left_as_it_is(tmp_path):
    log = tmp_path / "pretraining.jsonl"
    log.write_text("of another run")
    with pytest.raises(FileExistsError, match="output_dir=.* is not empty"):
        pretrain(PretrainConfig(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [log.name] and log.read_text() == "of another run"


def test_more_processes_than_pictures_are_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("saha_st.quickstart.pretrain._rank", lambda: (0, 3))
    with pytest.raises(ValueError, match="got 2 for 3 processes"):
        pretrain(PretrainConfig(tmp_path / "new", images=2))
    assert not (tmp_path / "new").exists()


def test_the_script_has_help(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    assert "--learning_rate" in capsys.readouterr().out
