"""What a forecaster is fed of a window whose history has holes.

All of it happens in normalised space. What is filled in comes from the window; a sensor of which
nothing is left there gets its mean in training.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipelines.merlin.data import Series, Window

Kind = Literal["zeros", "mask", "mean", "last", "linear"]


def means(series: Series) -> Tensor:
    """The sensors' means over the training span, normalised: (N,), 0 where the scale is zscore."""
    mean = torch.tensor([s["mean"] for s in series.manifest["sensors"]], dtype=torch.float64)
    return ((mean - series.offset) / series.scale).float()


def inputs(kind: Kind, window: Window, kept: Tensor, rest: Tensor | None = None) -> Tensor:
    """The net's input.

    Args:
        kind: what stands in a hole. `zeros`: 0, as published. `mask`: 0, and the mask as a second
            channel. `mean`: the mean of what is left of the sensor in the window. `last`: the last
            value before the hole, at the window's beginning the first after it. `linear`: the
            straight line between the two values beside the hole, at the window's ends the one.
        window: the batch.
        kept: (B, P, N) bool, what the experiment's mask leaves; real gaps are holes as well.
        rest: (N,) what `mean`, `last` and `linear` give a sensor of which nothing is left (see
            `means`); 0 where None.

    Returns:
        (B, P, N); (B, P, N, 2) for `mask`.
    """
    there = kept & window.observed
    x = torch.where(there, window.x, 0.0)
    if kind == "zeros":
        return x
    if kind == "mask":
        return torch.stack([x, there.to(x.dtype)], dim=-1)
    filled = _mean(x, there) if kind == "mean" else _between(x, there, kind == "linear")
    return filled if rest is None else torch.where(there.any(1, keepdim=True), filled, rest)


def _mean(x: Tensor, there: Tensor) -> Tensor:
    mean = x.sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    return torch.where(there, x, mean)


def _between(x: Tensor, there: Tensor, line: bool) -> Tensor:
    """The value before a hole all along it, or the straight line to the value behind it."""
    steps = x.shape[1]
    place = torch.arange(steps, device=x.device)[None, :, None].expand_as(there)
    before = torch.where(there, place, -1).cummax(1).values
    after = torch.where(there, place, steps).flip(1).cummin(1).values.flip(1)
    # Beyond the outermost values both neighbours are the one that there is; with none, any 0.
    left = torch.where(before >= 0, before, after).clamp(max=steps - 1)
    right = torch.where(after < steps, after, left)
    low, high = x.gather(1, left), x.gather(1, right)
    share = (place - left) / (right - left).clamp(min=1)
    return torch.lerp(low, high, share.to(x.dtype)) if line else low
