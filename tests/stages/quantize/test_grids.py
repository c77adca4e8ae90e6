"""Uniform grids against worked examples, brute force and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from stages.quantize.grids import (
    SMALLEST,
    Grid,
    decode,
    encode,
    extent,
    fake,
    round_through,
    steps,
)
from tests.stages.quantize.specs import grid, noise

SHAPES: list[dict[str, Any]] = [
    {"granularity": "tensor"},
    {"granularity": "channel"},
    {"granularity": "token", "dynamic": True},
    {"granularity": "group", "group": 4},
]
ALL = [
    grid(bits=bits, symmetric=symmetric, **shape)
    for bits in range(2, 9)
    for symmetric in (False, True)
    for shape in SHAPES
]


def names(g: Grid) -> str:
    return f"{g.bits}{'sym' if g.symmetric else 'asym'}-{g.granularity}"


def test_the_asymmetric_grid_as_worked_by_hand() -> None:
    g = grid(bits=2)
    x = torch.tensor([[-1.0, -0.4, 0.3, 2.0]])
    scale, zero = steps(*extent(x, g), g)
    assert scale.tolist() == [[1.0]] and zero.tolist() == [[1.0]]  # 3 / 3 and -round(-1)
    assert encode(x, scale, zero, g).tolist() == [[0, 1, 1, 3]]
    assert fake(x, scale, zero, g).tolist() == [[-1.0, 0.0, 0.0, 2.0]]


def test_the_symmetric_grid_as_worked_by_hand() -> None:
    g = grid(bits=3, symmetric=True)
    x = torch.tensor([[-6.0, -0.9, 1.1, 3.0]])
    scale, zero = steps(*extent(x, g), g)
    assert scale.tolist() == [[2.0]] and zero.tolist() == [[0.0]]  # 6 / (4 - 1)
    assert encode(x, scale, zero, g).tolist() == [[-3, 0, 1, 2]]  # 1.5 is a tie: to even
    assert encode(2 * x, scale, zero, g).tolist() == [[-4, -1, 1, 3]]  # -4 is a code, 4 is none


@pytest.mark.parametrize("g", ALL, ids=names)
def test_fake_gives_the_nearest_of_all_levels(g: Grid) -> None:
    x = noise(6, 8, seed=g.bits) * 3 + 0.5
    low, high = extent(x, g, 0.8)
    scale, zero = steps(low, high, g)
    width = x.shape[-1] // scale.shape[-1]
    whole = torch.arange(g.lowest, g.highest + 1)
    scales = scale.repeat_interleave(width, -1).expand_as(x)
    zeros = zero.repeat_interleave(width, -1).expand_as(x)
    levels = (whole - zeros[..., None]) * scales[..., None]
    nearest = (levels - x[..., None]).abs().amin(-1)
    found = fake(x, scale, zero, g)
    torch.testing.assert_close((found - x).abs(), nearest)
    assert int(whole.numel()) == 2**g.bits


@pytest.mark.parametrize("g", ALL, ids=names)
def test_codes_and_fake_values_are_one_thing_bit_for_bit(g: Grid) -> None:
    x = noise(2, 5, 8, seed=g.bits)
    scale, zero = steps(*extent(x, g, 0.9), g)
    codes = encode(x, scale, zero, g)
    assert codes.dtype is (torch.int8 if g.symmetric else torch.uint8)
    assert g.lowest <= int(codes.min()) <= int(codes.max()) <= g.highest
    assert torch.equal(decode(codes, scale, zero), fake(x, scale, zero, g))
    if not g.symmetric:  # a zero point is itself a code
        assert torch.equal(zero, zero.round()) and 0 <= zero.min() <= zero.max() <= g.highest
    assert torch.equal(encode(decode(codes, scale, zero), scale, zero, g), codes)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sign", [-1, 1])
def test_zero_is_kept_exactly_even_outside_the_values(symmetric: bool, sign: int) -> None:
    g = grid(symmetric=symmetric)
    x = sign * (5 + torch.rand(3, 8))
    scale, zero = steps(*extent(x, g), g)
    assert fake(torch.zeros(3, 8), scale, zero, g).abs().max() == 0
    assert (fake(x, scale, zero, g) - x).abs().max() <= scale.max() / 2 * (1 + 1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_trap_2f_9_an_empty_token_changes_no_other_step(symmetric: bool) -> None:
    g = grid(symmetric=symmetric, granularity="token", dynamic=True)
    x = noise(1, 4, 16)
    empty = torch.cat((x, torch.zeros(1, 2, 16)), 1)
    scale, zero = steps(*extent(empty, g), g)
    alone = steps(*extent(x, g), g)
    assert torch.equal(scale[:, :4], alone[0]) and torch.equal(zero[:, :4], alone[1])
    assert (scale[:, 4:] == SMALLEST).all()
    assert fake(empty, scale, zero, g)[:, 4:].abs().max() == 0


def test_trap_2f_10_steps_per_token_do_not_depend_on_the_batch() -> None:
    g = grid(bits=6, granularity="token", dynamic=True)
    x = noise(4, 5, 16) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None, None]
    together = fake(x, *steps(*extent(x, g), g), g)
    apart = [fake(one, *steps(*extent(one, g), g), g) for one in x.split(1)]
    assert torch.equal(together, torch.cat(apart))


def test_a_group_is_a_channel_of_its_own() -> None:
    g = grid(granularity="group", group=4)
    x = noise(3, 12)
    low, high = extent(x, g)
    assert low.shape == (3, 3)
    found = fake(x, *steps(low, high, g), g)
    rows = x.reshape(9, 4)
    single = fake(rows, *steps(*extent(rows, grid()), grid()), grid())
    assert torch.equal(found, single.reshape(3, 12))
    whole = grid(granularity="group", group=12)
    assert torch.equal(extent(x, whole)[0], extent(x, grid())[0])
    with pytest.raises(ValueError, match="rows of 10 entries"):
        extent(noise(2, 10), g)


def test_ends_shrink_each_by_its_share_and_a_symmetric_grid_takes_the_wider() -> None:
    x = torch.tensor([[-4.0, 1.0, 3.0]])
    shares = (torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    low, high = extent(x, grid(), shares)
    assert (low.item(), high.item()) == (-2.0, 3.0)
    low, high = extent(x, grid(symmetric=True), shares)
    assert (low.item(), high.item()) == (-3.0, 3.0)


def test_rounding_through_is_exact_and_lets_the_gradient_pass() -> None:
    x = torch.cat((noise(2000) * 100, torch.arange(-8, 8) / 2, torch.tensor([0.49999997])))
    x.requires_grad_()
    assert torch.equal(round_through(x), x.round())
    round_through(x).sum().backward()
    assert x.grad is not None and (x.grad == 1).all()


def reference(x: Tensor, scale: Tensor, zero: Tensor, g: Grid) -> Tensor:
    """`fake` from plain operations, with autograd's own gradients."""
    parts = x.unflatten(-1, (scale.shape[-1], -1))
    s, z = scale[..., None], zero[..., None]
    codes = (round_through(parts / s) + z).clamp(g.lowest, g.highest)
    return ((codes - z) * s).flatten(-2)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s["granularity"])
