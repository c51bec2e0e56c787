"""Videos on the families that read them: one vector alone, in any batch, in plain Sentence Transformers; gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from video_clips import clip, pictures, write_folder, write_video

from saha_st.losses import SaHaLoss
from saha_st.modules.families import FAMILIES
from saha_st.modules.inputs import canonical_inputs
from saha_st.modules.token_counts import count_tokens
from saha_st.modules.video_frames import get_num_frames

READS_VIDEOS = [model_type for family in FAMILIES if family.videos for model_type in family.model_types]
each = pytest.mark.parametrize("name", READS_VIDEOS)


def mixed(folder) -> list:
    frames = clip(1, 30)
    return [
        "a red circle",
        {"video": pictures(frames), "text": "what is it?"},
        {"image": pictures(frames)[1], "text": "beside it"},
        {"video": clip(2, 5, size=(96, 64))},
        {"image": pictures(frames)[3], "video": str(write_video(folder / "clip.mp4", frames)), "text": "both"},
    ]


@each
def test_a_row_with_a_video_has_one_vector_wherever_it_is(backbone, tmp_path):
    rows = mixed(tmp_path)
    assert get_num_frames(backbone[0].processor) == 8
    alone = np.concatenate([backbone.encode_query([row]) for row in rows])
    np.testing.assert_allclose(backbone.encode_query(rows), alone, atol=1e-5)
    assert (np.abs(alone[:, None] - alone[None]).max(axis=2) > 1e-3).sum() == len(rows) * (len(rows) - 1)
    folder = {"video": str(write_folder(tmp_path / "frames", clip(1, 30))), "text": "what is it?"}
    np.testing.assert_allclose(backbone.encode_query([folder])[0], alone[1], atol=1e-6)


@each
def test_plain_sentence_transformers_shows_it_the_same_frames(backbone, tmp_path):
    backbone.save_pretrained(str(tmp_path / "model"))
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    rows = [{"video": clip(1, 30)}, {"video": pictures(clip(2, 21)), "text": "what?"}, "a text"]
    np.testing.assert_allclose(plain.encode_query(rows), backbone.encode_query(rows), atol=1e-6)


@each
def test_the_count_of_tokens_is_near_what_is_written(backbone, tmp_path):
    rows = canonical_inputs(mixed(tmp_path), supported=backbone[0].modalities)
    counts = count_tokens(backbone[0], rows)
    written = np.array([int(backbone[0].preprocess([row])["attention_mask"].sum()) for row in rows])
    around = written - counts  # the prompt; times between frames are estimated
    assert (np.abs(around - around[0]) <= 16).all(), (written, counts)


@each
def test_gradients_of_mini_batches_are_those_of_the_batch(backbone, tmp_path):
    rows = mixed(tmp_path)
    features = [backbone.preprocess(rows[:4]), backbone.preprocess(rows[1:])]

    def gradients(size: int) -> dict[str, torch.Tensor]:
        backbone.zero_grad()
        SaHaLoss(backbone, mini_batch_size=size)([copy.copy(column) for column in features], None).backward()
        return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}

    whole, cut = gradients(4), gradients(1)
    assert whole.keys() == cut.keys() and sum(gradient.abs().sum() for gradient in whole.values()) > 0.1
    for name, gradient in whole.items():
        scale = max(gradient.abs().max().item(), 1.0)
        torch.testing.assert_close(cut[name], gradient, atol=1e-4 * scale, rtol=1e-2, msg=lambda m, n=name: n + m)
