"""Moving shapes: what moves is told by the order of frames alone, and no caption fits two videos."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from saha_st.data.scenes.language import noun
from saha_st.data.scenes.moving import (
    MAX_HELD_OUT,
    MOTIONS,
    NUM_FRAMES,
    MovingScene,
    held_out_scenes,
    sample_moving,
)
from saha_st.data.scenes.scene import Item

OPPOSITES = [("moves to the left", "moves to the right"), ("moves up", "moves down"), ("grows", "shrinks")]
SCENES = [
    MovingScene(Item("red", "circle"), "sand", "stands still"),
    MovingScene(Item("blue", "star"), "paper", "stands still", Item("black", "ring")),
]


def pixels(scene: MovingScene, seed: int = 0) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in scene.draw(seed)]).astype(int)


def centre_and_area(frame: np.ndarray, ground: np.ndarray) -> tuple[float, float, int]:
    y, x = np.nonzero(np.abs(frame - ground).sum(axis=2) > 60)
    return x.mean(), y.mean(), len(x)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("pair", OPPOSITES)
def test_opposite_motions_have_the_same_frames_in_the_opposite_order(scene, pair):
    there, back = (pixels(replace(scene, motion=motion)) for motion in pair)
    assert there.shape == (NUM_FRAMES, 64, 64, 3)
    np.testing.assert_array_equal(there, back[::-1])
    assert all((frame != other).any() for frame, other in zip(there, there[1:], strict=False))
    middle, other = there[NUM_FRAMES // 2], back[NUM_FRAMES // 2]
    assert np.abs(middle - other).mean() < np.abs(there[0] - there[-1]).mean() / 2


def test_the_shape_does_what_the_motion_says():
    (scene, _), found = SCENES, {}
    for motion in MOTIONS:
        frames = pixels(replace(scene, place="paper", motion=motion))
        ground = np.median(frames[0].reshape(-1, 3), axis=0)
        first, last = (centre_and_area(frames[index], ground) for index in (0, -1))
        found[motion] = np.subtract(last, first)
    assert found["moves to the right"][0] > 20 and found["moves to the left"][0] < -20
    assert found["moves down"][1] > 20 and found["moves up"][1] < -20
    assert found["grows"][2] > 200 and found["shrinks"][2] < -200
    assert not found["stands still"].any()
    assert all(abs(found[motion][:2]).max() < 1 for motion in ("grows", "shrinks"))


def test_the_same_seed_gives_the_same_pixels_and_another_one_others():
    for scene in SCENES:
        moving = replace(scene, motion="grows")
        np.testing.assert_array_equal(pixels(moving, 1), pixels(moving, 1))
        assert (pixels(moving, 1) != pixels(moving, 2)).any()


def test_no_caption_of_the_evaluation_side_is_true_of_two_of_its_videos():
    scenes = held_out_scenes(Random(0), MAX_HELD_OUT)
    shown = [(scene.item, scene.place, scene.motion) for scene in scenes]
    assert len(set(shown)) == len(scenes) == MAX_HELD_OUT > 100
    moving = {(scene.item, scene.place) for scene in scenes}
    beside = [(scene.other, scene.place) for scene in scenes if scene.other is not None]
    assert len(beside) > 50 and not moving & set(beside)


def test_looks_of_the_evaluation_side_do_not_occur_in_training():
    held_out = {(scene.item, scene.place) for scene in held_out_scenes(Random(0), MAX_HELD_OUT)}
    scenes = [sample_moving(Random(number)) for number in range(500)]
    seen = {(item, scene.place) for scene in scenes for item in (scene.item, scene.other) if item is not None}
    assert len(seen) > 100 and not seen & held_out
    assert {scene.motion for scene in scenes} == set(MOTIONS)


def test_few_scenes_have_all_motions_of_a_look():
    scenes = held_out_scenes(Random(3), 14)
    assert {scene.motion for scene in scenes[:14]} == set(MOTIONS)
    assert len({(scene.item, scene.place) for scene in scenes}) == 2


def test_captions_name_the_shape_and_vary():
    (_, scene), rng = SCENES, Random(0)
    captions = {scene.caption(rng) for _ in range(40)}
    assert len(captions) > 10 and all(noun(scene.item) in caption for caption in captions)
    assert scene.concept == replace(scene, item=scene.other, other=scene.item).concept
    assert scene.concept != replace(scene, motion="grows").concept
