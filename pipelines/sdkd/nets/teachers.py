"""The teachers: encoder, latent evolution, decoder (SimVP's shell), with or without attention."""

from __future__ import annotations

from torch import Tensor, nn

from pipelines.sdkd.nets.frame import Forecaster, Hybrid, Shape, Teacher
from pipelines.sdkd.nets.layers import Block, ConvSC, Mode


class SimVP(Forecaster):
    """The shell with convolutions alone in the translator.

    A frame at a time goes through the encoder; the frames of a clip are folded into channels,
    brought to the latent width, evolved, brought back and decoded, with the encoder's first
    feature map as a skip (SimVP, section 3).
    """

    mode: Mode = "conv"
    heads = 1

    def __init__(self, shape: Shape, numbers: Teacher) -> None:
        super().__init__(shape)
        side, width, count = numbers.hidden_s, numbers.hidden_t, numbers.layers_t
        shrinks = [place % 2 == 1 for place in range(numbers.layers_s)]
        self.encoder = nn.ModuleList(
            ConvSC(side if place else shape.channels, side, "down" if shrink else "same")
            for place, shrink in enumerate(shrinks)
        )
        self.enter = nn.Conv2d(shape.history * side, width, 1)
        drops = [numbers.drop_path * (place + 1) / count for place in range(count)]
        self.blocks = nn.ModuleList(
            Block(width, self.heads, numbers.mlp_ratio, drop, self.mode) for drop in drops
        )
        self.leave = nn.Conv2d(width, shape.horizon * side, 1)
        self.decoder = nn.ModuleList(
            ConvSC(side, side, "up" if shrink else "same") for shrink in reversed(shrinks)
        )
        self.readout = nn.Conv2d(side, shape.channels, 1)
        factor = 2 ** sum(shrinks)
        self.latent = (width, shape.height // factor, shape.width // factor)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        forecast, latent, _, _ = self.branches(x)
        return forecast, latent

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The forecast, the latent maps, and the last block's high and low branch."""
        batch, horizon = len(x), self.shape.horizon
        z = skip = self.encoder[0](x.flatten(0, 1))
        for layer in self.encoder[1:]:
            z = layer(z)
        z = self.enter(z.unflatten(0, (batch, -1)).flatten(1, 2))
        high, low = z, None
        for block in self.blocks:
            z, high, low = block(z)
        y = self.leave(z).unflatten(1, (horizon, -1)).flatten(0, 1)
        for layer in self.decoder[:-1]:
            y = layer(y)
        y = self.decoder[-1](y + self._skip(skip, batch))
        return self.readout(y).unflatten(0, (batch, horizon)), z, high, low

    def _skip(self, first: Tensor, batch: int) -> Tensor:
        """The first feature map for each frame of the forecast: (B·T', D, H, W).

        Frame by frame where as many are forecast as are given, as published; else the last one's.
        """
        if self.shape.horizon == self.shape.history:
            return first
        frames = first.unflatten(0, (batch, -1))
        return frames[:, -1:].expand(-1, self.shape.horizon, -1, -1, -1).flatten(0, 1)


class AlterNet(SimVP):
    """ST-AlterNet: convolution for high and attention for low frequencies in every block."""

    def __init__(self, shape: Shape, numbers: Hybrid) -> None:
        self.mode, self.heads = numbers.mode, numbers.heads
        super().__init__(shape, numbers)
