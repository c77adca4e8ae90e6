"""What the shared loop needs to train a forecaster: its loss at a step, its validation loss.

All views of a step go through the net as one batch: as many forward passes as views, with dropout
of their own, in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.merlin import losses
from pipelines.merlin.arms import Arm, Weights
from pipelines.merlin.data import COMPLETE, Series, Starts, Window
from pipelines.merlin.impute import Kind, inputs, means
from pipelines.merlin.model import Forecaster
from stages.distill import contrast

VALIDATION_BATCH = 128


@dataclass(frozen=True)
class Lesson:
    """How one arm trains on one data set with one seed.

    Attributes:
        views: masks that the validation error is a mean over; training adds the complete history
            where the arm is `clean`.
        teacher: in eval mode, without gradients; None for arms that ask none.
        batch: windows per step.
        epoch_steps: updates that make an epoch, by which teacher and contrast fade.
        valid_windows: how many validation windows count, evenly spread.
    """

    series: Series
    views: Sequence[str]
    arm: Arm
    weights: Weights
    teacher: Forecaster | None
    seed: int
    batch: int
    epoch_steps: int
    valid_windows: int
    device: torch.device

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Merlin's loss on the windows of update `step` (from 1), a pure function of the step."""
        starts = self.series.batch(self.seed, step, self.batch)
        window = self.series.window(starts).to(self.device)
        kept = [self.series.kept(key, starts).to(self.device) for key in self.seen]
        far = None
        if self.weights.apart:
            length = self.series.history + self.series.horizon
            far = contrast.apart(torch.from_numpy(starts).to(self.device), length)
        fade = 1.0
        if self.weights.decay:
            epoch = 1 + (step - 1) // self.epoch_steps
            fade = losses.decay(epoch, self.weights.full_epochs)
        x = torch.cat([inputs(self.arm.input, window, mask, self.rest) for mask in kept])
        return objective(model, window, x, self.arm, self.weights, self.teacher, fade, far)

    @cached_property
    def rest(self) -> Tensor:
        """What an imputer puts where nothing of a sensor is left."""
        return means(self.series).to(self.device)

    @property
    def seen(self) -> list[str]:
        """Views of a training step."""
        return [*self.views, COMPLETE] if self.arm.clean else list(self.views)

    def validate(self, model: nn.Module) -> float:
        """Mean over `views` of the masked MAE in normalised units: the same for every arm."""
        starts = spread(self.series.starts("valid"), self.valid_windows)
        errors = [
            error(model, self.series, starts, key, self.arm.input, self.device)
            for key in self.views
        ]
        return sum(errors) / len(errors)

    def likeness(self, model: Forecaster) -> dict[str, float]:
        """How alike a trained net makes the views of a window, beside those of different windows.

        Mean cosines on the validation windows: of the hidden representations, and of the codes
        where the net has a head.
        """
        starts = spread(self.series.starts("valid"), self.valid_windows)
        window = self.series.window(starts).to(self.device)
        hidden, codes = [], []
        for key in self.views:
            kept = self.series.kept(key, starts).to(self.device)
            x = inputs(self.arm.input, window, kept, self.rest)
            _, own, code = model(x, window.tod, window.dow)
            hidden.append(own.flatten(1))
            codes += [] if code is None else [code]
        pairs = {"hidden": hidden, "code": codes}
        likeness = {name: contrast.similarities(part) for name, part in pairs.items() if part}
        return {
            f"{name}_{which}": value
            for name, pair in likeness.items()
            for which, value in zip(("same", "other"), pair, strict=True)
        }


def objective(
    model: nn.Module,
    window: Window,
    x: Tensor,
    arm: Arm,
    weights: Weights,
    teacher: Forecaster | None,
    fade: float,
    rivals: Tensor | None,
) -> Tensor:
    """The loss of one step.

    Args:
        x: (V * B, P, N) or (V * B, P, N, 2), the net's input under each of V views.
        fade: g(e), see `losses.decay`.
        rivals: see `stages.distill.contrast.nt_xent`.
    """
    views = len(x) // len(window.x)
    y, hidden, code = model(x, window.tod.repeat(views, 1), window.dow.repeat(views, 1))
    forecasts = y.unflatten(0, (views, -1))
    total: Tensor = weights.forecast * losses.forecast_loss(forecasts, window.y, window.label)
    if arm.taught and teacher is not None:
        with torch.no_grad():
            taught_y, taught_hidden, _ = teacher(window.x, window.tod, window.dow)
        told = fade * weights.teacher
        if arm.hidden:
            # In memory a sensor's features lie together; the mean does not mind the order.
            own = hidden.mT.unflatten(0, (views, -1))
            total = total + told * losses.teacher_loss(own, taught_hidden.mT)
        if arm.result:
            total = total + told * losses.teacher_loss(forecasts, taught_y)
    if arm.contrast:
        split = contrast.multi_view(code.unflatten(0, (views, -1)), weights.temperature, rivals)
        total = total + fade * weights.contrast * split
    return total


def error(
    model: nn.Module, series: Series, starts: Starts, key: str, kind: Kind, device: torch.device
) -> float:
    """Masked MAE, in normalised units, over all recorded targets of the windows at `starts`."""
    total = count = 0.0
    for part in _batches(starts):
        window = series.window(part).to(device)
        x = inputs(kind, window, series.kept(key, part).to(device), means(series).to(device))
        y = model(x, window.tod, window.dow)[0]
        some = float(window.label.sum())
        total += float(losses.masked_mae(y, window.y, window.label)) * some
        count += some
    return total / max(count, 1.0)


def spread(starts: Starts, count: int) -> Starts:
    """At most `count` of the windows, evenly spread, the first and the last among them."""
    if len(starts) <= count:
        return starts
    return starts[np.linspace(0, len(starts) - 1, count).round().astype(np.int64)]


def _batches(starts: Starts) -> list[Starts]:
    return [starts[i : i + VALIDATION_BATCH] for i in range(0, len(starts), VALIDATION_BATCH)]
