"""How SDKD's scores are drawn. Functions that give a `draw(theme)` are for `pictures.save`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.sdkd.names import net
from pipelines.sdkd.summary import (
    METHOD,
    NONE,
    PERSISTENCE,
    TEACHER,
    band_names,
    means,
    ratios,
    title_of,
)
from stages.core.pictures import save
from stages.core.stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from stages.core.themes import Theme

Draw = Callable[["Theme"], "Figure"]
FAINT = 1e-10
"""Parts of the strongest wavenumber below this are rounding, and are not drawn."""
DRAWN = 8
"""Curves in one picture, beside the teacher and persistence: more could not be told apart."""


@dataclass
class Spectra:
    """Spectra of the last forecast frame: the truth's, and each arm's and its error's, by seed."""

    truth: list[float]
    found: dict[tuple[str, str], list[dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, student: str, variant: str, spectra: dict[str, list[float]]) -> None:
        self.found.setdefault((student, variant), []).append(spectra)

    def tables(self) -> dict[tuple[str, str], DataFrame]:
        """By (student, variant): wavenumber, truth, forecast and error, means over seeds."""
        from pandas import DataFrame

        return {
            key: DataFrame({
                "wavenumber": range(len(self.truth)),
                "truth": self.truth,
                **{k: np.mean([s[k] for s in seeds], 0) for k in ("forecast", "error")},
            })
            for key, seeds in sorted(self.found.items())
        }  # fmt: skip


def save_all(
    out: Path,
    table: DataFrame,
    curves: Mapping[tuple[str, str], DataFrame],
    spectra: Spectra,
    variants: Sequence[str],
    edges: Sequence[float],
    cutoff: float,
) -> None:
    """Draw, for each student, all arms' error, and by lead, band and wavenumber.

    Args:
        table: the scores.
        curves: `summary.curves` of them.
        variants: all, so that an arm looks the same in all pictures.
        edges: wavenumbers between the bands.
        cutoff: where the low band ends.
    """
    bands = {"mse": "all", "mse_low": f"k ≤ {cutoff:g}", "mse_high": f"k > {cutoff:g}"}
    names = zip(band_names(edges), pairwise(edges), strict=True)
    bands |= {name: f"{lo:g} ≤ k < {hi:g}" for name, (lo, hi) in names}
    for student in sorted({student for student, _ in curves}):
        shown = net(student)
        found = means(table, student, variants)
        save(
            out,
            f"comparison-{student}",
            comparison(found, variants),
            title=f"{shown}: error of all arms",
            caption="Mean squared error over all test windows and leads, raw units, with 95 % "
            "intervals. Persistence repeats the last frame.",
            alt=" ".join(f"{title_of(v)} {x.value:.4g}." for v, x in found.items()),
        )
        own = {v: curves[student, v] for v in variants if (student, v) in curves}
        save(
            out,
            f"leads-{student}",
            by_lead(own, variants),
            title=f"{shown}: error by lead time",
            caption="Relative error |forecast - truth| / |truth|, mean over test windows and "
            "seeds, for each frame of the forecast.",
            alt=" ".join(_course(title_of(v), curve) for v, curve in own.items()),
        )
        by_band = ratios(table, student, variants, list(bands))
        if by_band:
            save(
                out,
                f"bands-{student}",
                error_by_band(by_band, bands, variants),
                title=f"{shown}: error by wavenumber",
                caption="Mean squared error in each band of wavenumbers k (waves per width) as a "
                "ratio to the undistilled student's: below 1 is better. 95 % intervals. Bands part "
                f"at the cutoff of the distillation loss, k = {cutoff:g}, and at fixed edges.",
                alt=" ".join(
                    f"{title_of(v)}: "
                    + ", ".join(f"{bands[b]} {x.value:.2f}" for b, x in found.items())
                    + "."
                    for v, found in by_band.items()
                ),
            )
        drawn = spectra.tables()
        own = {v: drawn[student, v] for v in chosen(variants) if (student, v) in drawn}
        save(
            out,
            f"spectra-{student}",
            forecast_spectra(own, variants),
            title=f"{shown}: spectra of the last frame",
            caption="Left: mean square of the last forecast frame by wavenumber, beside the "
            "truth's. A forecast that lacks high wavenumbers is blurred. Right: that of its error; "
            "where it meets the truth's, nothing is forecast.",
            alt=" ".join(_blur(title_of(v), curve, cutoff) for v, curve in own.items()),
        )


def chosen(variants: Sequence[str]) -> list[str]:
    """The arms whose spectra are drawn; the others' stand in the tables of curves."""
    return [v for v in (NONE, "output", "fitnet", METHOD, TEACHER, PERSISTENCE) if v in variants]


def _course(name: str, curve: DataFrame) -> str:
    first, last = curve.iloc[0]["relative_l2"], curve.iloc[-1]["relative_l2"]
    return f"{name}: from {first:.2f} to {last:.2f} in {len(curve)} frames."


def _blur(name: str, curve: DataFrame, cutoff: float) -> str:
    high = curve[curve["wavenumber"] > cutoff]
    share = 100 * high["forecast"].sum() / high["truth"].sum()
    return f"{name} has {share:.0f} % of the truth's mean square above wavenumber {cutoff:g}."


def comparison(found: Mapping[str, Interval], variants: Sequence[str]) -> Draw:
    """Every arm's error: a dot, and a bar for its interval."""

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.4, 0.9 + 0.3 * len(found), xlabel="mean squared error")
        for row, (variant, x) in enumerate(found.items()):
            _dot(axes, style_of(theme, variant, variants), x, row)
        _rows(axes, list(found))
        return figure

    return draw


