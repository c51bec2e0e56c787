"""One maker per subset of mini-MMEB: each gives a query, its answer, and documents that are nearly the answer.

Pictures are described here, not drawn (see ``Picture``). Queries of the evaluation side use held-out concepts; the
distractors may be anything that is not the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from PIL import Image

from saha_st.data.scenes import language
from saha_st.data.scenes.changes import alter
from saha_st.data.scenes.drawing import PICTURE_SIZE, crop_item, draw
from saha_st.data.scenes.scene import (
    COLOURS,
    DIGITS,
    NUMBERS,
    PLACES,
    POSITIONS,
    SHAPES,
    WORDS,
    Item,
    Scene,
    is_held_out,
    sample_scene,
)
from saha_st.data.scenes.subsets import CROP_DOCUMENT, IMAGE_DOCUMENT

HANDWRITTEN_TRAIN = 1200
"""The first 1,200 of scikit-learn's 1,797 handwritten digits are for training, the rest for evaluation."""
_HANDWRITTEN_SIZE = 34


@dataclass(frozen=True)
class Picture:
    """A picture yet to be drawn.

    Args:
        scene: What it shows; None for a handwritten digit.
        seed: Which rendering.
        crop: Index of the item to cut out; None for the whole picture.
        digit: Row of scikit-learn's handwritten digits, where ``scene`` is None.
    """

    scene: Scene | None
    seed: str = ""
    crop: int | None = None
    digit: int = 0

    def draw(self) -> Image.Image:
        """Draw the picture."""
        if self.scene is None:
            return _handwritten(self.digit)
        if self.crop is None:
            return draw(self.scene, self.seed)
        return crop_item(self.scene, self.seed, self.crop)


@dataclass(frozen=True)
class Document:
    """Something that can be the answer.

    Args:
        text: A label, an answer, a caption, or the instruction of an image document.
        concept: What it stands for; documents of equal concept answer the same queries.
        picture: The picture, for image documents.
        looser: ``looser_concept`` of the scene that it shows or describes; empty for others.
    """

    text: str
    concept: str
    picture: Picture | None = None
    looser: str = ""

    def answers_like(self, other: Document) -> bool:
        """Whether the two answer the same queries, or one of them is true of what the other shows."""
        return self.concept in (other.concept, other.looser) or other.concept == self.looser


@dataclass(frozen=True)
class Example:
    """A query with its answer.

    Args:
        text: What goes into the subset's instruction; empty where it takes none.
        picture: The query's picture, if it has one.
        positive: The answer.
        distractors: Documents that are nearly right, for the candidate list of this query.
    """

    text: str
    picture: Picture | None
    positive: Document
    distractors: tuple[Document, ...] = ()


def picture_of(scene: Scene, rng: Random) -> Picture:
    """A new rendering of the scene."""
    return Picture(scene, seed=f"{rng.getrandbits(48):012x}")


def _label(text: str) -> Document:
    return Document(text, concept=text)


def _image_document(scene: Scene, rng: Random) -> Document:
    return Document(IMAGE_DOCUMENT, scene.concept, picture_of(scene, rng), looser=scene.looser_concept)


def _caption_document(scene: Scene, rng: Random) -> Document:
    return Document(language.caption(scene, rng), scene.concept, looser=scene.looser_concept)


def _crop_document(picture: Picture, index: int) -> Document:
    """One item cut out of a picture. The place shows round it, so that it belongs to the concept."""
    concept = f"{language.noun(picture.scene.items[index])} / {picture.scene.place}"
    return Document(CROP_DOCUMENT, concept, replace(picture, crop=index))


def _objects(scene: Scene, rng: Random) -> Example:
    return Example("", picture_of(scene, rng), _label(language.noun(scene.item)))


def _words(scene: Scene, rng: Random) -> Example:
    return Example("", picture_of(scene, rng), _label(scene.item.name))


