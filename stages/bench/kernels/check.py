"""Whether the kernels of this machine compute what was promised of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.bench.kernels.deploy import layer_model
from stages.bench.kernels.graph import MICROSOFT
from stages.bench.kernels.kinds import Kernel, computing, inputs_of
from stages.bench.kernels.nodes import layer_nodes
from stages.quantize.grids import Grid
from stages.quantize.integer import IntegerLinear
from stages.quantize.layers import QuantLinear
from stages.quantize.quantizers import InputSpec, WeightSpec


@dataclass(frozen=True)
class Check:
    """A layer on a kernel against `stages.quantize`.

    Attributes:
        codes: inputs with another code than there; None where the kernel keeps its codes inside.
        sums: largest difference of the 32-bit sums, to be 0; None likewise.
        error: largest difference of the outputs, as a part of the largest output.
    """

    codes: int | None
    sums: int | None
    error: float


@cache
def saturating() -> bool:
    """Whether this processor adds pairs of 8-bit products in 16 bits, so that large ones saturate.

    The kernel itself is asked: all products as large as they get.
    """
    # Not initialised by torch, which would draw from its global generator.
    linear = nn.Linear(64, 2, bias=False, device="meta").to_empty(device="cpu")
    nn.init.ones_(linear.weight)
    channel = Grid(bits=8, symmetric=True, granularity="channel", group=None, dynamic=False)
    token = Grid(bits=8, symmetric=True, granularity="token", group=None, dynamic=True)
    weights = WeightSpec(grid=channel, clip="max", norm=None, rounding="nearest")
    layer = QuantLinear(linear, weights, InputSpec(grid=token, clip="max"))
    return check(layer, torch.ones(1, 64), "exact", saturating=False).sums != 0


def check(layer: QuantLinear, x: Tensor, kernel: Kernel, *, saturating: bool) -> Check:
    """Run a fixed layer without transform and branch on inputs (tokens, in), both ways.

    Args:
        saturating: as in `stages.bench.kernels.deploy.export`.

    Raises:
        UserError: the kernel cannot do the layer's grids.
    """
    from onnx import TensorProto, helper

    holder = nn.ModuleDict({"layer": layer})
    made, y, _ = layer_nodes(layer, kernel, "x", "layer", rounded=False, saturating=saturating)
    more = []
    if made.named:
        # The same operator with steps of 1 and middle codes for zero points: its bare sums.
        ones = made.constant(np.ones(layer.out_features, np.float32))
        centre = made.code(2 ** (inputs_of(layer, kernel).grid.bits - 1))
        sums = made.add(
            "MatMulIntegerToFloat", made.named["codes"], made.named["weight"], made.number(1.0),
            ones, centre, made.named["place"], domain=MICROSOFT,
        )  # fmt: skip
        more = [helper.make_tensor_value_info(sums, TensorProto.FLOAT, None)]
        for name in (made.named["codes"], made.named["zero"]):
            more.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    ours, *inside = _run(layer_model(layer, made, y, len(x), more), x)
    with computing(holder, kernel), torch.no_grad():
        theirs = layer(x).numpy()
        error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if not inside:
            return Check(None, None, error)
        return Check(*_inside(IntegerLinear(layer), x, *inside), error)


def _inside(
    integer: IntegerLinear, x: Tensor, sums: np.ndarray, codes: np.ndarray, zero: np.ndarray
) -> tuple[int, int]:
    """How many codes differ, and by how much the sums."""
    grid = integer.inputs.grid
    given = integer.input_codes(x)
    unsigned = given.values.to(torch.int64).numpy() - grid.lowest
    weight = integer.codes()
    whole = (weight.values.to(torch.int64) - weight.zero.to(torch.int64)).sum(1).numpy()
    # From zero points in the middle to the inputs' own.
    off = zero.astype(np.int64).reshape(-1, 1) - 2 ** (grid.bits - 1)
    expected = integer.sums(given)[:, 0].to(torch.int64).numpy() + off * whole
    # The kernel gives its sums as floats, which round beyond 2^24.
    gap = np.abs(sums - expected.astype(np.float32)).max()
    return int((unsigned != codes).sum()), int(gap)


def _run(proto: Any, x: Tensor) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(found) for found in session.run(None, {"x": x.numpy()})]
