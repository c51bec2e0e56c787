"""Videos on the families that read them: one vector alone, in any batch, in plain Sentence Transformers; gradients."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from chat_templates import SMOLVLM
from PIL import Image
from sentence_transformers import SentenceTransformer
from video_clips import FPS, clip, pictures, write_folder, write_video

from saha_st.losses import SaHaLoss
from saha_st.modules import load_embedder
from saha_st.modules.families import FAMILIES
from saha_st.modules.inputs import canonical_inputs
from saha_st.modules.token_counts import count_tokens
from saha_st.modules.video_frames import get_num_frames, set_num_frames
from saha_st.modules.video_templates import with_place_for_videos
from saha_st.prompts import QUERY_SUFFIX, SYSTEM, HierarchicalPrompt
from saha_st.training.adapters import add_adapter
from saha_st.training.config import AdapterConfig

READS_VIDEOS = [model_type for family in FAMILIES if family.videos for model_type in family.model_types]
NO_VIDEOS = ["idefics3", "llava_next", "gemma3", "qwen2"]
COUNTED = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen4_exp", "llava_onevision"]  # by the processor itself
SLOW = ("qwen4_exp",)
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in READS_VIDEOS]
)


def mixed(folder) -> list:
    frames = clip(1, 30)
    return [
        "a red circle",
        {"video": pictures(frames), "text": "what is it?"},
        {"image": pictures(frames)[1], "text": "beside it"},
        {"video": clip(2, 5, size=(96, 64))},
        {"image": pictures(frames)[3], "video": str(write_video(folder / "clip.mp4", frames)), "text": "both"},
    ]


def timed(frames: np.ndarray) -> dict:
    """A video in memory that says how fast it is, which SmolVLM's processor wants to know."""
    metadata = {"total_num_frames": len(frames), "fps": FPS, "duration": len(frames) / FPS}
    return {"video": {"array": frames, "video_metadata": metadata}}


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
def test_a_video_is_the_same_in_every_form_and_a_short_one_is_too(backbone, tmp_path):
    for number, frames in enumerate((30, 5)):
        made = clip(number, frames)
        file = str(write_video(tmp_path / f"{number}.mp4", made))
        timed = {"array": pictures(made), "video_metadata": {"fps": FPS}}
        vectors = backbone.encode_document([{"video": video} for video in (file, timed, {**timed, "array": made})])
        np.testing.assert_allclose(vectors[1:], vectors[:1].repeat(2, axis=0), atol=1e-6)
        untimed = backbone.encode_document([{"video": made}, {"video": pictures(made)}])
        np.testing.assert_allclose(untimed[0], untimed[1], atol=1e-6)


@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm"])
def test_chat_messages_keep_their_pictures_and_videos_beside_other_inputs(backbone):
    picture, frames = pictures(clip(2))[0], clip(1, 30)
    parts = [
        {"type": "image", "image": picture},
        {"type": "video", "video": frames},
        {"type": "text", "text": "what?"},
    ]
    message = [{"role": "user", "content": parts}]
    two_videos = [{"role": "user", "content": [*parts[1:], {"type": "video", "video": clip(3, 30)}]}]
    rows = ["a text", message, picture, {"video": frames}, two_videos]
    alone = np.concatenate([backbone.encode_query([row]) for row in rows])
    np.testing.assert_allclose(backbone.encode_query(rows), alone, atol=1e-5)
    cell = backbone.encode_query([{"image": picture, "video": frames, "text": "what?"}])
    np.testing.assert_allclose(cell[0], alone[1], atol=1e-5)
    assert backbone.preprocess(rows)["num_videos_per_sample"].tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm"])
def test_pairs_keep_their_roles_beside_messages_and_videos(backbone):
    picture, message = pictures(clip(2))[0], [{"role": "user", "content": [{"type": "text", "text": "what?"}]}]
    pairs = [("one text", "another"), ("one text", picture), (picture, "another")]
    for others in ([message], [{"video": clip(1, 30)}], [message, {"video": clip(1, 30)}, "a text"], []):
        rows = [*pairs, *others]
        alone = np.concatenate([backbone.encode([row]) for row in rows])
        np.testing.assert_allclose(backbone.encode(rows), alone, atol=1e-5)
        for pair in pairs:
            two = backbone.encode([pair, *others])
            np.testing.assert_allclose(two, alone[[rows.index(pair), *range(len(pairs), len(rows))]], atol=1e-5)
    with pytest.raises(ValueError, match="Unsupported input type: int"):
        backbone.encode([3, message])


