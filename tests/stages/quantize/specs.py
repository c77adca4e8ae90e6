"""Grids, specifications and a small model that the tests of quantization share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stages.quantize.grids import Grid
from stages.quantize.layers import InputSpec, WeightSpec


def grid(
    bits: int = 4,
    symmetric: bool = False,
    granularity: Any = "channel",
    group: int | None = None,
    dynamic: bool = False,
) -> Grid:
    return Grid(
        bits=bits, symmetric=symmetric, granularity=granularity, group=group, dynamic=dynamic
    )


def weights(clip: Any = "max", rounding: Any = "nearest", **kwargs: Any) -> WeightSpec:
    norm = 2.0 if clip == "searched" else None
    return WeightSpec(grid=grid(**kwargs), clip=clip, norm=norm, rounding=rounding)


def inputs(clip: Any = "max", **kwargs: Any) -> InputSpec:
    kwargs = {"bits": 6, "granularity": "token", "dynamic": True} | kwargs
    return InputSpec(grid=grid(**kwargs), clip=clip)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Scaled(nn.Module):
    """x / c and W · c: the simplest transform."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    def inputs(self, x: Tensor) -> Tensor:
        return x / self.scale

    def weights(self, weight: Tensor) -> Tensor:
        return weight * self.scale


class Thin(nn.Module):
    """(..., in) -> (..., out) through one channel."""

    def __init__(self, columns: int, rows: int, seed: int = 7) -> None:
        super().__init__()
        self.down = nn.Parameter(noise(columns, 1, seed=seed))
        self.up = nn.Parameter(noise(1, rows, seed=seed + 1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down @ self.up


class Added(nn.Module):
    """A constant of the weight's shape that can be trained."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self) -> Tensor:
        return self.values


class Block(nn.Module):
    """Named as diffusers names a transformer's block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False), nn.Dropout(0.0)])
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.to_out[0](torch.tanh(self.to_q(self.norm(x))))
        return x + y + self.ff(x)


class Net(nn.Module):
    def __init__(self, width: int = 8, depth: int = 2, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 3)
        self.register_buffer("places", torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        for block in self.blocks:
            y = block(y)
        head: Tensor = self.head(y)
        return head
