"""Scores of the teachers and of every arm on test windows, under every mask.

The headline metric is the MAE over recorded targets of all sensors and all steps ahead. Conditions
are names of masks: `complete` (nothing hidden), the rates of training (`mcar-25` …), and what no
arm has seen: other rates, rates that change within a window, outages. `<mask>|h=<n>` is the error
n steps ahead alone. Test items are blocks of consecutive windows: two windows a step apart have 23
of 24 steps in common, and an interval over single windows would take them for independent.

`similarity` is the cosine of a sensor's hidden representation of a window under a mask with that of
the same window complete. Where a network represents all windows alike, or keeps the sensor and the
time of day in its representation as STID does, it is high whatever the history says; so the same
cosine with the other test windows complete stands beside it, `similarity_other`, and what the one
exceeds the other by, `similarity_gap`.

Sensors of one set may measure in different units. Their errors are then divided by each sensor's
standard deviation in training before they are averaged, and the unit is σ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.merlin import pictures, summary
from pipelines.merlin.data import COMPLETE, Series, Window
from pipelines.merlin.deployed import Deployed
from pipelines.merlin.example import Example, find, show
from pipelines.merlin.impute import inputs as filled
from pipelines.merlin.impute import means
from pipelines.merlin.scoring import Forecasts, TestSet
from pipelines.merlin.summary import DENSE, METHOD, PERSISTENCE
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.progress import Progress
from stages.core.results import read_scores, write_curve, write_metrics, write_scores
from stages.evaluate import folders

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
    parts = [
        tests[d].rows(Net(PERSISTENCE, d, b, 0, Path()), persistence(tests[d].series), job)
        for d, b in places
    ]
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
    trained_on = [view for view in params.views if view in params.masks]
    summary.write_steps(out, table, tests, params.by_horizon, params.horizons, trained_on)
    told = [(n.variant, n.dataset, n.backbone, n.folder) for n in nets]
    summary.write_likeness(out, told, tests)
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


def persistence(series: Series) -> Forecasts:
    """What was last seen of a sensor goes on; a sensor of which nothing is left has its mean in
    training, as with every imputer."""
    rest = means(series)

    def forecast(window: Window, kept: Tensor, key: str) -> tuple[Tensor, None]:
        last = filled("last", window, kept, rest.to(window.x.device))[:, -1:]
        return last.expand_as(window.y), None

    return forecast


def _scored(net: Net, test: TestSet, job: Job, bar: Progress) -> DataFrame:
    path = job.unit(net.name) / "scores.parquet"
    if not path.is_file():
        write_scores(path, test.rows(net, net.forecasts(job.device), job))
    bar.advance(1, net.name)
    return read_scores(path)
