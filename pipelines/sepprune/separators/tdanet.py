"""TDANet (Li, Yang, Hu 2022, arXiv 2209.15200): top-down attention steers a U-shaped block.

The published network at 16 kHz is basis 33, kernel 64, stride 16, bottleneck 128, hidden 512, ffn
1024, 8 heads, depth 5 and 16 iterations of one block. The layers follow the authors'
`TDANet_best.py`, which is the file whose sizes are the published ones. Three things in it look
unintended. They are kept, since they decide size and cost, except for the first, which is a switch:

* The attention got (batch, frames, channels) where its first axis is taken for time: it attends
  across the batch, so that a result depends on its batch companions, and a lone mixture is not
  attended to at all. `attention_axis: time` attends over frames, `batch` does as published.
* The top-down pass starts from the scale above the one it refines, not below it, so that the
  coarsest fused scale is computed and not used (its three filters get no gradient).
* Attention's output is added to itself before its norm, where its input was meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.sepprune.separators.frame import SeparationModule, Separator, width
from pipelines.sepprune.separators.layers import (
    Conv1x1,
    ConvNorm,
    ConvNormAct,
    DepthwiseConv,
    DepthwiseNorm,
    PReLU,
    gated,
)
from stages.prune.groups import ChannelGroup, Slice

DROP = 0.1  # of attention weights, features and whole branches, as published


class Attention(nn.Module):
    """Multi-head self-attention with sinusoidal positions, over frames (or over the batch)."""

    def __init__(self, channels: int, heads: int, axis: str) -> None:
        super().__init__()
        if axis not in ("time", "batch"):
            raise ValueError(f"attention_axis is {axis!r}, allowed: time, batch")
        self.attn_in_norm = nn.LayerNorm(channels)
        # The first axis of what it is given is the one it attends over.
        self.attn = nn.MultiheadAttention(channels, heads, DROP)
        self.dropout = nn.Dropout(DROP)
        self.norm = nn.LayerNorm(channels)
        self.over_time = axis == "time"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> the same."""
        rows = self.attn_in_norm(x.transpose(1, 2))
        rows = rows + positions(rows.shape[1], rows.shape[2]).to(rows)
        if self.over_time:
            rows = rows.transpose(0, 1)
        made = self.attn(rows, rows, rows, need_weights=False)[0]
        if self.over_time:
            made = made.transpose(0, 1)
        return self.norm(made + self.dropout(made)).transpose(1, 2)


def positions(frames: int, channels: int) -> Tensor:
    """Sinusoidal positions, shape (frames, channels): sine in even channels, cosine in odd."""
    rates = 10000.0 ** (-torch.arange(0, channels, 2, dtype=torch.float32) / channels)
    angles = torch.arange(frames, dtype=torch.float32)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=2).reshape(frames, -1)[:, :channels]


class FeedForward(nn.Module):
    """1x1 convolution to the ffn width, depth-wise filter, ReLU, 1x1 convolution back."""

    def __init__(self, channels: int, ffn: int) -> None:
        super().__init__()
        self.fc1 = ConvNorm(channels, ffn, bias=False)
        self.dwconv = DepthwiseConv(ffn)
        self.fc2 = ConvNorm(ffn, channels, bias=False)
        self.drop = nn.Dropout(DROP)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> the same."""
        wide = gated(F.relu(self.dwconv(self.fc1(x))), self.fc1.norm.mask)
        return self.drop(self.fc2(self.drop(wide)))

    def group(self, name: str) -> ChannelGroup:
        """The ffn channels: what `fc1` makes, the depth-wise filter, the columns of `fc2`."""
        rows = (
            "fc1.conv.weight",
            "fc1.norm.gamma",
            "fc1.norm.beta",
            "dwconv.weight",
            "dwconv.bias",
        )
        return ChannelGroup(
            name=f"{name}.fc1",
            size=self.fc1.conv.out_channels,
            producer=f"{name}.fc1.conv",
            slices=(
                *(Slice(f"{name}.{row}", 0) for row in rows),
                Slice(f"{name}.fc2.conv.weight", 1),
            ),
            norms=(f"{name}.fc1.norm",),
        )


class GlobalAttention(nn.Module):
    """Attention and feed-forward, each added to its input; a branch may drop out in training."""

    def __init__(self, channels: int, ffn: int, heads: int, axis: str) -> None:
        super().__init__()
        self.attn = Attention(channels, heads, axis)
        self.mlp = FeedForward(channels, ffn)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> the same."""
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))

    def drop_path(self, branch: Tensor) -> Tensor:
        """Zeroes the branch for a random few of the batch, in training only."""
        if not self.training:
            return branch
        return branch * F.dropout(branch.new_ones(branch.shape[0], 1, 1), DROP)


