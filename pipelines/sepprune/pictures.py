"""How SepPrune's scores are drawn. Functions that give a `draw(theme)` are for `pictures.save`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.sepprune.names import NETS, label
from pipelines.sepprune.summary import DENSE, HEADLINE, METHOD
from stages.core.pictures import save
from stages.core.stats import Interval
from stages.evaluate import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from stages.core.themes import Theme

Draw = Callable[["Theme"], "Figure"]
Image = tuple[str, NDArray[np.float64]]
Curves = Mapping[tuple[str, str], "DataFrame"]
SPLITS = {"seen": "seen speakers", "unseen": "unseen speakers"}
BANDS = (METHOD, "scratch")
"""Arms whose interval is drawn; the others' stand in the CSV, and would hide one another."""


def save_all(
    out: Path, table: DataFrame, curves: Curves, dataset: str, variants: Sequence[str]
) -> None:
    """Draw the recovery curves of each network and the final comparison.

    Args:
        table: the scores.
        curves: `summary.curves` of them.
        dataset: the test set of which the curves are.
        variants: all, in the order of params.yaml, so that an arm looks the same in all pictures.
    """
    final = table[(table["metric"] == HEADLINE) & table["condition"].isin(["", "final"])]
    scores: dict[str, dict[str, dict[str, Interval]]] = {}
    for backbone in sorted({backbone for backbone, _ in curves}):
        net = tables.select(final, backbone=backbone)
        scores[backbone] = {
            variant: {
                str(name): tables.mean(rows)
                for name, rows in tables.select(net, variant=variant).groupby("dataset")
            }
            for variant in variants
            if (net["variant"] == variant).any()
        }
        dense = scores[backbone][DENSE][dataset]
        own = {v: curve for (b, v), curve in curves.items() if b == backbone}
        ends = [course(label(v), own[v]) for v in variants if v in own]
        save(
            out,
            f"recovery-{backbone}",
            recovery(own, dense, variants),
            title=f"{NETS.get(backbone, backbone)}: recovery by fine-tuning",
            caption=f"Mean SI-SDRi on {SPLITS.get(dataset, dataset)} after so many updates of "
            "fine-tuning; what the choice of channels took is not counted here. Bands: 95 % "
            f"intervals of {' and '.join(label(v) for v in BANDS if v in own)}. A net from scratch "
            "starts far below the picture.",
            alt=f"The dense net has {dense.value:.1f} dB. {'; '.join(ends)}.",
        )
    save(
        out,
        "comparison",
        comparison(scores, variants),
        title="All arms after the same number of updates",
        caption="SI-SDRi with 95 % intervals. The choice of channels counts as updates. The dense "
        "net has had none of them; 'dense, more updates' has.",
        alt=" ".join(
            f"{NETS.get(net, net)}: "
            + ", ".join(f"{label(v)} {arms[v][dataset].value:.1f} dB" for v in arms)
            + "."
            for net, arms in scores.items()
        ),
    )


def course(name: str, curve: DataFrame) -> str:
    """What a curve says, in words."""
    first, last = curve.iloc[0], curve.iloc[-1]
    return (
        f"{name} goes from {first[HEADLINE]:.1f} to {last[HEADLINE]:.1f} dB "
        f"in {last['updates']:.0f} updates"
    )


def recovery(curves: Mapping[str, DataFrame], dense: Interval, variants: Sequence[str]) -> Draw:
    """Recovery curves of one network, by variant; `dense` is what the teacher scores."""

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.8, 4.4, ylabel="SI-SDRi in dB")
        axes.axhline(dense.value, color=theme.text, linewidth=1, linestyle=":", label="dense")
        for variant in [name for name in variants if name in curves]:
            curve, style = curves[variant], theme.style(variants.index(variant))
            axes.plot(curve["updates"], curve[HEADLINE], label=label(variant), **style)
            if variant in BANDS:
                axes.fill_between(
                    curve["updates"], curve["low"], curve["high"],
                    color=style["color"], alpha=0.15, linewidth=0,
                )  # fmt: skip
        # A net that knows nothing starts some 25 dB down, and would flatten all the others.
        others = [curve[HEADLINE].min() for name, curve in curves.items() if name != "scratch"]
        axes.set_ylim(bottom=min([0.0, *others]) - 1.0)
        places = ticks(curves)
        axes.set_xlabel("updates of fine-tuning")
        if len(places) > 1:
            axes.set_xscale("symlog", linthresh=places[1], linscale=0.5)
            axes.set_xlim(0, places[-1] * 1.05)
            axes.set_xticks(places, [str(place) for place in places])
            axes.set_xticks([], minor=True)
            axes.set_xlabel(f"updates of fine-tuning (logarithmic beyond {places[1]})")
        figure.legend(loc="outside lower center", ncols=3)
        return figure

    return draw


