"""The subsets of mini-MMEB: which there are, and the instructions they speak, in the style of MMEB.

Every meta-task has IND subsets, which have training rows, and OOD subsets, which ask what no training row asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

IMAGE = "<|image_1|>"
IMAGE_DOCUMENT = f"{IMAGE}\nRepresent the given image.\n"
CROP_DOCUMENT = f"{IMAGE}\nRepresent the given cropped image of the object.\n"


@dataclass(frozen=True)
class Subset:
    """One subset of mini-MMEB.

    Args:
        name: Folder and config name, as the subsets of MMEB have.
        meta_task: classification, vqa, retrieval or grounding.
        ind: Whether it has training rows (in distribution).
        instruction: The query text; ``{text}`` stands for the question, caption or expression.
        paraphrases: Query texts of the ``diverse_instruction`` split; only for subsets with training rows.
    """

    name: str
    meta_task: str
    ind: bool
    instruction: str
    paraphrases: tuple[str, ...] = ()


_QUESTION = f"{IMAGE}\nRepresent the given image with the following question: {{text}}\n"
_QUESTIONS = (
    _QUESTION,
    f"Answer the question about {IMAGE}: {{text}}\n",
    f"{IMAGE}\nUse the image to answer: {{text}}\n",
)

SUBSETS: dict[str, Subset] = {
    subset.name: subset
    for subset in (
        Subset(
            "Objects",
            "classification",
            True,
            f"{IMAGE}\nIdentify the object shown in the image\n",
            (f"Represent {IMAGE} for classification of the object.\n", f"{IMAGE}\nName the object in the picture.\n"),
        ),
        Subset(
            "Digits",
            "classification",
            True,
            f"{IMAGE}\nRepresent the given image for classification of the handwritten digit\n",
            (f"Which digit is in {IMAGE}?\n", f"{IMAGE}\nRecognise the digit written by hand.\n"),
        ),
        Subset("Words", "classification", False, f"{IMAGE}\nIdentify the word written in the image\n"),
        Subset("Places", "classification", False, f"{IMAGE}\nIdentify the shape and the place shown in the image\n"),
        Subset("CountVQA", "vqa", True, _QUESTION, _QUESTIONS),
        Subset("TextVQA", "vqa", True, _QUESTION, _QUESTIONS),
        Subset("RelationVQA", "vqa", True, _QUESTION, _QUESTIONS),
        Subset("PositionVQA", "vqa", False, _QUESTION),
        Subset(
            "Scenes_t2i",
            "retrieval",
            True,
            "Find me an everyday image that matches the given caption: {text}\n",
            ("Which picture fits this description? {text}\n", "Retrieve the image of the following caption: {text}\n"),
        ),
        Subset(
            "Scenes_i2t",
            "retrieval",
            True,
            f"{IMAGE}\nFind an image caption describing the given everyday image.\n",
            (f"Describe {IMAGE} by the right caption.\n", f"{IMAGE}\nRetrieve the caption of this picture.\n"),
        ),
        Subset(
            "Changes_it2i",
            "retrieval",
            True,
            f"{IMAGE}\nGiven an image, find a similar everyday image with the described changes: {{text}}\n",
            (f"Change {IMAGE} as told and find the result: {{text}}\n", f"{IMAGE}\nFind this image, but {{text}}\n"),
        ),
        Subset(
            "Lookalikes_i2i",
            "retrieval",
            False,
            f"{IMAGE}\nFind a day-to-day image that looks similar to the provided image.\n",
        ),
        Subset(
            "Crops",
            "grounding",
            True,
            f'{IMAGE}\nSelect the portion of the image that isolates the object of the given label: "{{text}}"\n',
            (f'Find the part of {IMAGE} that shows "{{text}}".\n', f"{IMAGE}\nCut out the {{text}}.\n"),
        ),
        Subset(
            "Pointing",
            "grounding",
            False,
            f'{IMAGE}\nSelect the portion of the image that answers the question "{{text}}"\n',
        ),
    )
}


def instructions() -> Iterator[str]:
    """Every instruction there is, for queries and documents, without the image placeholder."""
    for subset in SUBSETS.values():
        for instruction in (subset.instruction, *subset.paraphrases):
            yield instruction.replace(IMAGE, "").replace("{text}", "")
    yield from (document.replace(IMAGE, "") for document in (IMAGE_DOCUMENT, CROP_DOCUMENT))
