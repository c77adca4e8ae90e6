"""What `prepare` shows of its data: samples, spectra, and what forecasting nothing scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.sdkd.data import SPLITS, TRAIN, Fields
from stages.core.pictures import add_exhibit, save
from stages.distill.bands import spectrum
from stages.evaluate.fields import damping, persistence
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

    from stages.core.themes import Theme

Draw = Callable[["Theme"], "Figure"]
SHOWN = 3
"""Trajectories drawn."""
NAMES = {"train": "training", "valid": "validation", "test": "test"}
FAINT = 1e-10
"""Parts of the strongest wavenumber below this are rounding, and are not drawn."""


def show(fields: Fields, out: Path) -> dict[str, Any]:
    """Draw samples and spectra, tabulate the simplest forecasts, and sum them up."""
    _samples(fields, out)
    _spectra(fields, out)
    spread = {f"channel_{place + 1}": std for place, std in enumerate(fields.std)}
    return {"std": spread, "range": fields.high - fields.low, **baselines(fields, out)}


def baselines(fields: Fields, out: Path) -> dict[str, Any]:
    """What two forecasts without a network score on the test windows.

    Persistence repeats the last frame; damped persistence takes it towards the mean by a factor
    per lead, fitted on training windows. A network that is no better has learnt nothing.

    Returns:
        forecast -> mse, mae (raw units) and relative_l2 over all leads, and relative_l2 by lead.
    """
    factors = damping(*fields.fixed(TRAIN)[1:])
    _, x, y = fields.fixed("test")
    last = persistence(x, fields.horizon)
    forecasts = {
        "persistence": last,
        "damped_persistence": last * factors.float()[None, :, None, None, None],
    }
    found: dict[str, Any] = {}
    rows: list[dict[str, Any]] = [
        {"lead": lead + 1, "factor": f"{float(factors[lead]):.3f}"} for lead in range(len(factors))
    ]
    truth = fields.raw(y).double()
    for name, forecast in forecasts.items():
        error = fields.raw(forecast).double() - truth
        relative = [_norm(error[:, i]) / _norm(truth[:, i]) for i in range(fields.horizon)]
        found[name] = {
            "mse": float(error.square().mean()),
            "mae": float(error.abs().mean()),
            "relative_l2": _norm(error) / _norm(truth),
            "relative_l2_by_lead": {f"lead_{i + 1}": value for i, value in enumerate(relative)},
        }
        for row, value in zip(rows, relative, strict=True):
            row[name.replace("_", " ")] = f"{value:.3f}"
    write_csv(out / "baselines.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="baselines",
        file="baselines.csv",
        title="Forecasting without a network",
        caption="Relative error |forecast - truth| / |truth| on the test windows, by lead, of the "
        "last frame repeated, and of the last frame times a factor fitted on training windows.",
    )
    return found


def _norm(values: Tensor) -> float:
    return float(values.square().sum().sqrt())


def _samples(fields: Fields, out: Path) -> None:
    trajectories = fields.trajectories("test")[:SHOWN, :, 0]
    frames = trajectories.shape[1]
    chosen = sorted({round(i * (frames - 1) / 4) for i in range(5)})
    images = trajectories[:, chosen].numpy()
    save(
        out,
        "samples",
        raster_rows(images, [f"frame {frame + 1}" for frame in chosen], fields.low, fields.high),
        title=f"{fields.dataset}: test trajectories over time",
        caption=f"A row is a trajectory of the test set, first channel; all on one scale, from "
        f"{fields.low:.2f} (dark) to {fields.high:.2f} (bright), the range of the training set. "
        f"Frames 1 to {fields.history} are given where a window starts at the first frame.",
        alt=f"{len(images)} trajectories at frames {', '.join(str(c + 1) for c in chosen)}; the "
        f"standard deviation goes from {images[:, 0].std():.2f} to {images[:, -1].std():.2f}.",
    )


def raster_rows(images: NDArray[np.floating], titles: list[str], low: float, high: float) -> Draw:
    """Small rasters (rows, columns, H, W) on one scale, with a title over each column."""
    rows, columns = images.shape[:2]

    def draw(theme: Theme) -> Figure:
        figure = theme.figure(1.3 * columns, 1.3 * rows + 0.25)
        grid = figure.subplots(rows, columns, squeeze=False)
        for row in range(rows):
            for column in range(columns):
                axes = grid[row][column]
                axes.imshow(
                    images[row, column], cmap=theme.sequential, vmin=low, vmax=high, origin="lower"
                )
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(titles[column], fontsize=8.5)
        return figure

    return draw


def _spectra(fields: Fields, out: Path) -> None:
    found = {split: fields.trajectories(split) for split in SPLITS}
    curves = {split: spectrum(values[:, -1]).numpy() for split, values in found.items()}
    first = spectrum(found[TRAIN][:, 0]).numpy()
    write_csv(
        out / "spectra.csv",
        [
            {"wavenumber": k, "train, first frame": f"{first[k]:.6g}"}
            | {f"{split}, last frame": f"{curve[k]:.6g}" for split, curve in curves.items()}
            for k in range(len(first))
        ],
    )
    shares = curves[TRAIN] / curves[TRAIN].sum()
    edge = int(np.searchsorted(shares.cumsum(), 0.99))
    save(
        out,
        "spectra",
        spectra({"training, first frame": first}
                | {f"{NAMES[split]}, last frame": curve for split, curve in curves.items()}),
        title="Spectrum of each split",
        caption="Mean square of the field by wavenumber (waves per width), over all trajectories "
        "of a split. The three splits must lie on one another.",
        alt=f"The spectrum falls steeply: 99 % of the last frame's mean square lies at "
        f"wavenumbers up to {edge}.",
    )  # fmt: skip


def spectra(curves: dict[str, NDArray[np.floating]]) -> Draw:
    """Spectra by whole wavenumber, from 1 on, both axes logarithmic."""

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(xlabel="wavenumber", ylabel="mean square")
        for i, (name, curve) in enumerate(curves.items()):
            k = np.arange(1, len(curve))
            seen = curve[1:] > FAINT * curve.max()
            axes.plot(k[seen], curve[1:][seen], label=name, **theme.style(i))
        axes.set_xscale("log")
        axes.set_yscale("log")
        marks = [2**power for power in range(12) if 2**power < len(curve)]
        axes.set_xticks(marks, [str(mark) for mark in marks])
        axes.minorticks_off()
        axes.legend()
        return figure

    return draw
