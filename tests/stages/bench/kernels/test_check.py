"""ONNX Runtime's kernels against `stages.quantize.integer`: equal where that is promised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.bench.kernels import check as checking
from stages.bench.kernels.check import check, saturating
from stages.quantize.integer import IntegerLinear
from stages.quantize.layers import QuantLinear
from tests.stages.quantize.specs import inputs, noise, weights

ROUNDING = 1e-6  # of floats, after the integers
KINDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"symmetric": True}, {"symmetric": True}),
    ({"symmetric": True}, {}),
    ({}, {"symmetric": True}),
    ({"clip": "searched"}, {"clip": "learned"}),
    ({"granularity": "tensor"}, {"granularity": "tensor"}),
    ({}, {"granularity": "tensor", "symmetric": True}),
    ({"rounding": "learned"}, {"granularity": "tensor", "dynamic": False}),
    ({}, {"granularity": "tensor", "dynamic": False, "symmetric": True}),
]
BITS = [(8, 8), (4, 8), (4, 6), (3, 6), (2, 4), (6, 8)]


def layer(weight: dict[str, Any], given: dict[str, Any], columns: int = 64) -> QuantLinear:
    torch.manual_seed(0)
    made = QuantLinear(nn.Linear(columns, 12), weights(**weight), inputs(**given))
    assert made.inputs is not None
    made.inputs.observe(noise(64, columns))
    if made.inputs.clip is not None:
        for parameter in made.inputs.clip.parameters():
            parameter.data.fill_(1.0)  # a clip that cuts some inputs off
    made.fix()
    return made


def tokens(count: int = 9, columns: int = 64) -> Tensor:
    x = noise(count, columns, seed=5) * torch.logspace(-2, 2, count)[:, None] + 0.3
    x[0] = 0.0
    return x


@pytest.mark.parametrize("bits", BITS, ids=lambda b: f"W{b[0]}A{b[1]}")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_codes_and_sums_are_equal(
    kind: tuple[dict[str, Any], dict[str, Any]], bits: tuple[int, int]
) -> None:
    made = layer({"bits": bits[0], **kind[0]}, {"bits": bits[1], **kind[1]})
    found = check(made, tokens(), "exact", saturating=True)
    assert (found.codes, found.sums) == (0, 0)
    assert found.error < ROUNDING


def test_int8_of_the_runtime_is_one_step_for_all() -> None:
    for bits in (3, 4, 8):
        found = check(layer({"bits": bits}, {}), tokens(), "tensor", saturating=True)
        assert (found.codes, found.sums) == (0, 0) and found.error < ROUNDING


def test_sums_that_saturate_elsewhere_are_equal_too() -> None:
    """All products at their largest: pairs of them would not fit into 16 bits."""
    made = layer({"bits": 8, "symmetric": True}, {"bits": 8}, columns=512)
    made.weight.data[:] = torch.tensor([1.0, -1.0]).repeat(6)[:, None]
    made.calibrate()
    made.fix()
    found = check(made, torch.ones(4, 512), "exact", saturating=True)
    assert (found.codes, found.sums) == (0, 0)
    quick = check(made, torch.ones(4, 512), "exact", saturating=False)
    assert quick.codes == 0 and (quick.sums != 0) == saturating()


@pytest.mark.parametrize("columns", [64, 96, 384])
@pytest.mark.parametrize("weight", [{}, {"symmetric": True}, {"bits": 3}, {"bits": 8}], ids=str)
def test_packed_products_are_near(weight: dict[str, Any], columns: int) -> None:
    """MatMulNBits multiplies by the inverse of a step, so an input now and then gets the next code:
    8-bit steps are 1/127 of the largest input, and few codes differ."""
    found = check(
        layer({"bits": 4} | weight, {}, columns), tokens(9, columns), "blocks", saturating=True
    )
    assert found.codes is None and found.sums is None
    assert found.error < 2e-3


def test_groups_of_weights_on_blocks() -> None:
    made = layer({"granularity": "group", "group": 32}, {}, 96)
    assert check(made, tokens(9, 96), "blocks", saturating=True).error < 2e-3


def test_a_wrong_kernel_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against another layer's integers codes agree, sums do not."""
    made, other = layer({}, {}), layer({}, {})
    other.weight.data *= -1
    other.calibrate()
    monkeypatch.setattr(checking, "IntegerLinear", lambda _: IntegerLinear(other))
    found = check(made, tokens(), "exact", saturating=True)
    assert found.codes == 0 and found.sums is not None and found.sums > 0