class LocalAttention(nn.Module):
    """local(x) * sigmoid(gate(guide)) + global(guide), the guide brought to x's frames."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.local_embedding = DepthwiseNorm(channels, kernel, bias=False)
        self.global_embedding = DepthwiseNorm(channels, kernel, bias=False)
        self.global_act = DepthwiseNorm(channels, kernel, bias=False)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """(B, C, T) and (B, C, any) -> (B, C, T)."""
        frames = x.shape[-1]
        gate = F.interpolate(torch.sigmoid(self.global_act(guide)), size=frames)
        return self.local_embedding(x) * gate + F.interpolate(
            self.global_embedding(guide), size=frames
        )


class TopDownBlock(nn.Module):
    """Filters at `depth` scales, attends to their sum, and lets it steer the way back up."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, depth = config["hidden"], config["depth"]
        self.proj_1x1 = ConvNormAct(config["bottleneck"], hidden)
        self.spp_dw = nn.ModuleList(
            DepthwiseNorm(hidden, stride=2 if scale else 1) for scale in range(depth)
        )
        self.loc_glo_fus = nn.ModuleList(LocalAttention(hidden, 1) for _ in range(depth))
        self.res_conv = Conv1x1(hidden, config["bottleneck"])
        self.globalatt = GlobalAttention(
            hidden,
            width(config, "sm.unet.globalatt.mlp.fc1", config["ffn"]),
            config["heads"],
            config["attention_axis"],
        )
        self.last_layer = nn.ModuleList(LocalAttention(hidden, 5) for _ in range(depth - 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, bottleneck, T) -> the same, any T."""
        scales = [self.spp_dw[0](self.proj_1x1(x))]
        for filtered in self.spp_dw[1:]:
            scales.append(filtered(scales[-1]))
        coarsest = scales[-1].shape[-1]
        summary = sum(average_pool(scale, coarsest) for scale in scales)
        guide = self.globalatt(summary)
        fused = [fuse(scale, guide) for fuse, scale in zip(self.loc_glo_fus, scales, strict=True)]
        steps = len(self.last_layer)
        merged = fused[steps - 2]
        for step in reversed(range(steps)):
            merged = self.last_layer[step](fused[step], merged)
        return self.res_conv(merged) + x


def average_pool(x: Tensor, size: int) -> Tensor:
    """(..., T) -> (..., size): means over the windows of torch's adaptive_avg_pool1d.

    As a product with a matrix, since torch has no deterministic gradient of its own on CUDA.
    """
    length = x.shape[-1]
    place = torch.arange(length, device=x.device)[:, None]
    window = torch.arange(size, device=x.device)
    first, end = window * length // size, -(-(window + 1) * length // size)
    inside = ((place >= first) & (place < end)).to(x)
    return x @ (inside / inside.sum(0))


class Recurrent(SeparationModule):
    """The same block again and again; each time it sees its last output plus the mixture."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.unet = TopDownBlock(config)
        self.concat_block = nn.Sequential(DepthwiseConv(config["bottleneck"], 1), PReLU())
        self.iterations = config["iterations"]

    def forward(self, mixture: Tensor) -> Tensor:
        """(B, bottleneck, T) -> the same."""
        x = self.unet(mixture)
        for _ in range(1, self.iterations):
            x = self.unet(self.concat_block(mixture + x))
        return x

    def groups(self, prefix: str) -> tuple[ChannelGroup, ...]:
        """One group, shared by all iterations."""
        return (self.unet.globalatt.mlp.group(f"{prefix}.unet.globalatt.mlp"),)


class TDANet(Separator):
    """TDANet; config keys beside the frame's: hidden, ffn, heads, iterations, depth, axis."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, Recurrent(config))

    def padding(self, samples: int) -> tuple[int, int]:
        """Half-windows of zeros on both sides, and up to a whole number of windows."""
        edge = self.kernel - self.stride
        rest = self.kernel - (self.stride + samples % self.kernel) % self.kernel
        return edge, rest + edge
