"""Parts of the teachers: SimVP's convolutions and the block that evolves the latent maps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Mode = Literal["parallel", "serial", "conv"]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, K, h, w), position by position."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvSC(nn.Sequential):
    """Convolution 3x3, GroupNorm of two groups, SiLU; `scale` halves ("down") or doubles the grid.

    As in SimVP's released code (OpenSTL, `simvp_modules.py`): up by a pixel shuffle.
    """

    def __init__(self, inner: int, outer: int, scale: Literal["down", "up", "same"]) -> None:
        stride, grow = 2 if scale == "down" else 1, 4 if scale == "up" else 1
        shuffle = [nn.PixelShuffle(2)] if scale == "up" else []
        super().__init__(
            nn.Conv2d(inner, outer * grow, 3, stride, 1),
            *shuffle,
            nn.GroupNorm(2, outer),
            nn.SiLU(),
        )


class DropPath(nn.Module):
    """Skips a residual branch for a sample with some chance, in training only."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.chance == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.chance
        return branch * keep / (1 - self.chance)


class Block(nn.Module):
    """One step of the latent evolution (SDKD, section 3, equations 2 to 4).

    High branch: Z_h = GELU(Conv3x3(Z)). Low branch: Z_l = attention over the h·w positions. Fused:
    LayerNorm(Z + Z_h + Z_l); then an MLP of 1x1 convolutions, with a residual. The residual Z and
    the MLP are [inferred]. `serial` lets attention read what the convolution made, as the released
    networks alternate them; `conv` has no low branch.
    """

    def __init__(self, width: int, heads: int, ratio: float, drop: float, mode: Mode) -> None:
        super().__init__()
        self.mode = mode
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.norm = ChannelNorm(width)
        if mode != "conv":
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        if mode == "serial":
            self.between = ChannelNorm(width)
        inside = round(width * ratio)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, inside, 1), nn.GELU(), nn.Conv2d(inside, width, 1)
        )
        self.drop = DropPath(drop)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gives the evolved maps and what the high and the low branch made: (B, K, h, w) each."""
        high, low = functional.gelu(self.conv(z)), None
        if self.mode == "parallel":
            low = self._attend(z)
            mixed = self.norm(z + self.drop(high + low))
        elif self.mode == "serial":
            middle = self.between(z + self.drop(high))
            low = self._attend(middle)
            mixed = self.norm(middle + self.drop(low))
        else:
            mixed = self.norm(z + self.drop(high))
        return mixed + self.drop(self.mlp(mixed)), high, low

    def _attend(self, z: Tensor) -> Tensor:
        tokens = z.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return mixed.transpose(1, 2).unflatten(2, z.shape[2:])
