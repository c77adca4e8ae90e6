import numpy as np
import pytest

from pipelines.foundations.video.strips import BUDGET, strip, strips, thinned
from stages.core.pictures import LARGEST, LIGHT, render


def test_frames_stand_side_by_side_between_clear_seams() -> None:
    clip = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1)
    image = strip(clip)
    assert image.shape == (2, 8, 4)
    assert image[..., 3].tolist() == [[255, 255, 0, 255, 255, 0, 255, 255]] * 2
    np.testing.assert_array_equal(image[:, 3:5, 0], clip[1, ..., 0])
    assert (image[..., 0] == image[..., 2]).all()


def test_colours_are_kept() -> None:
    clip = np.random.default_rng(0).integers(0, 256, size=(2, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(strip(clip)[:, 5:, :3], clip[1])


def test_strips_stand_under_their_titles_within_the_picture() -> None:
    clips = np.zeros((3, 2, 4, 6, 1), dtype=np.uint8)
    draw = strips(clips, ["one", "two", "three"], columns=2)
    (axes,) = draw(LIGHT).axes
    (right, low) = axes.get_xlim()[1], axes.get_ylim()[0]
    boxes = [image.get_extent() for image in axes.images]
    assert len(boxes) == 3 and boxes[2][0] == boxes[0][0] < boxes[1][0]
    for (first, last, bottom, top), text in zip(boxes, axes.texts, strict=True):
        assert 0 <= first < last <= right and 0 < top < bottom <= low
        # Pixels are square: 13 × 4 with the seam.
        assert (last - first) / (bottom - top) == pytest.approx(13 / 4)
        x, y = text.get_position()
        assert x == first and top - 0.26 < y < top
    assert render(draw, LIGHT) == render(draw, LIGHT)


def test_small_clips_are_drawn_as_they_are() -> None:
    clips = np.zeros((16, 8, 16, 16, 1), dtype=np.uint8)
    assert thinned(clips) is clips


def test_of_long_clips_eight_frames_are_drawn_with_both_ends() -> None:
    clips = np.arange(50, dtype=np.uint8)[None, :, None, None, None] * np.ones((1, 1, 4, 4, 1))
    shown = thinned(clips.astype(np.uint8))[0, :, 0, 0, 0]
    assert shown.tolist() == [0, 7, 14, 21, 28, 35, 42, 49]


def test_even_noise_fits_into_a_picture() -> None:
    shape = (4, 8, 96, 80, 3)
    clips = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    small = thinned(clips)
    assert 0.95 * BUDGET < small.size <= BUDGET
    assert len(render(strips(clips, list("abcd"), columns=2), LIGHT)) < LARGEST
