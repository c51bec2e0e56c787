"""Speed of encoding against `SentenceTransformer.encode` on the stock module, as Markdown tables.

    python benchmarks/encoding.py                                      # saha-tiny, on the CPU or GPU that is there
    python benchmarks/encoding.py --model qwen2-vl-2b --dtype bfloat16   # its shape, with random weights: needs a GPU

Both load the same files, and are given the same inputs of the generated mini-MMEB: captions, captions of which each
comes twice, and pictures. Stock runs at its default batch size and at larger ones; the fastest is the peer. Ours
is `encode_column`, nothing cached. "Difference" is the greatest one between the vectors. On a GPU two more columns say
how busy it was and how much of its measured matrix-product speed the model's own products reached.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from measure import machine, side_by_side, table
from PIL import Image
from sentence_transformers import SentenceTransformer

from saha_st import load_embedder
from saha_st.data.scenes.examples import make_examples
from saha_st.encoding import encode_column
from saha_st.modules.sources import resolve_model

QWEN2_VL_2B = {
    "text_config": {
        **{"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
        **{"num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768},
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]},
    },
    "vision_config": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1536},
}
"""The published architecture; speed does not depend on what the weights are."""


@dataclass(frozen=True)
class Workload:
    """Inputs to encode.

    Args:
        name: What to call them in the table.
        cells: The inputs, for stock.
        feature: Feature of the column that holds them, for ours.
    """

    name: str
    cells: list[Any]
    feature: Any = None

    def dataset(self) -> Dataset:
        """The inputs as a column ``cell``."""
        features = None if self.feature is None else Features({"cell": self.feature})
        return Dataset.from_dict({"cell": self.cells}, features=features)


def captions(count: int, seed: int) -> list[str]:
    """Different captions."""
    found: dict[str, None] = {}
    for number in range(1, 50):
        examples = make_examples("Scenes_t2i", Random(f"{seed} {number}"), count, held_out=False)
        found |= dict.fromkeys(example.text for example in examples)
        if len(found) >= count:
            break
    return list(found)[:count]


def pictures(count: int, size: int, folder: Path, seed: int) -> list[str]:
    """Files of pictures of scenes, scaled to a side of ``size`` pixels."""
    examples = make_examples("Scenes_i2t", Random(seed), count, held_out=False)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path, example in zip(paths, examples, strict=True):
        example.picture.draw().resize((size, size), Image.Resampling.BICUBIC).convert("RGB").save(path, quality=90)
    return [str(path) for path in paths]


def workloads(options: argparse.Namespace, folder: Path) -> list[Workload]:
    """What is timed."""
    texts = captions(options.captions, options.seed)
    twice = texts[: len(texts) // 2] * 2
    Random(options.seed).shuffle(twice)
    files = pictures(options.pictures, options.picture_size, folder, options.seed)
    side = options.picture_size
    return [
        Workload(f"{len(texts):,} captions", texts),
        Workload(f"{len(twice):,} captions, each twice", twice),
        Workload(f"{len(files):,} pictures of {side}x{side}", files, ImageFeature()),
    ]


def random_model(folder: Path, dtype: str, layers: int | None) -> str:
    """A model of the shape of Qwen2-VL-2B-Instruct with random weights, tokenizer and chat template of saha-tiny."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2VLConfig

    tiny = load_embedder("saha-tiny", device="cpu")
    processor = AutoProcessor.from_pretrained(resolve_model("saha-tiny"))
    processor.image_processor.patch_size = 14
    known = {name: value for name, value in tiny[0].config.to_dict().items() if name.endswith("_token_id")}
    shape = {name: dict(part) for name, part in QWEN2_VL_2B.items()}
    if layers is not None:
        shape["text_config"]["num_hidden_layers"] = shape["vision_config"]["depth"] = layers
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForImageTextToText.from_config(Qwen2VLConfig(**shape, **known), dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    load_embedder(str(folder), device="cpu").save_pretrained(str(folder / "embedder"))
    return str(folder / "embedder")


class Busy:
    """Share of the time in which the GPU computes, as the driver counts it, sampled while a block runs."""

    def __enter__(self) -> Busy:
        self.samples: list[int] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            try:
                self.samples.append(torch.cuda.utilization())
            except (ImportError, RuntimeError):  # no pynvml
                return

    def __str__(self) -> str:
        return f"{np.mean(self.samples):.0f} %" if self.samples else "?"


def matmul_ceiling(dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product on the GPU."""
    size = 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        left @ right
    torch.cuda.synchronize()
    return 20 * 2 * size**3 / (time.perf_counter() - start)


def products(model: SentenceTransformer, encode: Callable[[], object]) -> int:
    """Operations of the linear layers while something is encoded: two for each weight and token."""
    count = 0

    def add(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal count
        count += 2 * layer.weight.numel() * inputs[0].numel() // inputs[0].shape[-1]

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    encode()
    for handle in handles:
        handle.remove()
    return count


def measure(
    work: Workload, ours: SentenceTransformer, stock: SentenceTransformer, options: argparse.Namespace
) -> list:
    """A row of the table."""
    dataset = work.dataset()
    cells = work.cells if work.feature is None else [{"image": path} for path in work.cells]

    def fast() -> np.ndarray:
        return encode_column(dataset, "cell", ours, task=options.task, show_progress_bar=False).of_rows

    def plain(batch_size: int) -> np.ndarray:
        encode = stock.encode_query if options.task == "query" else stock.encode_document
        return encode(cells, batch_size=batch_size, show_progress_bar=False)

    peers = {f"stock, {size} a batch": (lambda size=size: plain(size)) for size in options.stock_batch_sizes}
    timings = side_by_side({"ours": fast, **peers}, rounds=options.rounds)
    peer = min(peers, key=timings.median)
    difference = float(np.abs(fast().astype(np.float64) - plain(options.stock_batch_sizes[0])).max())
    row = [
        work.name,
        f"{len(work.cells) / timings.median('ours'):,.0f}",
        f"{len(work.cells) / timings.median(peer):,.0f} ({peer.split()[1]})",
        timings.speed_up("ours", peer),
        f"{difference:.0e}",
    ]
    if torch.cuda.is_available():
        with Busy() as busy:
            fast()
        speed = products(ours, fast) / timings.median("ours")
        row += [str(busy), f"{100 * speed / matmul_ceiling(ours.dtype):.0f} %"]
    return row


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--model", default="saha-tiny", help="a model, or qwen2-vl-2b for its shape with random weights"
    )
    parser.add_argument("--layers", type=int, help="layers of that shape, to try it on a small machine")
    parser.add_argument("--dtype", default="float32", help="weights' dtype")
    parser.add_argument("--task", choices=("query", "document"), default="document", help="side of the prompt")
    parser.add_argument("--captions", type=int, default=8192, help="number of captions")
    parser.add_argument("--pictures", type=int, default=512, help="number of pictures")
    parser.add_argument("--picture_size", type=int, default=96, help="their sides, in pixels; 448 as in the paper")
    parser.add_argument("--stock_batch_sizes", type=int, nargs="+", default=[32, 128, 512], help="the first: default")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is shown")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated data")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = resolve_model(options.model) if options.model != "qwen2-vl-2b" else ""
        path = path or random_model(Path(folder), options.dtype, options.layers)
        loading = {"model_kwargs": {"dtype": options.dtype}}
        ours, stock = load_embedder(path, **loading), SentenceTransformer(path, **loading)
        (Path(folder) / "pictures").mkdir()
        rows = [measure(work, ours, stock, options) for work in workloads(options, Path(folder) / "pictures")]
    columns = ["inputs", "ours, a second", "stock, a second (batch)", "speed-up (spread)", "difference"]
    columns += ["GPU busy", "of matmul speed"] if torch.cuda.is_available() else []
    print(f"{options.model}, {options.dtype}, as {options.task}. {machine()}\n\n{table(columns, rows)}")


if __name__ == "__main__":
    main()
