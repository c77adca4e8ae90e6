"""The forecasters of Merlin: built from a config, or loaded from a stage's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.merlin.nets.dsformer import DSformer
from pipelines.merlin.nets.stid import DAYS, STID
from pipelines.merlin.nets.tsmixer import TSMixer

NETS: dict[str, type[STID] | type[TSMixer] | type[DSformer]] = {
    "stid": STID,
    "tsmixer": TSMixer,
    "dsformer": DSformer,
}
HEAD = "head."


class Forecaster(nn.Module):
    """A backbone and, in training, the head that gives a window's code for the contrastive loss.

    The published head is a convolution over all sensors at once, so a window has one code, and the
    head grows with the number of sensors. It is made last: with and without it, equal seeds give
    equal backbones.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        self.body = NETS[config["name"]](config)
        size = self.body.width * config["sensors"]
        self.head = nn.Linear(size, config["code"]) if config["code"] else None

    def forward(self, x: Tensor, tod: Tensor, dow: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Forecasts from a history in which missing values are already filled in.

        Args:
            x: (B, P, N) normalised; (B, P, N, 2) with the mask beside it where `mask` is set.
            tod: (B, P) int64, step of the day.
            dow: (B, P) int64, 0 to 6.

        Returns:
            Forecast (B, Q, N) normalised, hidden representation (B, D, N), code (B, `code`) or
            None.
        """
        y, hidden = self.body(x, tod, dow)
        return y, hidden, None if self.head is None else self.head(hidden.mT.flatten(1))


class Published(nn.Module):
    """A forecaster behind the published layout of its input, as it is deployed.

    Takes (B, P, N, C): value, time of day in [0, 1), day of the week in [0, 1), and the mask where
    the net wants one. Gives (B, Q, N).
    """

    def __init__(self, model: Forecaster) -> None:
        super().__init__()
        self.model, self.steps_per_day = model, model.config["steps_per_day"]
        self.mask = model.config["mask"]

    @property
    def channels(self) -> int:
        return 4 if self.mask else 3

    def forward(self, history: Tensor) -> Tensor:
        clock = history[:, :, 0, 1:3].clamp(0, 1)
        tod = (clock[..., 0] * self.steps_per_day).round().long().clamp(max=self.steps_per_day - 1)
        dow = (clock[..., 1] * DAYS).round().long().clamp(max=DAYS - 1)
        x = torch.stack([history[..., 0], history[..., 3]], -1) if self.mask else history[..., 0]
        y: Tensor = self.model(x, tod, dow)[0]
        return y


def build(config: Mapping[str, Any]) -> Forecaster:
    """Builds a forecaster with fresh weights (from torch's global generator).

    Args:
        config: `name` (one of `NETS`), `sensors`, `history`, `horizon`, `steps_per_day`, `mask`
            (whether the input holds one), `code` (length of a window's code, 0 for no head), and
            the backbone's own: stid `embed`, `node`, `day`, `week`, `layers`, `dropout`; tsmixer
            `blocks`, `inner`, `dropout`; dsformer `samples`, `heads`, `layers`, `dropout`.

    Raises:
        KeyError: A number is missing, or the name is unknown.
    """
    return Forecaster(config)


def without_head(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights as they are kept: the head has no part in a forecast."""
    kept = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    return {**config, "code": 0}, kept


def load(folder: Path, weights: str = "model.safetensors") -> Forecaster:
    """Loads a forecaster from `config.json` and a weights file in one folder, in eval mode.

    Raises:
        FileNotFoundError: A file is missing.
        RuntimeError: The weights do not fit the config.
    """
    from safetensors.torch import load_file

    model = build(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model.load_state_dict(load_file(folder / weights), strict=True)
    return model.eval()
