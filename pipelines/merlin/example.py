"""One forecast under growing missingness: the same window, more and more of it hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from pipelines.merlin.data import Series, Starts
from pipelines.merlin.names import NETS, label
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.pictures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipelines.merlin.evaluate import Net
    from stages.core.job import Job
    from stages.core.themes import Theme

Values = NDArray[np.float64]


class Example(core.Params):
    """Which forecast is drawn.

    Attributes:
        window: which of the data set's test windows, from 0.
        sensor: its name.
        masks: a panel each.
        variants: arms whose forecast is drawn, with the first of their seeds; `dense` is the
            teacher.
    """

    dataset: str
    backbone: str
    window: Annotated[int, Field(ge=0)]
    sensor: str
    masks: Annotated[list[str], Field(min_length=1)]
    variants: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class Panel:
    """What is left under a mask, (P,) bool, and each arm's forecast, (Q,) in raw units."""

    mask: str
    left: NDArray[np.bool_]
    forecasts: Mapping[str, Values]


@dataclass(frozen=True)
class Chosen:
    """What `Example` names: a window's start (1,), the sensor's place, and a net for each arm."""

    start: Starts
    place: int
    nets: Mapping[str, Net]


def find(example: Example, series: Series, nets: Sequence[Net]) -> Chosen:
    """Look up what is to be drawn.

    Raises:
        UserError: there is no such sensor, window or arm, or the window's record has a gap there.
    """
    where = "params.yaml: 'merlin.evaluate.example"
    starts = series.starts("test")
    if example.sensor not in series.sensor_names:
        names = ", ".join(series.sensor_names)
        raise UserError(f"{where}.sensor' is '{example.sensor}'; {series.name} has {names}")
    if example.window >= len(starts):
        raise UserError(f"{where}.window' is {example.window}; allowed: below {len(starts)}")
    place, start = series.sensor_names.index(example.sensor), starts[[example.window]]
    window = series.window(start)
    if not (window.observed[0, :, place].all() and window.label[0, :, place].all()):
        raise UserError(f"{where}.window' is {example.window}, in which {example.sensor} has gaps")
    for key in example.masks:
        series.kept(key, start)
    found = {variant: _net(example, nets, variant, where) for variant in example.variants}
    return Chosen(start, place, found)


def show(example: Example, chosen: Chosen, series: Series, out: Path, job: Job) -> None:
    """Draw one window's forecasts under each mask."""
    start, place, window = chosen.start, chosen.place, series.window(chosen.start)
    forecasts = {variant: net.forecasts(job.device) for variant, net in chosen.nets.items()}
    moved = window.to(job.device)
    panels = []
    for key in example.masks:
        kept = series.kept(key, start)
        raw = {
            variant: series.raw(forecast(moved, kept.to(job.device), key)[0].cpu())[0, :, place]
            for variant, forecast in forecasts.items()
        }
        left = kept[0, :, place].numpy()
        panels.append(Panel(key, left, {v: y.numpy() for v, y in raw.items()}))
    truth = series.raw(torch.cat([window.x, window.y], 1))[0, :, place].numpy()
    stated = series.manifest
    unit = stated["sensors"][place]["unit"]
    ahead = truth[series.history :]
    misses = "; ".join(
        f"{panel.mask}, {panel.left.sum()} of {series.history} values left: "
        + ", ".join(
            f"{label(v)} {np.abs(y - ahead).mean():.2g} {unit}" for v, y in panel.forecasts.items()
        )
        for panel in panels
    )
    save(
        out,
        "forecast",
        _draw(truth, series.history, panels, f"{example.sensor} in {unit}"),
        title="One forecast, more and more of it hidden",
        caption=f"{stated['title']}, {example.sensor}, by {NETS.get(example.backbone, '')}. Dots: "
        "what the mask leaves of the history; line: what was recorded, before and after. Data: "
        f"{stated['author']} ({stated['licence']}), hidden in part.",
        alt=f"Mean absolute errors of the forecasts. {misses}.",
    )


def _net(example: Example, nets: Sequence[Net], variant: str, where: str) -> Net:
    """The arm's net of the lowest seed."""
    own = [
        net
        for net in nets
        if (net.variant, net.dataset, net.backbone) == (variant, example.dataset, example.backbone)
    ]
    if not own:
        raise UserError(
            f"{where}.variants' has '{variant}', which was not trained on {example.dataset} with "
            f"{example.backbone}"
        )
    return min(own, key=lambda net: net.seed)


def _draw(
    truth: Values, history: int, panels: Sequence[Panel], ylabel: str
) -> Callable[[Theme], Figure]:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    past, ahead = np.arange(-history, 0) + 1, np.arange(1, len(truth) - history + 1)

    def draw(theme: Theme) -> Figure:
        figure = theme.figure(6.8, 0.5 + 2.0 * rows)
        grid: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            axes.plot(
                np.concatenate([past, ahead]), truth, color=theme.muted, linewidth=1.0,
                label="recorded",
            )  # fmt: skip
            axes.plot(
                past[panel.left], truth[:history][panel.left], "o", color=theme.text, markersize=3,
                label="left by the mask",
            )  # fmt: skip
            for i, (variant, values) in enumerate(panel.forecasts.items()):
                style = theme.style(i) | {"marker": None}
                axes.plot(ahead, values, label=label(variant), **style)
            axes.axvline(0.5, color=theme.grid, linewidth=1.0)
            axes.set_title(panel.mask)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel("steps")
        for axes in grid[:, 0]:
            axes.set_ylabel(ylabel)
        figure.legend(
            *grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3
        )
        return figure

    return draw
