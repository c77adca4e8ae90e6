"""Products of rounded inputs with a weight's codes, as ONNX nodes.

Weights of up to 4 bits lie in the file two to a byte. `product` multiplies 8-bit codes, to which
the runtime unpacks them once, while loading, as it does with whatever depends on constants alone:
small on disk, fast in memory. `blocks` multiplies the packed ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stages.bench.kernels.graph import FLOAT, INT4, INT8, MICROSOFT, UINT4, UINT8, Nodes
from stages.bench.kernels.kinds import block_size, width
from stages.quantize import pack
from stages.quantize.grids import Grid
from stages.quantize.layers import QuantLinear

INTEGERS = 4  # MatMulNBits' accuracy level at which it multiplies integers


@dataclass(frozen=True)
class Given:
    """Names of a layer's rounded inputs: codes uint8 (M, K), scale and zero (M,) or ()."""

    codes: str
    scale: str
    zero: str


def product(made: Nodes, layer: QuantLinear, inputs: Grid, given: Given, moved: int) -> str:
    """Sums of products in 32 bits, times the steps of weight and inputs, plus bias.

    The weight's codes go in less `moved`: signed, as kernels are quickest, or from 0 on.
    With zero points that differ by token the product is taken about the middle code m,
    (c_x - z_x) = (c_x - m) - (z_x - m), and the second part is an outer product of few numbers.
    """
    codes = layer.codes()
    unsigned = codes.values.to(torch.int16) - layer.weights.grid.lowest
    # Of symmetric grids the zero point is code 0, which lies at 2^(bits - 1) when unsigned.
    zero = codes.zero.to(torch.int16) - layer.weights.grid.lowest
    rows = (layer.out_features, 1)
    zero = zero.expand(rows)[:, 0] - moved
    scale = codes.scale.expand(rows)[:, 0].float()
    weight = _unpacked(made, unsigned, width(layer.weights.grid), moved)
    if len(zero.unique()) == 1:
        zero = zero[0]  # kernels are quicker with one zero point for all columns
    place = made.constant(zero.numpy().astype(np.int8 if moved else np.uint8))
    steps = made.constant(scale.numpy())
    bias = "" if layer.bias is None else made.constant(layer.bias.detach().float().numpy())
    made.named |= {"weight": weight, "place": place}
    if inputs.granularity != "token":
        return made.add(
            "MatMulIntegerToFloat", given.codes, weight, given.scale, steps, given.zero, place,
            bias, domain=MICROSOFT,
        )  # fmt: skip
    middle = 2 ** (inputs.bits - 1)
    centre = made.code(middle)
    sums = made.add(
        "MatMulIntegerToFloat", given.codes, weight, made.number(1.0), steps, centre, place,
        domain=MICROSOFT,
    )  # fmt: skip
    column = made.constant(np.array([1]))
    by_token = made.add("Unsqueeze", given.scale, column)
    y = made.add("Mul", sums, by_token)
    if inputs.symmetric:
        return made.add("Add", y, bias) if bias else y
    off = made.add("Sub", made.add("Cast", given.zero, to=FLOAT), made.number(middle))
    off = made.add("Unsqueeze", made.add("Mul", off, given.scale), column)
    across = (unsigned.double() - moved - zero.view(-1, 1)).sum(1) * scale.double()
    row = made.constant(-across.float().numpy()[None])
    return made.add("Add", y, made.add("Gemm", off, row, *([bias] if bias else [])))


def _unpacked(made: Nodes, unsigned: torch.Tensor, bits: int, moved: int) -> str:
    """Codes (K, N) as 8-bit integers, less `moved`; of 4 bits two to a byte in the file."""
    turned = unsigned.T.contiguous() - moved
    kind = INT8 if moved else UINT8
    if bits == 8:
        return made.constant(turned.numpy().astype(np.int8 if moved else np.uint8))
    halves = pack.pack(turned & 15, 4).numpy()
    packed = made.packed(halves, tuple(turned.shape), INT4 if moved else UINT4)
    return made.add("Cast", packed, to=kind)


def blocks(made: Nodes, layer: QuantLinear, x: str) -> str:
    """MatMulNBits, which rounds inputs by itself."""
    size, bits = block_size(layer), width(layer.weights.grid)
    codes, grid = layer.codes(), layer.weights.grid
    count = -(-layer.in_features // size)
    # A symmetric grid's codes are moved so that zero lies where the operator takes it to be.
    moved = 2 ** (bits - 1) if grid.symmetric else 0
    unsigned = codes.values.to(torch.int16) + moved
    unsigned = torch.nn.functional.pad(unsigned, (0, count * size - layer.in_features))
    packed = pack.pack(unsigned, bits).numpy().reshape(layer.out_features, count, -1)
    scale = _by_block(codes.scale.float(), layer.out_features, count)
    inputs = [x, made.constant(packed), made.constant(scale.numpy()), "", "", ""]
    if not grid.symmetric:
        zero = _by_block(codes.zero.to(torch.int16), layer.out_features, count)
        per_byte = 8 // bits
        zero = torch.nn.functional.pad(zero, (0, -count % per_byte))
        inputs[3] = made.constant(pack.pack(zero, bits).numpy().reshape(layer.out_features, -1))
    if layer.bias is not None:
        inputs[5] = made.constant(layer.bias.detach().float().numpy())
    while not inputs[-1]:
        inputs.pop()
    return made.add(
        "MatMulNBits", *inputs, domain=MICROSOFT, K=layer.in_features, N=layer.out_features,
        bits=bits, block_size=size, accuracy_level=INTEGERS,
    )  # fmt: skip


def _by_block(values: torch.Tensor, rows: int, count: int) -> torch.Tensor:
    """(N or 1, G) -> (N, count), each group's value for the blocks inside it."""
    values = values.expand(rows, -1)
    return values.repeat_interleave(count // values.shape[1], 1).contiguous()
