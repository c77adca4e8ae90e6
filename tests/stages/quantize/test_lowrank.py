"""Low rank in front of and beside the quantizer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from stages.quantize.grids import Grid, extent, fake, steps
from stages.quantize.layers import InputSpec, QuantLinear, WeightSpec
from stages.quantize.lowrank import Inner, put_beside, scale_aware_rate, split
from stages.quantize.transforms import Diagonal


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_is_split_is_whole_again_and_the_product_stays() -> None:
    w, x = noise(6, 9), noise(2, 4, 9, seed=1)
    rest, branch = split(w, 2)
    torch.testing.assert_close(rest + branch.up @ branch.down, w)
    torch.testing.assert_close(x @ rest.T + branch(x), x @ w.T)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_rest_is_as_small_as_that_rank_allows(rank: int) -> None:
    w = noise(6, 9)
    rest, branch = split(w, rank)
    values = torch.linalg.svdvals(w)
    assert float(rest.norm() ** 2) == pytest.approx(float(values[rank:].square().sum()), abs=1e-12)
    assert branch.up.shape == (6, rank) and branch.down.shape == (rank, 9)


def test_it_takes_the_outliers_that_spoil_a_grid() -> None:
    """The mechanism of SVDQuant: one hot direction in the branch, fine steps for the rest."""
    w = noise(32, 32) + 30 * noise(32, 1, seed=1) @ noise(1, 32, seed=2)
    grid = Grid(bits=4, symmetric=True, granularity="channel", group=None, dynamic=False)

    def error(weight: Tensor) -> float:
        return float((fake(weight, *steps(*extent(weight, grid), grid), grid) - weight).norm())

    assert error(split(w, 1)[0]) < 0.1 * error(w)


def test_a_branch_in_single_precision_leaves_what_it_does_not_hold() -> None:
    w = noise(6, 9).float()
    rest, branch = split(w, 4)
    torch.testing.assert_close(rest + branch.up @ branch.down, w, rtol=1e-6, atol=1e-6)
    assert rest.dtype == branch.up.dtype == torch.float32 and not rest.requires_grad
    assert branch.up.requires_grad and branch.down.requires_grad


def test_a_layer_quantizes_the_rest_and_adds_the_branch() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(16, 12), noise(5, 16).float()
    with torch.no_grad():
        linear.weight += 3 * (noise(12, 1, seed=1) @ noise(1, 16, seed=2)).float()
    rows = Grid(bits=4, symmetric=True, granularity="channel", group=None, dynamic=False)
    tokens = Grid(bits=8, symmetric=True, granularity="token", group=None, dynamic=True)
    weights = WeightSpec(grid=rows, clip="max", norm=None, rounding="nearest")
    scale = Diagonal(noise(16, seed=3).float().exp(), learned=False)
    layer = QuantLinear(linear, weights, InputSpec(grid=tokens, clip="max"), transform=scale)
    before = float((layer(x) - linear(x)).detach().norm())
    put_beside(layer, 2)
    assert float((layer(x) - linear(x)).detach().norm()) < 0.3 * before
    rest, branch = split(scale.weights(linear.weight).detach(), 2)
    torch.testing.assert_close(layer.target(), rest)
    assert layer.inputs is not None
    given = layer.inputs(scale.inputs(x))
    wanted = given @ layer.codes().decode().T + linear.bias + branch(given)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="already"):
        put_beside(layer, 2)


def test_the_inner_branch_starts_at_zero_and_learns_from_there() -> None:
    inner = Inner(5, 16, 3, torch.Generator().manual_seed(0))
    again = Inner(5, 16, 3, torch.Generator().manual_seed(0))
    assert torch.equal(inner(), torch.zeros(5, 16)) and torch.equal(inner.down, again.down)
    # Kaiming's uniform noise as in a linear layer: within 1/√in, of variance 1/(3·in).
    assert float(inner.down.detach().abs().max()) <= 1 / math.sqrt(16)
    wide = Inner(5, 4096, 5, torch.Generator().manual_seed(0)).down
    assert float(wide.detach().var()) == pytest.approx(1 / (3 * 4096), rel=0.03)
    inner().sum().backward()
    assert inner.up.grad is not None and float(inner.up.grad.abs().sum()) > 0
    assert inner.down.grad is not None and float(inner.down.grad.abs().sum()) == 0


def test_the_inner_branch_carries_a_weight_over_half_a_step() -> None:
    """Why it must lie in front of the quantizer: by itself it is smaller than a step."""
    grid = Grid(bits=4, symmetric=True, granularity="channel", group=None, dynamic=False)
    w = torch.tensor([[0.7, 0.349]])
    scale, zero = steps(*extent(w, grid), grid)
    inner = Inner(1, 2, 1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        inner.up.fill_(1.0)
        inner.down.copy_(torch.tensor([[0.0, 0.002]]))
    assert fake(w, scale, zero, grid).tolist()[0] == pytest.approx([0.7, 0.3])
    assert fake(w + inner(), scale, zero, grid).tolist()[0] == pytest.approx([0.7, 0.4])


def test_the_rate_follows_the_steps() -> None:
    assert scale_aware_rate(torch.tensor([[0.1], [0.3]]), 2500.0) == pytest.approx(0.2 / 2500)


@pytest.mark.parametrize("rank", [0, 7])
def test_a_rank_has_to_fit(rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        split(noise(6, 9), rank)
    with pytest.raises(ValueError, match="rank"):
        Inner(6, 9, rank, torch.Generator())
