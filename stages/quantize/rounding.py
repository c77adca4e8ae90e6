"""Learned rounding: each weight goes up or down as the layer's output asks, not to the nearest.

    ŵ = s (clip(floor(w / s) + h(v) + z) - z),  h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)

and a penalty sum 1 - |2h - 1|^b that drives h to 0 or 1 as b falls (AdaRound, arXiv 2004.10568,
equations 21 to 24; by blocks in BRECQ, arXiv 2102.05426).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.core.params import Params
from stages.quantize.grids import Grid, apart

LOW, HIGH = -0.1, 1.1
"""To where the sigmoid is stretched, so that h reaches 0 and 1 at finite v."""


class Rounding(nn.Module):
    """h of every weight; at the start ŵ = w within the range."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        """Take h from the fractions of `weight` (out, in) at steps `scale` (out, G)."""
        super().__init__()
        ratio = (apart(weight.detach(), scale) / scale.detach()[..., None]).flatten(-2)
        share = (ratio - ratio.floor() - LOW) / (HIGH - LOW)
        self.logits = nn.Parameter(torch.logit(share))

    def up(self) -> Tensor:
        """h: (out, in), 0 rounds down, 1 up."""
        return (torch.sigmoid(self.logits) * (HIGH - LOW) + LOW).clamp(0, 1)

    def forward(self, weight: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
        """Ŵ (out, in) with soft h, differentiable in v and in the scale."""
        level = self._level(weight, scale, zero, grid, self.up())
        return ((level - zero[..., None]) * scale[..., None]).flatten(-2)

    @torch.no_grad()
    def codes(self, weight: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
        """The codes (out, in) with h rounded to 0 or 1."""
        up = (self.up() >= 0.5).to(scale.dtype)
        level = self._level(weight, scale, zero, grid, up).flatten(-2)
        return level.to(torch.int8 if grid.symmetric else torch.uint8)

    def _level(self, weight: Tensor, scale: Tensor, zero: Tensor, grid: Grid, up: Tensor) -> Tensor:
        down = (apart(weight, scale) / scale[..., None]).floor().detach()
        return (down + apart(up, scale) + zero[..., None]).clamp(grid.lowest, grid.highest)

    def undecided(self, power: float) -> Tensor:
        """The penalty: sum over weights of 1 - |2h - 1|^power, a scalar."""
        return (1 - (2 * self.up() - 1).abs().pow(power)).sum()


class Anneal(Params):
    """How the penalty is laid on: nothing at first, then `power` falls linearly."""

    weight: float = Field(gt=0)
    warm: float = Field(ge=0, lt=1)
    """Share of the steps without penalty."""
    start: float = Field(ge=1)
    end: float = Field(ge=1)

    def power(self, step: int, total: int) -> float | None:
        """b at `step` of `total`; None during the warm-up."""
        done = step / total
        if done < self.warm:
            return None
        return self.start + (self.end - self.start) * (done - self.warm) / (1 - self.warm)


def penalty(model: nn.Module, anneal: Anneal, step: int, total: int) -> Tensor:
    """The weighted penalty of all learned roundings in `model`, a scalar; 0 during the warm-up."""
    found = [module for module in model.modules() if isinstance(module, Rounding)]
    if not found:
        raise ValueError("nothing in the model learns its rounding")
    power = anneal.power(step, total)
    if power is None:
        return found[0].logits.new_zeros(())
    return anneal.weight * torch.stack([module.undecided(power) for module in found]).sum()