def error_by_band(
    found: Mapping[str, Mapping[str, Interval]], bands: Mapping[str, str], variants: Sequence[str]
) -> Draw:
    """Ratios of each arm's error to the undistilled student's: a panel per band."""
    columns = 3

    def draw(theme: Theme) -> Figure:
        rows = -(-len(bands) // columns)
        figure = theme.figure(6.8, rows * (0.8 + 0.22 * len(found)))
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for place, axes in enumerate(grid.flat):
            if place >= len(bands):
                axes.set_axis_off()
                continue
            band = list(bands)[place]
            axes.axvline(1.0, color=theme.muted, linewidth=1, linestyle=":")
            for row, (variant, by_band) in enumerate(found.items()):
                _dot(axes, style_of(theme, variant, variants), by_band[band], row)
            axes.set_title(bands[band])
            _rows(axes, list(found))
        figure.supxlabel("error ÷ undistilled student's", fontsize=9.5)
        return figure

    return draw


def style_of(theme: Theme, variant: str, variants: Sequence[str]) -> dict[str, Any]:
    """The look of a variant in all pictures; teachers and persistence, no arms, stand back."""
    style = theme.style(variants.index(variant))
    if variant.startswith((TEACHER, PERSISTENCE)):
        style |= {"color": theme.muted, "linestyle": ":"}
    return style


def _dot(axes: Axes, style: Mapping[str, Any], x: Interval, row: int) -> None:
    axes.plot([x.low, x.high], [row, row], color=style["color"], linewidth=1.4)
    axes.plot(x.value, row, style["marker"], color=style["color"])


def _rows(axes: Axes, variants: Sequence[str]) -> None:
    axes.set_yticks(range(len(variants)), [title_of(v) for v in variants])
    axes.set_ylim(len(variants) - 0.5, -0.5)


def by_lead(curves: Mapping[str, DataFrame], variants: Sequence[str]) -> Draw:
    """Relative error by lead time, a line per variant; beyond `DRAWN` arms the last are left."""
    references = [v for v in curves if v.startswith((TEACHER, PERSISTENCE))]
    shown = [v for v in curves if v not in references][:DRAWN] + references

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.8, 4.0, xlabel="lead, frames", ylabel="relative error")
        for variant in shown:
            curve, style = curves[variant], style_of(theme, variant, variants)
            axes.plot(curve["lead"], curve["relative_l2"], label=title_of(variant), **style)
        leads = curves[shown[0]]["lead"].tolist()
        axes.set_xticks(leads, [str(lead) for lead in leads])
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=3)
        return figure

    return draw


def forecast_spectra(curves: Mapping[str, DataFrame], variants: Sequence[str]) -> Draw:
    """Spectra of forecasts and of their errors, beside the truth's; both axes logarithmic."""

    def draw(theme: Theme) -> Figure:
        figure = theme.figure(6.8, 3.8)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, kind in zip(panels, ("forecast", "error"), strict=True):
            for place, (variant, curve) in enumerate(curves.items()):
                truth = curve["truth"].to_numpy()[1:]
                k, seen = curve["wavenumber"].to_numpy()[1:], truth > FAINT * truth.max()
                if place == 0:
                    axes.plot(k[seen], truth[seen], color=theme.text, linewidth=1, label="truth")
                values = curve[kind].to_numpy()[1:]
                style = style_of(theme, variant, variants) | {"markersize": 3}
                axes.plot(k[seen], values[seen], label=title_of(variant), **style)
            log_log(axes, len(truth))
            axes.set_title(kind)
            axes.set_xlabel("wavenumber")
        panels[0].set_ylabel("mean square")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)
        return figure

    return draw


def log_log(axes: Axes, largest: int) -> None:
    """Logarithmic axes, wavenumbers from 1 to `largest` marked at powers of two."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    marks = [2**power for power in range(12) if 2**power <= largest]
    axes.set_xticks(marks, [str(mark) for mark in marks])
    axes.minorticks_off()
