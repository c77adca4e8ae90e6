"""What the three separators have in common: wave -> features -> masks per voice -> waves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.sepprune.separators.layers import Conv1x1, GlobLN, PReLU
from stages.prune.groups import ChannelGroup


def width(config: Mapping[str, Any], group: str, full: int) -> int:
    """Returns how many channels a group has: `full`, unless the config says it was cut."""
    return int(config.get("widths", {}).get(group, full))


class SeparationModule(nn.Module):
    """The part of a separator that the paper prunes."""

    def groups(self, prefix: str) -> tuple[ChannelGroup, ...]:
        """Lists the channels that may be cut; `prefix` is the module's own name."""
        return ()


class Separator(nn.Module):
    """Encoder, 1x1 bottleneck, separation module `sm`, a mask per voice, decoder.

    `basis` learnt filters of `kernel` samples every `stride` samples make the features; `sm`
    maps (B, bottleneck, T) to the same shape; ReLU masks times features go through one
    transposed convolution to all voices.

    A network is described by its config, a flat dict of numbers. Its optional entry `widths`
    gives, for channel groups that were cut, how many channels are left.
    """

    def __init__(self, config: Mapping[str, Any], module: SeparationModule) -> None:
        super().__init__()
        self.config = dict(config)
        self.voices, self.basis = config["voices"], config["basis"]
        self.kernel, self.stride = config["kernel"], config["stride"]
        self.encoder = nn.Conv1d(
            1, self.basis, self.kernel, self.stride, self.kernel // 2, bias=False
        )
        self.ln = GlobLN(self.basis)
        self.bottleneck = Conv1x1(self.basis, config["bottleneck"])
        self.sm = module
        self.mask_net = nn.Sequential(
            PReLU(), Conv1x1(config["bottleneck"], self.voices * self.basis)
        )
        # An even kernel (TDANet's) brings the frames out exact; an odd one leaves stride - 1.
        self.decoder = nn.ConvTranspose1d(
            self.voices * self.basis,
            self.voices,
            self.kernel,
            self.stride,
            self.kernel // 2,
            output_padding=self.stride - 1 if self.kernel % 2 else 0,
            bias=False,
        )
        nn.init.xavier_uniform_(self.encoder.weight)
        nn.init.xavier_uniform_(self.decoder.weight)

    def groups(self) -> tuple[ChannelGroup, ...]:
        """Lists the channels that may be cut, in the order of the forward pass."""
        return self.sm.groups("sm")

    def with_widths(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """Returns the config of this network with other widths of some of its groups.

        Raises:
            ValueError: No such group, or a width outside 1 and the present one.
        """
        known = {group.name: group.size for group in self.groups()}
        for name, width in widths.items():
            if not 1 <= width <= known.get(name, 0):
                raise ValueError(
                    f"group {name!r}: width {width}, allowed "
                    f"{known and {n: f'1 to {s}' for n, s in known.items()}}"
                )
        return {**self.config, "widths": {**known, **widths}}

    def padding(self, samples: int) -> tuple[int, int]:
        """Returns how many zeros go before and after a wave of that many samples."""
        step = self.stride * 2 ** self.config["depth"]
        return 0, -samples % step

    def forward(self, mix: Tensor) -> Tensor:
        """Separates mixtures.

        Args:
            mix: Waves, shape (B, samples), any length of at least one sample.

        Returns:
            Estimates, shape (B, voices, samples), in no fixed order of voices.
        """
        before, after = self.padding(mix.shape[-1])
        features = self.encoder(F.pad(mix, (before, after))[:, None])
        masks = self.mask_net(self.sm(self.bottleneck(self.ln(features))))
        batch, _, frames = features.shape
        voices = F.relu(masks.view(batch, self.voices, self.basis, frames)) * features[:, None]
        waves = self.decoder(voices.view(batch, -1, frames))
        return waves[..., before : before + mix.shape[-1]]
