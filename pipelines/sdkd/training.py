"""What the shared loop needs to train a forecaster: its loss at a step, its validation loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.sdkd.nets.frame import Shape

if TYPE_CHECKING:
    from pipelines.sdkd.data import Fields

VALIDATION_BATCH = 32


def shape_of(fields: Fields) -> Shape:
    """What a network must know of the data."""
    return Shape(
        history=fields.history,
        horizon=fields.horizon,
        channels=fields.channels,
        height=fields.size[0],
        width=fields.size[1],
    )


def step_loss(
    fields: Fields, seed: int, batch: int, device: torch.device
) -> Callable[[nn.Module, int], Tensor]:
    """Mean squared error on the training windows of a step, a pure function of (seed, step).

    A model that has a `lesson(forecast, latent, index, step)` gets what it gives added: see
    `pipelines.sdkd.pupil`.
    """

    def loss(model: nn.Module, step: int) -> Tensor:
        x, y, index = fields.batch(seed, step, batch)
        forecast, latent = model(x.to(device))
        plain = functional.mse_loss(forecast, y.to(device))
        lesson = getattr(model, "lesson", None)
        return plain if lesson is None else plain + lesson(forecast, latent, index, step)

    return loss


def valid_loss(fields: Fields, device: torch.device) -> Callable[[nn.Module], float]:
    """Mean squared error over the validation windows, against the truth alone.

    Nothing of a distillation loss is in it: a teacher's errors must not choose a student.
    """
    _, xs, ys = fields.fixed("valid")

    def loss(model: nn.Module) -> float:
        total = 0.0
        pairs = zip(xs.split(VALIDATION_BATCH), ys.split(VALIDATION_BATCH), strict=True)
        for x, y in pairs:
            forecast, _ = model(x.to(device))
            total += float(functional.mse_loss(forecast, y.to(device))) * len(x)
        return total / len(xs)

    return loss