@pytest.mark.parametrize("held", [False, True], ids=["steps follow x", "steps held"])
def test_gradients_are_those_of_the_plain_operations(
    shape: dict[str, Any], symmetric: bool, held: bool
) -> None:
    g = grid(symmetric=symmetric, **shape)
    weigh = noise(2, 3, 8, seed=5).double()
    gradients, values = [], []
    for function in (fake, reference):
        x = noise(2, 3, 8, seed=1).double().requires_grad_()
        shares = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
        scale, zero = steps(*extent(x.detach() if held else x, g, (shares, 0.8 * shares)), g)
        value = function(x, scale, zero, g)
        values.append(value.detach())
        gradients.append(torch.autograd.grad((value * weigh).sum(), (x, shares)))
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


def test_the_gradient_to_the_scale_is_that_of_learned_steps() -> None:
    g = grid(bits=3, symmetric=True)
    x = torch.tensor([[0.4, 1.3, 9.0, -9.0]])
    scale = torch.tensor([[1.0]], requires_grad=True)
    fake(x, scale, torch.zeros(1, 1), g).sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx((0 - 0.4) + (1 - 1.3) + 3 - 4)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_has_the_codes_of_its_values_in_single(kind: torch.dtype) -> None:
    g = grid(bits=8)
    x = noise(4, 64).to(kind)
    scale, zero = steps(*extent(x, g), g)
    assert scale.dtype is torch.float32 and fake(x, scale, zero, g).dtype is kind
    assert torch.equal(encode(x, scale, zero, g), encode(x.float(), scale, zero, g))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 1}, "greater than or equal to 2"),
        ({"bits": 16}, "less than or equal to 8"),
        ({"granularity": "group"}, "group size"),
        ({"group": 8}, "group size"),
        ({"granularity": "token"}, "cannot be held"),
    ],
)
def test_grids_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        grid(**wrong)
