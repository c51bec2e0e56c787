"""How a scene is spoken of: captions, questions with answers, and the words that name it.

A scene has many captions, all true and all equivalent: word order, phrase and even the point of view change ("a left
of b" is "b right of a"). ``names`` gives the bag of words that a one-word summary of the scene may be drawn from; a
picture and every caption of it share that bag, which makes "in one word" a meeting point of the two modalities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from saha_st.data.scenes.scene import COLOURS, NUMBERS, SHAPES, Item, Scene

_PLACE_PHRASES = {
    "paper": ("on paper", "on white paper"),
    "sand": ("on sand", "on the beach"),
    "grass": ("on grass", "in a meadow"),
    "sky": ("in the sky", "among the clouds"),
    "grid": ("on a grid", "on squared paper"),
}
_FRAMES = (
    "{what} {place}",
    "{what} {place}",
    "there {be} {what} {place}",
    "a picture of {what} {place}",
    "{place}, {what}",
    "{place} one can see {what}",
)
_QUESTION_OF_PLACE = ("Where is this?", "What is the background?", "What is the place?")


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Args:
        topic: What is asked for: count, colour, shape, object, place, position, relation, word, digit or presence.
        text: The question.
        answer: The one right answer.
    """

    topic: str
    text: str
    answer: str


def caption(scene: Scene, rng: Random) -> str:
    """One of the many captions of a scene."""
    frame = rng.choice(_FRAMES)
    be = "are" if scene.kind in ("group", "scatter", "pair") and len(scene.items) > 1 else "is"
    return frame.format(what=_CONTENT[scene.kind](scene, rng), be=be, place=place_phrase(scene.place, rng))


def content(scene: Scene, rng: Random) -> str:
    """A caption that leaves the place out."""
    return _CONTENT[scene.kind](scene, rng)


def names(scene: Scene) -> dict[str, float]:
    """The words that may name the scene, each with its weight; the weights add up to one."""
    bag: dict[str, float] = {scene.place: 0.5}
    for item in set(scene.items):
        bag[item.colour] = 1.0
        bag[item.name] = 2.0 if scene.kind in ("word", "digit") else 1.0
        if scene.kind == "spot":
            bag.update(dict.fromkeys(item.position.split(), 1.0))
    if scene.kind == "group":
        bag[number(scene)] = 1.0
    total = sum(bag.values())
    return {word: weight / total for word, weight in bag.items()}


def questions(scene: Scene, rng: Random) -> list[Question]:
    """One question of every topic that the scene can answer, in random order and phrasing."""
    asked = [Question("place", rng.choice(_QUESTION_OF_PLACE), scene.place), *_QUESTIONS[scene.kind](scene, rng)]
    if scene.kind not in ("word", "digit"):
        asked.append(_presence(scene, rng))
    rng.shuffle(asked)
    return asked


def place_phrase(place: str, rng: Random) -> str:
    """One way to say where: 'on sand', 'on the beach'."""
    return rng.choice(_PLACE_PHRASES[place])


def number(scene: Scene) -> str:
    """How many items there are, as a word."""
    return NUMBERS[len(scene.items) - 1]


def plural(name: str) -> str:
    """The plural of a shape."""
    return f"{name}es" if name.endswith(("s", "x")) else f"{name}s"


def noun(item: Item) -> str:
    """Colour and shape: 'red circle'."""
    return f"{item.colour} {item.name}"


