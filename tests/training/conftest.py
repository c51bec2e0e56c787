from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory) -> Path:
    """Sixty-four pairs: pictures with a question against answers, two anchors and two positives repeated."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(64):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(
            {
                "anchor_image": f"{0 if i == 1 else i}.png",
                "anchor_text": "Which?",
                "positive": f"number {2 if i == 3 else i}",
            }
        )
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(scope="session")
def _small_run(tiny_mllm, pairs_file) -> dict:
    return {
        "model": str(tiny_mllm),
        "data": [{"path": str(pairs_file)}],
        "image_tokens": [4, 16],
        "mining": {"num_negatives": 3},
        "loss": {"mini_batch_size": 4},
        "adapter": {"r": 2, "lora_alpha": 16},
        "training": {
            "per_device_train_batch_size": 16,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "save_steps": 2,
            "logging_steps": 2,
            "use_cpu": True,
            "disable_tqdm": True,
        },
    }


@pytest.fixture
def run_dict(_small_run, tmp_path) -> dict:
    """A small run with every part of the paper's recipe in it; a copy that the test may change."""
    return copy.deepcopy(_small_run) | {"output_dir": str(tmp_path / "run")}
