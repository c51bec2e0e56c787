"""Examining the generator: greedy answers to questions about held-out scenes, asked as any user would ask."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from random import Random

import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from saha_st.data.scenes import language
from saha_st.data.scenes.drawing import draw
from saha_st.data.scenes.scene import COLOURS, DIGITS, NUMBERS, PLACES, POSITIONS, SHAPES, WORDS, sample_scene

CHANCE = {
    "colour": 1 / len(COLOURS),
    "shape": 1 / len(SHAPES),
    "count": 1 / len(NUMBERS),
    "place": 1 / len(PLACES),
    "position": 1 / len(POSITIONS),
    "object": 1 / (len(COLOURS) * len(SHAPES)),
    "relation": 1 / (len(COLOURS) * len(SHAPES)),
    "word": 1 / len(WORDS),
    "digit": 1 / len(DIGITS),
    "presence": 1 / 2,
}
"""Share that guessing among the topic's answers would get right."""


def answer_held_out_questions(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, *, per_topic: int = 100, seed: int = 1
) -> dict[str, float]:
    """Share of right greedy answers per topic, on scenes whose concepts were held out of training.

    Args:
        model: The generator.
        processor: Its processor.
        per_topic: Questions per topic.
        seed: Which scenes, renderings and questions.

    Returns:
        Accuracy in [0, 1] per topic, and the mean over topics as ``mean``.
    """
    rng = Random(f"examination-{seed}")
    asked: dict[str, list[tuple[Image.Image, language.Question]]] = defaultdict(list)
    while any(len(asked[topic]) < per_topic for topic in CHANCE):
        scene = sample_scene(rng, held_out=True)
        picture = draw(scene, f"examination-{rng.getrandbits(48)}")
        for question in language.questions(scene, rng):
            if len(asked[question.topic]) < per_topic:
                asked[question.topic].append((picture, question))
    accuracy = {}
    for topic in CHANCE:
        answers = generate_answers(model, processor, [(picture, question.text) for picture, question in asked[topic]])
        right = [answer == question.answer for answer, (_, question) in zip(answers, asked[topic], strict=True)]
        accuracy[topic] = round(sum(right) / len(right), 3)
    accuracy["mean"] = round(sum(accuracy.values()) / len(accuracy), 3)
    return accuracy


@torch.inference_mode()
def generate_answers(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    asked: list[tuple[Image.Image, str]],
    *,
    max_new_tokens: int = 8,
) -> list[str]:
    """Greedy answers to questions, each about its picture."""
    chats = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"\n{question}"}]}]
        for _, question in asked
    ]
    texts = processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    pictures = [[picture] for picture, _ in asked]
    inputs = processor(text=texts, images=pictures, return_tensors="pt", padding=True, padding_side="left")
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


_CARD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
---
# saha-tiny-base

A generative multimodal LLM of {parameters:,} parameters in the Qwen2-VL architecture, made for the quickstart and the
tests of `saha_st`. It knows one small world: pictures of coloured shapes, written words and digits on five
backgrounds, and the language that describes them. It is of no use outside it.

It was pre-trained from random weights with next-token loss on captions, questions and answers, and names in one word,
all generated (`saha_st/data/scenes`); one scene concept in eight was held out. No contrastive training was done.

    {command}

{steps:,} steps of {images} pictures and {texts} texts from seed {seed}, {minutes:.0f} minutes on {processes} CPU
processes of {threads} thread(s), shared with other work; the log is `pretraining.jsonl`.

Greedy answers to {questions} questions per topic about held-out scenes:

| topic | accuracy | chance |
|---|---|---|
{rows}

As one line of JSON, as the script printed it:

```json
{accuracy}
```
"""


def write_card(folder: Path, record: dict) -> None:
    """Write the README of the model from the record of its training."""
    accuracy = record["accuracy"]
    rows = "\n".join(f"| {topic} | {accuracy[topic]:.3f} | {chance:.3f} |" for topic, chance in CHANCE.items())
    rows += f"\n| mean | {accuracy['mean']:.3f} | {sum(CHANCE.values()) / len(CHANCE):.3f} |"
    fields = {**record, "rows": rows, "accuracy": json.dumps(accuracy), "minutes": record["seconds"] / 60}
    (folder / "README.md").write_text(_CARD.format(**fields), encoding="utf-8")
