"""A run under torchrun: all mine the clusters of one process, all train, one saves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from sentence_transformers import SentenceTransformer

from saha_st.mining import find_saha_clusters
from saha_st.modules import load_embedder
from saha_st.training import RunConfig
from saha_st.training.sources import load_sources

RANK = """
import os, sys
import numpy as np
import saha_st.training
from saha_st.cli import main
train = saha_st.training.train
def train_and_encode(*args, **options):
    model = train(*args, **options)
    np.save(f"{sys.argv.pop(1)}/rank{os.environ['RANK']}.npy", model.encode_query(["number 7"]))
saha_st.training.train = train_and_encode
sys.exit(main(sys.argv[2:]))
"""


def mined_by_one(run_dict: dict, output_dir: Path) -> Path:
    (source,) = load_sources(RunConfig.from_dict(run_dict).data, seed=42)
    model = load_embedder(run_dict["model"], image_tokens=(4, 16), device="cpu")
    find_saha_clusters(source.dataset, model, **run_dict["mining"], show_progress_bar=False).save(output_dir)
    return output_dir


@pytest.mark.slow
def test_two_ranks_mine_once_train_together_and_return_the_model_that_is_saved(run_dict, tmp_path):
    run_dict["training"] |= {"max_steps": 2, "per_device_train_batch_size": 8, "save_steps": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_dict))
    (tmp_path / "rank.py").write_text(RANK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(tmp_path / "rank.py"), str(tmp_path), "train", "--config", str(tmp_path / "run.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=600, env=environment)
    assert finished.returncode == 0, finished.stderr[-30000:]
    folder = Path(run_dict["output_dir"])
    assert json.loads((folder / "mining" / "pairs" / "mining.json").read_text())["rows"] == 64
    one = mined_by_one(run_dict, tmp_path / "one")
    for name in ("clusters.parquet", "mining.json"):
        assert (folder / "mining" / "pairs" / name).read_bytes() == (one / name).read_bytes(), name
    assert finished.stdout.count("Trained. Load it with") == 1
    ranks = [np.load(tmp_path / f"rank{rank}.npy") for rank in (0, 1)]
    np.testing.assert_allclose(ranks[0], ranks[1], atol=1e-5)
    plain = SentenceTransformer(str(folder / "final"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(["number 7"]), ranks[0], atol=1e-5)
    untrained = load_embedder(run_dict["model"], image_tokens=(4, 16), device="cpu").encode_query(["number 7"])
    assert np.abs(ranks[0] - untrained).max() > 1e-3
