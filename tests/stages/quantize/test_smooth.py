"""Scales between activations and weights: closed forms, and ranks against SciPy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from stages.quantize.grids import Grid
from stages.quantize.layers import QuantLinear, WeightSpec
from stages.quantize.smooth import (
    ChannelMaximum,
    balance_scales,
    maxima,
    smooth_scales,
    spearman,
    step_weights,
)
from stages.quantize.transforms import Chain, Diagonal, Rotation


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_half_way_both_sides_meet_in_the_geometric_mean() -> None:
    x, w = noise(50, 6) * torch.arange(1, 7).double().pow(3), noise(4, 6, seed=1)
    top_x, top_w = x.abs().amax(0), w.abs().amax(0)
    c = smooth_scales(top_x, w, 0.5)
    torch.testing.assert_close((x / c).abs().amax(0), (top_x * top_w).sqrt())
    torch.testing.assert_close((w * c).abs().amax(0), (top_x * top_w).sqrt())


def test_at_the_ends_one_side_is_flat() -> None:
    x, w = noise(50, 6), noise(4, 6, seed=1)
    top = x.abs().amax(0)
    torch.testing.assert_close(top / smooth_scales(top, w, 1.0), torch.ones(6).double())
    flat = (w * smooth_scales(top, w, 0.0)).abs().amax(0)
    torch.testing.assert_close(flat, torch.ones(6).double())
    with pytest.raises(ValueError, match="alpha"):
        smooth_scales(top, w, 1.1)


def test_an_alpha_between_is_the_published_formula() -> None:
    c = smooth_scales(torch.tensor([8.0, 2.0]), torch.tensor([[0.5, -3.0], [-4.0, 1.0]]), 0.11)
    assert c.tolist() == pytest.approx([8**0.11 / 4**0.89, 2**0.11 / 3**0.89], rel=1e-6)


def test_a_channel_that_is_zero_on_a_side_stays() -> None:
    c = smooth_scales(torch.tensor([0.0, 3.0, 2.0]), torch.tensor([[1.0, 0.0, 2.0]]), 0.5)
    assert c.tolist() == [1.0, 1.0, 1.0]


def test_the_maximum_over_batches_and_its_running_mean() -> None:
    batches = [noise(2, 5, 3, seed=s) for s in range(4)]
    whole, running = ChannelMaximum(), ChannelMaximum(momentum=0.95)
    for batch in batches:
        whole.add(batch)
        running.add(batch)
    tops = torch.stack([batch.abs().amax((0, 1)) for batch in batches]).float()
    assert whole.value is not None and running.value is not None
    assert torch.equal(whole.value, tops.amax(0))
    weights = torch.tensor([0.95**3, 0.05 * 0.95**2, 0.05 * 0.95, 0.05])
    torch.testing.assert_close(running.value, weights @ tops)
    with pytest.raises(ValueError, match="momentum"):
        ChannelMaximum(momentum=1.0)


def test_the_maxima_of_a_models_layers() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), noise(6, 5, 3).float()
    layers = {"0": model[0], "2": model[2]}
    found = maxima(layers, lambda: [model(part) for part in x.split(2)])
    assert torch.equal(found["0"], x.abs().amax((0, 1)))
    torch.testing.assert_close(found["2"], model[:2](x).abs().amax((0, 1)).detach())
    assert not model[0]._forward_pre_hooks
    with pytest.raises(ValueError, match=r"no input was seen of \['2'\]"):
        maxima(layers, lambda: model[0](x))


def test_the_maxima_of_a_quantized_layer_are_those_after_its_transform() -> None:
    grid = Grid(bits=8, symmetric=True, granularity="channel", group=None, dynamic=True)
    weights = WeightSpec(grid=grid, clip="max", norm=None, rounding="nearest")
    turn = Rotation.hadamard(4, torch.Generator().manual_seed(0))
    layer, x = QuantLinear(nn.Linear(4, 2), weights, None, transform=turn), noise(6, 5, 4).float()
    found = maxima({"it": layer}, lambda: layer(x))["it"]
    torch.testing.assert_close(found, turn.inputs(x).abs().amax((0, 1)))
    layer.transform = Chain(
        [turn, Diagonal(smooth_scales(found, layer.target(), 0.5), learned=True)]
    )
    now = maxima({"it": layer}, lambda: layer(x))["it"]
    torch.testing.assert_close(now, layer.target().detach().abs().amax(0))


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_is_scipys_with_ties_and_without(levels: int) -> None:
    from scipy.stats import spearmanr

    for seed in range(5):
        a = (noise(20, seed=seed) * levels / 3).round()
        b = (noise(20, seed=seed + 50) * levels / 3).round()
        assert float(spearman(a, b)) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_of_a_constant_is_none_at_all() -> None:
    assert float(spearman(torch.ones(5), torch.arange(5.0))) == 0.0


def test_steps_that_disagree_with_the_weight_count_more() -> None:
    column = torch.arange(1.0, 6.0)
    salience = torch.stack([column.square(), column.flip(0), torch.tensor([3.0, 1, 4, 5, 2])])
    shares = step_weights(salience, column)
    rho = [1.0, -1.0, float(spearman(salience[2], column))]
    total = sum(math.exp(-r) for r in rho)
    assert shares.tolist() == pytest.approx([math.exp(-r) / total for r in rho], rel=1e-6)
    assert float(shares[1]) > float(shares[2]) > float(shares[0])


def test_balancing_one_step_is_smoothing_half_way() -> None:
    salience, weight = noise(1, 6).abs() + 0.1, noise(4, 6, seed=1)
    torch.testing.assert_close(
        balance_scales(salience, weight), smooth_scales(salience[0], weight, 0.5)
    )


def test_balancing_takes_the_weighted_salience_to_the_weights_salience() -> None:
    salience, weight = noise(5, 6).abs() + 0.1, noise(4, 6, seed=1)
    column = weight.abs().amax(0)
    c = balance_scales(salience, weight)
    mean = step_weights(salience, column) @ salience
    torch.testing.assert_close(mean / c, column * c)
