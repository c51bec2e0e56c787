"""`image_tokens`, `num_frames` and `video_tokens`: exact at the edges, known to the backbone, and never overruled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import backbone_inputs as inputs
import numpy as np
import pytest
from architectures import ARCHITECTURES
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForImageTextToText
from video_clips import clip

from saha_st.modules import image_tokens, load_embedder
from saha_st.modules.image_tokens import count_image_tokens, set_image_tokens
from saha_st.modules.token_counts import tokens_of_pictures
from saha_st.training.adapters import add_adapter
from saha_st.training.config import AdapterConfig

STRIPS = [(32, 32 * length) for length in range(1, 40)]


@pytest.mark.parametrize("tiles", [1, 2, 7, 11])
def test_no_strip_takes_more_tiles_of_internvl_than_the_maximum_and_one_takes_all(tiles):
    _, processor = ARCHITECTURES["internvl"]()
    processor.image_processor.max_patches = 12
    size = processor.image_seq_length
    around = 2  # tokens around a picture
    set_image_tokens(processor, (1, around + size * (tiles + (tiles > 1))))  # from two tiles on, it is shown whole too
    assert processor.image_processor.max_patches == tiles
    shapes = [*STRIPS, *((width, height) for height, width in STRIPS), (64, 64), (64, 96), (96, 128), (320, 320)]
    counted = np.array(tokens_of_pictures(processor, shapes))
    assert counted.max() == around + size * (tiles + (tiles > 1))
    most = shapes[int(counted.argmax())]
    assert count_image_tokens(processor, inputs.picture(0, most[1], most[0])) == counted.max()


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_grids_of_equal_area_stay_or_go_together(name):
    config, processor = ARCHITECTURES[name]()
    grids = [list(grid) for grid in processor.image_processor.image_grid_pinpoints]
    areas = sorted({height * width for height, width in grids}, reverse=True)
    kept = []
    for take in image_tokens._grids(processor, config):
        take()
        kept.append(processor.image_processor.image_grid_pinpoints)
        assert kept[-1] == config.image_grid_pinpoints
    assert kept == [[grid for grid in grids if grid[0] * grid[1] <= area] for area in areas]
    assert len(areas) < len(grids)  # some are of equal area


def test_a_grid_that_no_shape_of_tiles_has_is_counted():
    _, processor = ARCHITECTURES["llava_next"]()
    processor.image_processor.image_grid_pinpoints = [[32, 64], [32, 32 * 9]]
    strip = inputs.picture(0, 32 * 9, 32)
    most = count_image_tokens(processor, strip)
    set_image_tokens(processor, (1, most - 1))
    assert processor.image_processor.image_grid_pinpoints == [[32, 64]]
    assert count_image_tokens(processor, strip) < most


@pytest.fixture
def coarse_adapter(folder_of, tmp_path) -> tuple[Path, list, np.ndarray]:
    """A saved LoRA checkpoint of LLaVA-NeXT with fewer grids than its base, inputs, and their vectors."""
    model = load_embedder(str(folder_of("llava_next")), device="cpu", image_tokens=(1, 60))
    base = json.loads((folder_of("llava_next") / "config.json").read_text())["image_grid_pinpoints"]
    assert 0 < len(model[0].config.image_grid_pinpoints) < len(base)
    add_adapter(model, AdapterConfig(r=2, lora_dropout=0.0))
    rows = [inputs.picture(5, 320, 320), *inputs.mixed()]
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter", rows, model.eval().encode_query(rows)


def test_an_adapter_says_which_grids_its_backbone_knows(coarse_adapter):
    folder, rows, vectors = coarse_adapter
    saved = json.loads((folder / "sentence_bert_config.json").read_text())
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    assert saved["config_kwargs"] == {"image_grid_pinpoints": processor["image_grid_pinpoints"]}
    plain = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(plain.encode_query(rows), vectors, atol=1e-5)


def test_an_adapter_that_does_not_say_it_gets_the_grids_of_its_processor(coarse_adapter):
    folder, rows, vectors = coarse_adapter
    path = folder / "sentence_bert_config.json"
    saved = json.loads(path.read_text())
    del saved["config_kwargs"]
    path.write_text(json.dumps(saved))
    model = load_embedder(str(folder), device="cpu")
    np.testing.assert_allclose(model.encode_query(rows), vectors, atol=1e-5)
    model.save_pretrained(str(folder.parent / "again"))
    plain = SentenceTransformer(str(folder.parent / "again"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(rows), vectors, atol=1e-5)


def test_a_bare_adapter_gets_the_grids_of_its_own_processor(folder_of, tmp_path):
    coarse = load_embedder(str(folder_of("llava_next")), device="cpu", image_tokens=(1, 60))
    generative = AutoModelForImageTextToText.from_pretrained(folder_of("llava_next"))
    target = r".*language_model.*\.(q_proj|v_proj)"
    get_peft_model(generative, LoraConfig(r=2, target_modules=target)).save_pretrained(tmp_path)
    coarse[0].processor.save_pretrained(tmp_path)
    rows = [inputs.picture(5, 320, 320), *inputs.mixed()]
    found = load_embedder(str(tmp_path), device="cpu").encode_query(rows)
    np.testing.assert_allclose(found, coarse.encode_query(rows), atol=1e-5)  # its B is zero


def test_a_whole_checkpoint_has_its_grids_in_the_configuration_alone(folder_of, tmp_path):
    model = load_embedder(str(folder_of("llava_next")), device="cpu", image_tokens=(1, 60))
    model.save_pretrained(str(tmp_path))
    assert "config_kwargs" not in json.loads((tmp_path / "sentence_bert_config.json").read_text())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["image_grid_pinpoints"] == model[0].processor.image_processor.image_grid_pinpoints


def with_kwargs(model: SentenceTransformer, folder: Path, **processing_kwargs: Any) -> Path:
    """Save a model as a checkpoint that says something of its own at every call."""
    model.save_pretrained(str(folder))
    path = folder / "sentence_bert_config.json"
    saved = json.loads(path.read_text())
    for part, options in processing_kwargs.items():
        saved["processing_kwargs"][part] = saved["processing_kwargs"].get(part, {}) | options
    path.write_text(json.dumps(saved))
    return folder


def length(model: SentenceTransformer, cell: Any) -> int:
    return int(model.preprocess([cell])["attention_mask"].sum())


FOUR = {"shortest_edge": 256, "longest_edge": 4 * 256}  # pixels of at most four tokens
COARSE = [
    pytest.param("qwen2_vl", {"image": {"size": FOUR}}, id="size"),
    pytest.param("qwen2_vl", {"image": {"min_pixels": 256, "max_pixels": 1024}}, id="pixels"),
    pytest.param("qwen2_vl", {"common": {"size": FOUR}}, id="common"),
    pytest.param("qwen2_vl", {"chat_template": {"size": FOUR}}, id="chat template"),
    pytest.param("smolvlm", {"image": {"size": {"longest_edge": 32}}}, id="longest edge"),
    pytest.param("smolvlm", {"image": {"do_image_splitting": False}}, id="no tiles"),
    pytest.param("internvl", {"image": {"max_patches": 1}}, id="tiles"),
    pytest.param("gemma4", {"image": {"max_soft_tokens": 70}}, id="soft tokens"),
]


@pytest.mark.filterwarnings("ignore:Passing `min_pixels` and `max_pixels`:FutureWarning")
@pytest.mark.parametrize(("name", "processing_kwargs"), COARSE)
def test_image_tokens_win_over_what_a_checkpoint_says_at_every_call(backbone, tmp_path, name, processing_kwargs):
    picture = inputs.picture(5, 320, 320)
    whole = length(backbone, picture)
    most = 142 if name == "gemma4" else count_image_tokens(backbone[0].processor, picture)  # of a picture of any shape
    folder = with_kwargs(backbone, tmp_path / "coarse", **processing_kwargs)
    assert length(load_embedder(str(folder), device="cpu"), picture) < whole  # by itself it keeps its own
    asked = load_embedder(str(folder), device="cpu", image_tokens=(1, most))
    assert length(asked, picture) == whole
    asked.save_pretrained(str(tmp_path / "asked"))
    plain = SentenceTransformer(str(tmp_path / "asked"), device="cpu")
    assert length(plain, picture) == whole
    np.testing.assert_allclose(plain.encode_query([picture]), backbone.encode_query([picture]), atol=1e-5)


VIDEO = {"video": clip(1, 40)}


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_num_frames_win_over_what_a_checkpoint_says_at_every_call(backbone, tmp_path, name):
    expected = length(backbone, VIDEO)  # of 8 frames
    folder = with_kwargs(backbone, tmp_path / "few", video={"do_sample_frames": True, "num_frames": 4, "fps": None})
    assert length(load_embedder(str(folder), device="cpu"), VIDEO) < expected
    asked = load_embedder(str(folder), device="cpu", num_frames=8)
    assert length(asked, VIDEO) == expected and asked[0].processing_kwargs.get("video", {}) == {}
    folder = with_kwargs(backbone, tmp_path / "all", video={"do_sample_frames": False})
    asked = load_embedder(str(folder), device="cpu", num_frames=8)
    assert length(asked, VIDEO) == expected
    asked.save_pretrained(str(tmp_path / "asked"))
    plain = SentenceTransformer(str(tmp_path / "asked"), device="cpu")
    assert length(plain, VIDEO) == expected
    np.testing.assert_allclose(plain.encode_query([VIDEO]), backbone.encode_query([VIDEO]), atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_vl"])
def test_video_tokens_win_and_count_the_frames_that_a_checkpoint_shows(backbone, tmp_path, name):
    large = {"video": clip(1, 40, size=(320, 320))}
    text = length(backbone, {"video": clip(1, 40, size=(16, 16))})
    own = {"do_sample_frames": True, "num_frames": 4, "fps": None, "size": FOUR}
    folder = with_kwargs(backbone, tmp_path / "few", video=own)
    unasked = length(load_embedder(str(folder), device="cpu"), large)
    asked = load_embedder(str(folder), device="cpu", video_tokens=(2, 50))
    tokens = length(asked, large) - text
    assert unasked < length(asked, large) and 0 < tokens <= 50
    assert asked[0].processing_kwargs["video"] == {"do_sample_frames": True, "num_frames": 4, "fps": None}
    assert asked.preprocess([large])["video_grid_thw"][0].tolist() == [2, 10, 10]  # 4 frames, 5 x 5 tokens for two


@pytest.mark.parametrize("name", ["qwen2_vl"])
def test_what_is_said_of_pictures_and_videos_alike_stays_for_the_other(backbone, tmp_path, name):
    folder = with_kwargs(backbone, tmp_path / "coarse", common={"size": FOUR})
    own = load_embedder(str(folder), device="cpu")
    asked = load_embedder(str(folder), device="cpu", image_tokens=(1, 64))
    assert asked[0].processing_kwargs["video"] == {"size": FOUR} and "common" not in asked[0].processing_kwargs
    assert length(asked, VIDEO) == length(own, VIDEO) < length(backbone, VIDEO)
    assert length(asked, inputs.picture(5, 320, 320)) > length(own, inputs.picture(5, 320, 320))
