"""Where a grid ends: the extent of the values, a share of it found by search, or a learned share.

A narrower extent has finer steps and clips the largest values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.quantize.grids import Grid, apart, extent, fake, steps

RATIOS = tuple(round(1 - 0.02 * step, 2) for step in range(50))
"""1.00, 0.98 … 0.02 (the grid of Q-VDiT's released code, whose own lacks 1.00 and has 0.00)."""

START = 4.0
"""Of a learned clip: sigmoid(4) = 0.982 (the release that S²Q-VDiT shares its quantizer with)."""


@torch.no_grad()
def search(x: Tensor, grid: Grid, norm: float, ratios: Sequence[float] = RATIOS) -> Tensor:
    """The share of the extent at which fake quantization is nearest to x, per step of the grid.

    Both ends shrink together. 1.0 is always tried, and first: where nothing is better, nothing is
    clipped.

    Args:
        x: (..., size).
        norm: p of sum |x̂ - x|^p; 2 is the squared error, more weighs clipped outliers higher.
        ratios: shares to try.

    Returns:
        (..., G), or (1, ..., 1) per tensor.
    """
    low, high = extent(x, grid)
    best = torch.ones_like(low)
    least: Tensor | None = None
    for ratio in (1.0, *ratios):
        scale, zero = steps(low * ratio, high * ratio, grid)
        power = apart((fake(x, scale, zero, grid) - x).abs().pow(norm), scale)
        error = power.double().sum(-1).sum_to_size(low.shape)
        if least is None:
            least = error
        else:
            best = torch.where(error < least, ratio, best)
            least = torch.minimum(error, least)
    return best


class LearnedClip(nn.Module):
    """Learned shares of the lower and the upper end, each sigmoid(logit).

    (OmniQuant, arXiv 2308.13137, equation 2; FlatQuant, arXiv 2410.09426, section 3.1.)
    """

    def __init__(self, shape: tuple[int, ...], start: float = START) -> None:
        """Make the logits, `shape` (..., G) or (1,), all `start`."""
        super().__init__()
        self.low = nn.Parameter(torch.full(shape, start))
        self.high = nn.Parameter(torch.full(shape, start))

    def forward(self) -> tuple[Tensor, Tensor]:
        """The two shares, in (0, 1): `shrink` of `grids.extent`."""
        return torch.sigmoid(self.low), torch.sigmoid(self.high)