def with_article(phrase: str) -> str:
    """The phrase with 'a' or 'an' in front."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def at(position: str) -> str:
    """'top left' -> 'at the top left'; 'centre' -> 'in the centre'."""
    return f"in the {position}" if position == "centre" else f"at the {position}"


def counted(scene: Scene) -> str:
    """A group in bare words: 'three red circles'."""
    name = scene.item.name
    return f"{number(scene)} {scene.item.colour} {name if len(scene.items) == 1 else plural(name)}"


def relation_words(scene: Scene) -> tuple[str, str]:
    """Of a pair: what the first item is to the second, and the second to the first."""
    return ("left of", "right of") if scene.item.position == "left" else ("above", "below")


def _group(scene: Scene, rng: Random) -> str:
    item, count = scene.item, number(scene)
    shapes = item.name if len(scene.items) == 1 else plural(item.name)
    if len(scene.items) == 1 and rng.random() < 0.7:
        return with_article(noun(item))
    return rng.choice((f"{count} {item.colour} {shapes}", f"{count} {shapes} in {item.colour}"))


def _spot(scene: Scene, rng: Random) -> str:
    item = scene.item
    where = at(item.position)
    if " " in item.position and rng.random() < 0.4:
        where = f"in the {item.position} corner"
    return rng.choice((f"{with_article(noun(item))} {where}", f"{where} {with_article(noun(item))}"))


def _pair(scene: Scene, rng: Random) -> str:
    first, second = (with_article(noun(item)) for item in scene.items)
    forth, back = relation_words(scene)
    joined = {"left of": f"{first} and, to its right, {second}", "above": f"{first} and, under it, {second}"}[forth]
    return rng.choice((f"{first} {forth} {second}", f"{second} {back} {first}", joined))


def _scatter(scene: Scene, rng: Random) -> str:
    parts = [f"{with_article(noun(item))} {at(item.position)}" for item in scene.items]
    rng.shuffle(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _word(scene: Scene, rng: Random) -> str:
    colour, word = scene.item.colour, scene.item.name
    return rng.choice(
        (
            f"the word {word} in {colour}",
            f"the {colour} word {word}",
            f"{word} written in {colour} letters",
            f"{colour} letters that say {word}",
        )
    )


def _digit(scene: Scene, rng: Random) -> str:
    colour, name = scene.item.colour, scene.item.name
    return rng.choice(
        (f"the digit {name} in {colour}", f"the {colour} digit {name}", f"the number {name} in {colour}")
    )


def _ask_group(scene: Scene, rng: Random) -> list[Question]:
    item, many = scene.item, len(scene.items) > 1
    shapes = plural(item.name)
    be = "are" if many else "is"
    return [
        Question("count", rng.choice((f"How many {shapes} are there?", "How many are there?")), number(scene)),
        Question(
            "colour",
            rng.choice((f"What colour {be} the {shapes if many else item.name}?", "Which colour?")),
            item.colour,
        ),
        Question("shape", rng.choice(("What shape is shown?", f"Which shape is {item.colour}?")), item.name),
        Question(
            "object", rng.choice(("What is shown?", "What can be seen?")), counted(scene) if many else noun(item)
        ),
    ]


def _ask_spot(scene: Scene, rng: Random) -> list[Question]:
    item = scene.item
    return [
        Question("position", rng.choice((f"Where is the {noun(item)}?", f"Where is the {item.name}?")), item.position),
        Question("colour", f"What colour is the {item.name}?", item.colour),
        Question("shape", rng.choice(("What shape is shown?", f"What is {at(item.position)}?")), item.name),
    ]


def _ask_pair(scene: Scene, rng: Random) -> list[Question]:
    first, second = scene.items if rng.random() < 0.5 else scene.items[::-1]
    forth, back = relation_words(scene)
    if first is not scene.items[0]:
        forth, back = back, forth
    return [
        Question("relation", f"What is {forth} the {rng.choice((noun(second), second.name))}?", noun(first)),
        Question("relation", f"What is {back} the {rng.choice((noun(first), first.name))}?", noun(second)),
        Question("colour", f"What colour is the {first.name}?", first.colour),
        Question("shape", f"Which shape is {second.colour}?", second.name),
    ]


def _ask_scatter(scene: Scene, rng: Random) -> list[Question]:
    one, two, three = rng.sample(scene.items, 3)
    return [
        Question("object", f"What is {at(one.position)}?", noun(one)),
        Question("position", f"Where is the {rng.choice((noun(two), two.name))}?", two.position),
        Question("colour", f"What colour is the {three.name}?", three.colour),
        Question("shape", f"Which shape is {one.colour}?", one.name),
        Question("count", rng.choice(("How many shapes are there?", "How many are there?")), number(scene)),
    ]


def _ask_word(scene: Scene, rng: Random) -> list[Question]:
    return [
        Question(
            "word", rng.choice(("What word is written?", "What does it say?", "Read the text.")), scene.item.name
        ),
        Question("colour", rng.choice(("What colour is the word?", "Which colour?")), scene.item.colour),
    ]


def _ask_digit(scene: Scene, rng: Random) -> list[Question]:
    return [
        Question(
            "digit",
            rng.choice(("Which digit is this?", "What number is written?", "Read the digit.")),
            scene.item.name,
        ),
        Question("colour", rng.choice(("What colour is the digit?", "Which colour?")), scene.item.colour),
    ]


def _presence(scene: Scene, rng: Random) -> Question:
    """Is it there? Half the time yes; a no differs from a thing that is there in the colour or in the shape."""
    item = rng.choice(scene.items)
    if rng.random() < 0.5:
        return Question("presence", f"Is there {with_article(noun(item))}?", "yes")
    shown = {noun(other) for other in scene.items}
    while True:
        wrong = Item(rng.choice(COLOURS), item.name) if rng.random() < 0.5 else Item(item.colour, rng.choice(SHAPES))
        if noun(wrong) not in shown:
            return Question("presence", f"Is there {with_article(noun(wrong))}?", "no")


_CONTENT: dict[str, Callable[[Scene, Random], str]] = {
    "group": _group,
    "spot": _spot,
    "pair": _pair,
    "scatter": _scatter,
    "word": _word,
    "digit": _digit,
}
_QUESTIONS: dict[str, Callable[[Scene, Random], list[Question]]] = {
    "group": _ask_group,
    "spot": _ask_spot,
    "pair": _ask_pair,
    "scatter": _ask_scatter,
    "word": _ask_word,
    "digit": _ask_digit,
}
