"""Integer arithmetic and fake quantization are one: codes and 32-bit sums agree exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from stages.quantize import store
from stages.quantize.grids import apart
from stages.quantize.integer import IntegerLinear, product, to_integers
from stages.quantize.layers import QuantLinear, quantized
from stages.quantize.swap import Rule, swap
from stages.quantize.transforms import Chain, Diagonal, Kronecker
from tests.stages.quantize.specs import Added, Net, Scaled, Thin, inputs, noise, weights

KINDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"symmetric": True}, {"symmetric": True}),
    ({"symmetric": True}, {}),
    ({}, {"symmetric": True}),
    ({"clip": "searched"}, {"clip": "learned"}),
    ({"granularity": "tensor"}, {"granularity": "tensor"}),
    ({"granularity": "group", "group": 8}, {}),
    ({"granularity": "group", "group": 8}, {"granularity": "group", "group": 8}),
    ({}, {"granularity": "group", "group": 8}),
    ({"rounding": "learned"}, {"granularity": "tensor", "dynamic": False}),
]
BITS = [(8, 8), (4, 8), (4, 6), (3, 6), (2, 2), (6, 4)]


def made(kind: tuple[dict[str, Any], dict[str, Any]], bits: tuple[int, int]) -> QuantLinear:
    torch.manual_seed(0)
    weight, given = kind
    layer = QuantLinear(
        nn.Linear(32, 12), weights(bits=bits[0], **weight), inputs(bits=bits[1], **given)
    )
    assert layer.inputs is not None
    layer.inputs.observe(noise(64, 32))
    return layer


def sums_of_the_fake_path(layer: QuantLinear, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes less zero points of inputs and weight, got back from fake values, and their sums."""
    assert layer.inputs is not None
    x = layer.prepared(x)
    layer.fix()
    fake_x, fake_w = layer.inputs(x).double(), layer.weights(layer.weight).double()
    scale_x, scale_w = layer.inputs.steps(x)[0].double(), layer.codes().scale.double()
    whole_x = (apart(fake_x, scale_x) / scale_x[..., None]).round().flatten(-2)
    whole_w = (apart(fake_w, scale_w) / scale_w[..., None]).round().flatten(-2)
    groups = max(scale_x.shape[-1], scale_w.shape[-1])
    cut_x, cut_w = (v.unflatten(-1, (groups, -1)) for v in (whole_x, whole_w))
    sums = torch.einsum("...gk,ogk->...go", cut_x, cut_w)  # whole numbers, exact in float64
    return whole_x, whole_w, sums


@pytest.mark.parametrize("bits", BITS, ids=lambda b: f"W{b[0]}A{b[1]}")
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: str(k))
def test_codes_and_sums_agree_exactly(
    kind: tuple[dict[str, Any], dict[str, Any]], bits: tuple[int, int]
) -> None:
    layer = made(kind, bits)
    x = noise(3, 7, 32, seed=5) * torch.logspace(-2, 2, 7)[:, None] + 0.3
    x[0, 0] = 0.0
    integer = IntegerLinear(layer)
    given, weight = integer.input_codes(x), integer.codes()
    sums = integer.sums(given)
    assert sums.dtype is torch.int32
    whole_x, whole_w, expected = sums_of_the_fake_path(layer, x)
    for codes, whole in ((given, whole_x), (weight, whole_w)):
        parts = apart(codes.values.double(), codes.zero) - codes.zero[..., None].double()
        assert torch.equal(parts.flatten(-2), whole)
    assert torch.equal(sums.double(), expected)
    torch.testing.assert_close(integer(x), layer(x), rtol=1e-4, atol=1e-4 * x.abs().max().item())


def stretched(size: int) -> Diagonal:
    return Diagonal(noise(size, seed=8).exp(), learned=True)


