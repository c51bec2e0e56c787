"""Write small benchmarks in the schemas of SugarCrepe and SugarCrepe++, as files of the authors and as on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PIL

SUBSETS = ["replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att"]
PP_SUBSETS = SUBSETS[:5]
CONFIGS = ["replace_object", "replace_attribute", "replace_relation", "swap_object", "swap_atribute"]
ROWS = 8

Row = dict[str, Any]


def rows_of(subset: str) -> list[Row]:
    """Rows of SugarCrepe++; pictures and captions repeat, and one caption is that of another row as well."""
    shapes, colours = ("circle", "square", "star", "triangle"), ("red", "blue", "green", "yellow")
    where = SUBSETS.index(subset)
    found = []
    for row in range(ROWS):
        shape, colour, other = shapes[(row + where) % 4], colours[row // 2], colours[(row // 2 + 1 + row % 2) % 4]
        caption = f"A {colour} {shape}, {subset}. "  # some of the real captions end in a space
        second = f"The {shape} in {subset} is {colour}."
        wrong = f"A {other} {shape}, {subset}."
        name = f"{row // 2:012d}.png"
        parts = {"id": row, "filename": name, "caption": caption, "caption2": second, "negative_caption": wrong}
        found.append(parts)
    return found


def write_pp_file(file: Path, rows: list[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows), encoding="utf-8")


def write_file(file: Path, rows: list[Row]) -> None:
    """As SugarCrepe has them: by number, and not all numbers are there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    names = ("filename", "caption", "negative_caption")
    numbered = {str(2 * number): {name: row[name] for name in names} for number, row in enumerate(rows)}
    file.write_text(json.dumps(numbered), encoding="utf-8")


def write_images(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(ROWS // 2):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        PIL.fromarray(pixels).save(folder / f"{number:012d}.png")
    return folder


def write_captions(root: Path) -> Path:
    """SugarCrepe in `crepe`, with its images; SugarCrepe++ in `pp`, with its own."""
    for subset in SUBSETS:
        write_file(root / "crepe" / "data" / f"{subset}.json", rows_of(subset))
    for subset in PP_SUBSETS:
        write_pp_file(root / "pp" / f"{subset}.json", rows_of(subset))
    write_images(root / "crepe" / "data" / "coco" / "images" / "val2017")
    write_images(root / "pp" / "val2017")
    return root


def write_hub_repo(folder: Path, rows: list[Row], images: Path, *, swapped: bool = False) -> Path:
    """As HuggingFaceM4/SugarCrepe_<subset>: a Parquet file with pictures, and captions as classes."""
    pairs = [[row["caption"], row["negative_caption"]][:: -1 if swapped else 1] for row in rows]
    names = sorted({text for pair in pairs for text in pair})
    columns = {
        "image": [{"bytes": (images / row["filename"]).read_bytes(), "path": row["filename"]} for row in rows],
        "tested_labels": pairs,
        "true_label": [names.index(row["caption"]) for row in rows],
    }
    features = Features(
        {"image": Image(), "tested_labels": List(Value("string")), "true_label": ClassLabel(names=names)}
    )
    (folder / "data").mkdir(parents=True)
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def write_pp_hub_repo(folder: Path) -> Path:
    """As Aman-J/SugarCrepe_pp: the authors' files, and a configuration for each in the card."""
    lines = ["---", "configs:"]
    for subset, config in zip(PP_SUBSETS, CONFIGS, strict=True):
        write_pp_file(folder / "data" / f"{subset}.json", rows_of(subset))
        lines += [f"- config_name: {config}", f"  data_files: data/{subset}.json"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return folder
