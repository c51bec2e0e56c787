"""Which model a name means."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from saha_st.modules.sources import folder_name, resolve_model


def test_a_runs_folder_stands_for_the_model_that_it_ended_with(tiny_mllm, tmp_path):
    shutil.copytree(tiny_mllm, tmp_path / "run" / "final")
    final = str(tmp_path / "run" / "final")
    assert resolve_model(str(tmp_path / "run")) == resolve_model(final) == final
    shutil.copytree(tiny_mllm, tmp_path / "run", dirs_exist_ok=True)  # a model whose folder happens to hold another
    assert resolve_model(str(tmp_path / "run")) == str(tmp_path / "run")


def test_a_run_that_is_not_done_is_no_checkpoint(tmp_path):
    (tmp_path / "run" / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(ValueError, match="not a model checkpoint.*no 'final' with one.*checkpoint-2"):
        resolve_model(str(tmp_path / "run"))


def test_names_of_the_hub_and_embedded_models_pass():
    assert resolve_model("org/model") == "org/model" and Path(resolve_model("saha-tiny")).is_dir()


def test_the_model_of_a_run_is_called_by_the_run(tmp_path, monkeypatch):
    assert folder_name(tmp_path / "run" / "final") == "run" and folder_name(tmp_path / "model") == "model"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert folder_name("final") == folder_name(".") == "here"
    assert folder_name("/final") == "final"
