"""Small networks with what separators are made of, and a training step of one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Small(nn.Module):
    """Encoder, norm over everything, two scales joined by nearest upsampling, decoder."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, width, 16, 8, 8)
        self.norm = nn.GroupNorm(1, width)
        self.act = nn.PReLU()
        self.down = nn.Conv1d(width, width, 5, 2, 2, groups=width)
        self.drop = nn.Dropout(0.5)
        self.decoder = nn.ConvTranspose1d(width, 2, 16, 8, 8)

    def forward(self, mix: Tensor) -> Tensor:
        """(B, T) -> (B, 2, T) for T a multiple of 8."""
        fine = self.act(self.norm(self.encoder(mix[:, None])))
        coarse = F.adaptive_avg_pool1d(self.down(fine), 7)
        joined = fine + F.interpolate(coarse, size=fine.shape[-1])
        return self.decoder(self.drop(joined))


def seeded(width: int = 8) -> Small:
    torch.manual_seed(0)
    return Small(width)


def linear_step(width: int, hoard: int = 0):
    """A training step whose memory can be counted by hand; `hoard` bytes stay with the step."""
    torch.manual_seed(0)
    net = nn.Linear(width, width, bias=False)
    optimiser = torch.optim.Adam(net.parameters())
    x = torch.randn(1, width)
    kept = torch.ones(hoard, dtype=torch.uint8)

    def step() -> None:
        optimiser.zero_grad()
        (net(x).sum() + kept[:1].sum()).backward()
        optimiser.step()

    return step


def failing_step():
    raise ValueError("no such net")
