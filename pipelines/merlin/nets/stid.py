"""STID (arXiv 2208.05233) as Merlin's authors use it: linear maps and three identities.

Each sensor's history goes through one linear map; an identity of the sensor, of the time of day
and of the day of the week are put beside it; residual MLPs follow. Sensors share all weights and
meet nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DAYS = 7


class Residual(nn.Module):
    """h + W2 dropout(relu(W1 h)), on (…, width)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(self.dropout(F.relu(self.first(hidden))))


class STID(nn.Module):
    """`width` is that of the hidden representation: `embed` + `node` + `day` + `week`.

    The released code stores the day of the week as d/7 and looks it up without multiplying, so
    that every day has the identity of row 0; here the lookup is right.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.steps_per_day: int = config["steps_per_day"]
        self.channels = 4 if config["mask"] else 3
        self.node = _identity(config["sensors"], config["node"])
        self.day = _identity(self.steps_per_day, config["day"])
        self.week = _identity(DAYS, config["week"])
        self.width: int = config["embed"] + config["node"] + config["day"] + config["week"]
        self.embed = nn.Linear(self.channels * config["history"], config["embed"])
        self.encoder = nn.Sequential(
            *(Residual(self.width, config["dropout"]) for _ in range(config["layers"]))
        )
        self.regression = nn.Linear(self.width, config["horizon"])

    def forward(self, x: Tensor, tod: Tensor, dow: Tensor) -> tuple[Tensor, Tensor]:
        """Forecasts; see `pipelines.merlin.model.Forecaster.forward`.

        Returns:
            (B, Q, N) and the hidden representation (B, width, N).
        """
        batch, _, sensors = x.shape[:3]
        values = x if x.ndim == 4 else x[..., None]
        clock = torch.stack([tod / self.steps_per_day, dow / DAYS], dim=-1).to(x.dtype)
        clock = clock[:, :, None].expand(-1, -1, sensors, -1)
        series = torch.cat([values, clock], dim=-1).transpose(1, 2).flatten(2)
        parts = [
            self.embed(series),
            self.node.expand(batch, -1, -1),
            self.day[tod[:, -1]][:, None].expand(-1, sensors, -1),
            self.week[dow[:, -1]][:, None].expand(-1, sensors, -1),
        ]
        hidden = self.encoder(torch.cat(parts, dim=-1))
        return self.regression(hidden).transpose(1, 2), hidden.transpose(1, 2)


def _identity(rows: int, width: int) -> nn.Parameter:
    table = nn.Parameter(torch.empty(rows, width))
    nn.init.xavier_uniform_(table)
    return table
