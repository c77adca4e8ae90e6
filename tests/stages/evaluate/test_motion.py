"""Measures of motion against hand-made clips."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stages.evaluate.motion import compared, flicker, similarity, similarity_error


def clips(count: int = 2, frames: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, frames, 1, 5, 5, generator=generator)


def walking(frames: int = 4) -> Tensor:
    """One bright pixel that moves on by one each frame."""
    made = torch.zeros(1, frames, 1, 1, frames)
    made[0, range(frames), 0, 0, range(frames)] = 1
    return made


def test_flicker_by_hand() -> None:
    assert flicker(walking(4)).tolist() == [pytest.approx(2 / 4)]
    assert flicker(clips()[:, :1].expand(-1, 3, -1, -1, -1)).tolist() == [0, 0]
    ramp = torch.arange(5.0)[None, :, None, None, None].expand(1, 5, 2, 3, 3)
    assert flicker(-0.3 * ramp).tolist() == [pytest.approx(0.3)]


def test_cosines_by_hand() -> None:
    assert torch.equal(similarity(walking(3)), torch.eye(3).double()[None])
    turned = torch.tensor([[1.0, 0.0], [1.0, 1.0]])[None, :, None, None]
    assert similarity(turned)[0, 0, 1].item() == pytest.approx(math.sqrt(0.5))


def test_cosines_know_no_brightness_and_no_batch() -> None:
    x = clips(3)
    dimmed = x * torch.rand(3, 4, 1, 1, 1).add(0.1)
    torch.testing.assert_close(similarity(dimmed), similarity(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(similarity(x)[1:2], similarity(x[1:2]))


def test_an_empty_frame_is_like_no_other() -> None:
    x = clips(1)
    x[0, 2] = 0
    found = similarity(x)[0]
    assert found[2].tolist() == [0, 0, 1, 0]


def test_the_error_counts_pairs_once() -> None:
    """All cosines 0 against all 1: the mean over pairs is 1, not less for the diagonal."""
    still = torch.ones(1, 4, 1, 1, 4)
    assert similarity_error(still, walking(4)).tolist() == [pytest.approx(1)]
    assert similarity_error(walking(4), walking(4)).tolist() == [0]


def test_a_collapsed_clip_does_not_win() -> None:
    """A still picture is as smooth and consistent as can be, and is the farthest away."""
    true = walking(4) * 2 - 1
    still = true[:, :1].expand(-1, 4, -1, -1, -1)
    near = true.clone()
    near[0, 1, 0, 0, 3] += 0.2
    collapsed, close = (compared(x, true, -1, 1) for x in (still, near))
    assert collapsed["flicker"] < close["flicker"]
    assert collapsed["similarity"] > close["similarity"]
    for name in ("flicker_error", "similarity_error"):
        assert collapsed[name] > close[name], name
    assert collapsed["flicker_change"].item() == pytest.approx(-0.5)
    assert close["flicker_change"] > 0


def test_full_precision_itself_is_no_distance_away() -> None:
    x = clips()
    found = compared(x, x, 0, 1)
    for name in ("flicker_change", "flicker_error", "similarity_error"):
        assert not found[name].any()
    torch.testing.assert_close(found["flicker"], flicker(x))


def test_the_range_of_the_pixels_does_not_count() -> None:
    ours, theirs = clips(seed=1), clips(seed=2)
    here = compared(ours, theirs, 0, 1)
    there = compared(ours * 255, theirs * 255, 0, 255)
    for name, values in here.items():
        torch.testing.assert_close(there[name], values, rtol=1e-5, atol=1e-7)


def test_what_are_no_clips_is_refused() -> None:
    with pytest.raises(ValueError, match="no clips"):
        flicker(clips(frames=1))
    with pytest.raises(ValueError, match="no clips"):
        similarity(clips()[0])
    with pytest.raises(ValueError, match="differ"):
        compared(clips(2), clips(3), 0, 1)
