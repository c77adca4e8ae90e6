"""TSMixer (arXiv 2303.06053) as Merlin's authors use it: mixing over time, mixing over sensors.

It sees values alone, no clock. Batch norm runs over all views of a step together, since they make
one batch here; the released code, which trains it on one missing rate, leaves that open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Mixer(nn.Module):
    """A block: a linear map over time, then an MLP over sensors, both residual."""

    def __init__(
        self, history: int, sensors: int, inner: int, dropout: float, channels: int = 1
    ) -> None:
        super().__init__()
        rows = history * channels
        self.time_norm = nn.BatchNorm1d(rows * sensors)
        self.time = nn.Linear(rows, rows)
        self.sensor_norm = nn.BatchNorm1d(rows * sensors)
        self.widen, self.narrow = nn.Linear(sensors, inner), nn.Linear(inner, sensors)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, rows, N) to the same shape."""
        normed = self.time_norm(x.flatten(1)).view_as(x)
        x = x + self.dropout(F.gelu(self.time(normed.transpose(1, 2))).transpose(1, 2))
        normed = self.sensor_norm(x.flatten(1)).view_as(x)
        return x + self.dropout(self.narrow(self.dropout(F.gelu(self.widen(normed)))))


class TSMixer(nn.Module):
    """`width` is that of the hidden representation: the history's length (twice with a mask)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        history, sensors = config["history"], config["sensors"]
        channels = 2 if config["mask"] else 1
        self.width: int = history * channels
        self.blocks = nn.Sequential(
            *(
                Mixer(history, sensors, config["inner"], config["dropout"], channels)
                for _ in range(config["blocks"])
            )
        )
        self.regression = nn.Linear(self.width, config["horizon"])

    def forward(self, x: Tensor, tod: Tensor, dow: Tensor) -> tuple[Tensor, Tensor]:
        """Forecasts; see `pipelines.merlin.model.Forecaster.forward`.

        Returns:
            (B, Q, N) and the hidden representation (B, width, N).
        """
        rows = x if x.ndim == 3 else x.movedim(-1, 1).flatten(1, 2)
        hidden = self.blocks(rows)
        return self.regression(hidden.transpose(1, 2)).transpose(1, 2), hidden
