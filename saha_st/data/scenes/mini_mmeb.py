"""mini-MMEB on disk, in the layout and the columns of TIGER-Lab/MMEB-train and TIGER-Lab/MMEB-eval.

In ``<root>/mini-MMEB-train``:

* ``<subset>/original-00000-of-00001.parquet`` and ``<subset>/diverse_instruction-00000-of-00001.parquet``,
  columns ``qry, qry_image_path, pos_text, pos_image_path``;
* ``images/<subset>/00000.png``: the paths in the columns are relative to ``mini-MMEB-train``.

In ``<root>/MMEB-eval``:

* ``<subset>/test-00000-of-00001.parquet``, columns ``qry_text, qry_img_path, tgt_text, tgt_img_path``;
* ``eval_images/<subset>/00000.png``: paths are relative to ``eval_images``, where the real archive is unpacked too.

Beside them, ``<root>/concepts.json``: what every row's query and positive stand for. It is never for a model.

The two splits of the training side hold the same pairs; in ``diverse_instruction`` the instructions vary. On the
evaluation side ``tgt_text`` and ``tgt_img_path`` are lists of candidates of which the first is the answer.

Where the candidates are labels, there are as many as there are labels: Digits 10, Words 32, Places 40, PositionVQA 45,
Objects 64, RelationVQA 64, CountVQA 256, TextVQA 256. Lists of the first six stay short however many are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet

from saha_st.data.scenes.examples import Document, Example, Picture, all_labels, make_examples
from saha_st.data.scenes.new_folder import new_folder, require_new
from saha_st.data.scenes.subsets import SUBSETS, Subset

TRAIN_DIR, EVAL_DIR, EVAL_IMAGES_DIR, CONCEPTS_FILE = "mini-MMEB-train", "MMEB-eval", "eval_images", "concepts.json"


def write_mini_mmeb(
    root: str | Path,
    *,
    seed: int = 0,
    train_rows: int = 500,
    eval_rows: int = 80,
    candidates: int = 150,
    subsets: Iterable[str] | None = None,
) -> Path:
    """Generate mini-MMEB under ``root``.

    Args:
        root: Folder to make; it must not exist, or be empty. It appears complete or not at all.
        seed: The same seed writes the same benchmark.
        train_rows: Training pairs of each IND subset.
        eval_rows: Queries of each subset.
        candidates: Longest candidate list. Lists are shorter where a subset has fewer labels (64 objects, 10 digits)
            or where further candidates would be right as well.
        subsets: Names to write, of ``SUBSETS``; None writes all.

    Returns:
        The root folder.

    Raises:
        FileExistsError: If ``root`` exists and is not empty.
        ValueError: If a number is too small or a subset unknown.
    """
    root = Path(root)
    chosen = _check(root, subsets, train_rows=train_rows, eval_rows=eval_rows, candidates=candidates)
    with new_folder(root) as made:
        concepts: dict[str, dict] = {"train": {}, "eval": {}}
        for subset in chosen:
            if subset.ind:
                concepts["train"][subset.name] = _write_train(made / TRAIN_DIR, subset, seed, train_rows)
            concepts["eval"][subset.name] = _write_eval(made / EVAL_DIR, subset, seed, eval_rows, candidates)
        (made / CONCEPTS_FILE).write_text(json.dumps(concepts, indent=1), encoding="utf-8")
    return root


def concepts_of(folder: str | Path, subset: str) -> list[str]:
    """What the positives of a training subset stand for, row by row; equal concepts answer the same queries.

    Only for counting what is right: a model must never see them.

    Args:
        folder: The training side, ``<root>/mini-MMEB-train``.
        subset: Name of a subset with training rows.

    Returns:
        One concept for each row of the subset's file, in its order, whichever of its splits.

    Raises:
        FileNotFoundError: There is no ``concepts.json`` beside the folder: it is no generated benchmark.
        ValueError: The file does not hold the concepts of that subset.
    """
    file = Path(folder).expanduser().absolute().parent / CONCEPTS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no file {str(file)!r}. Concepts are known of generated benchmarks only, which `saha-st data "
            "generate` writes."
        )
    train = json.loads(file.read_text(encoding="utf-8")).get("train", {})
    if subset not in train:
        raise ValueError(f"subset: {str(file)!r} has no training subset {subset!r}; it has {', '.join(train)}.")
    return train[subset]["positive"]


def _check(root: Path, subsets: Iterable[str] | None, **numbers: int) -> list[Subset]:
    for name, value in numbers.items():
        smallest = 2 if name == "candidates" else 1
        if value < smallest:
            raise ValueError(f"{name} must be at least {smallest}; got {value}.")
    names = list(SUBSETS) if subsets is None else list(subsets)
    unknown = [name for name in names if name not in SUBSETS]
    if unknown or not names:
        raise ValueError(f"subsets must name at least one of {', '.join(SUBSETS)}; got {names}.")
    require_new(root)
    return [SUBSETS[name] for name in names]


class _Images:
    """Draws each picture once into a folder and remembers the path that the columns hold."""

    def __init__(self, folder: Path, prefix: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._prefix = folder, prefix
        self._paths: dict[Picture, str] = {}

    def path(self, picture: Picture | None) -> str:
        """Path of the picture relative to the side's image root; empty for no picture, as in MMEB."""
        if picture is None:
            return ""
        if picture not in self._paths:
            name = f"{len(self._paths):05d}.png"
            picture.draw().save(self._folder / name, compress_level=1)
            self._paths[picture] = f"{self._prefix}/{name}"
        return self._paths[picture]


