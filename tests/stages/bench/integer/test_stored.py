"""True bits of published networks against counts by hand, and the published compression."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.bench.integer.cases import BY_NAME
from stages.bench.integer.stored import stored
from stages.bench.kernels.shapes import Published, Shape
from stages.quantize.grids import Grid
from stages.quantize.layers import QuantLinear
from stages.quantize.quantizers import InputSpec, WeightSpec

W4 = Grid(bits=4, symmetric=True, granularity="channel", group=None, dynamic=True)
A6 = Grid(bits=6, symmetric=True, granularity="token", group=None, dynamic=True)
LEARNED = InputSpec(grid=A6, clip="learned")


def made(linear: nn.Linear, shape: Shape) -> QuantLinear:
    return QuantLinear(
        linear, WeightSpec(grid=W4, clip="max", norm=None, rounding="nearest"), LEARNED
    )


def with_branch(linear: nn.Linear, shape: Shape) -> QuantLinear:
    layer = made(linear, shape)
    layer.beside = nn.ParameterList([torch.zeros(shape.rows), torch.zeros(shape.columns)])
    return layer


SMALL = Published("n", "c", 1, 0, 8, 1, 1, (Shape("a", 3, 8, 2), Shape("b", 5, 4, 1)), others=10)


def test_everything_is_counted_as_often_as_it_is_there() -> None:
    found = stored(SMALL, with_branch)
    ledger = found.ledger
    assert ledger.codes == 4 * (2 * 24 + 20)
    assert ledger.scales == 16 * (2 * 3 + 5)
    assert ledger.inputs == 16 * 2 * 3
    assert ledger.beside == 16 * (2 * 11 + 9)
    assert ledger.full == 16 * 10 and ledger.biases == ledger.zeros == ledger.transforms == 0
    assert found.weights == 68 and found.values == 78
    assert found.compression(16) == pytest.approx(16 * 78 / ledger.total)
    shared = stored(SMALL, with_branch, lambda shape: 1).ledger
    assert shared.inputs == 16 * 2 * 2 and shared.codes == ledger.codes
    assert stored(SMALL, with_branch, floats=32).ledger.beside == 2 * ledger.beside


@pytest.mark.parametrize(
    ("name", "before", "after"), [("cogvideox-5b", 10.375, 2.633), ("hunyuanvideo", 23.881, 6.494)]
)
def test_the_published_sizes(name: str, before: float, after: float) -> None:
    """S²Q-VDiT, table 5, in GiB: with every layer of the blocks at 4 bits."""
    found = stored(BY_NAME[name], made)
    assert found.values * 2 / 2**30 == pytest.approx(before, rel=1e-3)
    assert found.ledger.total / 8 / 2**30 == pytest.approx(after, rel=5e-3)


def test_counts_agree_with_the_shapes_own() -> None:
    net = BY_NAME["cogvideox-2b"]
    plain = InputSpec(grid=A6, clip="max")

    def bare(linear: nn.Linear, shape: Shape) -> QuantLinear:
        spec = WeightSpec(grid=W4, clip="max", norm=None, rounding="nearest")
        return QuantLinear(linear, spec, plain)

    assert stored(net, bare).per_value == pytest.approx(net.per_parameter(W4), rel=1e-12)