@pytest.mark.parametrize("name", ["smolvlm"])
def test_only_plain_sentence_transformers_shows_each_frame_of_a_short_video_once(backbone, tmp_path):
    """What the README says of it; here all videos of a batch need equally many."""
    backbone.save_pretrained(str(tmp_path / "model"))
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    frames = [model.preprocess([timed(clip(1, 5))])["pixel_values"].shape[1] for model in (plain, backbone)]
    assert frames == [5, 8]


@pytest.mark.parametrize("name", ["smolvlm"])
def test_pictures_and_videos_fill_the_places_of_a_row_as_they_come(backbone):
    """Every kind is of one colour, so that each place says which it is."""
    grey = {name: np.full((30, 48, 64, 3), value, np.uint8) for value, name in ((60, "V"), (120, "I"), (240, "W"))}
    parts = {name: {"type": "video", "video": frames} for name, frames in grey.items()}
    parts["I"] = {"type": "image", "image": pictures(grey["I"])[0]}
    parts["J"] = {"type": "image", "image": Image.new("RGB", (128, 32), (200,) * 3)}
    values = {"V": 60, "I": 120, "J": 200, "W": 240}
    tiles = {name: backbone.preprocess([parts[name]["image"]])["pixel_values"].shape[1] for name in "IJ"}
    sizes = {"V": 8, "W": 8, **tiles}
    assert len({*sizes.values()}) == 3 and sizes["J"] > 1
    orders = ["VI", "IV", "JVI", "IVJ", "VIWJ", "JJVW", "WV", "I"]
    text = {"type": "text", "text": "what?"}
    rows = [[{"role": "user", "content": [*(parts[name] for name in order), text]}] for order in orders]
    pixels = backbone.preprocess(rows)["pixel_values"]
    for order, row in zip(orders, pixels, strict=True):
        expected = [values[name] for name in order for _ in range(sizes[name])]
        found = (row.amax(dim=(1, 2, 3)) * 127.5 + 127.5).round().int().tolist()
        assert found[: len(expected)] == expected, order
        assert not row[len(expected) :].any()
    alone = np.concatenate([backbone.encode_query([row]) for row in rows])
    np.testing.assert_allclose(backbone.encode_query(rows), alone, atol=1e-5)


@pytest.mark.parametrize("name", ["smolvlm"])
def test_the_number_of_frames_said_in_a_call_wins(backbone):
    options = {"video": {"num_frames": 4}}
    assert backbone[0].preprocess([{"video": clip(1, 30)}], processing_kwargs=options)["pixel_values"].shape[1] == 4


@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm", "internvl"])
def test_frames_that_are_said_beside_the_chat_template_win(backbone, tmp_path):
    """As in plain Sentence Transformers, which hands that part to the processor past its video settings."""
    rows = [{"image": pictures(clip())[0]}, timed(clip(1, 210)), "a text"]
    as_it_is = np.concatenate([backbone.encode_query([row]) for row in rows])
    beside = {**backbone[0].processing_kwargs["chat_template"], "num_frames": 4}
    backbone[0].processing_kwargs = {**backbone[0].processing_kwargs, "chat_template": beside}
    backbone.save_pretrained(str(tmp_path / "model"))
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    alone = np.concatenate([backbone.encode_query([row]) for row in rows])
    np.testing.assert_allclose(np.concatenate([plain.encode_query([row]) for row in rows]), alone, atol=1e-5)
    np.testing.assert_allclose(backbone.encode_query(rows), alone, atol=1e-5)
    np.testing.assert_allclose(alone[[0, 2]], as_it_is[[0, 2]], atol=1e-6)
    set_num_frames(backbone[0].processor, 4)
    backbone[0].processing_kwargs = {"chat_template": {"add_generation_prompt": True}}
    np.testing.assert_allclose(backbone.encode_query(rows), alone, atol=1e-5)
    assert np.abs(alone[1] - as_it_is[1]).max() > 1e-3
    asked = load_embedder(str(tmp_path / "model"), num_frames=8, device="cpu")
    np.testing.assert_allclose(asked.encode_query(rows), as_it_is, atol=1e-5)


