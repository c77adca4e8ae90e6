"""The quantized linear layer: what it computes, what it can be switched to, what it trains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from stages.quantize.grids import decode, encode, extent, fake, steps
from stages.quantize.layers import Codes, QuantLinear, fix_all, knobs, plain, set_state
from stages.quantize.swap import Rule, swap
from stages.quantize.transforms import Kronecker
from tests.stages.quantize.specs import Added, Net, Scaled, Thin, grid, inputs, noise, weights


def made(rows: int = 6, columns: int = 8, seed: int = 0, bias: bool = True) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(columns, rows, bias=bias)


def full(seed: int = 0, **kwargs: Any) -> QuantLinear:
    """A layer with every part attached."""
    layer = QuantLinear(
        made(seed=seed),
        weights(bits=4, **kwargs),
        inputs(),
        transform=Scaled(0.5 + torch.rand(8, generator=torch.Generator().manual_seed(1))),
        inner=Added(0.1 * noise(6, 8, seed=2)),
        beside=Thin(8, 6),
    )
    return layer


def test_with_everything_it_computes_its_formula() -> None:
    layer = full()
    x = noise(2, 5, 8, seed=3)
    transform, inner, beside = layer.transform, layer.inner, layer.beside
    assert isinstance(transform, Scaled) and inner is not None and beside is not None
    w = layer.weight * transform.scale + inner()
    g = layer.weights.grid
    w = fake(w, *steps(*extent(w, g), g), g)
    a = x / transform.scale
    g = grid(bits=6, granularity="token", dynamic=True)
    a = fake(a, *steps(*extent(a, g), g), g)
    expected = a @ w.T + layer.bias + beside(a)
    layer.set_state(True, True)
    torch.testing.assert_close(layer(x), expected)


def test_with_both_off_it_is_the_teacher_bit_for_bit() -> None:
    layer, x = full(), noise(2, 5, 8)
    layer.set_state(False, False)
    assert torch.equal(layer(x), made()(x))
    layer.set_state(True, True)
    assert not torch.allclose(layer(x), made()(x))


def test_each_quantizer_can_be_off_alone() -> None:
    x = noise(2, 5, 8)
    layer = QuantLinear(made(), weights(bits=3), inputs(bits=4))
    quantized_w, quantized_x = layer.weights(layer.weight), layer.inputs(x)
    layer.set_state(True, False)
    torch.testing.assert_close(layer(x), x @ quantized_w.T + layer.bias)
    layer.set_state(False, True)
    torch.testing.assert_close(layer(x), quantized_x @ layer.weight.T + layer.bias)
    without = QuantLinear(made(), weights(bits=3), None)
    torch.testing.assert_close(without(x), x @ quantized_w.T + layer.bias)


def test_a_transform_alone_changes_nothing_but_rounding_errors() -> None:
    x = noise(2, 5, 8)
    layer = QuantLinear(made(), weights(bits=8), None, transform=Scaled(torch.rand(8) + 0.5))
    torch.testing.assert_close(layer(x), made()(x), rtol=0, atol=0.05)
    layer.weights_on, layer.inputs_on = False, True  # no inputs' quantizer: transform only
    torch.testing.assert_close(layer(x), made()(x))


def test_the_teachers_tensors_are_shared_but_never_trained() -> None:
    linear = made()
    layer = QuantLinear(linear, weights(), inputs())
    assert layer.weight.data_ptr() == linear.weight.data_ptr()
    assert not layer.weight.requires_grad and linear.weight.requires_grad
    layer(noise(3, 8)).sum().backward()
    assert layer.weight.grad is None and linear.weight.grad is None
    assert QuantLinear(made(bias=False), weights(), None).bias is None


def test_static_steps_are_found_once_and_dynamic_ones_follow() -> None:
    for dynamic in (False, True):
        layer = QuantLinear(made(), weights(dynamic=dynamic), None, inner=Added(torch.zeros(6, 8)))
        before = layer.codes().scale
        assert isinstance(layer.inner, Added)
        layer.inner.values.data += 3 * layer.weight
        after = layer.codes().scale
        torch.testing.assert_close(after, before * (4 if dynamic else 1))
        layer.calibrate()
        torch.testing.assert_close(layer.codes().scale, before * 4)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_searched_clip_never_has_a_larger_error(dynamic: bool) -> None:
    linear = made(rows=4, columns=256)
    linear.weight.data = noise(4, 256).pow(3)
    plainly, searched = (
        QuantLinear(linear, weights(clip=clip, bits=3, dynamic=dynamic), None)
        for clip in ("max", "searched")
    )
    errors = [
        (layer.weights(layer.weight) - layer.weight).square().sum(1)
        for layer in (plainly, searched)
    ]
    assert (errors[1] < errors[0]).all()
    assert (searched.codes().scale < plainly.codes().scale).all()


def test_fixed_it_stays_and_computes_the_same_bits() -> None:
    for spec in (weights(), weights(clip="searched", symmetric=True), weights(rounding="learned")):
        layer = QuantLinear(made(), spec, inputs(), inner=Added(torch.zeros(6, 8)))
        x = noise(2, 5, 8)
        codes = layer.codes()
        expected = codes.decode()
        if layer.weights.rounding is None:
            assert torch.equal(layer.weights(layer.target()), expected)
        layer.fix()
        y = layer(x)
        assert torch.equal(layer.weights(layer.target()), expected)
        assert isinstance(layer.inner, Added)
        layer.inner.values.data += 1.0
        assert torch.equal(layer(x), y) and torch.equal(layer.codes().values, codes.values)
        layer.calibrate()
        assert not torch.equal(layer(x), y)


def test_codes_of_another_hand_are_taken_as_they_are() -> None:
    layer = QuantLinear(made(), weights(bits=3), None)
    codes = layer.codes()
    other = Codes(7 - codes.values, codes.scale, codes.zero)
    layer.fix(other)
    x = noise(4, 8)
    torch.testing.assert_close(layer(x), x @ other.decode().T + layer.bias)
    with pytest.raises(ValueError, match="codes from"):
        layer.fix(Codes(codes.values + 7, codes.scale, codes.zero))


def test_what_was_adopted_has_no_full_precision() -> None:
    layer = QuantLinear(made(), weights(), inputs())
    x, codes = noise(3, 8), layer.codes()
    y = layer(x)
    layer.adopt(codes)
    assert torch.equal(layer(x), y) and torch.equal(layer.weight, codes.decode())
    for act in (layer.target, layer.calibrate, lambda: layer.set_state(False, False)):
        with pytest.raises(RuntimeError, match="not known"):
            act()
    assert torch.equal(layer(x), y)


def test_static_inputs_take_the_range_of_all_they_observed() -> None:
    layer = QuantLinear(made(), weights(), inputs(bits=8, granularity="tensor", dynamic=False))
    quantizer = layer.inputs
    assert quantizer is not None
    with pytest.raises(RuntimeError, match="observe"):
        layer(noise(2, 8))
    parts = [noise(4, 3, 8, seed=seed) * (seed + 1) for seed in range(3)]
    for part in parts:
        quantizer.observe(part)
    g = quantizer.grid
    together = torch.cat(parts).flatten()
    scale, zero = steps(*extent(together, g), g)
    assert torch.equal(quantizer.steps(parts[0])[0], scale)
    torch.testing.assert_close(quantizer(parts[1]), fake(parts[1], scale, zero, g))
    small = quantizer(0.01 * parts[0])
    torch.testing.assert_close(small / scale, (small / scale).round())
    copied = QuantLinear(made(), weights(), quantizer.spec)
    copied.load_state_dict(layer.state_dict())
    assert torch.equal(copied(parts[0]), layer(parts[0]))


def test_dynamic_tokens_need_no_observation() -> None:
    layer = QuantLinear(made(), weights(), inputs())
    assert layer.inputs is not None
    layer.inputs.observe(noise(2, 8))
    assert not layer.inputs.state_dict()


def test_everything_that_learns_gets_a_gradient_and_is_a_knob() -> None:
    layer = full(clip="learned", dynamic=True)
    assert set(layer.knobs()) == {"clip", "transform", "inner", "beside"}
    static = QuantLinear(
        made(),
        weights(rounding="learned"),
        inputs(granularity="tensor", dynamic=False),
    )
    assert static.inputs is not None
    static.inputs.observe(noise(4, 8))
    assert set(static.knobs()) == {"scale", "rounding", "input_scale"}
    clipped = QuantLinear(made(), weights(), inputs(clip="learned"))
    assert set(clipped.knobs()) == {"scale", "input_clip"}
    for each in (layer, static, clipped):
        each(noise(4, 8, seed=9)).square().sum().backward()
        for kind, parameters in each.knobs().items():
            for parameter in parameters:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, kind
    assert layer.transform is not None
    layer.transform.requires_grad_(False)
    assert "transform" not in layer.knobs()


def test_what_can_no_longer_act_is_no_knob() -> None:
    layer = full(clip="learned", dynamic=True)
    assert {"clip", "inner"} < set(layer.knobs())
    layer.fix()
    assert set(layer.knobs()) == {"transform", "beside"}
    adopted = QuantLinear(made(), weights(rounding="learned"), inputs(clip="learned"))
    adopted.adopt(adopted.codes())
    assert set(adopted.knobs()) == {"input_clip"}
    adopted(noise(4, 8)).square().sum().backward()
    assert all(p.grad is not None for p in adopted.knobs()["input_clip"])


def test_codes_are_the_same_with_and_without_gradients() -> None:
    """Above the width where a transform sums in another order when it learns."""
    transform = Kronecker.hadamard(768)
    torch.manual_seed(0)
    layer = QuantLinear(
        nn.Linear(768, 768), weights(bits=4, symmetric=True, dynamic=True), None, transform
    )
    learning = layer.codes()
    with torch.no_grad():
        assert all(map(torch.equal, learning, layer.codes()))
    assert not any(part.requires_grad for part in learning)


def test_a_trained_step_moves_the_codes() -> None:
    layer = QuantLinear(made(), weights(bits=3), None)
    (scale,) = layer.knobs()["scale"]
    codes = layer.codes()
    scale.data *= 2
    moved = layer.codes()
    zero = codes.zero
    assert torch.equal(moved.values, encode(layer.weight, 2 * codes.scale, zero, grid(bits=3)))
    assert torch.equal(moved.decode(), layer.weights(layer.weight))
    scale.data.fill_(-1.0)  # an optimiser may overshoot; steps stay above zero
    assert (layer.codes().scale > 0).all()


def test_a_whole_model_is_switched_fixed_and_collected() -> None:
    net, x = Net(), noise(2, 4, 3)
    teacher = net(x)
    layers = swap(
        net, [Rule(pattern="blocks.*", weights=weights(bits=3), inputs=inputs(clip="learned"))]
    )
    quantized = net(x)
    assert not torch.allclose(quantized, teacher)
    with plain(net):
        assert torch.equal(net(x), teacher)
    assert torch.equal(net(x), quantized)
    set_state(net, weights=True, inputs=False)
    with pytest.raises(RuntimeError, match="boom"), plain(net):
        raise RuntimeError("boom")
    assert all(layer.weights_on and not layer.inputs_on for layer in layers.values())
    set_state(net, weights=True, inputs=True)
    found = knobs(net)
    assert len(found["scale"]) == len(layers) == 8 and len(found["input_clip"]) == 16
    shared = layers["blocks.0.to_q"]
    layers["blocks.1.to_q"].beside = shared.beside = Thin(8, 8)
    assert len(knobs(net)["beside"]) == 2  # once, though two layers hold it
    layers["blocks.1.to_q"].beside = shared.beside = None
    twin = copy.deepcopy(net)
    fix_all(net)
    assert torch.equal(net(x), quantized) and torch.equal(twin(x), quantized)


def test_half_precision_models_keep_their_type() -> None:
    layer = QuantLinear(made().to(torch.bfloat16), weights(), inputs())
    y = layer(noise(2, 8).to(torch.bfloat16))
    assert y.dtype is torch.bfloat16
    codes = layer.codes()
    assert codes.scale.dtype is torch.float32
    layer.fix()
    assert torch.equal(layer(noise(2, 8).to(torch.bfloat16)), y)
    torch.testing.assert_close(decode(*codes), layer.weight.float(), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: weights(granularity="token", dynamic=True), "has no tokens"),
        (lambda: weights(clip="learned"), "dynamic grid"),
        (lambda: weights(rounding="learned", dynamic=True), "static grid"),
        (lambda: inputs(granularity="channel"), "leave the sum"),
        (lambda: inputs(granularity="tensor", dynamic=False, clip="learned"), "clip 'max'"),
    ],
)
def test_specifications_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()
