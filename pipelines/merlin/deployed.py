"""A trained arm as it would be used: it takes a window with holes and gives a forecast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.merlin.data import COMPLETE, Window
from pipelines.merlin.impute import Kind, inputs
from pipelines.merlin.masks import rate_of
from pipelines.merlin.model import Forecaster, load
from stages.core.files import read_json


class Deployed:
    """What `distill` left of one data set, backbone and seed, or `teach` of one teacher.

    Attributes:
        models: the arm's one model as "all", or its model for each mask that it has one for.
        input: what it puts in a hole.
        rest: (N,) what it puts where nothing of a sensor is left, if it is an imputer.
        training: the record of the training, `training.json`.
    """

    def __init__(self, models: dict[str, Forecaster], kind: Kind, training: dict[str, Any]) -> None:
        self.models, self.input, self.training = models, kind, training
        self.rest = torch.tensor(training.get("rest", 0.0))

    @staticmethod
    def load(folder: Path, device: torch.device | None = None) -> Deployed:
        """Open a seed's folder of `distill`, or a teacher's folder (which puts 0 in a hole)."""
        training = read_json(folder / "training.json")
        listed = training.get("models", {"all": {"file": "model.safetensors"}})
        models = {
            name: load(folder, about["file"]).to(device or torch.device("cpu"))
            for name, about in listed.items()
        }
        return Deployed(models, training.get("arm", {}).get("input", "zeros"), training)

    def model(self, key: str) -> Forecaster:
        """The model that answers under mask `key`: its own or the one nearest in rate."""
        return self.models[nearest(key, list(self.models))]

    def forecast(self, window: Window, kept: Tensor, key: str) -> tuple[Tensor, Tensor]:
        """Forecasts from what a mask leaves of the windows.

        Args:
            kept: (B, P, N) bool, the mask's part of the windows.
            key: the mask's name; it only chooses among models that were trained for one rate each.

        Returns:
            forecast (B, Q, N) normalised and hidden representation (B, D, N).
        """
        with torch.no_grad():
            x = inputs(self.input, window, kept, self.rest.to(window.x.device))
            y, hidden, _ = self.model(key)(x, window.tod, window.dow)
        return y, hidden


def nearest(key: str, names: Sequence[str]) -> str:
    """Which of the models serves a mask: of its own name, or trained at the nearest rate.

    A mask whose name gives no rate ("changing") counts as the mean of the models' rates; of two
    rates equally near the lower one serves.
    """
    if key in names or len(names) == 1:
        return key if key in names else names[0]
    known = {name: rate for name in names if (rate := rate_of(name)) is not None}
    wanted = 0.0 if key == COMPLETE else rate_of(key)
    if wanted is None:
        wanted = sum(known.values()) / len(known)
    return min(known, key=lambda name: (abs(known[name] - wanted), known[name]))