@pytest.mark.parametrize("name", ["smolvlm"])
def test_frames_that_are_said_in_a_call_leave_rows_without_videos_alone(backbone):
    rows = [{"image": pictures(clip())[0]}, "a text"]
    found = backbone[0].preprocess(rows, processing_kwargs={"video": {"num_frames": 4}})
    torch.testing.assert_close(found["pixel_values"], backbone[0].preprocess(rows)["pixel_values"])


@each
def test_how_fast_a_video_is_matters_only_to_families_that_are_told_the_time(backbone, name):
    made = clip(1, 60)
    slow, fast = ({"array": made, "video_metadata": {"fps": fps}} for fps in (4, 30))
    vectors = backbone.encode_document([{"video": video} for video in (slow, fast, made)])
    distances = [np.abs(vectors[one] - vectors[other]).max() for one, other in ((0, 1), (0, 2))]
    is_told = name not in ("qwen2_vl", "llava_onevision", "internvl")
    assert all((distance > 1e-4) == is_told for distance in distances), distances


@each
def test_both_levels_of_the_prompt_stand_around_a_video(backbone):
    rows = [{"video": clip(1, 30), "text": "red stars"}, {"image": pictures(clip())[0], "text": "red stars"}]
    decoded = [backbone.tokenizer.decode(backbone.preprocess([row], task="query")["input_ids"][0]) for row in rows]
    assert all(SYSTEM.strip() in text for text in decoded)
    assert decoded[0].split("red stars")[1] == decoded[1].split("red stars")[1] != ""
    assert QUERY_SUFFIX["image"].strip() in decoded[0]


@each
def test_plain_sentence_transformers_shows_it_the_same_frames(backbone, tmp_path):
    backbone.save_pretrained(str(tmp_path / "model"))
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    rows = [timed(clip(1, 30)), {**timed(clip(2, 210)), "text": "what?"}, "a text"]
    for encode in ("encode_query", "encode_document"):
        expected = getattr(backbone, encode)(rows)
        np.testing.assert_allclose(getattr(plain, encode)(rows), expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


@each
def test_the_count_of_tokens_is_near_what_is_written(backbone, name, tmp_path):
    rows = canonical_inputs(mixed(tmp_path), supported=backbone[0].modalities)
    counts = count_tokens(backbone[0], rows)
    written = np.array([int(backbone[0].preprocess([row])["attention_mask"].sum()) for row in rows])
    around = written - counts - (written[0] - counts[0])  # what is written between frames is estimated
    if name in COUNTED:
        assert (np.abs(around) <= 16).all(), (written, counts)
    of_videos = [1, 3, 4]  # a picture of SmolVLM is counted by nobody
    assert (np.abs(around) <= 0.5 * written)[of_videos].all(), (written, counts)


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


@each
def test_two_steps_of_an_adapter_bring_a_text_and_its_video_together(backbone):
    torch.manual_seed(0)
    add_adapter(backbone, AdapterConfig(r=4, lora_dropout=0.0))
    backbone.train()
    anchors = ["a red circle", "two yellow stars", "a dog"]
    videos = [{"video": clip(seed, frames)} for seed, frames in ((1, 30), (2, 12), (3, 5))]
    columns = [backbone.preprocess(anchors, task="query"), backbone.preprocess(videos, task="document")]
    loss = SaHaLoss(backbone, mini_batch_size=2)
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1e-4)
    values = []
    for _ in range(3):
        optimizer.zero_grad()
        value = loss([dict(column) for column in columns], None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)  # random weights have steep slopes
        optimizer.step()
        values.append(value.item())
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("name", ["smolvlm", "llava_onevision", "internvl"])
def test_videos_of_unequal_lengths_are_refused_where_they_would_need_one(backbone, name):
    backbone[0].processor.video_processor.do_sample_frames = False
    rows = [{"video": clip(1, 4)}, {"video": clip(2, 6)}]
    with pytest.raises(ValueError, match=r"only videos of equally many frames in one batch; these have 4, 6\. Load"):
        backbone.encode_query(rows)
    assert len(backbone.encode_query(rows[:1])) == 1


