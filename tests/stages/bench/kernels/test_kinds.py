"""Which grids a kernel computes with, and that a model goes back to its own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from stages.bench.kernels.kinds import (
    PAIR,
    block_size,
    computing,
    inputs_of,
    pairs_fit,
    width,
)
from stages.core.errors import UserError
from stages.quantize.grids import fake, steps
from stages.quantize.layers import QuantLinear
from stages.quantize.swap import Rule, swap
from tests.stages.quantize.specs import Net, grid, inputs, noise, weights


def layer(columns: int = 32, **weight: object) -> QuantLinear:
    torch.manual_seed(0)
    return QuantLinear(nn.Linear(columns, 6), weights(**weight), inputs())


def test_pairs_of_products_fit_where_they_are_said_to() -> None:
    for w, x in itertools.product(range(2, 9), range(2, 9)):
        largest = 2 * max(abs(-(2 ** (w - 1))), 2 ** (w - 1) - 1) * (2**x - 1)
        assert pairs_fit(w, x) == (largest <= PAIR)
    assert pairs_fit(4, 8) and pairs_fit(8, 6) and not pairs_fit(8, 8)


@pytest.mark.parametrize(("bits", "expected"), [(2, 4), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_codes_lie_in_four_or_eight_bits(bits: int, expected: int) -> None:
    assert width(grid(bits=bits)) == expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [(8, 16), (16, 16), (96, 128), (256, 256), (1152, 128), (4608, 256), (1920, 128), (3072, 256)],
)
def test_blocks_are_rows_or_the_largest_that_divide_them(columns: int, expected: int) -> None:
    with torch.device("meta"):
        made = QuantLinear(nn.Linear(columns, 2), weights(), inputs())
    assert block_size(made) == expected
    granularity = inputs_of(made, "blocks").grid.granularity
    assert granularity == ("token" if columns <= 256 else "group")


def test_blocks_lie_within_groups() -> None:
    assert block_size(layer(96, granularity="group", group=32)) == 32
    with pytest.raises(UserError, match="none of which divides 24"):
        block_size(layer(96, granularity="group", group=24))


def test_rows_that_no_block_divides_are_refused() -> None:
    with pytest.raises(UserError, match=r"none of which divides 264.*'exact' or 'tensor'"):
        block_size(layer(264))


def test_kernels_refuse_grids_they_cannot_do() -> None:
    grouped = layer(granularity="group", group=8)
    for kernel in ("exact", "tensor"):
        with pytest.raises(UserError, match=r"weights have a step per group of 8.*'blocks'"):
            inputs_of(grouped, kernel)
    with pytest.raises(UserError, match="need quantized inputs"):
        inputs_of(QuantLinear(nn.Linear(4, 4), weights(), None), "exact")


def test_a_model_computes_as_the_kernel_and_then_as_before() -> None:
    net, x = Net(), noise(2, 4, 3)
    teacher = net(x)
    swapped = swap(net, [Rule(pattern="blocks.*", weights=weights(), inputs=inputs())])
    own = net(x)
    found = {}
    for kernel in ("exact", "tensor", "blocks", "full"):
        with computing(net, kernel):
            found[kernel] = net(x)
    assert torch.equal(found["exact"], own) and torch.equal(found["full"], teacher)
    assert not torch.equal(found["tensor"], own) and not torch.equal(found["blocks"], own)
    assert torch.equal(net(x), own)
    assert all(each.inputs.spec == inputs() for each in swapped.values())


def test_one_step_for_all_inputs_is_what_tensor_means() -> None:
    made, x = layer(), noise(3, 5, 32)
    eight = grid(bits=8, granularity="tensor", dynamic=True)
    rounded = fake(x, *steps(x.min().view(1, 1, 1), x.max().view(1, 1, 1), eight), eight)
    expected = rounded @ made.codes().decode().T + made.bias
    with computing(nn.ModuleDict({"layer": made}), "tensor"):
        torch.testing.assert_close(made(x), expected)


def test_an_error_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(layer(32), layer(264))
    before = [each.inputs for each in net]
    with pytest.raises(UserError), computing(net, "blocks"):
        raise AssertionError("not reached")
    assert [each.inputs for each in net] == before
