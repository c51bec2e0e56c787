"""What ``saha-tiny-base`` is taught: conversations about generated scenes, several per picture or text.

A lesson is a system prompt and an input (a picture, or a text), followed by independent exchanges. The exchanges do
not see each other: they are packed behind the shared prefix with an attention mask that lets each see the prefix and
itself only, and positions that restart where the prefix ends. So a picture is encoded once for several questions, and
each exchange still is, number for number, a conversation of its own.

"In one word" is taught as a distribution: the first token of the answer is trained on all words that name the scene.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from saha_st.data.scenes import language
from saha_st.data.scenes.scene import KINDS, Scene, sample_scene
from saha_st.prompts import QUERY_SUFFIX
from saha_st.prompts import SYSTEM as ONE_WORD_SYSTEM

DEFAULT_SYSTEM = "You are a helpful assistant."
SUFFIX_IMAGE, SUFFIX_TEXT = QUERY_SUFFIX["image"], QUERY_SUFFIX["text"]

_ASK_CAPTION = (
    "",
    "\nDescribe the image.",
    "\nWhat is in the picture?",
    "\nWrite a caption.",
    "\nRepresent the given image.",
)
_ASK_PARAPHRASE = ("", "\nSay it in other words.", "\nWrite another caption.")
_ASK_NAME = ("\nName it in one word.", "\nSummarize it in one word.", "\nWhat is it? Answer in one word.")
_NAME_IMAGE = (
    "",
    SUFFIX_IMAGE,
    "\nRepresent the given image.",
    f"\nRepresent the given image.{SUFFIX_IMAGE}",
    f"\nFind a similar image.{SUFFIX_IMAGE}",
)
_NAME_TEXT = ("", SUFFIX_TEXT)
_ASK = ("\n{question}", "\n{question}", "\nQuestion: {question}", "\n{question} Answer the question.")

CAPTION_WEIGHT = 0.4
"""A caption has a dozen tokens, an answer one or two: without it captions would drown the rest."""
NAME_WEIGHT = 2.0


@dataclass(frozen=True)
class Exchange:
    """One question and its answer.

    Args:
        tail: What the user says after the picture or text.
        answer: What the assistant says.
        first_words: Words the first token of the answer may be, with weights; empty for the one that ``answer`` begins
            with.
        weight: Weight of each token of the answer in the loss.
        topic: What is asked for, as in ``language.Question``; empty for captions and names.
    """

    tail: str
    answer: str
    first_words: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0
    topic: str = ""


@dataclass(frozen=True)
class Lesson:
    """An input with independent exchanges about it.

    Args:
        system: The system prompt.
        exchanges: What is asked and answered, each on its own.
        scene: The scene to draw, or None for a lesson on text.
        seed: Which rendering of the scene.
        text: The text the lesson is about; empty with a picture.
    """

    system: str
    exchanges: tuple[Exchange, ...]
    scene: Scene | None = None
    seed: str = ""
    text: str = ""


def sample_lesson(rng: Random, *, with_image: bool) -> Lesson:
    """A random lesson on a scene that is not held out."""
    # Words and counts take longest to learn, so that no kind is rare.
    scene = sample_scene(rng, kind=rng.choice(KINDS), held_out=False)
    if with_image:
        return _image_lesson(scene, rng)
    return _phrase_lesson(rng) if rng.random() < 0.3 else _text_lesson(scene, rng)


def _image_lesson(scene: Scene, rng: Random) -> Lesson:
    seed = f"lesson-{rng.getrandbits(48)}"
    if rng.random() < 0.4:
        exchanges = [_name(scene, tail, rng) for tail in rng.sample(_NAME_IMAGE, 2)]
        exchanges += [_answer_in_one_word(question, rng) for question in language.questions(scene, rng)[:1]]
        return Lesson(ONE_WORD_SYSTEM, tuple(exchanges), scene, seed)
    exchanges = [_answer(question, rng) for question in language.questions(scene, rng)[:3]]
    spoken = rng.random()
    if spoken < 0.5:
        exchanges.append(_caption(scene, rng.choice(_ASK_CAPTION), rng))
    elif spoken < 0.7:
        exchanges.append(_name(scene, rng.choice(_ASK_NAME), rng))
    return Lesson(DEFAULT_SYSTEM, tuple(exchanges), scene, seed)


def _text_lesson(scene: Scene, rng: Random) -> Lesson:
    text = language.caption(scene, rng)
    if rng.random() < 0.6:
        if rng.random() < 0.3:
            text = f"Find me an image that matches the given caption: {text}"
        return Lesson(ONE_WORD_SYSTEM, tuple(_name(scene, tail, rng) for tail in _NAME_TEXT), text=text)
    exchanges = [_answer(question, rng) for question in language.questions(scene, rng)[:2]]
    exchanges.append(_caption(scene, rng.choice(_ASK_PARAPHRASE), rng))
    return Lesson(DEFAULT_SYSTEM, tuple(exchanges), text=text)


def _phrase_lesson(rng: Random) -> Lesson:
    """A label or an answer standing alone, as documents of classification and question answering do."""
    scene = sample_scene(rng, held_out=False)
    question = language.questions(scene, rng)[0]
    phrases = [
        question.answer,
        scene.item.colour,
        scene.item.name,
        language.noun(scene.item),
        language.content(scene, rng),
    ]
    text = rng.choice(phrases)
    known = language.names(scene)
    bag = {word: 1.0 for word in text.split() if word in known} or dict.fromkeys(text.split(), 1.0)
    exchanges = tuple(Exchange(tail, rng.choice(list(bag)), _normalised(bag), NAME_WEIGHT) for tail in _NAME_TEXT)
    return Lesson(ONE_WORD_SYSTEM, exchanges, text=text)


def _caption(scene: Scene, tail: str, rng: Random) -> Exchange:
    return Exchange(tail, language.caption(scene, rng), weight=CAPTION_WEIGHT)


def _name(scene: Scene, tail: str, rng: Random) -> Exchange:
    bag = language.names(scene)
    return Exchange(tail, rng.choices(list(bag), list(bag.values()))[0], bag, NAME_WEIGHT)


def _answer(question: language.Question, rng: Random) -> Exchange:
    return Exchange(rng.choice(_ASK).format(question=question.text), question.answer, topic=question.topic)


def _answer_in_one_word(question: language.Question, rng: Random) -> Exchange:
    bag = _normalised(dict.fromkeys(question.answer.split(), 1.0))
    return Exchange(f"\n{question.text}{SUFFIX_IMAGE}", rng.choice(list(bag)), bag, topic=question.topic)


def _normalised(bag: dict[str, float]) -> dict[str, float]:
    total = sum(bag.values())
    return {word: weight / total for word, weight in bag.items()}
