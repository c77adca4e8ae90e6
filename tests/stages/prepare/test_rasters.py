"""Area resampling against sums by hand and a fine grid."""

import numpy as np
import pytest

from stages.prepare.rasters import fit, overlap, scaled, to_bytes


def test_overlap_by_hand() -> None:
    """Two cells of 1.5 pixels, from 0.25 on: they cover [0.25, 1.75) and [1.75, 3.25)."""
    found = overlap(np.array(0.25), 1.5, 2, 4)
    np.testing.assert_allclose(found, [[0.75, 0], [0.75, 0.25], [0, 1], [0, 0.25]])


@pytest.mark.parametrize("low", [-3.3, 0.0, 1.7, 9.0])
def test_overlap_is_the_share_of_a_fine_grid(low: float) -> None:
    cells, width, pixels, fine = 7, 0.6, 6, 60000
    found = overlap(np.array(low), width, cells, pixels)
    at = (np.arange(fine) + 0.5) / fine * pixels
    for cell in range(cells):
        inside = (at >= low + cell * width) & (at < low + (cell + 1) * width)
        shares = inside.reshape(pixels, -1).mean(1)
        np.testing.assert_allclose(found[:, cell], shares, atol=2 * pixels / fine)


def test_overlap_takes_many_places_at_once() -> None:
    lows = np.array([[0.0, 0.5], [1.0, -2.0]])
    found = overlap(lows, 0.7, 3, 5)
    assert found.shape == (2, 2, 5, 3)
    np.testing.assert_array_equal(found[1, 0], overlap(np.array(1.0), 0.7, 3, 5))


def test_halves_are_rounded_alike_whatever_the_last_bits() -> None:
    values = np.array([2.5, 2.5 + 1e-9, 2.5 - 1e-9, 3.5, 254.6, 300.0, -2.0])
    assert to_bytes(values).tolist() == [2, 2, 2, 4, 255, 255, 0]


def test_a_frame_of_the_wanted_size_stays_as_it_is() -> None:
    frames = np.random.default_rng(0).integers(0, 256, size=(2, 6, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(frames, 6, 9), frames)


def test_whole_factors_are_block_means() -> None:
    frames = np.random.default_rng(0).integers(0, 256, size=(2, 6, 9, 3), dtype=np.uint8)
    blocks = frames.reshape(2, 2, 3, 3, 3, 3).mean((2, 4))
    np.testing.assert_array_equal(fit(frames, 2, 3), np.rint(np.round(blocks, 6)))


def test_the_middle_is_cut_out_to_the_wanted_aspect() -> None:
    frames = np.zeros((1, 4, 10, 1), dtype=np.uint8)
    frames[0, :, 3:7] = 200
    assert (fit(frames, 4, 4) == 200).all()
    assert (fit(frames.transpose(0, 2, 1, 3), 2, 2) == 200).all()
    assert scaled(frames, 4, 5)[0, 0, :, 0].tolist() == [0, 100, 200, 100, 0]  # nothing is cut
    wide = fit(frames, 2, 5)[0, :, :, 0]
    assert wide.tolist() == [[0, 100, 200, 100, 0]] * 2


def test_a_frame_can_be_made_larger() -> None:
    frames = np.array([[[[10], [20]], [[30], [40]]]], dtype=np.uint8)
    assert fit(frames, 4, 4)[0, ..., 0].tolist() == [
        [10, 10, 20, 20],
        [10, 10, 20, 20],
        [30, 30, 40, 40],
        [30, 30, 40, 40],
    ]
