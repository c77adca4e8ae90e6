"""Scores of the teachers and of every arm on test windows, under every mask.

The headline metric is the MAE over recorded targets of all sensors and all steps ahead. Conditions
are names of masks: `complete` (nothing hidden), the rates of training (`mcar-25` …), and what no
arm has seen: other rates, rates that change within a window, outages. `<mask>|h=<n>` is the error
n steps ahead alone. Test items are blocks of consecutive windows: two windows a step apart have 23
of 24 steps in common, and an interval over single windows would take them for independent.

Sensors of one set may measure in different units. Their errors are then divided by each sensor's
standard deviation in training before they are averaged, and the unit is σ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.merlin import pictures, summary
from pipelines.merlin.data import COMPLETE, Series, Window
from pipelines.merlin.deployed import Deployed
from pipelines.merlin.example import Example, find, show
from pipelines.merlin.impute import inputs as filled
from pipelines.merlin.summary import DENSE, METHOD, PERSISTENCE
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.progress import Progress
from stages.core.results import read_scores, write_curve, write_metrics, write_scores
from stages.evaluate import folders
from stages.evaluate.forecast import Sums, sums

if TYPE_CHECKING:
    from pandas import DataFrame

    from stages.core.job import Inputs, Job

Count = Annotated[int, Field(ge=1)]


class Params(core.Params):
    """`batch_size` decides the speed alone.

    Attributes:
        stride: every so many test windows are scored, which loses little of windows that overlap.
        blocks: test items of a data set.
        mape_floor: targets nearer to zero than this many of their sensor's standard deviations in
            training are left out of MAPE.
        masks: what is scored beside the complete history.
        horizons: steps ahead that are scored by themselves, for the arms `by_horizon`.
    """

    batch_size: Count
    stride: Count
    blocks: Annotated[int, Field(ge=2, le=99)]
    mape_floor: Annotated[float, Field(ge=0)]
    masks: Annotated[list[str], Field(min_length=1)]
    horizons: list[Count]
    by_horizon: list[str]
    example: Example
    variants: Annotated[dict[str, dict[str, Any]], core.Borrowed("distill.variants")]
    seeds: Annotated[list[str], core.Borrowed("distill.seeds")]
    views: Annotated[list[str], core.Borrowed("calibrate.views")]

    @model_validator(mode="after")
    def _there(self) -> Params:
        known = {METHOD, *self.variants}
        for key, named in (("by_horizon", self.by_horizon), ("example", self.example.variants)):
            strange = sorted(set(named) - known - {DENSE})
            if strange:
                raise ValueError(f"{key} names {', '.join(strange)}, which is no variant")
        return self


class Forecasts(Protocol):
    """Forecasts (B, Q, N) from what a mask leaves of windows, and a representation (B, D, N)."""

    def __call__(self, window: Window, kept: Tensor, key: str) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class Net:
    """One trained arm, or the teacher, of one data set."""

    variant: str
    dataset: str
    backbone: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.dataset}-{self.backbone}-seed{self.seed}"

    def forecasts(self, device: torch.device) -> Forecasts:
        deployed = Deployed.load(self.folder, device)
        alone = len(deployed.models) == 1

        def forecast(window: Window, kept: Tensor, key: str) -> tuple[Tensor, Tensor | None]:
            y, hidden = deployed.forecast(window, kept, key)
            # Representations of two networks have no common axes: they are not compared.
            return y, hidden if alone else None

        return forecast


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
    ) -> tuple[dict[str, Sums], dict[str, Tensor]]:
        """Errors under every mask; and how alike hidden and complete windows are represented.

        Returns:
            Mask -> sums of errors. Mask -> cosine of the representation with that of the complete
            window, mean over sensors, by window (W,); without those that cannot be compared.
        """
        size, series = self.params.batch_size, self.series
        errors: dict[str, list[Sums]] = {key: [] for key in self.keys}
        alike: dict[str, list[Tensor]] = {key: [] for key in self.params.masks}
        for part in (self.starts[i : i + size] for i in range(0, len(self.starts), size)):
            window = series.window(part)
            truth, moved = series.raw(window.y), window.to(device)
            whole: Tensor | None = None
            for key in self.keys:
                y, hidden = forecast(moved, series.kept(key, part).to(device), key)
                raw = series.raw(y.cpu())
                errors[key].append(sums(raw, truth, window.label, series.error_scale, self.floor))
                if key == COMPLETE:
                    whole = hidden
                elif hidden is not None and whole is not None:
                    cosine = torch.cosine_similarity(hidden, whole, dim=1)
                    alike[key].append(cosine.double().mean(1).cpu())
        return (
            {key: Sums.joined(parts) for key, parts in errors.items()},
            {key: torch.cat(parts) for key, parts in alike.items() if parts},
        )

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
                    (f"{key}|h={step}", "mae", unit, "lower", part.at(step).mae(self.groups))
                    for step in self.params.horizons
                ]
        for key, cosines in alike.items():
            means = np.array([float(cosines[group].mean()) for group in self.groups])
            found.append((key, "similarity", "cosine", "higher", means))
        return self._table(net, job.paper, found)

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


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Score all nets, sum the scores up, draw them."""
    import pandas

    nets = trained(inputs["distill"], params)
    tests = {
        name: TestSet(Series.load(inputs["prepare"], name), params)
        for name in sorted({net.dataset for net in nets})
    }
    places = sorted({(net.dataset, net.backbone) for net in nets})
    nets += [Net(DENSE, d, b, 0, inputs["teach"] / d / b) for d, b in places]
    shown = params.example.dataset
    if shown not in tests:
        raise UserError(
            f"params.yaml: 'merlin.evaluate.example.dataset' is '{shown}'; the arms are trained on "
            f"{', '.join(tests)}"
        )
    chosen = find(params.example, tests[shown].series, nets)
    parts = [tests[d].rows(Net(PERSISTENCE, d, b, 0, Path()), persistence, job) for d, b in places]
    with job.progress(len(nets), "scoring") as bar:
        parts += [_scored(net, tests[net.dataset], job, bar) for net in nets]
    table = pandas.concat(parts)
    write_scores(out / "scores.parquet", table)
    write_metrics(out / "metrics.json", summary.metrics(table))
    blocks = summary.blocks(table)
    curves = summary.curves(table, blocks)
    for (dataset, backbone), arms in curves.items():
        for variant, curve in arms.items():
            write_curve(out / f"curves/rates-{dataset}-{backbone}-{variant}.csv", curve)
    order = [DENSE, *params.variants, PERSISTENCE]
    summary.write_tables(out, blocks, tests, order, [COMPLETE, *params.masks])
    pictures.save_all(out, blocks, curves, tests, order, params.views)
    show(params.example, chosen, tests[shown].series, out, job)