def ticks(curves: Mapping[str, DataFrame]) -> list[int]:
    """Updates to write on an axis that is logarithmic beyond the first: SepPrune's snapshots,
    and those of others that come later, thinned out."""
    there = {name: {int(u) for u in curve["updates"]} for name, curve in curves.items()}
    own = there.get(METHOD, {0})
    shown = sorted(own | {u for others in there.values() for u in others if u > max(own)})
    last, chosen = shown[-1], shown[:2]
    for number in shown[2:-1]:
        if number >= 1.8 * chosen[-1] and last >= 1.8 * number:
            chosen.append(number)
    return chosen if last in chosen else [*chosen, last]


def comparison(
    scores: Mapping[str, Mapping[str, Mapping[str, Interval]]], variants: Sequence[str]
) -> Draw:
    """Every arm's score: a panel per network, a dot per test set, a bar for the interval.

    Args:
        scores: network -> variant -> test set -> mean and interval, in dB.
        variants: in the order of the rows.
    """
    rows = [name for name in variants if any(name in arms for arms in scores.values())]
    splits = sorted({split for arms in scores.values() for arm in arms.values() for split in arm})

    def draw(theme: Theme) -> Figure:
        figure = theme.figure(6.8, 1.3 + 0.34 * len(rows))
        panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
        for axes, (net, arms) in zip(panels, scores.items(), strict=True):
            for i, split in enumerate(splits):
                style, offset = theme.style(i), 0.24 * (i - (len(splits) - 1) / 2)
                for variant, found in arms.items():
                    x, y = found[split], rows.index(variant) + offset
                    axes.plot([x.low, x.high], [y, y], color=style["color"], linewidth=1.4)
                    axes.plot(
                        x.value, y, style["marker"], color=style["color"],
                        label=SPLITS.get(split, split) if variant == DENSE else None,
                    )  # fmt: skip
            axes.set_title(NETS.get(net, net))
            axes.set_xlabel("SI-SDRi in dB")
            axes.set_yticks(range(len(rows)), [label(row) for row in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(splits))
        return figure

    return draw


def spectrogram(
    signal: NDArray[np.floating], window: int, hop: int, floor_db: float
) -> NDArray[np.float64]:
    """Short-time power of `signal` (T,) in dB below its peak, (window // 2 + 1, frames).

    Values end at -`floor_db` and are rounded to 2 dB, which no eye tells apart and which keeps
    the picture small.
    """
    padded = np.pad(np.asarray(signal, dtype=np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)).T ** 2
    peak = power.max()
    if peak == 0:
        return np.full(power.shape, -float(floor_db))
    decibels = 10 * np.log10(np.maximum(power / peak, 10 ** (-floor_db / 10)))
    return 2 * np.round(decibels / 2)


def spectrograms(images: Sequence[Image], seconds: float, nyquist: float, floor_db: float) -> Draw:
    """Spectrograms of a mixture (first, above) and of its voices, a column each.

    Args:
        images: title and `spectrogram`; after the mixture all of voice 1, then all of voice 2.
        seconds: length of the signals.
        nyquist: highest frequency, in Hz.
        floor_db: the colour map ends here.
    """
    rows = (len(images) - 1) // 2

    def draw(theme: Theme) -> Figure:
        figure = theme.figure(6.8, 1.3 * (rows + 1) + 0.2)
        grid = figure.add_gridspec(rows + 1, 2)
        for i, (title, image) in enumerate(images):
            column, row = divmod(i - 1, rows) if i else (0, -1)
            axes = figure.add_subplot(grid[row + 1, column] if i else grid[0, :])
            axes.imshow(
                image, cmap=theme.sequential, vmin=-floor_db, vmax=0, origin="lower",
                aspect="auto", extent=(0.0, seconds, 0.0, nyquist / 1000),
            )  # fmt: skip
            axes.set_title(title)
            axes.grid(False)
            axes.set_ylabel("kHz" if column == 0 else "")
            axes.set_xlabel("seconds" if row == rows - 1 else "")
            axes.tick_params(labelbottom=row in (-1, rows - 1))
        return figure

    return draw
