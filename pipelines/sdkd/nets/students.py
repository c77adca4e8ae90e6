"""The students: U-Net, ResNet and MLP-Mixer, time squeezed into channels.

Their kinds are the paper's (section 4); widths and depths are not to be had, so they are numbers in
params.yaml, with a latent width of 20 to 30 % of the teacher's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipelines.sdkd.nets.frame import (
    Forecaster,
    MixerNumbers,
    ResNetNumbers,
    Shape,
    UNetNumbers,
)

SLOPE = 0.1


class UNet(Forecaster):
    """Convolution, BatchNorm, LeakyReLU on the way down and, transposed, on the way up.

    The latent maps are those of the bottom.
    """

    def __init__(self, shape: Shape, numbers: UNetNumbers) -> None:
        super().__init__(shape)
        widths = [numbers.width * 2**level for level in range(numbers.depth)]
        self.first = _conv(shape.history * shape.channels, widths[0], 1)
        inner = [*widths[1:], numbers.latent]
        self.down = nn.ModuleList(
            nn.Sequential(_conv(above, below, 2), _conv(below, below, 1))
            for above, below in zip(widths, inner, strict=True)
        )
        self.up = nn.ModuleList(
            _deconv(below, above) for above, below in zip(widths, inner, strict=True)
        )
        self.join = nn.ModuleList(_conv(2 * above, above, 1) for above in widths)
        self.readout = nn.Conv2d(widths[0], shape.horizon * shape.channels, 1)
        factor = 2**numbers.depth
        self.latent = (numbers.latent, shape.height // factor, shape.width // factor)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.first(self.folded(x))
        skips = []
        for down in self.down:
            skips.append(z)
            z = down(z)
        latent = z
        for level in reversed(range(len(skips))):
            z = self.join[level](torch.cat([self.up[level](z), skips[level]], 1))
        return self.unfolded(self.readout(z)), latent


class ResNet(Forecaster):
    """Residual blocks at full size; the latent maps are what the last one gives."""

    def __init__(self, shape: Shape, numbers: ResNetNumbers) -> None:
        super().__init__(shape)
        self.first = _conv(shape.history * shape.channels, numbers.latent, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _conv(numbers.latent, numbers.hidden, 1),
                nn.Conv2d(numbers.hidden, numbers.latent, 3, 1, 1),
            )
            for _ in range(numbers.blocks)
        )
        self.readout = nn.Conv2d(numbers.latent, shape.horizon * shape.channels, 1)
        self.latent = (numbers.latent, shape.height, shape.width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.first(self.folded(x))
        for block in self.blocks:
            z = z + block(z)
        return self.unfolded(self.readout(z)), z


class Mixer(Forecaster):
    """MLP-Mixer (arXiv 2105.01601): patches, then MLPs over positions and over channels."""

    def __init__(self, shape: Shape, numbers: MixerNumbers) -> None:
        super().__init__(shape)
        patch = numbers.patch
        grid = (shape.height // patch, shape.width // patch)
        self.cut = nn.Conv2d(shape.history * shape.channels, numbers.latent, patch, patch)
        self.blocks = nn.ModuleList(
            _Mix(numbers.latent, grid[0] * grid[1], numbers.tokens) for _ in range(numbers.blocks)
        )
        self.norm = nn.LayerNorm(numbers.latent)
        outer = shape.horizon * shape.channels * patch**2
        self.readout = nn.Sequential(nn.Conv2d(numbers.latent, outer, 1), nn.PixelShuffle(patch))
        self.latent = (numbers.latent, *grid)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.cut(self.folded(x))
        tokens = z.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        z = self.norm(tokens).transpose(1, 2).unflatten(2, z.shape[2:])
        return self.unfolded(self.readout(z)), z


class _Mix(nn.Module):
    """Tokens (B, h·w, K), mixed over positions and then over channels."""

    def __init__(self, width: int, count: int, tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_tokens = _mlp(count, tokens)
        self.over_channels = _mlp(width, 2 * width)

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.over_tokens(self.norm1(z).transpose(1, 2)).transpose(1, 2)
        return z + self.over_channels(self.norm2(z))


def _mlp(width: int, inside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inside), nn.GELU(), nn.Linear(inside, width))


def _conv(inner: int, outer: int, stride: int) -> nn.Sequential:
    # A bias in front of BatchNorm would be taken out again.
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outer),
        nn.LeakyReLU(SLOPE),
    )


def _deconv(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False),
        nn.BatchNorm2d(outer),
        nn.LeakyReLU(SLOPE),
    )
