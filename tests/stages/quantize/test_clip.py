"""The search of a clip against brute force; learned clips against their closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from stages.quantize.clip import RATIOS, LearnedClip, search
from stages.quantize.grids import extent, fake, steps
from tests.stages.quantize.specs import grid, noise


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("norm", [1.0, 2.0, 2.4])
@pytest.mark.parametrize(
    "shape",
    [{"granularity": "tensor"}, {"granularity": "channel"}, {"granularity": "group", "group": 8}],
    ids=lambda s: s["granularity"],
)
def test_no_other_ratio_is_nearer(shape: dict[str, Any], norm: float, symmetric: bool) -> None:
    g = grid(bits=3, symmetric=symmetric, **shape)
    x = noise(4, 16).pow(3)
    found = search(x, g, norm)

    def errors(ratio: Any) -> torch.Tensor:
        scale, zero = steps(*extent(x, g, ratio), g)
        power = (fake(x, scale, zero, g) - x).abs().pow(norm)
        if shape["granularity"] == "tensor":
            return power.sum().reshape(1, 1)
        return power.unflatten(-1, (scale.shape[-1], -1)).sum(-1)

    table = torch.stack([errors(ratio) for ratio in RATIOS])
    assert found.shape == table.shape[1:]
    torch.testing.assert_close(errors(found), table.amin(0))
    assert (errors(found) <= errors(1.0) * (1 + 1e-6)).all()


def test_trap_2f_11_the_whole_extent_is_tried_and_wins_a_tie() -> None:
    assert RATIOS[0] == 1.0 and len(RATIOS) == 50 and min(RATIOS) == 0.02
    g = grid(bits=3)
    on_grid = torch.arange(8.0)[None] - 3
    assert search(on_grid, g, 2.0).tolist() == [[1.0]]
    assert search(torch.zeros(1, 4), g, 2.0).tolist() == [[1.0]]
    assert search(on_grid, g, 2.0, ratios=(0.5,)).tolist() == [[1.0]]


def test_one_outlier_is_clipped_and_a_higher_norm_clips_less() -> None:
    g = grid(bits=3, symmetric=True)
    x = noise(1, 512)
    x[0, 0] = 12.0
    narrow, wide = search(x, g, 2.0).item(), search(x, g, 6.0).item()
    assert 0.1 < narrow < 0.5 < wide


def test_a_learned_clip_starts_at_the_sigmoid_and_gets_a_gradient() -> None:
    clip = LearnedClip((2, 1))
    low, high = clip()
    assert low.shape == high.shape == (2, 1)
    assert low[0].item() == pytest.approx(1 / (1 + math.exp(-4)))
    g = grid(bits=3, dynamic=True)
    x = noise(2, 16)
    fake(x, *steps(*extent(x, g, clip()), g), g).square().sum().backward()
    for parameter in clip.parameters():
        assert parameter.grad is not None and (parameter.grad != 0).all()


def test_learning_the_clip_finds_what_the_search_finds() -> None:
    g = grid(bits=3, symmetric=True, dynamic=True)
    x = noise(1, 4096).pow(3)
    clip = LearnedClip((1, 1))
    optimizer = torch.optim.Adam(clip.parameters(), lr=0.05)

    def error() -> torch.Tensor:
        return (fake(x, *steps(*extent(x, g, clip()), g), g) - x).square().mean()

    start = error().item()
    for _ in range(150):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    best = search(x, g, 2.0)
    least = (fake(x, *steps(*extent(x, g, best), g), g) - x).square().mean().item()
    assert error().item() < least * 1.05 < 0.7 * start
