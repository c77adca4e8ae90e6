"""Which arithmetic a deployed layer does, and the same arithmetic for the quality of its outputs.

    full     float32
    exact    the layer's own quantizers: codes and 32-bit sums are those of
             `stages.quantize.integer`
    tensor   int8 as ONNX Runtime does it by default: one 8-bit step for all of a layer's inputs
    blocks   MatMulNBits: packed weights, and inputs in 8 bits with a step per token and block of
             the row; a step per token where a row is one block

Only `exact` is what was evaluated while quantizing. The others round inputs in their own way, so
they have a quality of their own, which a model gives within `computing`. No processor has kernels
for inputs of 5 to 7 bits: `exact` runs them as codes in 8 bits, as fast as 8 bits and no faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

from torch import nn

from stages.core.errors import UserError
from stages.quantize import pack
from stages.quantize.grids import Grid
from stages.quantize.layers import InputQuantizer, QuantLinear, plain, quantized
from stages.quantize.quantizers import InputSpec

Kernel = Literal["full", "exact", "tensor", "blocks"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

RUNTIME = InputSpec(
    grid=Grid(bits=8, symmetric=False, granularity="tensor", group=None, dynamic=True), clip="max"
)
"""How ONNX Runtime's own dynamic int8 rounds inputs."""

SMALLEST_BLOCK, LARGEST_BLOCK = 16, 256
"""Of MatMulNBits' integer kernel; beyond, it unpacks weights to floats at every call."""
PAIR = 2**15 - 1
"""What two neighbouring products may add up to where they are added in 16 bits."""


def pairs_fit(weight_bits: int, input_bits: int) -> bool:
    """Whether two products of unsigned inputs and signed weights always fit into 16 bits.

    AVX2 and AVX-512 without VNNI add them so, and saturate. Weights of up to 6 bits are safe with
    inputs of up to 8.
    """
    return 2 * (2**input_bits - 1) * 2 ** (weight_bits - 1) <= PAIR


def width(grid: Grid) -> int:
    """Bits in which a deployed file keeps a weight's codes: 4 or 8."""
    return max(4, pack.container(grid.bits))


def block_size(layer: QuantLinear) -> int:
    """Of MatMulNBits for a layer: a whole row if that fits, else as large as divides it.

    A grouped weight's blocks lie within its groups.

    Raises:
        UserError: no allowed size divides the row, or the group.
    """
    span = layer.weights.grid.group or layer.in_features
    if span == layer.in_features and span <= LARGEST_BLOCK:
        return max(SMALLEST_BLOCK, 1 << (span - 1).bit_length())
    size = min(span & -span, LARGEST_BLOCK)
    if size < SMALLEST_BLOCK:
        raise UserError(
            f"kernel 'blocks' cuts rows into 16, 32, 64, 128 or 256 entries, none of which divides "
            f"{span}; take kernel 'exact' or 'tensor'"
        )
    return size


def inputs_of(layer: QuantLinear, kernel: Kernel) -> InputSpec:
    """How `kernel` rounds the inputs of a layer.

    Raises:
        UserError: the layer's inputs are not quantized, or the kernel cannot do its grids.
    """
    if layer.inputs is None:
        raise UserError("integer kernels need quantized inputs; this layer's are in full precision")
    own = layer.inputs.spec
    if kernel == "blocks":
        size = block_size(layer)
        whole = size >= layer.in_features
        grid = Grid(
            bits=8, symmetric=True, dynamic=True,
            granularity="token" if whole else "group", group=None if whole else size,
        )  # fmt: skip
        return InputSpec(grid=grid, clip="max")
    for what, used in (("weights", layer.weights.grid), ("inputs", own.grid)):
        if used.granularity == "group":
            raise UserError(
                f"kernel '{kernel}' sums whole rows, but the {what} have a step per group of "
                f"{used.group}; take kernel 'blocks'"
            )
    if kernel == "exact":
        return own
    if kernel == "tensor":
        return RUNTIME
    raise ValueError(f"kernel '{kernel}' rounds nothing")


@contextmanager
def computing(model: nn.Module, kernel: Kernel) -> Iterator[None]:
    """Within the block, `model` rounds inputs as `kernel` does; afterwards as before.

    One thing differs: a branch beside a layer is given rounded inputs here, and unrounded ones by
    `blocks`, whose rounding happens inside the product.

    Raises:
        UserError: the kernel cannot do a layer's grids.
    """
    layers = quantized(model)
    before = {name: layer.inputs for name, layer in layers.items()}
    rounded = {} if kernel == "full" else {n: inputs_of(x, kernel) for n, x in layers.items()}
    try:
        for name, spec in rounded.items():
            if kernel != "exact":
                layers[name].inputs = InputQuantizer(spec).to(layers[name].weight.device)
        with plain(model) if kernel == "full" else nullcontext():
            yield
    finally:
        for name, layer in layers.items():
            layer.inputs = before[name]
