"""What smaller vectors cost: mini-MMEB's overall score with int8, binary and fewer dimensions, as a Markdown table.

    python benchmarks/quantized.py                                    # saha-tiny; generates ./mini-mmeb
    python benchmarks/quantized.py --model org/saha --truncate_dims 1536 512 128

Vectors are computed once, cut to their first dimensions, and quantised with `quantize_embeddings` of Sentence
Transformers. Documents always are, as in an index; queries stay float32 in one column, and are quantised too in the
other. Compared is what codes stand for: the middle of its step for int8, -1 or 1 for binary (whose cosine orders as
the Hamming distance does; `ubinary` has the same bits).

The ranges of int8 are those of documents which are not in the benchmark: positives of the generated training set.
(mteb's CompressionWrapper takes them from each side of each task: no index knows the range of its queries.)

MMEB counts ties as hits, and coarse codes tie often. Here chance breaks ties, so that they gain nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import concatenate_datasets
from measure import machine, table
from mteb.types import PromptType
from sentence_transformers.util import quantize_embeddings

from saha_st import load_embedder, load_mmeb
from saha_st.data.scenes.mini_mmeb import TRAIN_DIR
from saha_st.encoding import encode_column
from saha_st.evaluation import evaluate, find_benchmark
from saha_st.evaluation.encoder import Embedder

PRECISIONS = ("float32", "int8", "binary")
_TIE = 1e-9  # far below what any two codes differ by


def decode(codes: np.ndarray, precision: str, dim: int, ranges: np.ndarray) -> np.ndarray:
    """Return what codes of `quantize_embeddings` stand for, shape (rows, dim), float32.

    Args:
        codes: The codes, shape (rows, dim), or (rows, dim / 8) if they are binary.
        precision: One of `PRECISIONS`.
        dim: Dimensions of the vectors that were quantised.
        ranges: Smallest and largest value of each dimension, shape (2, dim); for int8.
    """
    if precision == "float32":
        return codes
    if precision == "binary":
        bits = np.unpackbits((codes.astype(np.int16) + 128).astype(np.uint8), axis=1, count=dim)
        return bits.astype(np.float32) * 2 - 1
    steps = (ranges[1] - ranges[0]) / 255
    return ranges[0] + (codes.astype(np.float32) + 128.5) * steps


class Quantized(Embedder):
    """An encoder whose vectors go through codes; what it has encoded stays in memory.

    Attributes:
        precision: Of the documents, one of `PRECISIONS`.
        dim: Dimensions that are kept.
        queries_too: Whether queries are quantised as well.
        ranges: Smallest and largest value of each dimension, shape (2, all dimensions).
        chance: Breaks ties.
    """

    precision, dim, queries_too = "float32", None, False
    ranges: np.ndarray
    chance: np.random.Generator

    def encode(self, *args: Any, prompt_type: PromptType | None = None, **kwargs: Any) -> np.ndarray:
        """Encode one side of a task; shape (rows, dim), float32."""
        vectors = super().encode(*args, prompt_type=prompt_type, **kwargs)[:, : self.dim]
        if prompt_type is PromptType.query and not self.queries_too:
            return vectors
        return decode(self.quantize(vectors), self.precision, self.dim, self.ranges[:, : self.dim])

    def quantize(self, vectors: np.ndarray) -> np.ndarray:
        """Return the codes of vectors of shape (rows, dim)."""
        return quantize_embeddings(vectors, self.precision, ranges=self.ranges[:, : self.dim])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the similarities of all pairs, shape (first, second), equal ones in the order of chance."""
        cosines = super().similarity(embeddings1, embeddings2).double()
        return cosines + _TIE * torch.from_numpy(self.chance.random(cosines.shape))


def calibrate(model: Any, folder: Path, rows_of_subset: int, cache_folder: Path | None) -> np.ndarray:
    """Return the ranges of documents of the training set, shape (2, dim)."""
    options = {"cache_folder": cache_folder, "show_progress_bar": False}
    pairs = load_mmeb(folder / TRAIN_DIR, split="original", max_rows=rows_of_subset)
    documents = concatenate_datasets([pairs[subset].select_columns("positive") for subset in pairs])
    vectors = encode_column(documents, "positive", model, task="document", **options).embeddings
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def measure(encoder: Quantized, tasks: Any, dims: Sequence[int]) -> list[list[str]]:
    """A row for each number of dimensions and each precision."""
    rows = []
    for encoder.dim in dims:
        for encoder.precision in PRECISIONS:
            size = encoder.quantize(np.zeros((1, encoder.dim), dtype=np.float32)).nbytes
            scores = []
            for encoder.queries_too in (False, True):
                if encoder.queries_too and encoder.precision == "float32":
                    continue
                encoder.chance = np.random.default_rng(0)
                scores.append(f"{100 * evaluate(encoder, tasks, show_progress_bar=False).overall:.1f}")
            rows.append([f"{encoder.dim} x {encoder.precision}", str(size), scores[0], scores[-1]])
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="saha-tiny", help="the model")
    parser.add_argument("--truncate_dims", type=int, nargs="+", help="dimensions; all, 1/2, 1/4 and 1/8 if not given")
    parser.add_argument("--data_dir", type=Path, default=Path("mini-mmeb"), help="mini-MMEB; generated if not there")
    parser.add_argument("--calibration_rows", type=int, default=100, help="training documents of each subset")
    parser.add_argument("--cache_folder", type=Path, help="keep float32 vectors here, for another run")
    options = parser.parse_args()
    benchmark = find_benchmark("mini-mmeb", data_dir=options.data_dir)
    for task in benchmark.tasks:
        task.load_data()  # once, for all rows of the table
    model = load_embedder(options.model)
    whole = model.get_embedding_dimension()
    dims = options.truncate_dims or [whole // part for part in (1, 2, 4, 8)]
    if not all(0 < dim <= whole for dim in dims):
        parser.error(f"--truncate_dims: {options.model} has {whole} dimensions")
    encoder = Quantized(model, cache_folder=options.cache_folder, show_progress_bar=False)
    encoder.ranges = calibrate(model, options.data_dir, options.calibration_rows, options.cache_folder)
    columns = ["documents", "bytes a vector", "hit@1 (%), queries in float32", "queries as documents"]
    print(f"{options.model}. {machine()}\n\n{table(columns, measure(encoder, benchmark, dims))}")


if __name__ == "__main__":
    main()
