"""Transforms and branches: each does what its method is named for, and changes no product."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.q_vdit import parts
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.released import Doubled
from pipelines.q_vdit.tqe import TokenAware
from stages.core.errors import UserError
from stages.quantize.layers import quantized
from stages.quantize.smooth import balance_scales
from tests.pipelines.q_vdit import small
from tests.pipelines.q_vdit.small import SMOOTH, drawn

QUERY = "net.transformer_blocks.0.attn1.to_q"
TRANSFORMED = [SMOOTH, {"scale": "balanced"}, {"rotated": True}, SMOOTH | {"rotated": True}]


@pytest.mark.parametrize("arm", TRANSFORMED)
def test_a_transform_leaves_every_product(arm: dict[str, Any]) -> None:
    for layer in quantized(small.student(small.ground(), **arm)).values():
        assert layer.transform is not None
        x = drawn(2, 3, layer.in_features)
        found = layer.prepared(x) @ layer.target().mT
        torch.testing.assert_close(found, x @ layer.weight.mT, rtol=1e-4, atol=1e-4)


def test_smoothquant_s_scale_is_of_the_running_maximum() -> None:
    salience, weight = drawn(4, 6).abs() + 0.1, drawn(5, 6, seed=1)
    found = parts.channel_scale(Arm.model_validate(SMOOTH), salience, weight, 0.95)
    top = salience[0]
    for row in salience[1:]:
        top = 0.95 * top + 0.05 * row
    torch.testing.assert_close(found, top**0.11 / weight.abs().amax(0) ** 0.89)


def test_smoothing_takes_an_outlier_out_of_the_activations() -> None:
    salience, weight = torch.ones(3, 6), drawn(5, 6)
    salience[:, 2] = 100.0
    half = Arm.model_validate({"scale": "smooth", "alpha": 0.5})
    scale = parts.channel_scale(half, salience, weight, 0.95)
    assert scale is not None
    after = salience[0] / scale
    assert after.max() / after.median() < salience[0].max() / salience[0].median() / 3


def test_ptq4dit_weighs_steps_by_rank_correlation() -> None:
    """A step whose salience is anti-correlated with the weight's counts more than the others."""
    weight = torch.arange(1.0, 7.0)[None].repeat(3, 1)
    with_it, against = weight[0].clone(), weight[0].flip(0)
    salience = torch.stack([with_it, against])
    arm = Arm.model_validate({"scale": "balanced"})
    found = parts.channel_scale(arm, salience, weight, 0.95)
    assert found is not None
    torch.testing.assert_close(found, balance_scales(salience, weight))
    even = ((with_it + against) / 2 / weight[0]).sqrt()
    all_against = (against / weight[0]).sqrt()
    assert (found - all_against).norm() < (even - all_against).norm()


def test_rotation_spreads_an_outlier_over_all_channels() -> None:
    layer = quantized(small.student(small.ground(), rotated=True))[QUERY]
    x = torch.zeros(1, 1, layer.in_features)
    x[..., 3] = 1.0
    torch.testing.assert_close(layer.prepared(x).abs(), torch.full_like(x, layer.in_features**-0.5))


def test_scaling_comes_before_rotation() -> None:
    start = small.ground()
    made, scaled = (
        quantized(small.student(start, **SMOOTH, rotated=rotated))[QUERY]
        for rotated in (True, False)
    )
    spun = quantized(small.student(start, rotated=True))[QUERY]
    x = drawn(1, 2, made.in_features)
    wanted = spun.prepared(scaled.prepared(x))
    torch.testing.assert_close(made.prepared(x), wanted, rtol=1e-4, atol=1e-5)


def test_svdquant_leaves_less_to_quantize() -> None:
    start = small.ground()
    for layer in quantized(small.student(start, beside="svd", rank=2, **SMOOTH)).values():
        assert layer.transform is not None
        whole = layer.transform.weights(layer.weight)  # type: ignore[operator]
        gone = torch.linalg.svdvals(whole.double())[2:].square().sum()
        left = layer.target().double().square().sum()
        torch.testing.assert_close(left, gone, rtol=1e-4, atol=1e-6)


def test_the_estimator_has_a_gain_where_there_are_frames() -> None:
    for name, layer in quantized(small.student(small.ground(), **small.TOKEN)).items():
        assert isinstance(layer.beside, TokenAware)
        assert (layer.beside.gain is None) == name.endswith(("attn2.to_k", "attn2.to_v"))


def test_the_released_branch_is_doubled_in_the_attention_along_time_alone() -> None:
    arm = {"beside": "token", "gain": "doubled", "inner": 4, "scope": "model"}
    made = quantized(small.student(small.ground(), **arm))
    doubled = [name for name, layer in made.items() if isinstance(layer.beside, Doubled)]
    assert len(doubled) == 4
    assert all(name.startswith("net.temporal_transformer_blocks.0.attn1.") for name in doubled)
    for layer in made.values():
        assert isinstance(layer.beside, TokenAware) and layer.inner is not None
        assert (layer.beside.gain is not None) == isinstance(layer.beside, Doubled)


def test_arms_of_a_seed_start_from_the_same_branch() -> None:
    start = small.ground()
    first = quantized(small.student(start, **small.TOKEN))[QUERY].beside
    other = quantized(small.student(start, "W4A8-all", beside="token", scope="model"))[QUERY].beside
    assert isinstance(first, TokenAware) and isinstance(other, TokenAware)
    assert torch.equal(first.alpha, other.alpha)


def test_a_rank_above_a_layer_s_is_refused() -> None:
    with pytest.raises(UserError, match="rank 17"):
        small.student(small.ground(), inner=17, scope="model")
