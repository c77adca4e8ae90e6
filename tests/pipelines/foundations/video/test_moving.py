"""Ways and drawing against closed forms."""

import numpy as np
import pytest

from pipelines.foundations.video.captions import words
from pipelines.foundations.video.made import Form
from pipelines.foundations.video.moving import DIRECTIONS, caption, drawn, paths, room

FORM = Form(frames=5, height=14, width=16)
SIDE = 6


def ways(direction: str, speed: float, bounce: bool, frames: int = 5) -> np.ndarray:
    draws = np.random.default_rng(0).random((200, 2))
    step = np.tile(np.array(DIRECTIONS[direction][0]) * speed, (200, 1))
    return paths(step, draws, room(SIDE, FORM), frames, bounce)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_a_way_is_straight_even_and_never_leaves_the_frame(direction: str, speed: float) -> None:
    places = ways(direction, speed, bounce=False)
    step = np.array(DIRECTIONS[direction][0]) * speed
    np.testing.assert_allclose(np.diff(places, axis=1), np.broadcast_to(step, (200, 4, 2)))
    assert places.min() >= 0 and (places.max((0, 1)) <= room(SIDE, FORM)).all()


def test_every_starting_place_that_leaves_the_way_free_occurs_and_no_other() -> None:
    places = ways("left", 1.0, bounce=False)
    assert set(places[:, 0, 1]) == {4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0}
    assert set(places[:, 0, 0]) == set(map(float, range(9)))


def test_opposite_ways_are_mirrored() -> None:
    for one, other in (("right", "left"), ("down-right", "up-left"), ("up-right", "down-left")):
        there, back = ways(one, 0.5, bounce=False), ways(other, 0.5, bounce=False)
        for axis in np.flatnonzero(DIRECTIONS[one][0]):
            np.testing.assert_allclose(there[..., axis] + back[..., axis], room(SIDE, FORM)[axis])


def test_walls_turn_a_way_back() -> None:
    places = ways("down-right", 2.0, bounce=True, frames=60)
    assert places.min() >= 0 and (places.max((0, 1)) <= room(SIDE, FORM)).all()
    step = np.diff(places, axis=1)
    assert (step[:, 0] == 2).all()  # the caption tells how the clip begins
    assert (step < 0).any() and np.abs(step).max() == 2
    np.testing.assert_array_equal(places[:, 0, 0], places[:, 8, 0])  # 2 · 8 px at 2 px a frame


def test_a_whole_step_shifts_the_raster() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(3, 20, 20)).astype(float)
    places = np.zeros((3, 5, 2))
    places[..., 0], places[..., 1] = 2, np.arange(5)
    clips = drawn(images, places, SIDE, FORM)
    assert clips.shape == (3, 5, 14, 16, 1) and clips.dtype == np.uint8
    for frame in range(5):
        np.testing.assert_array_equal(clips[:, frame, :, frame:], clips[:, 0, :, : 16 - frame])
    outside = np.ones((14, 16), dtype=bool)
    outside[2:8, :6] = False
    assert (clips[:, 0, outside] == 0).all() and clips[:, 0, 2:8, :6].any()


def test_light_is_kept_wherever_the_digit_is() -> None:
    images = np.full((1, 20, 20), 200.0)
    places = np.array([[[0.0, 0.0], [2.25, 3.5], [8.0, 10.0]]])
    clips = drawn(images, places, SIDE, FORM)[0, ..., 0].astype(float)
    np.testing.assert_allclose(clips.sum((1, 2)), 200 * SIDE**2, rtol=0.01)
    assert clips[0, :6, :6].tolist() == [[200.0] * 6] * 6
    assert clips[1, 2, 3] == 75  # 200 × 0.75 × 0.5
    assert clips[2, 13, 15] == 200


def test_captions_differ_and_read_well() -> None:
    said = {caption(digit, way) for digit in range(10) for way in DIRECTIONS}
    assert len(said) == 80
    assert caption(3, "up-left") == "a 3 moving up and to the left"
    assert caption(8, "down") == "an 8 moving down"
    assert max(len(words(each)) for each in said) == 8
