"""The record of a run: read from files and recipes, refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from saha_st.losses.saha import MINI_BATCH_NUM_TOKENS
from saha_st.training import config as config_module
from saha_st.training.config import AdapterConfig, MiningConfig, RunConfig, recipe_names
from saha_st.training.run import accumulation_warning, training_arguments


def test_a_config_survives_a_round_trip(run_dict):
    run_dict["prompt"] = {"system": "One word.", "query_suffix": None}
    config = RunConfig.from_dict(run_dict)
    assert config.prompt.system == "One word." and config.adapter.r == 2 and config.image_tokens == (4, 16)
    assert RunConfig.from_dict(config.to_dict()) == config


def test_the_papers_recipes_hold_the_papers_settings():
    assert recipe_names() == ["mini-mmeb", "qwen2-vl-2b-mmeb", "qwen2-vl-7b-mmeb"]
    for name in recipe_names()[1:]:
        config = RunConfig.from_file(name)
        assert config.mining == MiningConfig(num_negatives=15, pool_multiplier=3)
        assert config.adapter == AdapterConfig(r=8, lora_alpha=64, lora_dropout=0.1, use_dora=True)
        assert config.loss.scale == 50 and config.loss.mini_batch_size == 4 and config.loss.gather_across_devices
        assert sum(len(source.subset) for source in config.data) == 20
        training = config.training
        assert (training["max_steps"], training["warmup_steps"], training["learning_rate"]) == (1500, 100, 5e-5)
        assert training["per_device_train_batch_size"] == 16 * 16


def test_a_file_is_read_and_flags_win(run_dict, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_dict))
    config = RunConfig.from_file(tmp_path / "run.yaml", model="other", training={"learning_rate": 0.5})
    assert config.model == "other"
    assert config.training["learning_rate"] == 0.5 and config.training["max_steps"] == 4


def test_numbers_are_read_as_people_write_them(run_dict, tmp_path):
    text = yaml.safe_dump(run_dict).replace("0.01", "5e-5")
    assert "5e-5" in text
    (tmp_path / "run.yaml").write_text(text)
    assert RunConfig.from_file(tmp_path / "run.yaml").training["learning_rate"] == 5e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": "x"}, "config: unknown key 'modle'; did you mean 'model'"),
        ({"mining": {"num_negativs": 3}}, "mining: unknown key 'num_negativs'; did you mean 'num_negatives'"),
        ({"loss": {"temperature": 0.02}}, "loss: unknown key 'temperature'"),
        ({"data": []}, "data is empty"),
        ({"data": "folder"}, "data must be a list"),
        ({"eval_data": "folder"}, "eval_data must be a list"),
        ({"data": [{"path": "x", "format": "coco"}]}, "format must be"),
        ({"data": [{"anchor": "x"}]}, "data: .*path"),
        ({"train_vision": True}, "train_vision"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_key(run_dict, change, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.from_dict(run_dict | change)


def test_training_arguments_are_checked_by_name_and_against_the_cluster_size(run_dict):
    for key, message in (("learning_rat", "did you mean 'learning_rate'"), ("colour", "unknown key 'colour'")):
        with pytest.raises(ValueError, match=message):
            training_arguments(RunConfig.from_dict(run_dict | {"training": {key: 1}}))
    small = RunConfig.from_dict(run_dict | {"training": {"per_device_train_batch_size": 3, "use_cpu": True}})
    with pytest.raises(ValueError, match=r"per_device_train_batch_size=3 is smaller than a cluster .* 4 pairs"):
        training_arguments(small)


def test_checkpointing_is_not_reentrant_and_the_users_word_wins(run_dict):
    run_dict["training"] |= {"gradient_checkpointing": True, "warmup_steps": 3}
    args = training_arguments(RunConfig.from_dict(run_dict))
    kwargs = getattr(args, "activation_checkpointing_kwargs", None) or args.gradient_checkpointing_kwargs
    assert kwargs == {"use_reentrant": False} and args.warmup_steps == 3
    assert args.router_mapping["anchor"] == "query" and not args.bf16


def test_that_accumulation_adds_no_negatives_is_for_the_caller_to_say(run_dict, caplog):
    run_dict["training"] |= {"gradient_accumulation_steps": 2}
    args = training_arguments(RunConfig.from_dict(run_dict))  # preflight says it in its report, train in the log
    assert caplog.messages == [] and "adds gradients, not negatives" in accumulation_warning(args)


def test_half_precision_that_this_machine_lacks_is_refused_in_our_words(run_dict):
    run_dict["training"] = {"bf16": True}
    with pytest.raises(ValueError, match="training.bf16=true needs a GPU"):
        training_arguments(RunConfig.from_dict(run_dict))


@pytest.mark.parametrize(("content", "error"), [("a: [", ValueError), ("- a", ValueError), (None, FileNotFoundError)])
def test_a_file_that_is_no_config_is_refused(tmp_path, content, error):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match="run.yaml"):
        RunConfig.from_file(path)


@pytest.mark.parametrize(("longest", "expected"), [(None, 4096), (1024, 4096), (4096, 4096), (8192, 8192)])
def test_the_default_mini_batch_holds_the_longest_row(run_dict, longest, expected):
    assert config_module.MINI_BATCH_NUM_TOKENS == MINI_BATCH_NUM_TOKENS  # what None stands for
    config = RunConfig.from_dict(run_dict | {"max_seq_length": longest, "loss": {}})
    assert config.mini_batch_num_tokens == expected
    assert config.loss.mini_batch_num_tokens is None, "what nobody set must not look as if somebody had"
    assert RunConfig.from_dict(config.to_dict()) == config
    by_rows = RunConfig.from_dict(run_dict | {"max_seq_length": longest, "loss": {"mini_batch_size": 2}})
    assert by_rows.mini_batch_num_tokens is None
    longer = replace(config, max_seq_length=16384)
    assert longer.mini_batch_num_tokens == 16384


def test_a_mini_batch_that_does_not_hold_the_longest_row_is_refused(run_dict):
    with pytest.raises(ValueError, match="mini_batch_num_tokens=4096 is less than .* max_seq_length=8192"):
        RunConfig.from_dict(run_dict | {"max_seq_length": 8192, "loss": {"mini_batch_num_tokens": 4096}})
