"""GPTQ against least squares by column, against every code there is, and against rounding."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from stages.quantize.gptq import BLOCK, Hessian, fix_by_gptq, gptq, hessians, output_error
from stages.quantize.grids import Grid, decode, encode, extent, steps
from stages.quantize.layers import InputSpec, QuantLinear, WeightSpec, quantized
from stages.quantize.transforms import Rotation


def grid(bits: int = 3, symmetric: bool = True, group: int | None = None) -> Grid:
    kind = "channel" if group is None else "group"
    return Grid(bits=bits, symmetric=symmetric, granularity=kind, group=group, dynamic=False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(tokens: int, size: int, seed: int = 0) -> Tensor:
    """Inputs whose channels go together, so that one can make up for another."""
    return noise(tokens, size, seed=seed) @ noise(size, size, seed=seed + 1) + noise(tokens, size)


def hessian_of(x: Tensor) -> Tensor:
    found = Hessian(x.shape[-1])
    found.add(x)
    return found.matrix


def by_least_squares(w: Tensor, h: Tensor, scale: Tensor, zero: Tensor, kind: Grid) -> Tensor:
    """Round a column; let those that are left take their optimum given all that are rounded."""
    work, codes = w.clone(), torch.zeros_like(w)
    for j in range(w.shape[1]):
        codes[:, j : j + 1] = encode(work[:, j : j + 1], scale, zero, kind).double()
        done = decode(codes[:, : j + 1], scale, zero) - w[:, : j + 1]
        rest = slice(j + 1, None)
        work[:, rest] = w[:, rest] - done @ h[: j + 1, rest] @ torch.linalg.inv(h[rest, rest])
    return codes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [2, 5, 9])
def test_each_column_meets_the_optimum_of_those_before_it(size: int, symmetric: bool) -> None:
    kind = grid(3, symmetric)
    for seed in range(10):
        w, h = noise(6, size, seed=seed), hessian_of(related(40, size, seed=seed))
        scale, zero = steps(*extent(w, kind), kind)
        wanted = by_least_squares(w, h, scale, zero, kind)
        nearest = encode(w, scale, zero, kind).double()
        better = [output_error(w, decode(c, scale, zero), h) for c in (wanted, nearest)]
        wanted = torch.where((better[0] <= better[1])[:, None], wanted, nearest)
        found = gptq(w, h, scale, zero, kind, damping=0.0, act_order=False)
        assert torch.equal(found.double(), wanted)


def test_tiny_cases_are_near_the_best_of_all_codes() -> None:
    kind = grid(2)
    codes = torch.tensor(list(product(range(kind.lowest, kind.highest + 1), repeat=4))).double()
    excess = {"gptq": 0.0, "nearest": 0.0}
    for seed in range(20):
        w, h = noise(1, 4, seed=seed), hessian_of(related(30, 4, seed=seed))
        scale, zero = steps(*extent(w, kind), kind)
        every = output_error(w, decode(codes, scale, zero), h)
        found = gptq(w, h, scale, zero, kind, damping=0.0, act_order=True)
        for name, code in (("gptq", found), ("nearest", encode(w, scale, zero, kind))):
            error = float(output_error(w, decode(code, scale, zero), h))
            assert error >= float(every.min()) * (1 - 1e-9)
            excess[name] += error / float(every.min()) - 1
    assert excess["gptq"] < 0.35 * excess["nearest"]


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_never_worse_than_rounding_in_any_row(
    act_order: bool, group: int | None, symmetric: bool
) -> None:
    kind = grid(3, symmetric, group)
    gains = []
    for seed in range(12):
        w, h = noise(16, 12, seed=seed), hessian_of(related(20, 12, seed=seed))
        scale, zero = steps(*extent(w, kind), kind)
        found = gptq(w, h, scale, zero, kind, damping=0.01, act_order=act_order)
        after = output_error(w, decode(found, scale, zero), h)
        before = output_error(w, decode(encode(w, scale, zero, kind), scale, zero), h)
        assert bool((after <= before).all())
        gains.append(float(after.sum() / before.sum()))
    assert max(gains) < 0.9 and sum(gains) / len(gains) < 0.75


def test_unrelated_inputs_leave_nothing_but_rounding() -> None:
    kind = grid(4)
    w, h = noise(5, 8), torch.diag(noise(8, seed=1).abs() + 0.1)
    scale, zero = steps(*extent(w, kind), kind)
    for act_order in (False, True):
        found = gptq(w, h, scale, zero, kind, damping=0.01, act_order=act_order)
        assert torch.equal(found, encode(w, scale, zero, kind))


def test_the_blocks_are_a_matter_of_speed() -> None:
    kind, size = grid(4), BLOCK + 37
    w, h = noise(3, size), hessian_of(related(2 * size, size))
    scale, zero = steps(*extent(w, kind), kind)
    wanted = by_least_squares(w, h, scale, zero, kind)
    found = gptq(w, h, scale, zero, kind, damping=0.0, act_order=False)
    assert float((found != wanted).double().mean()) < 0.01  # ties of rounding alone


def test_an_order_is_the_same_as_ordered_columns() -> None:
    kind = grid(3)
    w, h = noise(6, 10), hessian_of(related(40, 10) * torch.arange(1, 11).double())
    scale, zero = steps(*extent(w, kind), kind)
    order = h.diagonal().argsort(descending=True)
    inside = gptq(w, h, scale, zero, kind, damping=0.0, act_order=True)
    outside = gptq(w[:, order], h[order][:, order], scale, zero, kind, damping=0.0, act_order=False)
    assert torch.equal(inside[:, order], outside)


def test_one_step_for_the_whole_tensor_and_single_precision() -> None:
    kind = Grid(bits=4, symmetric=False, granularity="tensor", group=None, dynamic=False)
    w, h = noise(6, 10).float(), hessian_of(related(40, 10))
    scale, zero = steps(*extent(w, kind), kind)
    found = gptq(w, h, scale, zero, kind, damping=0.01, act_order=True)
    assert found.dtype == torch.uint8 and found.shape == w.shape
    half = gptq(w.bfloat16(), h, scale, zero, kind, damping=0.01, act_order=True)
    assert float((half != found).double().mean()) < 0.3


def test_the_hessian_is_the_mean_over_all_tokens() -> None:
    x = noise(2, 9, 5).float()
    found = Hessian(5)
    for part in x.split(1):
        found.add(part)
    rows = x.flatten(0, 1).double()
    torch.testing.assert_close(found.matrix, rows.T @ rows / 18, rtol=1e-5, atol=1e-6)
    w, rounded = noise(3, 5, seed=1), noise(3, 5, seed=2)
    wanted = (rows @ (rounded - w).T).square().mean(0)
    torch.testing.assert_close(output_error(w, rounded, found.matrix), wanted, rtol=1e-5, atol=1e-6)


def quantized_pair() -> nn.Module:
    torch.manual_seed(0)
    tokens = Grid(bits=6, symmetric=True, granularity="token", group=None, dynamic=True)
    weights = WeightSpec(grid=grid(3), clip="max", norm=None, rounding="nearest")
    inputs = InputSpec(grid=tokens, clip="max")
    turn = Rotation.hadamard(12, torch.Generator().manual_seed(1))
    return nn.Sequential(
        QuantLinear(nn.Linear(12, 8), weights, inputs, transform=turn),
        nn.GELU(),
        QuantLinear(nn.Linear(8, 4), weights, None),
    )


def test_a_layer_is_fixed_where_its_output_is_nearer_the_teachers() -> None:
    model, x = quantized_pair(), related(60, 12).float().view(3, 20, 12)
    layers = quantized(model)
    first = layers["0"]
    found = hessians(layers, lambda: [model(part) for part in x.split(1)])
    assert first.inputs is not None
    seen = first.inputs(first.prepared(x)).flatten(0, 1)
    torch.testing.assert_close(found["0"], (seen.T @ seen / 60).double(), rtol=1e-4, atol=1e-4)
    between = model[1](model[0](x)).flatten(0, 1)
    torch.testing.assert_close(
        found["2"], (between.T @ between / 60).double(), rtol=1e-4, atol=1e-4
    )
    wanted = seen @ first.target().T + first.bias
    before = float((first(x).flatten(0, 1) - wanted).detach().square().mean())
    scale = first.codes().scale
    fix_by_gptq(first, found["0"], damping=0.01, act_order=True)
    assert float((first(x).flatten(0, 1) - wanted).detach().square().mean()) < 0.7 * before
    assert torch.equal(first.codes().scale, scale)
    with pytest.raises(ValueError, match=r"no input was seen of \['2'\]"):
        hessians(layers, lambda: first(x))


def test_a_dead_channel_is_rounded_and_hurts_no_other() -> None:
    kind, x = grid(3), related(40, 6)
    x[:, 2] = 0
    w, alive = noise(4, 6), [0, 1, 3, 4, 5]
    scale, zero = steps(*extent(w, kind), kind)
    found = gptq(w, hessian_of(x), scale, zero, kind, damping=1e-9, act_order=False)
    alone = gptq(w[:, alive], hessian_of(x[:, alive]), scale, zero, kind, damping=1e-9,
                 act_order=False)  # fmt: skip
    assert torch.equal(found[:, alive], alone)
    assert torch.equal(found[:, 2], encode(w, scale, zero, kind)[:, 2])


def test_mistakes_are_named() -> None:
    kind, w = grid(3), noise(2, 4)
    scale, zero = steps(*extent(w, kind), kind)
    flat = hessian_of(noise(3, 4))  # fewer tokens than channels
    with pytest.raises(ValueError, match="not positive definite"):
        gptq(w, flat - 1e-9 * torch.eye(4), scale, zero, kind, damping=0.0, act_order=False)
    with pytest.raises(ValueError, match="groups"):
        gptq(w, torch.eye(4), scale.repeat(1, 3), zero.repeat(1, 3), kind, damping=0.0,
             act_order=False)  # fmt: skip
    with pytest.raises(ValueError, match="no input"):
        _ = Hessian(3).matrix
