"""SuDoRM-RF (Tzinis, Wang, Smaragdis 2020, arXiv 2007.06833): successive down- and up-sampling.

The published 1.0x network is basis 512, kernel 21, stride 10, bottleneck 128, hidden 512, 16
blocks, depth 5. The layers follow the authors' `improved_sudormrf.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.sepprune.separators.frame import SeparationModule, Separator, width
from pipelines.sepprune.separators.layers import Conv1x1, ConvNormAct, DepthwiseNorm, NormAct, gated
from stages.prune.groups import ChannelGroup, Slice


class UConvBlock(nn.Module):
    """Widens, filters at `depth` time scales, adds them bottom-up, narrows, adds its input."""

    def __init__(self, bottleneck: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.proj_1x1 = ConvNormAct(bottleneck, hidden)
        self.spp_dw = nn.ModuleList(
            DepthwiseNorm(hidden, stride=2 if scale else 1) for scale in range(depth)
        )
        self.final_norm = NormAct(hidden)
        self.res_conv = Conv1x1(hidden, bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        """(B, bottleneck, T) -> the same; T a multiple of 2 ** (depth - 1)."""
        scales = [self.proj_1x1(x)]
        for filtered in self.spp_dw:
            scales.append(filtered(scales[-1]))
        merged = scales.pop()
        for finer in reversed(scales[1:]):
            merged = finer + F.interpolate(merged, scale_factor=2.0)
        normed = gated(self.final_norm(merged), self.final_norm.norm.mask)
        return self.res_conv(normed) + x

    def group(self, name: str) -> ChannelGroup:
        """The hidden channels: what `proj_1x1` makes, all depth-wise scales, `res_conv` reads."""
        proj, final = f"{name}.proj_1x1", f"{name}.final_norm.norm"
        scales = [f"{name}.spp_dw.{scale}" for scale in range(len(self.spp_dw))]
        norms = (f"{proj}.norm", *(f"{scale}.norm" for scale in scales), final)
        convs = (f"{proj}.conv", *(f"{scale}.conv" for scale in scales))
        return ChannelGroup(
            name=proj,
            size=self.res_conv.in_channels,
            producer=f"{proj}.conv",
            slices=(
                *(Slice(f"{conv}.{part}", 0) for conv in convs for part in ("weight", "bias")),
                *(Slice(f"{norm}.{part}", 0) for norm in norms for part in ("gamma", "beta")),
                Slice(f"{name}.res_conv.weight", 1),
            ),
            norms=norms,
        )


class Blocks(nn.Sequential, SeparationModule):
    """U-shaped blocks, one after the other."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(
            *(
                UConvBlock(
                    config["bottleneck"],
                    width(config, f"sm.{block}.proj_1x1", config["hidden"]),
                    config["depth"],
                )
                for block in range(config["blocks"])
            )
        )

    def groups(self, prefix: str) -> tuple[ChannelGroup, ...]:
        """One group per block."""
        return tuple(block.group(f"{prefix}.{name}") for name, block in self.named_children())


class SuDoRMRF(Separator):
    """SuDoRM-RF; config keys beside the frame's: hidden, blocks, depth."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, Blocks(config))
