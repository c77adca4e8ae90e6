"""A small net with what pruning has to get right: a concatenation, a shared block, two norms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.prune.groups import ChannelGroup, Slice


class Norm(nn.Module):
    """Norm over channels and frames, by its definition; statistics over kept channels only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1]) if self.mask is None else self.mask
        mask = mask[:, None]
        count = mask.sum().clamp(min=1.0) * x.shape[2]
        mean = (x * mask).sum((1, 2), keepdim=True) / count
        var = ((x - mean).square() * mask).sum((1, 2), keepdim=True) / count
        normed = (x - mean) / (var + 1e-8).sqrt()
        return mask * (self.gamma[:, None] * normed + self.beta[:, None])


class Toy(nn.Module):
    """`uses` passes through one block of two parallel branches that are concatenated."""

    def __init__(self, widths: tuple[int, int] = (6, 5), uses: int = 3) -> None:
        super().__init__()
        self.uses = uses
        self.wide = nn.ModuleList(nn.Conv1d(4, width, 1) for width in widths)
        self.norm = nn.ModuleList(Norm(width) for width in widths)
        self.act = nn.ModuleList(nn.PReLU(width) for width in widths)
        self.filter = nn.Conv1d(widths[0], widths[0], 3, padding=1, groups=widths[0])
        self.after = Norm(widths[0])
        self.drop = nn.Dropout(0.5)
        self.narrow = nn.Conv1d(sum(widths), 4, 1)

    def groups(self) -> tuple[ChannelGroup, ...]:
        found, offset = [], 0
        for index, conv in enumerate(self.wide):
            names = [f"wide.{index}.weight", f"wide.{index}.bias", f"norm.{index}.gamma"]
            names += [f"norm.{index}.beta", f"act.{index}.weight"]
            norms = [f"norm.{index}"]
            if index == 0:
                names += ["filter.weight", "filter.bias", "after.gamma", "after.beta"]
                norms += ["after"]
            found.append(
                ChannelGroup(
                    name=f"wide.{index}",
                    size=conv.out_channels,
                    producer=f"wide.{index}",
                    slices=(*(Slice(n, 0) for n in names), Slice("narrow.weight", 1, offset)),
                    norms=tuple(norms),
                )
            )
            offset += conv.out_channels
        return tuple(found)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.uses):
            first, second = (
                act(norm(conv(x)))
                for conv, norm, act in zip(self.wide, self.norm, self.act, strict=True)
            )
            first = self.after(self.filter(first))
            x = x + self.narrow(self.drop(torch.cat((first, second), dim=1)))
        return x


@pytest.fixture
def toy() -> Callable[..., Toy]:
    """Makes a toy net in eval mode whose every parameter is random."""

    def make(widths: tuple[int, int] = (6, 5), uses: int = 3) -> Toy:
        torch.manual_seed(0)
        net = Toy(widths, uses).eval()
        for values in net.parameters():
            values.data += 0.3 * torch.randn_like(values)
        return net

    return make


@pytest.fixture
def example() -> Tensor:
    return torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1))
