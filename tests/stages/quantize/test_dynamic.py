"""The fused function against the steps that it is made of, in value and in gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stages.quantize import dynamic, grids
from stages.quantize.grids import SMALLEST, Grid
from tests.stages.quantize.specs import grid, noise

SHAPES: list[dict[str, Any]] = [
    {"granularity": "channel"},
    {"granularity": "token"},
    {"granularity": "group", "group": 4},
]
ALL = [
    grid(bits=bits, symmetric=symmetric, dynamic=True, **shape)
    for bits in (2, 4, 8)
    for symmetric in (False, True)
    for shape in SHAPES
]


def names(g: Grid) -> str:
    return f"{g.bits}{'sym' if g.symmetric else 'asym'}-{g.granularity}"


def by_steps(x: Tensor, g: Grid, shrink: Any = 1.0) -> Tensor:
    return grids.fake(x, *grids.steps(*grids.extent(x, g, shrink), g), g)


def rows(dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of every kind: of both signs, of one sign, with ties at the ends, empty."""
    x = noise(2, 6, 8).to(dtype) * 3
    x[0, 1], x[0, 2] = x[0, 1].abs() + 0.5, -x[0, 2].abs() - 0.5
    x[0, 3, :4] = torch.tensor([2.5, -2.5, 2.5, -2.5], dtype=dtype)
    x[1, 0], x[1, 1, 0] = 0.0, 50.0
    return x


def gradients(fake: Any, g: Grid, shape: tuple[int, ...]) -> list[Tensor]:
    """By x and by both factors, of a function in which every entry counts otherwise."""
    x = rows(torch.float64).requires_grad_()
    factors = [
        (0.5 + 0.4 * torch.sigmoid(noise(*shape, seed=k).double())).requires_grad_() for k in (3, 4)
    ]
    made = fake(x, g, tuple(factors))
    weight = noise(*made.shape, seed=9).double()
    return list(torch.autograd.grad((made * weight).sum() + made.square().sum(), [x, *factors]))


@pytest.mark.parametrize("g", ALL, ids=names)
def test_values_are_those_of_the_steps_bit_for_bit(g: Grid) -> None:
    x, shrink = rows(), (torch.tensor([0.9]), torch.tensor([0.7]))
    assert torch.equal(dynamic.fake(x, g), by_steps(x, g))
    assert torch.equal(dynamic.fake(x, g, 0.8), by_steps(x, g, 0.8))
    assert torch.equal(dynamic.fake(x, g, shrink), by_steps(x, g, shrink))
    scale, zero = grids.steps(*grids.extent(x, g, shrink), g)
    codes = grids.encode(x, scale, zero, g)
    assert torch.equal(dynamic.fake(x, g, shrink), grids.decode(codes, scale, zero))


@pytest.mark.parametrize("g", ALL, ids=names)
def test_gradients_are_autograds_of_the_steps(g: Grid) -> None:
    for shape in ((1,), (2, 6, g.groups(8))):
        found, wanted = (gradients(fake, g, shape) for fake in (dynamic.fake, by_steps))
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert all(float(part.abs().max()) > 0 for part in found)


def test_the_clips_gradient_by_hand() -> None:
    """x̂ = q·s with s = σ·max|x| / 7: of a clipped entry x̂ moves by 7·ds, of one within by
    (q - x/s)·ds."""
    g = grid(bits=4, symmetric=True, granularity="token", dynamic=True)
    x, share = torch.tensor([[7.0, 1.3, -0.2]]), torch.tensor([0.5], requires_grad=True)
    made = dynamic.fake(x, g, (share, share))
    torch.testing.assert_close(made, torch.tensor([[3.5, 1.5, 0.0]]))  # steps of 3.5 / 7
    made.sum().backward()
    by_step = 7 + (3 - 1.3 / 0.5) + (0 + 0.2 / 0.5)
    assert share.grad is not None
    assert float(share.grad) == pytest.approx(by_step * 7 / 7, rel=1e-5)


def test_no_gradient_is_made_that_nobody_asks_for() -> None:
    g = grid(bits=4, symmetric=True, dynamic=True)
    x, share = rows(), torch.tensor([0.9], requires_grad=True)
    dynamic.fake(x, g, (share, share)).sum().backward()
    assert x.grad is None and share.grad is not None
    y = rows().requires_grad_()
    dynamic.fake(y, g).sum().backward()
    assert y.grad is not None


def test_an_empty_row_stays_empty_and_moves_nothing() -> None:
    g = grid(bits=4, symmetric=True, granularity="token", dynamic=True)
    x = torch.zeros(1, 4, requires_grad=True)
    share = torch.tensor([0.9], requires_grad=True)
    made = dynamic.fake(x, g, (share, share))
    (made * torch.ones(4)).sum().backward()
    assert bool((made == 0).all()) and x.grad is not None and share.grad is not None
    assert bool(x.grad.isfinite().all()) and float(share.grad) == 0 and SMALLEST > 0


def test_half_precision_is_widened_for_the_arithmetic() -> None:
    g = grid(bits=8, granularity="token", dynamic=True)
    x = rows().to(torch.bfloat16)
    made = dynamic.fake(x, g)
    assert made.dtype == torch.bfloat16 and torch.equal(made, by_steps(x, g))
