"""Errors of forecasts where only some targets were recorded: MAE, RMSE, MAPE.

What counts is said by a mask beside the targets, never by a value that stands for "missing": a
true zero is a target like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Groups = Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class Sums:
    """Sums of errors over the sensors, (B, Q) float64 each: by window and by step ahead.

    Attributes:
        cells: recorded targets.
        absolute, square: of their errors.
        large: recorded targets that are far enough from zero for a percentage.
        relative: sum over these of |error| / |target|.
    """

    cells: Tensor
    absolute: Tensor
    square: Tensor
    large: Tensor
    relative: Tensor

    @staticmethod
    def joined(parts: Sequence[Sums]) -> Sums:
        """Sums of several batches, one after the other."""
        names = Sums.__dataclass_fields__
        return Sums(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def at(self, step: int) -> Sums:
        """The sums of one step ahead, counted from 1."""
        here = slice(step - 1, step)
        return Sums(*(getattr(self, name)[:, here] for name in Sums.__dataclass_fields__))

    def mae(self, groups: Groups) -> NDArray[np.float64]:
        """Mean absolute error over the recorded targets of each group of windows, (G,)."""
        return _ratio(self.absolute, self.cells, groups)

    def rmse(self, groups: Groups) -> NDArray[np.float64]:
        """Root of the mean square error over the recorded targets of each group, (G,)."""
        return np.sqrt(_ratio(self.square, self.cells, groups))

    def mape(self, groups: Groups) -> NDArray[np.float64]:
        """Mean of |error| / |target| in percent over each group's `large` targets, (G,)."""
        return 100 * _ratio(self.relative, self.large, groups)


def sums(estimate: Tensor, truth: Tensor, label: Tensor, divisor: Tensor, floor: Tensor) -> Sums:
    """Sum up the errors of a batch.

    Args:
        estimate, truth: (B, Q, N) in the sensors' own units.
        label: (B, Q, N) bool, which targets were recorded; the others may hold anything.
        divisor: (N,) what a sensor's errors are divided by, so that sensors with different units
            can be averaged; ones where they share a unit.
        floor: (N,) targets nearer to zero than this have no percentage.
    """
    gap = (estimate.double() - truth.double()).abs().where(label, 0.0)
    scaled = gap / divisor
    size = truth.double().abs()
    large = label & (size >= floor) & (size > 0)
    relative = (gap / size.where(large, 1.0)).where(large, 0.0)
    return Sums(
        label.sum(-1, dtype=torch.float64),
        scaled.sum(-1),
        scaled.square().sum(-1),
        large.sum(-1, dtype=torch.float64),
        relative.sum(-1),
    )


def _ratio(total: Tensor, count: Tensor, groups: Groups) -> NDArray[np.float64]:
    """Sum over count in each group of windows; NaN for a group without any target."""
    upper, lower = (part.sum(1).cpu().numpy() for part in (total, count))
    over = [(upper[group].sum(), lower[group].sum()) for group in groups]
    return np.array([a / b if b else np.nan for a, b in over])