def trained(folder: Path, params: Params) -> list[Net]:
    """All nets that params.yaml names.

    Raises:
        UserError: one is missing, or one is there that params.yaml does not name.
    """
    found = []
    for variant, seeds in folders.runs(folder, params.variants, params.seeds).items():
        arm = params.variants[variant]
        for seed, place in seeds:
            folders.same_folders(place, arm["datasets"])
            for dataset in arm["datasets"]:
                folders.same_folders(place / dataset, arm["backbones"])
                for backbone in arm["backbones"]:
                    unit = place / dataset / backbone / f"seed{seed}"
                    if not (unit / "training.json").is_file():
                        shown = "/".join(unit.parts[-5:])
                        raise UserError(f"{shown} has no training.json; `dvc repro` makes it")
                    found.append(Net(variant, dataset, backbone, seed, unit))
    return found


def persistence(window: Window, kept: Tensor, key: str) -> tuple[Tensor, None]:
    """What was last seen of a sensor goes on; a sensor of which nothing is left has its mean."""
    last = filled("last", window, kept)[:, -1:]
    return last.expand_as(window.y), None


def _scored(net: Net, test: TestSet, job: Job, bar: Progress) -> DataFrame:
    path = job.unit(net.name) / "scores.parquet"
    if not path.is_file():
        write_scores(path, test.rows(net, net.forecasts(job.device), job))
    bar.advance(1, net.name)
    return read_scores(path)
