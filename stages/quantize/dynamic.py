"""Fake quantization whose steps follow the values: one function, its gradient in closed form.

What `grids.extent`, `grids.steps` and `grids.fake` do one after the other, bit for bit; but through
them a training step passes some thirty small operations a layer, and in a small network these cost
more than its products do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stages.quantize.grids import HUGE, SMALLEST, Grid, Shrink, at_ends


def fake(x: Tensor, grid: Grid, shrink: Shrink = 1.0) -> Tensor:
    """x̂ of x (..., size) at steps of its own, in the type of x, differentiable.

    Args:
        grid: of any granularity but `tensor`.
        shrink: as of `grids.extent`; its factors get gradients too.
    """
    below, above = shrink if isinstance(shrink, tuple) else (shrink, shrink)
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    parts = wide.unflatten(-1, (grid.groups(x.shape[-1]), -1))
    found: Tensor = _Fake.apply(parts, _factor(below, wide), _factor(above, wide), grid)
    return found.flatten(-2).to(x.dtype)


def _factor(value: float | Tensor, like: Tensor) -> Tensor:
    """A factor that broadcasts against (..., G, 1)."""
    if isinstance(value, Tensor):
        return value[..., None]
    return like.new_full((1, 1), value)


class _Fake(torch.autograd.Function):
    """x (..., G, size), factors that broadcast against (..., G, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, below: Tensor, above: Tensor, grid: Grid) -> Tensor:
        least, most = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        low, high = least.clamp(max=0) * below, most.clamp(min=0) * above
        if grid.symmetric:
            width, zero = torch.maximum(-low, high), None
        else:
            width = high - low
        scale = (width / grid.highest).clamp_(min=SMALLEST)
        codes = (x / scale).round_()
        if grid.symmetric:
            snapped = codes.clamp(grid.lowest, grid.highest).mul_(scale)
        else:
            zero = -(low / scale).round_()
            snapped = codes.add_(zero).clamp(grid.lowest, grid.highest).sub_(zero).mul_(scale)
        ctx.save_for_backward(x, codes, snapped, scale, zero, least, most, below, above)
        ctx.grid = grid
        return snapped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, codes, snapped, scale, zero, least, most, below, above = ctx.saved_tensors
        lowest, highest = ctx.grid.lowest, ctx.grid.highest
        to_x, to_below, to_above, _ = ctx.needs_input_grad
        # The gradient where low - 0.5 < q < high + 0.5, that is low <= q <= high, elsewhere 0.
        passed = torch.ops.aten.hardtanh_backward(gradient, codes, lowest - 0.5, highest + 0.5)
        # Of a code less its zero point, and x / s within the range, each times s.
        slope = (snapped * gradient).addcmul_(passed, x, value=-1).sum(-1, keepdim=True) / scale
        low, high = least.clamp(max=0) * below, most.clamp(min=0) * above
        if zero is None:
            # An end has the gradient if it is the wider one, half of it if both are as wide.
            share = (-low - high).mul_(HUGE).clamp_(-1, 1).add_(1).div_(2)
            wide = _above_least(scale, slope) / highest
            to_low, to_high = -wide * share, wide * (1 - share)
        else:
            shift = (passed - gradient).sum(-1, keepdim=True)
            slope += shift * (low / scale)
            wide = _above_least(scale, slope) / highest
            to_low, to_high = -wide - shift, wide
        to_low, to_high = to_low * (least <= 0), to_high * (most >= 0)
        factors = (
            (to_low * least).sum_to_size(below.shape) if to_below else None,
            (to_high * most).sum_to_size(above.shape) if to_above else None,
        )
        if not to_x:
            return None, *factors, None
        at_low, at_high = at_ends(x, least, most)
        passed.addcmul_(at_low, to_low * below / at_low.sum(-1, keepdim=True))
        passed.addcmul_(at_high, to_high * above / at_high.sum(-1, keepdim=True))
        return passed, *factors, None


def _above_least(scale: Tensor, slope: Tensor) -> Tensor:
    """The scale's gradient where it is not held at the least step."""
    return slope * (scale > SMALLEST)
