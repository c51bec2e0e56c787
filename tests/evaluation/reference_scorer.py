"""MMEB's rule, written down once more from the paper's evaluator: pure NumPy over vectors encoded one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

MARK = "<|image_1|>\n"


def hits(model: Any, root: Path, subset: str, *, targets_as_queries: bool = False) -> np.ndarray:
    """Return for every row whether no candidate scores higher than the first."""
    encode_target = model.encode_query if targets_as_queries else model.encode_document
    vectors: dict[Any, np.ndarray] = {}

    def vector(encode: Any, text: str, path: str) -> np.ndarray:
        key = (encode.__name__, text, path)
        if key not in vectors:
            text = text.replace(MARK, "")
            cell = {"image": Image.open(root / "eval_images" / path).convert("RGB")} if path else {}
            vectors[key] = np.asarray(encode([cell | {"text": text}]), dtype=np.float64)[0]
        return vectors[key]

    found = []
    for row in pq.read_table(root / subset).to_pylist():
        query = vector(model.encode_query, row["qry_text"], row["qry_img_path"])
        targets = zip(row["tgt_text"], row["tgt_img_path"], strict=True)
        matrix = np.stack([vector(encode_target, text, path) for text, path in targets])
        scores = (matrix * query).sum(axis=1) / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
        found.append(scores.argmax() == 0 or scores[0] == scores.max())
    return np.array(found)
