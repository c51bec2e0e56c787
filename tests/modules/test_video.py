"""A video in any form is the same input; which frames of it are shown is a setting that travels with the model."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import (
    Gemma4VideoProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMVideoProcessor,
)
from video_clips import FPS, clip, pictures, write_folder, write_video

from saha_st.modules import load_embedder
from saha_st.modules.inputs import canonical_inputs
from saha_st.modules.token_counts import count_tokens
from saha_st.modules.video_files import VideoFile
from saha_st.modules.video_frames import get_num_frames, needs_equal_lengths, set_num_frames, shown_frames
from saha_st.modules.video_tokens import set_video_tokens
from saha_st.modules.videos import frame_files, open_video


def forms(frames, folder) -> dict:
    """One video in all forms."""
    write_folder(folder / "frames", frames)
    write_video(folder / "clip.mp4", frames)
    files = [str(folder / "frames" / f"frame_{number}.png") for number in range(len(frames))]
    return {
        "file": str(folder / "clip.mp4"),
        "file as a path": folder / "clip.mp4",
        "bytes of a file": {"path": None, "bytes": (folder / "clip.mp4").read_bytes()},
        "folder": str(folder / "frames"),
        "pictures": pictures(frames),
        "paths": files,
        "stored images": [{"bytes": None, "path": file} for file in files],
        "array": frames,
        "tensor": torch.from_numpy(frames),
        "channels first": frames.transpose(0, 3, 1, 2),
        "array with metadata": {"array": frames, "video_metadata": {"fps": FPS, "total_num_frames": len(frames)}},
    }


@pytest.fixture
def mixed(tmp_path) -> list:
    """Texts, pictures and videos in all combinations; a video that is shorter than what is shown of one."""
    frames = clip(1)
    folder = write_folder(tmp_path / "mixed", clip(3))
    return [
        "a red circle",
        {"video": frames, "text": "what is it?"},
        pictures(frames)[0],
        {"image": pictures(frames)[1], "text": "beside it"},
        {"video": clip(2, frames=5, size=(96, 64))},
        {"image": pictures(frames)[3], "video": str(folder), "text": "both, and a text of some length"},
        {"video": clip(4, frames=1)},
    ]


def test_a_video_gives_the_same_vector_in_every_form(embedder, tmp_path):
    videos = forms(clip(frames=30), tmp_path)
    vectors = {name: embedder.encode_query([{"video": video}])[0] for name, video in videos.items()}
    for name, vector in vectors.items():
        np.testing.assert_array_equal(vector, vectors["array"], err_msg=name)
    another = embedder.encode_query([{"video": clip(1, frames=30)}])[0]
    assert np.abs(another - vectors["array"]).max() > 1e-2


def test_a_bare_array_and_a_chat_message_are_videos_too(embedder, tmp_path):
    frames = clip()
    expected = embedder.encode_query([{"video": frames, "text": "what?"}])[0]
    for name in ("video", "path"):
        parts = [
            {"type": "video", name: str(write_folder(tmp_path / name, frames))},
            {"type": "text", "text": "what?"},
        ]
        message = [{"role": "user", "content": parts}]
        np.testing.assert_allclose(embedder.encode_query([message])[0], expected, atol=1e-6)
    np.testing.assert_array_equal(embedder.encode_query([frames]), embedder.encode_query([{"video": frames}]))


def test_a_row_has_the_same_vector_alone_and_in_a_mixed_batch(embedder, mixed):
    alone = np.concatenate([embedder.encode_query([row]) for row in mixed])
    np.testing.assert_allclose(embedder.encode_query(mixed), alone, atol=1e-6)
    assert (np.abs(alone[:, None] - alone[None]).max(axis=2) > 1e-3).sum() == len(mixed) * (len(mixed) - 1)


def test_the_prefix_is_shared_with_videos_without_a_difference(embedder, mixed):
    batch = mixed[1:2] + mixed[4:6]
    shared = [embedder.encode_document(batch) for _ in range(2)][1]  # of the first, it is only tried
    assert any(embedder[0]._shared_prefix._agrees.values())
    embedder[0]._may_share_prefix = lambda *args: False
    np.testing.assert_allclose(shared, embedder.encode_document(batch), atol=1e-6)


def test_plain_sentence_transformers_gives_the_same_vectors(embedder, mixed, tmp_path):
    embedder.save_pretrained(str(tmp_path / "model"))
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    frames = clip(frames=30)
    rows = [{"video": pictures(frames)}, {"video": frames, "text": "what?"}, *mixed[:4]]
    np.testing.assert_allclose(plain.encode_query(rows), embedder.encode_query(rows), atol=1e-6)


def test_tokens_are_counted_as_the_processor_writes_them(embedder, mixed):
    rows = canonical_inputs(mixed, supported=embedder[0].modalities)
    written = [embedder[0].preprocess([row])["attention_mask"].sum() for row in mixed]
    frame = written[0] - len(embedder.tokenizer(mixed[0])["input_ids"])
    around = 2  # tokens that open and close a picture or a video
    media = [sum(part in row for part in ("image", "video")) for row in rows]
    expected = [int(total - frame) - around * number for total, number in zip(written, media, strict=True)]
    assert count_tokens(embedder[0], rows).tolist() == expected


def test_a_long_text_is_cut_and_never_a_video(embedder):
    row = {"video": clip(), "text": "two yellow stars, " * 50}
    embedder.max_seq_length = 120
    features = embedder.preprocess([row], task="query", prompt=embedder.prompts["query"])
    video = embedder.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert features["input_ids"].shape[1] == 120 and int((features["input_ids"] == video).sum()) == 48
    assert "Represent the given text/image in one word.<|im_end|>" in embedder.tokenizer.decode(
        features["input_ids"][0]
    )
    embedder.max_seq_length = 80
    with pytest.raises(ValueError, match=r"Input 1 of the batch: .* videos and prompt do not leave room.*num_frames"):
        embedder.preprocess(["a", row], task="query", prompt=embedder.prompts["query"])


# --- how many frames ------------------------------------------------------------------------------------------------


def test_a_plain_model_is_shown_eight_frames_and_a_checkpoint_keeps_its_number(tiny_mllm, tmp_path):
    for asked, got in ((None, 8), (4, 4)):
        model = load_embedder(str(tiny_mllm), num_frames=asked, device="cpu")
        grid = model[0].preprocess([{"video": clip(frames=50)}])["video_grid_thw"]
        assert get_num_frames(model[0].processor) == got and grid[0, 0] == got // 2
        model.save_pretrained(str(tmp_path / str(got)))
        again = load_embedder(str(tmp_path / str(got)), device="cpu")
        assert get_num_frames(again[0].processor) == got
    video = again[0].processor.video_processor
    video.do_sample_frames, video.num_frames = False, None
    again.save_pretrained(str(tmp_path / "all"))
    everything = load_embedder(str(tmp_path / "all"), device="cpu")
    assert everything[0].preprocess([{"video": clip(frames=50)}])["video_grid_thw"][0, 0] == 25


@pytest.mark.parametrize("kind", [Qwen2VLVideoProcessor, Qwen3VLVideoProcessor, SmolVLMVideoProcessor])
def test_the_number_is_spelled_as_each_processor_reads_it(kind):
    processor = SimpleNamespace(video_processor=kind())
    assert get_num_frames(processor) is None
    set_num_frames(processor, 6)
    assert get_num_frames(processor) == 6
    reloaded = SimpleNamespace(video_processor=kind.from_dict(processor.video_processor.to_dict()))
    long = SimpleNamespace(total_frames=600, fps=24.0, height=32, width=32)
    indices = shown_frames(long, reloaded)
    assert len(indices) == 6 and indices == sorted(indices) and max(np.diff(indices)) - min(np.diff(indices)) <= 1
    short = SimpleNamespace(total_frames=3, fps=None, height=32, width=32)
    expected = [0, 0, 1, 1, 2, 2] if needs_equal_lengths(kind()) else [0, 1, 2]
    assert shown_frames(short, reloaded) == expected, "of a short video, every frame equally often"


def test_only_processors_with_an_axis_of_frames_need_equal_lengths():
    kinds = (SmolVLMVideoProcessor, LlavaOnevisionVideoProcessor, InternVLVideoProcessor)
    assert all(needs_equal_lengths(kind()) for kind in kinds)
    kinds = (Qwen2VLVideoProcessor, Qwen3VLVideoProcessor, Gemma4VideoProcessor)
    assert not any(needs_equal_lengths(kind()) for kind in kinds)


@pytest.mark.parametrize("seconds", [1, 5, 60])
def test_smolvlm_is_shown_as_many_frames_of_a_short_film_as_of_a_long_one(seconds):
    processor = SimpleNamespace(video_processor=SmolVLMVideoProcessor())
    set_num_frames(processor, 8)
    film = SimpleNamespace(total_frames=24 * seconds, fps=24.0, height=32, width=32)
    assert shown_frames(film, processor) == np.linspace(0, 24 * seconds - 1, 8).astype(int).tolist()
    without_fps = SimpleNamespace(**vars(film) | {"fps": None})
    assert shown_frames(without_fps, processor) == shown_frames(film, processor)


def test_which_frames_are_shown_can_be_said_in_a_call(embedder):
    frames = clip(frames=50)
    grid = embedder[0].preprocess([{"video": frames}], processing_kwargs={"video": {"num_frames": 16}})[
        "video_grid_thw"
    ]
    assert grid[0, 0] == 8
    chosen = embedder[0].preprocess([{"video": frames[[0, 12, 25, 37]]}])["pixel_values_videos"]
    found = embedder[0].preprocess([{"video": frames}], processing_kwargs={"video": {"num_frames": 4}})
    assert torch.equal(found["pixel_values_videos"], chosen)


@pytest.mark.parametrize("number", [0, 7, -2, 2.0, True])
def test_a_number_of_frames_that_cannot_be_is_refused(embedder, number):
    with pytest.raises(ValueError, match="num_frames must be a positive multiple of 2.*got"):
        set_num_frames(embedder[0].processor, number)


def test_a_processor_that_does_not_obey_keeps_its_settings(embedder):
    class Stubborn(Qwen2VLVideoProcessor):
        def sample_frames(self, metadata, **settings):
            return torch.arange(10)

    processor = SimpleNamespace(video_processor=Stubborn())
    before = processor.video_processor.to_dict()
    with pytest.raises(ValueError, match=r"Stubborn does not obey num_frames=8: of 1000 frames it takes 10"):
        set_num_frames(processor, 8)
    assert processor.video_processor.to_dict() == before
    with pytest.raises(ValueError, match="takes no videos"):
        set_num_frames(SimpleNamespace(), 8)


@pytest.mark.parametrize("kind", [Qwen2VLVideoProcessor, Qwen3VLVideoProcessor])
@pytest.mark.parametrize(("number", "bounds"), [(8, (4, 256)), (8, (64, 1024)), (4, (16, 100)), (2, (4, 16))])
def test_the_tokens_of_a_video_are_bounded_whatever_its_size(kind, number, bounds):
    processor = SimpleNamespace(video_processor=kind(patch_size=8))
    set_num_frames(processor, number)
    set_video_tokens(processor, bounds)
    loaded = kind.from_dict(processor.video_processor.to_dict())
    low, high = bounds
    for size, least in (((640, 480), high // 2), ((512, 64), 1), ((16, 16), min(low, high // 2))):
        grid = loaded([np.zeros((number, size[1], size[0], 3), np.uint8)], do_sample_frames=False)["video_grid_thw"]
        assert least <= int(torch.as_tensor(grid).prod()) // 4 <= high, size


def test_bounds_of_videos_that_cannot_be_are_refused(embedder, tiny_mllm):
    processor = embedder[0].processor
    for bounds, words in (((5, 4), "1 <= min <= max"), ((1, 3), "8 frames take at least 4 tokens"), (3, "got 3")):
        with pytest.raises(ValueError, match=words):
            set_video_tokens(processor, bounds)
    size = processor.video_processor.size
    with pytest.raises(ValueError, match="does not obey video_tokens=.300, 301.: .* leave more room"):
        set_video_tokens(processor, (300, 301))
    assert processor.video_processor.size == size
    processor.video_processor.do_sample_frames = False
    with pytest.raises(ValueError, match="video_tokens is not available for Qwen2VLProcessor: .* Set num_frames"):
        set_video_tokens(processor, (4, 64))
    model = load_embedder(str(tiny_mllm), num_frames=4, video_tokens=(4, 32), device="cpu")
    assert model[0].preprocess([{"video": clip(size=(640, 480))}])["video_grid_thw"].prod() // 4 <= 32


# --- files and folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": 12, "bf": 3}),
        ("b.mp4", "libx264rgb", {}),
        ("c.webm", "libvpx-vp9", {"g": 10}),
        ("d.avi", "mpeg4", {"g": 12}),
        ("e.mkv", "ffv1", {}),
        ("f.ts", "libx264", {"g": 12, "bf": 2}),
        ("g.mpg", "mpeg2video", {"g": 12, "bf": 2}),
    ],
)
def test_frames_that_are_searched_are_those_that_are_met_from_the_beginning(tmp_path, name, codec, options):
    frames = clip(frames=40, size=(96, 64))
    video = VideoFile(write_video(tmp_path / name, frames, codec, **options))
    assert (video.total_frames, video.height, video.width, video.fps) == (40, 64, 96, FPS)
    for wanted in ([0, 13, 26, 39], [39], [5, 4, 4, 6], list(range(40))):
        expected = video._decode_from_start(sorted(set(wanted)))
        np.testing.assert_array_equal(video.read(wanted), np.stack([expected[index] for index in wanted]))
    own = [np.abs(frame.astype(int) - frames).mean(axis=(1, 2, 3)) for frame in video.read(range(40))]
    assert np.argmin(own, axis=1).tolist() == list(range(40)), "each frame is most like the one that was written there"
    if codec in ("libx264rgb", "ffv1"):
        np.testing.assert_array_equal(video.read(range(40)), frames)


def test_only_the_frames_before_a_wanted_one_are_decoded(tmp_path, monkeypatch):
    import saha_st.modules.video_files as module

    video, decoded = VideoFile(write_video(tmp_path / "clip.mp4", clip(frames=100))), []
    real = module._Opened.__enter__

    def counting(self):
        container, stream = real(self)
        return _Counting(container, decoded), stream

    monkeypatch.setattr(module._Opened, "__enter__", counting)
    video.read([0, 52, 96])
    assert len(decoded) < 15, "a key frame every five frames"


class _Counting:
    """A container that notes what is decoded."""

    def __init__(self, container, decoded) -> None:
        self.container, self.decoded = container, decoded
        self.seek = container.seek

    def decode(self, stream):
        for frame in self.container.decode(stream):
            self.decoded.append(frame.pts)
            yield frame


def test_a_film_that_was_turned_is_shown_as_a_player_shows_it(tmp_path):
    frames = clip(size=(64, 48))
    file = write_video(tmp_path / "clip.mp4", frames)
    upright, turned = (np.array(m, dtype=">i4").tobytes() for m in ([65536, 0, 0, 0, 65536], [0, 65536, 0, -65536, 0]))
    content = file.read_bytes()
    track = content.index(b"tkhd")
    at = content.index(upright, track)
    file.write_bytes(content[:at] + turned + content[at + len(turned) :])
    video = VideoFile(file)
    assert (video.height, video.width) == (64, 48)
    np.testing.assert_array_equal(video.read([7])[0], np.rot90(frames[7], k=-1))


def test_a_recording_that_begins_between_key_frames_begins_at_the_first(tmp_path):
    av = pytest.importorskip("av")
    frames = clip(3, 24)
    write_video(tmp_path / "whole.ts", frames, "libx264", g=8, bf=0, crf=10, sc_threshold=0)
    with av.open(str(tmp_path / "whole.ts")) as source, av.open(str(tmp_path / "cut.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number >= 3:
                packet.stream = stream
                target.mux(packet)
    found = open_video(str(tmp_path / "cut.ts"))
    assert found.total_frames == 16
    expected = open_video(str(tmp_path / "whole.ts")).read(range(8, 24))
    np.testing.assert_array_equal(found.read(range(16)), expected)


def test_frames_of_a_folder_come_in_natural_order(tmp_path):
    for name in ("frame_10.png", "frame_2.PNG", "frame_1.jpg", ".hidden.png", "notes.txt", "frame_02b.png"):
        (tmp_path / name).touch()
    names = [file.rsplit("/", 1)[-1] for file in frame_files(tmp_path)]
    assert names == ["frame_1.jpg", "frame_2.PNG", "frame_02b.png", "frame_10.png"]


def test_what_is_no_video_is_named_with_the_way_out(embedder, tmp_path):
    frames = clip()
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "cut.mp4").write_bytes(write_video(tmp_path / "w.mp4", frames).read_bytes()[:3000])
    pictures(frames)[0].save(tmp_path / "0.png")
    for video, words in (
        ("gone.mp4", "the video file 'gone.mp4' does not exist"),
        (str(tmp_path / "empty"), "has no frames in it .*png, .jpg"),
        ([], "the video has no frames"),
        (["gone.png"], "the image file 'gone.png' does not exist"),
        ([str(tmp_path / "0.png"), "gone.png"], "frame 1 of the video: the image file 'gone.png' does not exist"),
        ([*pictures(frames[:2]), Image.new("RGB", (10, 10))], "frame 2 of the video .* the first one is 64x48 pixels"),
        (str(tmp_path / "text.mp4"), "text.mp4' cannot be read"),
        (str(tmp_path / "cut.mp4"), "cut.mp4' cannot be read"),
        ("https://example.org/clip.mp4", "nothing is fetched unasked. Download it"),
        (frames / 255.0, "the video is an array of float64. Convert it to uint8"),
        (list(frames / 255.0), "frame 0 of the video is an array of float64. Convert it to uint8"),
        (frames[0], "shape .frames, height, width, 3.; received .48, 64, 3"),
        (np.zeros((4, 8, 2000, 3), np.uint8), "the video is 2000x8 pixels"),
        (3, "received int"),
        (["https://example.org/0.png"], "frames behind URLs are not fetched"),
    ):
        with pytest.raises(ValueError, match=f"Input 1 of the batch: .*{words}"):
            embedder.preprocess(["a", {"video": video}])


def test_a_file_without_pyav_tells_what_to_install(embedder, tmp_path, monkeypatch):
    file = write_video(tmp_path / "clip.mp4", clip())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "saha-st\[video\]"'):
        embedder.encode([{"video": str(file)}])
    assert open_video(str(write_folder(tmp_path / "frames", clip()))).total_frames == 20


def test_a_text_that_looks_like_a_video_is_said_to_be_a_text(embedder, caplog, monkeypatch):
    from saha_st.modules import inputs

    monkeypatch.setattr(inputs, "_warned", set())
    address = "https://example.org/clip.mp4"
    np.testing.assert_array_equal(embedder.encode([address]), embedder.encode([{"text": address}]))
    assert 'pass {"video": ...}' in caplog.text