def _write_train(side: Path, subset: Subset, seed: int, rows: int) -> dict[str, list[str]]:
    """Write both splits of a training subset; returns the hidden concepts, row by row."""
    rng = Random(f"train-{seed}-{subset.name}")
    examples = make_examples(subset.name, rng, rows, held_out=False)
    images = _Images(side / "images" / subset.name, f"images/{subset.name}")
    shared = {
        "qry_image_path": [images.path(example.picture) for example in examples],
        "pos_text": [example.positive.text for example in examples],
        "pos_image_path": [images.path(example.positive.picture) for example in examples],
    }
    diverse = (subset.instruction, *subset.paraphrases)
    texts = {
        "original": [subset.instruction.format(text=example.text) for example in examples],
        "diverse_instruction": [rng.choice(diverse).format(text=example.text) for example in examples],
    }
    for split, queries in texts.items():
        _write_table(side / subset.name / f"{split}-00000-of-00001.parquet", {"qry": queries, **shared})
    return _concepts(examples)


def _write_eval(side: Path, subset: Subset, seed: int, rows: int, candidates: int) -> dict[str, list[str]]:
    """Write an evaluation subset; returns the hidden concepts, row by row."""
    rng = Random(f"eval-{seed}-{subset.name}")
    examples = make_examples(subset.name, rng, rows, held_out=True)
    images = _Images(side / EVAL_IMAGES_DIR / subset.name, subset.name)
    pool = _pool(subset.name, examples, candidates, rng)
    lists = [_candidates(example, pool, candidates, rng) for example in examples]
    columns = {
        "qry_text": [subset.instruction.format(text=example.text) for example in examples],
        "qry_img_path": [images.path(example.picture) for example in examples],
        "tgt_text": [[document.text for document in documents] for documents in lists],
        "tgt_img_path": [[images.path(document.picture) for document in documents] for documents in lists],
    }
    _write_table(side / subset.name / "test-00000-of-00001.parquet", columns)
    return _concepts(examples)


def _pool(name: str, examples: list[Example], candidates: int, rng: Random) -> list[Document]:
    """The documents that the candidate lists are drawn from, shared so that few distinct ones need encoding."""
    documents = dict.fromkeys(example.positive for example in examples)
    documents.update(dict.fromkeys(near for example in examples for near in example.distractors))
    labels = [Document(label, label) for label in all_labels(name)]
    room = max(0, candidates - len(documents))
    unseen = [label for label in labels if label not in documents]
    return [*documents, *rng.sample(unseen, min(room, len(unseen)))]


def _candidates(example: Example, pool: list[Document], limit: int, rng: Random) -> list[Document]:
    """The answer, what is nearly the answer, then others; nothing that is as right as the answer."""
    near = [document for document in example.distractors if not document.answers_like(example.positive)]
    first = list(dict.fromkeys([example.positive, *near]))[:limit]
    others = [document for document in pool if not document.answers_like(example.positive) and document not in near]
    return first + rng.sample(others, min(limit - len(first), len(others)))


def _concepts(examples: list[Example]) -> dict[str, list[str]]:
    """What each row's query and positive stand for; equal positives of different rows are false negatives."""
    shown = [example.picture.scene if example.picture else None for example in examples]
    return {
        "query": [scene.concept if scene else "" for scene in shown],
        "positive": [example.positive.concept for example in examples],
    }


def _write_table(path: Path, columns: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