def _places(scene: Scene, rng: Random) -> Example:
    return Example("", picture_of(scene, rng), _label(_shape_in_place(scene.item.name, scene.place)))


def _count_vqa(scene: Scene, rng: Random) -> Example:
    question = rng.choice(("How many of which shape and colour are there?", "What is shown, and how many?"))
    return Example(question, picture_of(scene, rng), _label(language.counted(scene)))


def _text_vqa(scene: Scene, rng: Random) -> Example:
    question = rng.choice(("Which word is written, and in which colour?", "What does it say, and what colour is it?"))
    return Example(question, picture_of(scene, rng), _label(f"{scene.item.name} in {scene.item.colour}"))


def _relation_vqa(scene: Scene, rng: Random) -> Example:
    relations = [question for question in language.questions(scene, rng) if question.topic == "relation"]
    question = rng.choice(relations)
    return Example(question.text, picture_of(scene, rng), _label(question.answer))


def _position_vqa(scene: Scene, rng: Random) -> Example:
    question = rng.choice(("Where is the {0}, and on what?", "In which part and on what background is the {0}?"))
    answer = _position_in_place(scene.item.position, scene.place)
    return Example(question.format(scene.item.name), picture_of(scene, rng), _label(answer))


def _scenes_t2i(scene: Scene, rng: Random) -> Example:
    near = (_image_document(alter(scene, rng)[0], rng),)
    return Example(language.caption(scene, rng), None, _image_document(scene, rng), near)


def _scenes_i2t(scene: Scene, rng: Random) -> Example:
    near = (_caption_document(alter(scene, rng)[0], rng),)
    return Example("", picture_of(scene, rng), _caption_document(scene, rng), near)


def _changes_it2i(scene: Scene, rng: Random) -> Example:
    while (source := _source(scene, rng)) is None:
        scene = sample_scene(rng, kind=scene.kind, held_out=is_held_out(scene))
    # The query is the other scene plus the words that lead back; staying where one is, is the obvious mistake.
    while True:
        target, change = alter(source, rng)
        if target.concept == scene.concept:
            break
    near = (_image_document(source, rng),)
    return Example(change, picture_of(source, rng), _image_document(scene, rng), near)


def _source(scene: Scene, rng: Random) -> Scene | None:
    """A scene one change away and on the same side, since queries are shown too; None for the few that have none."""
    for _ in range(200):
        source, _ = alter(scene, rng)
        if is_held_out(source) == is_held_out(scene):
            return source
    return None


def _lookalikes_i2i(scene: Scene, rng: Random) -> Example:
    near = (_image_document(alter(scene, rng)[0], rng),)
    return Example("", picture_of(scene, rng), _image_document(scene, rng), near)


def _crops(scene: Scene, rng: Random) -> Example:
    wanted = rng.randrange(len(scene.items))
    return _grounded(language.noun(scene.items[wanted]), scene, wanted, rng)


def _pointing(scene: Scene, rng: Random) -> Example:
    wanted = rng.randrange(len(scene.items))
    return _grounded(f"What is {language.at(scene.items[wanted].position)}?", scene, wanted, rng)


def _grounded(text: str, scene: Scene, wanted: int, rng: Random) -> Example:
    picture = picture_of(scene, rng)
    crops = [_crop_document(picture, index) for index in range(len(scene.items))]
    positive = crops.pop(wanted)
    return Example(text, picture, positive, tuple(crops))


def _shape_in_place(shape: str, place: str) -> str:
    return f"{shape} {'in the' if place == 'sky' else 'on'} {place}"


def _position_in_place(position: str, place: str) -> str:
    return f"{position} on {place}"


