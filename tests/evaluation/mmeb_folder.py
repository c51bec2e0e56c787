"""Write a small benchmark in the schema of MMEB-eval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from saha_st.evaluation.specs import mmeb_specs

MARK = "<|image_1|>"
NUM_IMAGES = 8


def paint(path: Path, seed: int, size: tuple[int, int] = (32, 32)) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_rows(root: Path, subset: str, rows: list[tuple[str, str, list[str], list[str]]]) -> None:
    names = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    folder = root / subset
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    pq.write_table(pa.table(columns), folder / "test-00000-of-00001.parquet")


def _lists(rng: np.random.Generator, pool: list[Any], rows: int, length: int) -> list[list[Any]]:
    """Candidates of every row, drawn with replacement: some lists hold a candidate, or the truth, twice."""
    return [[pool[index] for index in rng.integers(0, len(pool), length)] for _ in range(rows)]


def write_mmeb(root: Path) -> Path:
    """Texts end in line breaks, candidates repeat, marks stand without images."""
    rng = np.random.default_rng(0)
    images = [f"pictures/{number}.png" for number in range(NUM_IMAGES)]
    for number, image in enumerate(images):
        paint(root / "eval_images" / image, number)
    words = ["a red circle\n", "a red circle", "two", "two stars \n", " blue square", "green", "7", "pictures/0.png"]
    pictures = [
        (f"{MARK}\nRepresent the given image{end}\n", image) for image in images for end in (".", " of a cat.")
    ]
    mixed = [*pictures[:8], *((f"{MARK}\n{word}", images[0]) for word in words[:2]), ("only words\n", "")]

    def rows(count: int, query: Callable[[int], tuple[str, str]], pool: list[tuple[str, str]], length: int) -> list:
        lists = _lists(rng, pool, count, length)
        return [
            (*query(row), [text for text, _ in each], [path for _, path in each]) for row, each in enumerate(lists)
        ]

    def asked(row: int) -> tuple[str, str]:
        return f"{MARK}\nRepresent the given image with the following question: what is it, {row % 5}?\n", images[
            row % 8
        ]

    texts = [(word, "") for word in words]
    write_rows(root, "OK-VQA", rows(24, asked, texts, 5))
    write_rows(root, "MSCOCO_t2i", rows(20, lambda row: (f"Find the picture: {words[row % 8]}\n", ""), pictures, 14))
    write_rows(root, "CIRR", rows(20, asked, mixed, 6))
    write_rows(root, "WebQA", rows(12, lambda row: (f"{MARK}\nFind what answers: which {row % 7}?\n", ""), mixed, 4))
    write_rows(root, "RefCOCO-Matching", rows(10, asked, pictures, 3))
    return root


def write_all_subsets(root: Path) -> None:
    """All 36 subsets with three queries each, which share their pictures and texts."""
    images = [f"{number}.png" for number in range(4)]
    for number, image in enumerate(images):
        paint(root / "eval_images" / image, number)
    texts = ["a red circle", "two", "blue square", "green"]
    for offset, spec in enumerate(mmeb_specs().values()):
        query_side, document_side = spec.category.split("2")

        def cell(side: str, number: int) -> tuple[str, str]:
            text = texts[number % 4]
            return (f"{MARK}\n{text}", images[number % 4]) if "i" in side else (text, "")

        rows = []
        for row in range(3):
            candidates = [cell(document_side, offset + row + index) for index in range(4 - row)]
            listed = [text for text, _ in candidates], [path for _, path in candidates]
            rows.append((*cell(query_side, row), *listed))
        write_rows(root, spec.subset, rows)
