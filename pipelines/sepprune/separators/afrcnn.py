"""A-FRCNN (Hu, Li, Zhang, Luo, Xiao, Shi 2021, arXiv 2112.02321): one block, used many times.

The published network is basis 512, kernel 41, stride 20, bottleneck 512, hidden 512, depth 4 and
12 (or 16) iterations. The layers follow the authors' `AFRCNN.py`. Theirs pads a wave to the least
common multiple of stride and 2 ** depth, here it is their product, as in SuDoRM-RF: the same for
one second.
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
    ConvNormAct,
    DepthwiseConv,
    DepthwiseNorm,
    PReLU,
    gated,
)
from stages.prune.groups import ChannelGroup, Slice


class FusionBlock(nn.Module):
    """Filters at `depth` time scales, fuses each with its neighbours, then all of them."""

    def __init__(self, bottleneck: int, hidden: int, fused: list[int]) -> None:
        super().__init__()
        depth = len(fused)
        self.proj_1x1 = ConvNormAct(bottleneck, hidden)
        self.spp_dw = nn.ModuleList(
            DepthwiseNorm(hidden, stride=2 if scale else 1) for scale in range(depth)
        )
        self.fuse_layers = nn.ModuleList(DepthwiseNorm(hidden, stride=2) for _ in range(1, depth))
        neighbours = [1 + (scale > 0) + (scale < depth - 1) for scale in range(depth)]
        self.concat_layer = nn.ModuleList(
            ConvNormAct(hidden * count, wide) for count, wide in zip(neighbours, fused, strict=True)
        )
        self.last_layer = ConvNormAct(sum(fused), hidden)
        self.res_conv = Conv1x1(hidden, bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        """(B, bottleneck, T) -> the same, any T."""
        scales = [self.spp_dw[0](self.proj_1x1(x))]
        for filtered in self.spp_dw[1:]:
            scales.append(filtered(scales[-1]))
        fused = []
        for scale, (concat, here) in enumerate(zip(self.concat_layer, scales, strict=True)):
            parts = [self.fuse_layers[scale - 1](scales[scale - 1])] if scale else []
            parts.append(here)
            if scale + 1 < len(scales):
                parts.append(F.interpolate(scales[scale + 1], size=here.shape[-1]))
            made = gated(concat(torch.cat(parts, dim=1)), concat.norm.mask)
            fused.append(F.interpolate(made, size=x.shape[-1]) if scale else made)
        return self.res_conv(self.last_layer(torch.cat(fused, dim=1))) + x

    def groups(self, prefix: str) -> tuple[ChannelGroup, ...]:
        """The outputs of the four fusions; each is a block of columns of `last_layer`."""
        found, offset = [], 0
        for scale, layer in enumerate(self.concat_layer):
            name, size = f"{prefix}.concat_layer.{scale}", layer.conv.out_channels
            found.append(
                ChannelGroup(
                    name=name,
                    size=size,
                    producer=f"{name}.conv",
                    slices=(
                        *(
                            Slice(f"{name}.{part}", 0)
                            for part in ("conv.weight", "conv.bias", "norm.gamma", "norm.beta")
                        ),
                        Slice(f"{prefix}.last_layer.conv.weight", 1, offset),
                    ),
                    norms=(f"{name}.norm",),
                )
            )
            offset += size
        return tuple(found)


class Recurrent(SeparationModule):
    """The same block again and again; each time it sees its last output plus the mixture."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        fused = [
            width(config, f"sm.blocks.concat_layer.{scale}", config["hidden"])
            for scale in range(config["depth"])
        ]
        self.blocks = FusionBlock(config["bottleneck"], config["hidden"], fused)
        self.concat_block = nn.Sequential(DepthwiseConv(config["bottleneck"], 1), PReLU())
        self.iterations = config["iterations"]

    def forward(self, mixture: Tensor) -> Tensor:
        """(B, bottleneck, T) -> the same."""
        x = self.blocks(mixture)
        for _ in range(1, self.iterations):
            x = self.blocks(self.concat_block(mixture + x))
        return x

    def groups(self, prefix: str) -> tuple[ChannelGroup, ...]:
        """The block's groups: shared by all iterations, as the weights are."""
        return self.blocks.groups(f"{prefix}.blocks")


class AFRCNN(Separator):
    """A-FRCNN; config keys beside the frame's: hidden, iterations, depth."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, Recurrent(config))
