"""Uniform grids: to what a value is rounded.

    asymmetric  s = (u - l) / (2^N - 1)       z = -round(l / s)  q in 0 … 2^N - 1
    symmetric   s = max|x| / (2^(N-1) - 1)    z = 0              q in -2^(N-1) … 2^(N-1) - 1

    q = clip(round(x / s) + z),  x̂ = (q - z) s        (Q-VDiT, arXiv 2505.22167, equations 3 and 4;
                                                        S²Q-VDiT, arXiv 2508.04016, equation 1)

[l, u] always holds zero [inferred: neither paper says], so that zero is kept exactly and z is
itself a code. Ties round to even. Steps are at least `SMALLEST`, each on its own: one empty token
does not change the steps of its neighbours.

Steps lie along the last axis: for values (..., size) scale and zero are (..., G), G the number of
groups into which that axis is cut, 1 where it is not; per tensor they are (1, ..., 1). Half
precision is widened to float32 for the arithmetic.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stages.core.params import Params

SMALLEST = 1e-8
"""The least step."""

HUGE = 1e38
"""Times which every distance between two different numbers is above one."""

Shrink = float | Tensor | tuple[Tensor, Tensor]
"""A factor on the extent, or one for its lower and one for its upper end; each (..., G) or (1,)."""


class Grid(Params):
    """One grid. Full precision is no grid at all, rather than 16 bits."""

    bits: int = Field(ge=2, le=8)
    symmetric: bool
    granularity: Literal["tensor", "channel", "token", "group"]
    """What has a step of its own; a channel is a row of a weight (out, in), a token a row of
    inputs (..., tokens, in)."""
    group: int | None = Field(ge=1)
    """Entries of a row that share a step; only with granularity `group`."""
    dynamic: bool
    """Whether steps follow the values at every call, or are held."""

    @model_validator(mode="after")
    def _consistent(self) -> Grid:
        if (self.group is None) == (self.granularity == "group"):
            raise ValueError("a group size belongs to granularity 'group', and only there")
        if self.granularity == "token" and not self.dynamic:
            raise ValueError("steps per token cannot be held: the next token is another one")
        return self

    @property
    def lowest(self) -> int:
        return -(2 ** (self.bits - 1)) if self.symmetric else 0

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    def groups(self, size: int) -> int:
        """G for a last axis of `size` entries.

        Raises:
            ValueError: the group does not divide it.
        """
        if self.group is None:
            return 1
        if size % self.group:
            raise ValueError(f"rows of {size} entries cannot be cut into groups of {self.group}")
        return size // self.group


def extent(x: Tensor, grid: Grid, shrink: Shrink = 1.0) -> tuple[Tensor, Tensor]:
    """The range that the grid has to span: low <= 0 and high >= 0, differentiable.

    Args:
        x: (..., size).
        shrink: clips the range; of a symmetric grid the wider end counts after shrinking.
    """
    x = _wide(x)
    if grid.granularity == "tensor":
        low, high = (end.reshape((1,) * x.ndim) for end in torch.aminmax(x))
    else:
        low, high = _Ends.apply(x.unflatten(-1, (grid.groups(x.shape[-1]), -1)))
    below, above = shrink if isinstance(shrink, tuple) else (shrink, shrink)
    low, high = low.clamp(max=0) * below, high.clamp(min=0) * above
    if grid.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    return low, high


def steps(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and zero point of an extent; the zero point is whole, its gradient straight through."""
    if grid.symmetric:
        scale = (high / grid.highest).clamp(min=SMALLEST)
        return scale, torch.zeros_like(scale)
    scale = ((high - low) / grid.highest).clamp(min=SMALLEST)
    return scale, -round_through(low / scale)


def round_through(x: Tensor) -> Tensor:
    """round(x), with the gradient of x. Exact: round(x) - x has no rounding error (Sterbenz)."""
    return x + (x.round() - x).detach()


@torch.no_grad()
def encode(x: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """Codes q of x (..., size): int8 of a symmetric grid, uint8 of an asymmetric one."""
    parts = apart(_wide(x), scale)
    codes = (parts / scale[..., None]).round_().add_(zero[..., None])
    codes = codes.clamp_(grid.lowest, grid.highest)
    return codes.flatten(-2).to(torch.int8 if grid.symmetric else torch.uint8)


def decode(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """x̂ of codes (..., size); bit for bit what `fake` gives."""
    parts = apart(codes, scale).to(scale.dtype)
    return ((parts - zero[..., None]) * scale[..., None]).flatten(-2)


def fake(x: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """x̂ of x (..., size), in the type of x, differentiable by straight-through rounding.

    Within the range the gradient of x passes; of a clipped entry it goes to the zero point. The
    scale gets round(x / s) - x / s within the range and q - z outside (LSQ, arXiv 1902.08153,
    equation 3).
    """
    parts = apart(_wide(x), scale)
    snapped: Tensor = _Snap.apply(parts, scale[..., None], zero[..., None], grid)
    return snapped.flatten(-2).to(x.dtype)


def apart(values: Tensor, scale: Tensor) -> Tensor:
    """(..., size) as (..., G, size / G), the groups of `scale` (..., G)."""
    return values.unflatten(-1, (scale.shape[-1], -1))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


# The two functions below have their gradients written out, without boolean masks: on a CPU these
# cost 5 to 40 times as much as a product, and would dominate a training step.


class _Ends(torch.autograd.Function):
    """Least and largest entry along the last axis; entries that tie share the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = x.amin(-1), x.amax(-1)
        ctx.save_for_backward(x, low, high)
        return low, high

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, low, high = ctx.saved_tensors
        at_low, at_high = at_ends(x, low[..., None], high[..., None])
        to_low, to_high = gradients
        at_low.mul_((to_low / at_low.sum(-1))[..., None])
        return at_low.addcmul_(at_high, (to_high / at_high.sum(-1))[..., None])


def at_ends(x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """1.0 where x (..., size) is low, or high, (..., 1), and 0.0 elsewhere."""
    # Written into floats a comparison costs what a product does; as a mask, ten times that.
    at_low = torch.eq(x, low, out=torch.empty_like(x))
    at_high = torch.eq(x, high, out=torch.empty_like(x))
    return at_low, at_high


class _Snap(torch.autograd.Function):
    """`fake` of values (..., G, size) at scale and zero (..., G, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
        ratio = x / scale
        codes = ratio.round().add_(zero).clamp_(grid.lowest, grid.highest)
        ctx.save_for_backward(ratio, scale, zero)
        ctx.grid = grid
        return codes.sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        ratio, scale, zero = ctx.saved_tensors
        low, high = ctx.grid.lowest, ctx.grid.highest
        to_x, to_scale, to_zero, _ = ctx.needs_input_grad
        codes = ratio.round().add_(zero)
        # The gradient where low - 0.5 < q < high + 0.5, that is low <= q <= high, elsewhere 0.
        passed = torch.ops.aten.hardtanh_backward(gradient, codes, low - 0.5, high + 0.5)
        scales = zeros = None
        if to_scale:
            slope = codes.clamp_(low, high).sub_(zero).mul_(gradient)
            scales = slope.addcmul_(passed, ratio, value=-1).sum_to_size(scale.shape)
        if to_zero:
            zeros = (passed - gradient).sum_to_size(zero.shape) * scale
        return passed if to_x else None, scales, zeros, None
