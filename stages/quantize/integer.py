"""A quantized layer in integer arithmetic: packed codes, 32-bit sums, floats only at the end.

With codes c and zero points z (of inputs x and weight w), over a group of K entries

    sum (c_x - z_x)(c_w - z_w) = sum c_x c_w - z_x sum c_w - z_w sum c_x + K z_x z_w
    y = sum over groups of s_x s_w (that) + b + beside(x̂)

Codes of asymmetric grids are shifted into 8 signed bits first, and their zero points with them,
which changes nothing. This is the meaning of a quantized layer, not a fast way to run it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.quantize import pack
from stages.quantize.grids import Grid
from stages.quantize.layers import Codes, InputQuantizer, QuantLinear, quantized
from stages.quantize.swap import replace

LIMIT = 2**31
"""What a 32-bit sum must stay below."""


class IntegerLinear(nn.Module):
    """What `layer` computes, from the codes of its weight and of its inputs."""

    packed: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, layer: QuantLinear) -> None:
        """Take over `layer` as it is now; its quantizer, transform and branch are shared.

        Raises:
            ValueError: its inputs are not quantized, its groups do not match, or its sums could
                leave 32 bits.
        """
        super().__init__()
        if layer.inputs is None:
            raise ValueError("integer arithmetic needs quantized inputs")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.grid, self.inputs = layer.weights.grid, layer.inputs
        self.transform, self.beside, self.bias = layer.transform, layer.beside, layer.bias
        groups = {grid.groups(self.in_features) for grid in (self.grid, self.inputs.grid)}
        self.groups = max(groups)
        if not groups <= {1, self.groups}:
            raise ValueError(f"groups of weight and inputs do not match: {sorted(groups)}")
        widest = (2**self.grid.bits - 1) * (2**self.inputs.grid.bits - 1)
        if self.in_features // self.groups * widest >= LIMIT:
            raise ValueError(f"sums over {self.in_features} inputs can leave 32 bits")
        codes = layer.codes()
        unsigned = codes.values.to(torch.int16) - self.grid.lowest
        self.register_buffer("packed", pack.pack(unsigned, self.grid.bits))
        rows = (self.out_features, codes.scale.shape[-1])
        self.register_buffer("scale", codes.scale.expand(rows).contiguous())
        self.register_buffer("zero", codes.zero.expand(rows).contiguous())

    def codes(self) -> Codes:
        """The weight's codes (out, in), unpacked, with scale and zero (out, G)."""
        flat = pack.unpack(self.packed, self.grid.bits, self.in_features * self.out_features)
        values = (flat.to(torch.int16) + self.grid.lowest).view(self.out_features, -1)
        code = torch.int8 if self.grid.symmetric else torch.uint8
        return Codes(values.to(code), self.scale, self.zero)

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.input_codes(x)
        sums = self.sums(inputs).to(self.scale.dtype)
        y = (sums * inputs.scale[..., None] * self.scale.T).sum(-2).to(x.dtype)
        if self.bias is not None:
            y = y + self.bias
        return y if self.beside is None else y + self.beside(inputs.decode().to(x.dtype))

    def input_codes(self, x: Tensor) -> Codes:
        """Codes of the transformed inputs (..., in), with scale and zero (..., G) or (1,)."""
        quantizer: InputQuantizer = self.inputs
        if self.transform is not None:
            x = self.transform.inputs(x)  # type: ignore[operator]
        return quantizer.codes(x)

    def sums(self, inputs: Codes) -> Tensor:
        """The corrected 32-bit sums: int32 (..., G, out)."""
        x, zero_x = self._signed(inputs, self.inputs.grid)
        w, zero_w = self._signed(self.codes(), self.grid)
        raw = torch.stack([product(x[..., g, :], w[:, g]) for g in range(self.groups)], -2)
        across = w.sum(-1, dtype=torch.int32).T  # (G, out)
        along = x.sum(-1, dtype=torch.int32)[..., None]  # (..., G, 1)
        zero_x, zero_w = zero_x[..., None], zero_w.T
        return raw - zero_x * across - zero_w * along + x.shape[-1] * zero_x * zero_w

    def _signed(self, codes: Codes, grid: Grid) -> tuple[Tensor, Tensor]:
        """Codes as int8 (..., G, K), zero points as int32."""
        shift = 0 if grid.symmetric else 2 ** (grid.bits - 1)
        values = (codes.values.to(torch.int16) - shift).to(torch.int8)
        return values.unflatten(-1, (self.groups, -1)), codes.zero.to(torch.int32) - shift


def product(x: Tensor, w: Tensor) -> Tensor:
    """x · wᵀ of int8 (..., K) and (out, K) with 32-bit sums: int32 (..., out).

    Where the device has no such product, in double precision, which holds the same whole numbers.
    """
    if x.device.type == "cpu":
        return x.to(torch.int32) @ w.to(torch.int32).T
    return (x.double() @ w.double().T).to(torch.int32)


def to_integers(model: nn.Module) -> dict[str, IntegerLinear]:
    """Replace every quantized layer of `model` by its integer form, to run it all in integers.

    A layer that the model holds under several names stays one layer.

    Returns:
        Every name -> its layer.

    Raises:
        ValueError: as of `IntegerLinear`; no layer is replaced then.
    """
    made = {layer: IntegerLinear(layer) for layer in quantized(model).values()}
    found = [*model.named_modules(remove_duplicate=False)]
    integers = {name: made[layer] for name, layer in found if isinstance(layer, QuantLinear)}
    for name, integer in integers.items():
        replace(model, name, integer)
    return integers
