"""Learned rounding: its start, its penalty, and against all roundings of a tiny layer."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from stages.quantize.grids import decode, encode, extent, steps
from stages.quantize.rounding import Anneal, Rounding, penalty
from tests.stages.quantize.specs import grid, noise


@pytest.mark.parametrize("symmetric", [False, True])
def test_it_starts_at_the_weight_and_hardens_to_the_nearest(symmetric: bool) -> None:
    g = grid(symmetric=symmetric, granularity="group", group=4)
    weight = noise(5, 8)
    scale, zero = steps(*extent(weight, g), g)
    rounding = Rounding(weight, scale)
    nearest = encode(weight, scale, zero, g)
    inner = (nearest > g.lowest) & (nearest < g.highest)  # the ends may be clipped
    found = rounding(weight, scale, zero, g)
    torch.testing.assert_close(found[inner], weight[inner], rtol=1e-4, atol=1e-5)
    codes = rounding.codes(weight, scale, zero, g)
    assert codes.dtype is nearest.dtype and torch.equal(codes, nearest)


def test_far_logits_round_down_and_up_and_stay_on_the_grid() -> None:
    g = grid(bits=2)
    weight = torch.tensor([[0.0, 1.2, 1.7, 3.0]])
    scale, zero = steps(*extent(weight, g), g)
    rounding = Rounding(weight, scale)
    for logit, expected in ((-10.0, [0, 1, 1, 3]), (10.0, [1, 2, 2, 3])):
        nn.init.constant_(rounding.logits, logit)
        assert rounding.codes(weight, scale, zero, g).tolist() == [expected]
        torch.testing.assert_close(
            rounding(weight, scale, zero, g), torch.tensor([expected]).float()
        )


@pytest.mark.parametrize("power", [2.0, 10.0, 20.0])
def test_the_penalty_counts_what_is_undecided(power: float) -> None:
    rounding = Rounding(noise(3, 4), torch.ones(3, 1))
    nn.init.zeros_(rounding.logits)
    assert rounding.undecided(power).item() == 12
    nn.init.constant_(rounding.logits, 5.0)
    assert rounding.undecided(power).item() == 0
    rounding.logits.data = torch.logit(torch.full((3, 4), (0.75 + 0.1) / 1.2))  # h = 0.75
    assert rounding.undecided(power).item() == pytest.approx(12 * (1 - 0.5**power), rel=1e-5)


def test_the_power_falls_linearly_after_the_warm_up() -> None:
    anneal = Anneal(weight=0.01, warm=0.2, start=10.0, end=2.0)
    powers = [anneal.power(step, 100) for step in (0, 19, 20, 60, 100)]
    assert powers[:2] == [None, None]
    assert powers[2:] == pytest.approx([10.0, 6.0, 2.0])
    model = nn.Sequential(Rounding(noise(2, 4), torch.ones(2, 1)))
    assert penalty(model, anneal, 10, 100).item() == 0
    assert penalty(model, anneal, 60, 100).item() == pytest.approx(
        0.01 * model[0].undecided(6.0).item()
    )
    with pytest.raises(ValueError, match="learns its rounding"):
        penalty(nn.Linear(2, 2), anneal, 1, 2)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_finds_nearly_the_best_of_all_roundings(seed: int) -> None:
    g = grid(bits=3, symmetric=True)
    weight = noise(1, 8, seed=seed)
    x = 1 + 0.3 * noise(32, 8, seed=4)  # a common part: errors should cancel, not each be least
    scale, zero = steps(*extent(weight, g), g)
    rounding = Rounding(weight, scale)

    def error(values: torch.Tensor) -> torch.Tensor:
        return (x @ (values - weight).T).square().mean()

    ups = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))
    every = ((weight / scale).floor() + ups).clamp(g.lowest, g.highest) * scale
    best = min(error(values[None]).item() for values in every)
    nearest = error(decode(encode(weight, scale, zero, g), scale, zero)).item()
    anneal = Anneal(weight=0.1, warm=0.2, start=10.0, end=2.0)
    optimizer = torch.optim.Adam(rounding.parameters(), lr=0.1)
    for step in range(400):
        optimizer.zero_grad()
        loss = error(rounding(weight, scale, zero, g)) + penalty(rounding, anneal, step, 400)
        loss.backward()
        optimizer.step()
    hard = decode(rounding.codes(weight, scale, zero, g), scale, zero)
    torch.testing.assert_close(rounding(weight, scale, zero, g), hard)
    assert error(hard).item() <= nearest
    assert error(hard).item() < 1.25 * best
