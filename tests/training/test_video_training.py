"""Videos in training: the gradients of one batch, lengths counted without decoding, a run from files to a model."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from video_clips import clip, pictures, write_folder, write_video

from saha_st.losses import SaHaLoss
from saha_st.mining.miner import label_pairs
from saha_st.modules import load_embedder
from saha_st.modules.video_files import VideoFile
from saha_st.training import RunConfig, train
from saha_st.training.out_of_memory import describe_media, media_sizes
from saha_st.training.preflight import preflight
from saha_st.training.sources import load_sources

COUNT = 12


@pytest.fixture(scope="module")
def videos_file(tmp_path_factory):
    """Pairs of a text and a video (a file, a folder of frames), a picture, or a text."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for i in range(COUNT):
        frames = clip(i, frames=6 + 3 * i, size=(64 + 16 * (i % 2), 48))
        write_video(folder / f"{i}.mp4", frames)
        write_folder(folder / f"{i}", frames)
        pictures(frames[:1])[0].save(folder / f"{i}.png")
        kinds = [{"video": f"{i}.mp4"}, {"video": f"{i}", "text": "a clip"}, {"image": f"{i}.png"}, f"number {i}"]
        rows.append({"anchor": f"which is {i}?", "positive": kinds[i % 4] if i else kinds[0]})
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def video_run(run_dict, videos_file) -> dict:
    run = copy.deepcopy(run_dict) | {"data": [{"path": str(videos_file)}], "num_frames": 4}
    run["training"] |= {"per_device_train_batch_size": 4, "max_steps": 2}
    return run


@pytest.mark.parametrize(
    "mini_batches", [{"mini_batch_size": 1}, {"mini_batch_size": 3}, {"mini_batch_num_tokens": 90}]
)
def test_gradients_of_a_mixed_batch_are_those_without_a_cache(embedder, mini_batches):
    columns = [
        ["a red circle", {"video": clip(1)}, {"image": pictures(clip(2))[0], "text": "what?"}, {"video": clip(3, 5)}],
        [{"video": clip(4, size=(96, 64)), "text": "left of it"}, "the green triangle", {"video": clip(5)}, "stars"],
    ]
    features = [embedder.preprocess(column) for column in columns]
    assert [column["num_videos_per_sample"].tolist() for column in features] == [[0, 1, 0, 1], [1, 0, 1, 0]]

    def gradients(**options) -> dict[str, torch.Tensor]:
        embedder.zero_grad()
        SaHaLoss(embedder, **options)([dict(column) for column in features], None).backward()
        return {name: p.grad.clone() for name, p in embedder.named_parameters() if p.grad is not None}

    whole, cached = gradients(mini_batch_size=4), gradients(**mini_batches)
    assert whole.keys() == cached.keys() and any("visual" in name for name in whole)
    assert sum(gradient.abs().sum() for gradient in whole.values()) > 0.1
    for name, gradient in whole.items():
        scale = max(gradient.abs().max().item(), 1.0)
        torch.testing.assert_close(cached[name], gradient, atol=2e-5 * scale, rtol=1e-3)


def test_preflight_counts_what_the_model_reads_and_decodes_one_video_to_try_it(video_run, monkeypatch):
    read, real = [], VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda self, indices: read.append(self.name) or real(self, indices))
    config = RunConfig.from_dict(video_run)
    report = preflight(config, run_steps=False, show_progress_bar=False)
    assert len(read) == 1
    (column,) = [column for column in report.columns if column.column == "positive"]
    model = load_embedder(video_run["model"], image_tokens=(4, 16), num_frames=4, device="cpu")
    (source,) = load_sources(config.data, seed=0)
    read = [
        int(model.preprocess([cell], prompt=model.prompts["document"], task="document")["attention_mask"].sum())
        for cell in source.dataset["positive"]
    ]
    assert column.tokens.tolist() == read and not column.refused
    assert column.images[1] == ((80, 48, 9),) and column.images[2] == ((64, 48),) and column.images[3] == ()
    assert "positive, video 80x48 of" in report.to_text(longest=4)
    assert describe_media(((3, 2), (5, 4), (7, 6, 9))) == "images 3x2, 5x4, video 7x6 of 9 frames"
    assert media_sizes({"image": None, "text": "a"}) == ()


def test_pages_are_trained_within_a_budget_of_tokens(tiny_mllm):
    model = load_embedder(str(tiny_mllm), image_tokens=(4, 64), device="cpu")
    pages = [Image.new("RGB", (1500, 2000), (60 * i, 0, 0)) for i in range(4)]
    features = [
        model.preprocess([f"page {i}" for i in range(4)]),
        model.preprocess([{"image": page} for page in pages]),
    ]
    assert (
        features[1]["attention_mask"].sum(dim=1).max() < 130 and features[1]["image_grid_thw"].prod(dim=1).min() > 128
    )
    SaHaLoss(model, mini_batch_num_tokens=150)(features, None).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0.1


def test_frames_of_a_labelled_dataset_stay_closed(videos_file, tmp_path):
    frames = [str(file) for file in sorted((videos_file.parent / "1").iterdir())]
    rows = [{"anchor": f"{i}", "positive": {"video": frames[i:]}} for i in range(2)]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (source,) = load_sources(RunConfig.from_dict(_config(tmp_path / "lists.jsonl")).data, seed=0)
    cell = label_pairs(source.dataset)[1]["positive"]
    assert cell["video"] == [{"bytes": None, "path": path} for path in frames[1:]]


def _config(path) -> dict:
    return {"model": "saha-tiny-base", "data": [{"path": str(path)}], "output_dir": "run"}


def test_a_run_on_videos_ends_in_a_model_that_plain_sentence_transformers_loads(video_run):
    model = train(RunConfig.from_dict(video_run), show_progress_bar=False)
    plain = SentenceTransformer(f"{video_run['output_dir']}/final", device="cpu")
    assert plain[0].processor.video_processor.num_frames == 4
    probes = [{"video": pictures(clip(1))}, {"video": clip(2), "text": "a clip"}, "which is 3?"]
    trained = model.encode_query(probes)
    np.testing.assert_allclose(plain.encode_query(probes), trained, atol=1e-5)
    untrained = load_embedder(video_run["model"], image_tokens=(4, 16), num_frames=4, device="cpu")
    assert np.abs(untrained.encode_query(probes) - trained).max() > 1e-3