TRANSFORMS: dict[str, Callable[[int], nn.Module]] = {
    "kronecker": Kronecker.hadamard,
    "chain": lambda size: Chain([Kronecker.hadamard(size), stretched(size)]),
    "empty": lambda size: Chain([]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [32, 192])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_with_learned_transforms_and_in_half_precision(
    name: str, size: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(
        nn.Linear(size, 12).to(dtype),
        weights(bits=4, clip="learned", symmetric=True, dynamic=True),
        inputs(clip="learned", symmetric=True),
        transform=TRANSFORMS[name](size),
    )
    x = noise(2, size, size).to(dtype)
    with torch.no_grad():  # Both ways alike: a transform that learns sums in another order.
        integer = IntegerLinear(layer)
        found, wanted = integer(x), layer(x)
        sums = integer.sums(integer.input_codes(x))
        _, _, expected = sums_of_the_fake_path(layer, x)
    assert found.dtype is dtype
    if dtype is torch.float32:
        assert torch.equal(sums.double(), expected)
    near = 1e-4 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found, wanted, rtol=near, atol=near * wanted.abs().max().item())


def test_of_a_model_from_a_file_too(tmp_path: Path) -> None:
    net, x = Net(), noise(2, 4, 3)
    spec = weights(bits=3, clip="learned", symmetric=True, dynamic=True)
    layers = swap(net, [Rule(pattern="blocks.*", weights=spec, inputs=inputs(clip="learned"))])
    layers["blocks.0.to_q"].transform = Kronecker.hadamard(8)
    layers["blocks.0.to_q"].calibrate()
    wanted = {name: IntegerLinear(layer) for name, layer in layers.items()}
    store.save(net, tmp_path / "net.safetensors", dense=True)
    loaded = Net(seed=1)
    store.load(loaded, tmp_path / "net.safetensors", lambda *_: Kronecker.identity(8))
    with torch.no_grad():
        fake = loaded(x)
        for name, layer in to_integers(loaded).items():
            y = noise(3, layer.in_features, seed=2)
            given = layer.input_codes(y)
            assert torch.equal(layer.sums(given), wanted[name].sums(given))
            assert torch.equal(layer(y), wanted[name](y))
        torch.testing.assert_close(loaded(x), fake, rtol=1e-3, atol=1e-3)


def test_with_a_transform_and_branches_too() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(
        nn.Linear(32, 12, bias=False),
        weights(bits=4),
        inputs(),
        transform=Scaled(torch.rand(32) + 0.5),
        inner=Added(0.1 * noise(12, 32)),
        beside=Thin(32, 12),
    )
    x = noise(2, 5, 32)
    integer = IntegerLinear(layer)
    _, _, expected = sums_of_the_fake_path(layer, x)
    assert torch.equal(integer.sums(integer.input_codes(x)).double(), expected)
    torch.testing.assert_close(integer(x), layer(x), rtol=1e-4, atol=1e-4)


def test_the_largest_sums_do_not_wrap() -> None:
    layer = QuantLinear(
        nn.Linear(4096, 2), weights(bits=8, symmetric=True), inputs(bits=8, symmetric=True)
    )
    layer.weight.data[0], layer.weight.data[1] = 1.0, -1.0
    layer.calibrate()
    integer = IntegerLinear(layer)
    sums = integer.sums(integer.input_codes(torch.ones(1, 4096)))
    assert sums.flatten().tolist() == [127 * 127 * 4096, -127 * 127 * 4096]


def test_both_products_are_exact() -> None:
    x = torch.randint(-128, 128, (5, 300), dtype=torch.int8)
    w = torch.randint(-128, 128, (7, 300), dtype=torch.int8)
    expected = [[sum(int(a) * int(b) for a, b in zip(r, c, strict=True)) for c in w] for r in x]
    assert product(x, w).tolist() == expected
    elsewhere = cast("Tensor", _Elsewhere(x))
    assert product(elsewhere, w).tolist() == expected


class _Elsewhere:
    """A tensor that says it is on another device, of which there is none here."""

    device = torch.device("cuda")

    def __init__(self, tensor: Tensor) -> None:
        self.double = tensor.double


def test_a_whole_model_in_integers() -> None:
    net, x = Net(), noise(2, 4, 3)
    swap(net, [Rule(pattern="blocks.*", weights=weights(bits=4), inputs=inputs())])
    fake = net(x)
    layers = to_integers(net)
    assert len(layers) == 8 and net.get_submodule("blocks.0.to_q") is layers["blocks.0.to_q"]
    torch.testing.assert_close(net(x), fake, rtol=1e-3, atol=1e-3)
    assert layers["blocks.0.to_q"].packed.numel() == 8 * 8 // 2


def test_a_shared_layer_becomes_one_layer_under_all_its_names() -> None:
    net, x = Net(), noise(2, 4, 3)
    net.blocks[1].to_q = net.blocks[0].to_q
    swap(net, [Rule(pattern="blocks.*", weights=weights(bits=4), inputs=inputs())])
    fake = net(x)
    layers = to_integers(net)
    assert len(layers) == 8 and not quantized(net)
    assert isinstance(net.blocks[1].to_q, IntegerLinear)
    assert net.blocks[0].to_q is net.blocks[1].to_q is layers["blocks.1.to_q"]
    torch.testing.assert_close(net(x), fake, rtol=1e-3, atol=1e-3)


def test_what_integers_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="needs quantized inputs"):
        IntegerLinear(QuantLinear(nn.Linear(4, 4), weights(), None))
    with pytest.raises(ValueError, match=r"do not match: \[2, 4\]"):
        IntegerLinear(
            QuantLinear(
                nn.Linear(16, 4),
                weights(granularity="group", group=8),
                inputs(granularity="group", group=4),
            )
        )
    with torch.device("meta"):
        wide = QuantLinear(nn.Linear(40_000, 2), weights(bits=8), inputs(bits=8))
    with pytest.raises(ValueError, match="can leave 32 bits"):
        IntegerLinear(wide)
