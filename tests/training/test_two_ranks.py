"""A run under torchrun: one process mines, all train, one saves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from sentence_transformers import SentenceTransformer

from saha_st.modules import load_embedder

RANK = """
import sys, yaml
import numpy as np
from saha_st.training import RunConfig, train
model = train(RunConfig.from_dict(yaml.safe_load(open(sys.argv[1]))))
import torch.distributed as dist
np.save(f"{sys.argv[2]}/rank{dist.get_rank()}.npy", model.encode_query(["number 7"]))
"""


@pytest.mark.slow
def test_two_ranks_mine_once_train_together_and_return_the_model_that_is_saved(run_dict, tmp_path):
    run_dict["training"] |= {"max_steps": 2, "per_device_train_batch_size": 8, "save_steps": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_dict))
    (tmp_path / "rank.py").write_text(RANK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29653"]
    arguments = [str(tmp_path / "rank.py"), str(tmp_path / "run.yaml"), str(tmp_path)]
    finished = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-30000:]
    folder = Path(run_dict["output_dir"])
    assert json.loads((folder / "mining" / "pairs" / "mining.json").read_text())["rows"] == 64
    ranks = [np.load(tmp_path / f"rank{rank}.npy") for rank in (0, 1)]
    np.testing.assert_allclose(ranks[0], ranks[1], atol=1e-5)
    plain = SentenceTransformer(str(folder / "final"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(["number 7"]), ranks[0], atol=1e-5)
    untrained = load_embedder(run_dict["model"], image_tokens=(4, 16), device="cpu").encode_query(["number 7"])
    assert np.abs(ranks[0] - untrained).max() > 1e-3
