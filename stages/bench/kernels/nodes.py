"""The ONNX nodes of one quantized layer, on rows (tokens, in) of float32: inputs are rounded here,
and multiplied in `stages.bench.kernels.products`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stages.bench.kernels.graph import UINT8, Nodes
from stages.bench.kernels.kinds import RUNTIME, Kernel, inputs_of, pairs_fit
from stages.bench.kernels.products import Given, blocks, product
from stages.quantize.grids import SMALLEST
from stages.quantize.layers import InputQuantizer, QuantLinear


def layer_nodes(
    layer: QuantLinear, kernel: Kernel, x: str, prefix: str, *, rounded: bool, saturating: bool
) -> tuple[Nodes, str, str]:
    """Nodes that compute a layer without its transform and without the branch beside it.

    Args:
        x: name of its transformed inputs, (M, K).
        rounded: whether the rounded inputs are wanted, for that branch.
        saturating: see `stages.bench.kernels.check.saturating`.

    Returns:
        The nodes, the name of the outputs (M, N), and that of the inputs the branch is given.

    Raises:
        UserError: the kernel cannot do the layer's grids.
    """
    made = Nodes(prefix)
    spec = inputs_of(layer, kernel)
    if kernel == "blocks":
        return made, blocks(made, layer, x), x
    own = layer.inputs if kernel == "exact" else InputQuantizer(spec)
    assert own is not None
    given = _rounded(made, own, x)
    bits = layer.weights.grid.bits
    signed = not saturating or pairs_fit(bits, own.grid.bits)
    y = product(made, layer, own.grid, given, 2 ** (bits - 1) if signed else 0)
    if not rounded:
        return made, y, ""
    axis: dict[str, Any] = {"axis": 0} if own.grid.granularity == "token" else {}
    return made, y, made.add("DequantizeLinear", given.codes, given.scale, given.zero, **axis)


def _rounded(made: Nodes, own: InputQuantizer, x: str) -> Given:
    """Codes of inputs, a symmetric grid's moved up by half its range: kernels want them unsigned.

    The same divisions in the same order as in `stages.quantize.grids`, so the same codes.
    """
    from onnx import numpy_helper

    grid = own.grid
    moved = 2 ** (grid.bits - 1)
    if not grid.dynamic:
        held, at = own.steps(torch.zeros(1))
        scale = made.number(float(held.detach()))
        zero = made.code(moved if grid.symmetric else int(at))
    elif own.spec == RUNTIME:
        codes, scale, zero = made.several(3, "DynamicQuantizeLinear", x)
        made.named |= {"codes": codes, "zero": zero}
        return Given(codes, scale, zero)
    else:
        low, high = _extent(made, own, x)
        if grid.symmetric:
            high = made.add("Max", made.add("Neg", low), high)
            low = ""
        span = made.add("Sub", high, low) if low else high
        step = made.add("Div", span, made.number(grid.highest))
        scale = made.add("Max", step, made.number(SMALLEST))
        if low:
            at_ = made.add("Neg", made.add("Round", made.add("Div", low, scale)))
            zero = made.add("Cast", at_, to=UINT8)
        else:
            filled = numpy_helper.from_array(np.array([moved], np.uint8))
            zero = made.add("ConstantOfShape", made.add("Shape", scale), value=filled)
    axis: dict[str, Any] = {"axis": 0} if grid.granularity == "token" else {}
    codes = made.add("QuantizeLinear", x, scale, zero, **axis)
    if grid.bits < 8:
        top = made.code(2**grid.bits - 1)
        codes = made.add("Clip", codes, "", top)
    made.named |= {"codes": codes, "zero": zero}
    return Given(codes, scale, zero)


def _extent(made: Nodes, own: InputQuantizer, x: str) -> tuple[str, str]:
    """The least and largest input, by token (M,) or of all (), zero between, clipped as learned."""
    axes = [made.constant(np.array([1]))] if own.grid.granularity == "token" else []
    none = made.number(0.0)
    ends = []
    for place, (reduce, bound) in enumerate((("ReduceMin", "Min"), ("ReduceMax", "Max"))):
        end = made.add(bound, made.add(reduce, x, *axes, keepdims=0), none)
        if own.clip is not None:
            end = made.add("Mul", end, made.number(float(own.clip()[place].detach())))
        ends.append(end)
    return ends[0], ends[1]