_MAKERS: dict[str, tuple[tuple[str, ...], Callable[[Scene, Random], Example]]] = {
    "Objects": (("group", "spot"), _objects),
    "Words": (("word",), _words),
    "Places": (("group", "spot"), _places),
    "CountVQA": (("group",), _count_vqa),
    "TextVQA": (("word",), _text_vqa),
    "RelationVQA": (("pair",), _relation_vqa),
    "PositionVQA": (("spot",), _position_vqa),
    "Scenes_t2i": (("group", "spot", "pair", "scatter", "word", "digit"), _scenes_t2i),
    "Scenes_i2t": (("group", "spot", "pair", "scatter", "word", "digit"), _scenes_i2t),
    "Changes_it2i": (("group", "spot", "pair", "word"), _changes_it2i),
    "Lookalikes_i2i": (("group", "spot", "pair", "scatter", "word", "digit"), _lookalikes_i2i),
    "Crops": (("scatter", "pair"), _crops),
    "Pointing": (("scatter",), _pointing),
}


def make_examples(subset: str, rng: Random, count: int, *, held_out: bool) -> list[Example]:
    """Make examples of a subset.

    On the training side about every third scene comes back in another rendering and other words, so that there are
    false negatives to be found; on the evaluation side every scene comes once.

    Args:
        subset: Name of the subset.
        rng: Source of randomness.
        count: Number of examples.
        held_out: Whether to use the scenes (and handwritten digits) of the evaluation side.
    """
    if subset == "Digits":
        return [_handwritten_example(row) for row in _digit_rows(rng, count, held_out=held_out)]
    kinds, make = _MAKERS[subset]
    scenes: dict[str, Scene] = {}
    attempts = 0
    while len(scenes) < count:
        scene = sample_scene(rng, kind=rng.choice(kinds), held_out=held_out)
        attempts += 1
        # Small worlds run out of new concepts (a word in a colour in a place): then they come again.
        key = scene.concept if attempts < 20 * count else f"{scene.concept} again {attempts}"
        scenes.setdefault(key, scene)
    pool = list(scenes.values())
    if not held_out:
        pool = rng.choices(pool[: max(1, 2 * count // 3)], k=count)
    return [make(scene, rng) for scene in pool]


def all_labels(subset: str) -> tuple[str, ...]:
    """Every label or answer of a subset; empty where the documents are not labels."""
    objects = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
    groups = [
        Scene("group", (Item(*label.split()),) * n, "paper") for label in objects for n in range(1, len(NUMBERS) + 1)
    ]
    return {
        "Objects": objects,
        "RelationVQA": objects,
        "Digits": DIGITS,
        "Words": WORDS,
        "Places": tuple(_shape_in_place(shape, place) for shape in SHAPES for place in PLACES),
        "CountVQA": tuple(language.counted(group) for group in groups),
        "TextVQA": tuple(f"{word} in {colour}" for word in WORDS for colour in COLOURS),
        "PositionVQA": tuple(_position_in_place(position, place) for position in POSITIONS for place in PLACES),
    }.get(subset, ())


def _digit_rows(rng: Random, count: int, *, held_out: bool) -> list[int]:
    rows = range(HANDWRITTEN_TRAIN, len(_handwritten_digits()[1])) if held_out else range(HANDWRITTEN_TRAIN)
    return rng.sample(rows, count) if count <= len(rows) else rng.choices(rows, k=count)


def _handwritten_example(row: int) -> Example:
    name = DIGITS[int(_handwritten_digits()[1][row])]
    return Example("", Picture(None, digit=row), _label(name))


@lru_cache(maxsize=1)
def _handwritten_digits() -> tuple:
    """Pixels (1797, 8, 8) in 0 to 16 and classes (1797,), of scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def _handwritten(row: int) -> Image.Image:
    """The digit in black on white, as large as the printed ones: the scans themselves have no margin."""
    ink = Image.fromarray((255 - _handwritten_digits()[0][row] * (255 / 16)).astype("uint8"))
    picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "white")
    margin = (PICTURE_SIZE - _HANDWRITTEN_SIZE) // 2
    picture.paste(ink.resize((_HANDWRITTEN_SIZE, _HANDWRITTEN_SIZE), Image.Resampling.BICUBIC), (margin, margin))
    return picture
