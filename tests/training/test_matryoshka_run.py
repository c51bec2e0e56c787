"""A run with `matryoshka_dims`: refused where it cannot be, trained by the real trainer, and told by the card."""

from __future__ import annotations

import re

import pytest
import yaml
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from saha_st.training import RunConfig, train
from saha_st.training.run import load_model


class Watch(TrainerCallback):
    """Keeps what the trainer logs."""

    def __init__(self) -> None:
        self.logs: list[dict] = []

    def on_log(self, *args, logs, **kwargs) -> None:
        self.logs.append(logs)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([], "must be whole numbers"),
        ([32, 0], "must be whole numbers"),
        ([32, 1.5], "must be whole numbers"),
        ([32, True], "must be whole numbers"),
        (32, "must be whole numbers.*got 32"),
        ([32, 8, 8], "names a dimension twice"),
    ],
)
def test_dimensions_that_cannot_be_are_refused(run_dict, dims, message):
    with pytest.raises(ValueError, match=f"matryoshka_dims {message}"):
        RunConfig.from_dict(run_dict | {"matryoshka_dims": dims})


@pytest.mark.parametrize("dims", [[64, 32], [16, 8]])
def test_dimensions_that_do_not_end_with_the_models_own_are_refused_before_mining(run_dict, dims):
    config = RunConfig.from_dict(run_dict | {"matryoshka_dims": dims})
    with pytest.raises(ValueError, match=rf"{re.escape(str(dims))}.* gives vectors of 32 dimensions. These must"):
        load_model(config)


def test_a_config_keeps_the_key_only_where_it_is_given(run_dict):
    assert "matryoshka_dims" not in RunConfig.from_dict(run_dict).to_dict()
    given = RunConfig.from_dict(run_dict | {"matryoshka_dims": [32, 8]})
    assert given.to_dict()["matryoshka_dims"] == [32, 8] and RunConfig.from_dict(given.to_dict()) == given


def test_a_nested_run_trains_logs_and_tells_its_dimensions(run_dict, tmp_path):
    watch = Watch()
    steps = run_dict["training"] | {"max_steps": 2, "logging_steps": 1, "save_strategy": "no"}
    config = RunConfig.from_dict(run_dict | {"matryoshka_dims": [32, 16, 8], "training": steps})
    train(config, callbacks=(watch,), show_progress_bar=False)
    steps = [entry for entry in watch.logs if "loss" in entry]
    assert len(steps) == 2 and all(0 < entry["positive_cosine"] <= 1 for entry in steps)
    final = tmp_path / "run" / "final"
    card = (final / "README.md").read_text(encoding="utf8")
    row = "| Dimensions | 32; trained so that the first 16, 8 are embeddings by themselves (`truncate_dim=16`) |"
    assert row in card
    assert yaml.safe_load((final / "recipe.yaml").read_text(encoding="utf8"))["matryoshka_dims"] == [32, 16, 8]
    assert SentenceTransformer(str(final), truncate_dim=16, device="cpu").encode_query(["a"]).shape == (1, 16)