@pytest.mark.parametrize("name", ["internvl"])
def test_a_chat_template_without_a_place_for_videos_is_refused_before_they_are_decoded(backbone, name, monkeypatch):
    from saha_st.modules.videos import FrameArray

    monkeypatch.setattr(FrameArray, "read", lambda *args: pytest.fail("decoded"))
    template = backbone[0].chat_template.replace("part['type'] == 'video'", "part['type'] == 'film'")
    assert template != backbone[0].chat_template
    backbone[0].processor.chat_template = template
    with pytest.raises(ValueError, match="renders no place for a video: .*Add '<video>' to processor.chat_template"):
        backbone.encode_query([{"video": clip()}])


@pytest.mark.parametrize("name", ["smolvlm"])
def test_where_the_own_template_has_no_place_for_videos_only_they_get_that_of_transformers(backbone):
    processor = backbone[0].processor
    own = SMOLVLM.replace("Assistant:", "Robot:")
    text, picture, video = {"type": "text", "text": "what?"}, {"type": "image"}, {"type": "video"}
    rows = [[{"role": "user", "content": parts}] for parts in ([text], [picture, text], [video, text], [video])]
    expected = [processor.apply_chat_template(row, chat_template=own, add_generation_prompt=True) for row in rows[:2]]
    expected += [processor.apply_chat_template(row, add_generation_prompt=True) for row in rows[2:]]
    template = with_place_for_videos(own, processor)
    found = processor.apply_chat_template(rows, chat_template=template, add_generation_prompt=True)
    assert found == expected and "<video>" in found[3] and "Robot:" in found[1]
    assert with_place_for_videos(template, processor) == template
    prompt = HierarchicalPrompt(system="be short")
    assert with_place_for_videos(prompt.compile(own), processor) == prompt.compile(template)


@pytest.mark.parametrize("name", ["smolvlm"])
def test_videos_follow_the_chat_template_when_it_changes(backbone, tmp_path):
    rows = ["a text", {"image": pictures(clip())[0]}, {**timed(clip(1, 30)), "text": "what?"}]
    backbone[0].processor.chat_template = backbone[0].chat_template.replace("Assistant:", "Robot:")
    for index, row in enumerate(rows):
        ids = backbone.preprocess([row])["input_ids"][0]
        assert backbone.tokenizer.decode(ids).endswith("Robot:"), index
    backbone.save_pretrained(str(tmp_path / "model"))
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    again = load_embedder(str(tmp_path / "model"), device="cpu")
    again[0].processor.chat_template = again[0].chat_template.replace("Robot:", "Assistant:")
    expected = [backbone.encode_query([row]) for row in rows]
    np.testing.assert_allclose(
        np.concatenate([plain.encode_query([row]) for row in rows]), np.concatenate(expected), atol=1e-5
    )
    for row in rows:
        ids = again.preprocess([row])["input_ids"][0]
        assert again.tokenizer.decode(ids).endswith("Assistant:")


@pytest.mark.parametrize("name", ["smolvlm"])
def test_a_checkpoint_without_the_copy_of_its_template_gets_one(backbone, tmp_path):
    backbone.save_pretrained(str(tmp_path / "model"))
    config = tmp_path / "model" / "sentence_bert_config.json"
    saved = json.loads(config.read_text())
    assert saved["processing_kwargs"]["chat_template"].pop("chat_template") == backbone[0].chat_template
    config.write_text(json.dumps(saved))
    row = {**timed(clip(1, 30)), "text": "what?"}
    expected = backbone.encode_query([row])
    without = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode_query([row])
    assert np.abs(without - expected).max() > 1e-3, "or the copy is not needed any more"
    model = load_embedder(str(tmp_path / "model"), device="cpu")
    model.save_pretrained(str(tmp_path / "again"))
    for found in (model, SentenceTransformer(str(tmp_path / "again"), device="cpu")):
        np.testing.assert_allclose(found.encode_query([row]), expected, atol=1e-5)


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_a_family_without_videos_refuses_them(backbone, name):
    for rows in ([{"video": clip(), "text": "what?"}], ["a text", {"video": clip()}]):
        with pytest.raises(ValueError, match="'(text\\+)?video'.*(Supported modalities|takes only)"):
            backbone.encode_query(rows)
    with pytest.raises(ValueError, match="takes no videos"):
        set_num_frames(backbone[0].processor, 8)
