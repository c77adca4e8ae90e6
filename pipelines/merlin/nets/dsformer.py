"""DSformer (arXiv 2308.03274): two ways to sample a history, attention over time and sensors.

Reconstructed from the paper's description: the history is cut into sub-series in two ways, every
S-th step (the trend) and consecutive pieces (the detail); both go through the same encoder of
temporal and variable attention, which a cross attention joins; their sum goes through a decoder of
the same kind. Values alone, no clock; a learnt identity per sensor is sampled beside its history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5


class Attention(nn.Module):
    """Multi-head attention of (B, rows, tokens, width) to another such, along the tokens."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, to: Tensor, of: Tensor) -> Tensor:
        # The runtime's attention takes four axes: samples, heads, tokens, width.
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).flatten(0, 1).transpose(1, 2)
            for part in (self.query(to), self.key(of), self.value(of))
        )
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=drop)
        return self.out(mixed.transpose(1, 2).flatten(2).unflatten(0, to.shape[:2]))


class TimeVariable(nn.Module):
    """Temporal and variable attention side by side on (B, N, S, width), joined by a third."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.time, self.variable, self.cross = (Attention(width, heads, dropout) for _ in range(3))
        self.time_norm, self.cross_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        time = self.time_norm(x + self.time(x, x))
        swapped = x.transpose(1, 2)
        variable = self.variable(swapped, swapped).transpose(1, 2)
        return self.cross_norm(time + self.cross(variable, time))


class DSformer(nn.Module):
    """`width` is that of the hidden representation: 2 P / `samples`.

    Raises:
        ValueError: `samples` does not divide the history, or `heads` the width.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        history, sensors, self.samples = config["history"], config["sensors"], config["samples"]
        piece = history // self.samples
        self.width: int = 2 * piece
        if history % self.samples:
            raise ValueError(f"samples {self.samples} does not divide the history of {history}")
        if self.width % config["heads"]:
            raise ValueError(
                f"heads {config['heads']} does not divide the width of {self.width} "
                f"(2 × history / samples)"
            )
        self.identity = nn.Parameter(torch.empty(sensors, history))
        nn.init.xavier_uniform_(self.identity)
        self.scale = nn.Parameter(torch.ones(sensors))
        self.shift = nn.Parameter(torch.zeros(sensors))
        self.embed = nn.Linear(3 * piece, self.width) if config["mask"] else nn.Identity()
        heads, dropout = config["heads"], config["dropout"]
        self.encoder = nn.Sequential(
            *(TimeVariable(self.width, heads, dropout) for _ in range(config["layers"]))
        )
        self.norm = nn.LayerNorm(self.width)
        self.decoder = TimeVariable(self.width, heads, dropout)
        self.join = nn.Linear(self.samples * self.width, self.width)
        self.regression = nn.Linear(self.width, config["horizon"])

    def forward(self, x: Tensor, tod: Tensor, dow: Tensor) -> tuple[Tensor, Tensor]:
        """Forecasts; see `pipelines.merlin.model.Forecaster.forward`.

        Returns:
            (B, Q, N) and the hidden representation (B, width, N).
        """
        values, extra = (x, ()) if x.ndim == 3 else (x[..., 0], (x[..., 1],))
        mean = values.mean(1, keepdim=True).detach()
        std = (values.var(1, keepdim=True, unbiased=False) + EPS).sqrt().detach()
        values = (values - mean) / std * self.scale + self.shift
        series = [part.transpose(1, 2) for part in (values, *extra)]
        series.append(self.identity.expand(len(x), -1, -1))
        every = torch.cat([s.unflatten(-1, (-1, self.samples)).mT for s in series], dim=-1)
        pieces = torch.cat([s.unflatten(-1, (self.samples, -1)) for s in series], dim=-1)
        encoded = self.encoder(self.embed(every)) + self.encoder(self.embed(pieces))
        hidden = self.join(self.decoder(self.norm(encoded)).flatten(2))
        y = self.regression(hidden).transpose(1, 2)
        return (y - self.shift) / (self.scale + EPS**2) * std + mean, hidden.transpose(1, 2)
