"""Scoring a forecaster on the test windows of one data set: errors, and likeness of views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipelines.merlin.data import COMPLETE, Series, Starts, Window
from pipelines.merlin.summary import GAP, OTHER, SAME
from stages.core.errors import UserError
from stages.evaluate.forecast import Sums, sums

if TYPE_CHECKING:
    from pandas import DataFrame

    from pipelines.merlin.evaluate import Net, Params
    from stages.core.job import Job


class Forecasts(Protocol):
    """Forecasts (B, Q, N) from what a mask leaves of windows, and a representation (B, D, N)."""

    def __call__(self, window: Window, kept: Tensor, key: str) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class Alike:
    """How like a window under a mask is represented to complete ones: cosines, mean over sensors.

    Attributes:
        same: (W,) with the same window.
        other: (W,) with the others, mean over all other test windows.
    """

    same: Tensor
    other: Tensor

    @staticmethod
    def of(own: Tensor, whole: Tensor, total: Tensor, windows: int) -> Alike:
        """
        Args:
            own, whole: (B, D, N) float64, unit representations under the mask and complete.
            total: (D, N) sum of `whole` over all `windows` test windows, at least two.
        """
        same = (own * whole).sum(1)
        # The mean over windows of a dot product is the dot product with their mean.
        other = ((own * total).sum(1) - same) / (windows - 1)
        return Alike(same.mean(1).cpu(), other.mean(1).cpu())

    @staticmethod
    def joined(parts: Sequence[Alike]) -> Alike:
        return Alike(torch.cat([p.same for p in parts]), torch.cat([p.other for p in parts]))


def units(hidden: Tensor) -> Tensor:
    """Representations (B, D, N) scaled to length 1 sensor by sensor, float64."""
    return functional.normalize(hidden.double(), dim=1)


class TestSet:
    """The test windows of one data set, cut into blocks."""

    def __init__(self, series: Series, params: Params) -> None:
        self.series, self.params = series, params
        self.title: str = series.manifest["title"]
        self.unit = series.unit
        self.starts = series.starts("test")[:: params.stride]
        if len(self.starts) < params.blocks:
            raise UserError(
                f"params.yaml: 'merlin.evaluate.blocks' is {params.blocks}, but of {series.name} "
                f"only {len(self.starts)} test windows are scored; lower it or 'stride'"
            )
        if any(step > series.horizon for step in params.horizons):
            raise UserError(
                f"params.yaml: 'merlin.evaluate.horizons' has {params.horizons}, but {series.name} "
                f"is forecast {series.horizon} steps ahead"
            )
        for key in params.masks:
            series.mask(key)  # refuses an unknown one, before anything is scored
        self.groups = np.array_split(np.arange(len(self.starts)), params.blocks)
        self.items = [f"block-{i:02d}" for i in range(params.blocks)]
        std = torch.tensor([s["std"] for s in series.manifest["sensors"]], dtype=torch.float64)
        self.floor = params.mape_floor * std
        self.keys = [COMPLETE, *params.masks]

    def score(
        self, forecast: Forecasts, device: torch.device
    ) -> tuple[dict[str, Sums], dict[str, Alike]]:
        """Errors under every mask; and how alike hidden and complete windows are represented.

        Returns:
            Mask -> sums of errors. Mask -> likeness; without those that cannot be compared.
        """
        series = self.series
        errors: dict[str, list[Sums]] = {key: [] for key in self.keys}
        alike: dict[str, list[Alike]] = {key: [] for key in self.keys}
        total = self._complete(forecast, device)
        for part in self._parts():
            window = series.window(part)
            truth, moved = series.raw(window.y), window.to(device)
            whole: Tensor | None = None
            for key in self.keys:
                y, hidden = forecast(moved, series.kept(key, part).to(device), key)
                raw = series.raw(y.cpu())
                errors[key].append(sums(raw, truth, window.label, series.error_scale, self.floor))
                if hidden is not None and total is not None:
                    own = units(hidden)
                    whole = own if key == COMPLETE else whole
                    assert whole is not None  # the complete history comes first
                    alike[key].append(Alike.of(own, whole, total, len(self.starts)))
        return (
            {key: Sums.joined(parts) for key, parts in errors.items()},
            {key: Alike.joined(parts) for key, parts in alike.items() if parts},
        )

    def _parts(self) -> Iterator[Starts]:
        size = self.params.batch_size
        yield from (self.starts[i : i + size] for i in range(0, len(self.starts), size))

    def _complete(self, forecast: Forecasts, device: torch.device) -> Tensor | None:
        """Sum over all test windows of the complete windows' unit representations, (D, N)."""
        total: Tensor | None = None
        for part in self._parts():
            window = self.series.window(part).to(device)
            kept = self.series.kept(COMPLETE, part).to(device)
            hidden = forecast(window, kept, COMPLETE)[1]
            if hidden is None:
                return None
            own = units(hidden).sum(0)
            total = own if total is None else total + own
        return total

    def rows(self, net: Net, forecast: Forecasts, job: Job) -> DataFrame:
        """The scores of one net."""
        errors, alike = self.score(forecast, job.device)
        unit = self.unit
        found: list[tuple[str, str, str, str, NDArray[np.float64]]] = []
        for key, part in errors.items():
            found += [
                (key, "mae", unit, "lower", part.mae(self.groups)),
                (key, "rmse", unit, "lower", part.rmse(self.groups)),
                (key, "mape", "%", "lower", part.mape(self.groups)),
            ]
            if net.variant in self.params.by_horizon:
                found += [
                    (
                        f"{key}|h={step}",
                        name,
                        of,
                        "lower",
                        getattr(part.at(step), name)(self.groups),
                    )
                    for step in self.params.horizons
                    for name, of in (("mae", unit), ("rmse", unit), ("mape", "%"))
                ]
        for key, like in alike.items():
            other = self._means(like.other)
            found.append((key, OTHER, "cosine", "none", other))
            if key != COMPLETE:
                same = self._means(like.same)
                found.append((key, SAME, "cosine", "none", same))
                found.append((key, GAP, "cosine", "higher", same - other))
        return self._table(net, job.paper, found)

    def _means(self, values: Tensor) -> NDArray[np.float64]:
        return np.array([float(values[group].mean()) for group in self.groups])

    def _table(
        self, net: Net, paper: str, found: list[tuple[str, str, str, str, NDArray[np.float64]]]
    ) -> DataFrame:
        from pandas import DataFrame

        names = ("condition", "metric", "unit", "direction")
        count = len(self.items)
        table = DataFrame({
            "item": self.items * len(found),
            "value": np.concatenate([row[-1] for row in found]),
            **{name: np.repeat([row[i] for row in found], count) for i, name in enumerate(names)},
        }).assign(
            paper=paper, dataset=net.dataset, backbone=net.backbone, variant=net.variant,
            seed=net.seed, censored=False,
        )  # fmt: skip
        # A block may hold no target of a kind; that is so for all arms alike.
        return table[table["value"].notna()]
