"""Bits by name and their averages."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from torch import nn

from stages.core.errors import UserError
from stages.quantize.mixed import Width, average, parse, plan
from stages.quantize.swap import swap
from tests.stages.quantize.specs import inputs, weights


def test_names_of_bits() -> None:
    assert parse("W4A6") == (4, 6) and parse("W3A16") == (3, None)
    for wrong in ("W4", "W16A16", "W1A8", "w4a6", "W4A6 "):
        with pytest.raises(UserError, match="names no bits"):
            parse(wrong)


def test_a_plan_changes_bits_and_nothing_else() -> None:
    base = weights(clip="searched", bits=4, symmetric=True)
    rules = plan(
        [
            Width(pattern="*.ff.*", weights=8, inputs=None),
            Width(pattern="head", weights=None, inputs=None),
            Width(pattern="*", weights=3, inputs=6),
        ],
        base,
        inputs(bits=8),
    )
    assert [r.pattern for r in rules] == ["*.ff.*", "head", "*"]
    first, second, third = rules
    assert first.weights is not None and first.weights.grid.bits == 8 and first.inputs is None
    assert second.weights is None
    assert third.weights is not None and third.inputs is not None
    assert (third.weights.grid.bits, third.inputs.grid.bits) == (3, 6)
    assert third.weights.grid.model_copy(update={"bits": 4}) == base.grid
    assert third.weights.clip == "searched" and third.weights.norm == 2.0
    with pytest.raises(ValidationError, match="need a quantized weight"):
        Width(pattern="*", weights=None, inputs=8)


@pytest.mark.parametrize(("low", "expected"), [(3, 5.0), (4, 5.6)])
def test_trap_2f_14_a_mix_has_more_bits_than_its_name(low: int, expected: float) -> None:
    """A space-time block has 12 d² weights in its attentions, and 8 d² in its feed-forward."""
    width = 4
    attention = [nn.Linear(width, width) for _ in range(12)]
    ff = [nn.Linear(width, 4 * width), nn.Linear(4 * width, width)]
    block = nn.ModuleDict({"attn": nn.ModuleList(attention), "ff": nn.ModuleList(ff)})
    net = nn.ModuleDict({"block": block, "head": nn.Linear(width, 5)})
    mix = [
        Width(pattern="*.ff.*", weights=8, inputs=8),
        Width(pattern="block.*", weights=low, inputs=6),
    ]
    layers = swap(net, plan(mix, weights(), inputs()))
    inside = average(net, among=list(layers))
    assert inside.weights == pytest.approx(expected)
    assert inside.inputs == pytest.approx((12 * 6 + 8 * 8) / 20)
    blocks, head = 20 * width**2, 5 * width
    every = (blocks * expected + head * 16) / (blocks + head)
    assert average(net).weights == pytest.approx(every)
