"""How Merlin's scores are drawn. Functions that give a `draw(theme)` are for `pictures.save`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.merlin.data import COMPLETE
from pipelines.merlin.masks import rate_of
from pipelines.merlin.names import NETS, label
from pipelines.merlin.summary import (
    CONTROL,
    DENSE,
    METHOD,
    PERSISTENCE,
    Blocks,
    Curves,
    Set,
    against,
)
from stages.core.pictures import save
from stages.core.stats import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from stages.core.themes import Theme

Draw = Callable[["Theme"], "Figure"]
ONCE = (DENSE, PERSISTENCE)
"""What is not trained for the study."""
FAR = 3.0
"""A curve that leaves the control's level by this factor leaves the picture."""


def save_all(
    out: Path,
    scores: Blocks,
    curves: Curves,
    sets: Mapping[str, Set],
    variants: Sequence[str],
    views: Sequence[str],
) -> None:
    """Draw errors over missing rates, what each arm changes, and the likeness of representations.

    Args:
        scores: `summary.blocks`.
        curves: `summary.curves`.
        variants: all, in the order of params.yaml, so that an arm looks the same in all pictures.
        views: masks that training saw.
    """
    seen = [100 * rate for name in views if (rate := rate_of(name)) is not None]
    for (dataset, backbone), found in curves.items():
        own = {v: found[v] for v in variants if v in found}
        name, unit = f"{dataset}-{backbone}", sets[dataset].unit
        head = f"{sets[dataset].title}, {NETS.get(backbone, backbone)}"
        save(
            out,
            f"rates-{name}",
            rates(own, variants, seen, f"MAE in {unit}"),
            title=f"{head}: error against missing rate",
            caption="Mean absolute error over recorded targets. Bands: 95 % intervals of "
            f"{label(METHOD)} and of {label(CONTROL)}. Ticks on the axis: the rates of training.",
            alt=". ".join(course(label(v), curve, unit) for v, curve in own.items()) + ".",
            group=head,
        )
        if {METHOD, CONTROL} <= set(own):
            arms = [v for v in own if v not in (*ONCE, CONTROL)]
            _versus(out, name, head, scores[dataset, backbone], arms, variants, views)
        like = {v: curve for v, curve in own.items() if "similarity" in curve}
        if like:
            ends = {v: curve.iloc[-1] for v, curve in like.items()}
            save(
                out,
                f"similarity-{name}",
                similarity(like, variants, seen),
                title=f"{head}: how alike hidden and complete windows are represented",
                caption="Cosine of a sensor's hidden representation under a mask with that of the "
                "same window complete (lines) and with those of other windows complete (dotted), "
                "mean over test windows and sensors. What tells is the distance of the two: a "
                "network that maps all windows to one point has 1 throughout. Ticks on the axis: "
                "the rates of training.",
                alt=". ".join(
                    f"{label(v)}: {x['similarity']:.2f} with {x['hidden']:.0f} % hidden, "
                    f"{x['similarity_other']:.2f} with other windows"
                    for v, x in ends.items()
                )
                + ".",
                group=head,
            )


def course(name: str, curve: DataFrame, unit: str) -> str:
    """What a curve says, in words."""
    first, last = curve.iloc[0], curve.iloc[-1]
    return (
        f"{name}: {first['mae']:.3f} {unit} with {first['hidden']:.0f} % hidden, "
        f"{last['mae']:.3f} with {last['hidden']:.0f} %"
    )


def rates(
    curves: Mapping[str, DataFrame], variants: Sequence[str], seen: Sequence[float], ylabel: str
) -> Draw:
    """Error over missing rate, a line an arm."""
    least = min(curve["mae"].min() for curve in curves.values())
    calm = curves.get(CONTROL, next(iter(curves.values())))["mae"].max()

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.8, 4.6, xlabel="% of the points hidden", ylabel=ylabel)
        for variant, curve in curves.items():
            style = theme.style(variants.index(variant))
            axes.plot(curve["hidden"], curve["mae"], label=label(variant), **style)
            if variant in (METHOD, CONTROL):
                axes.fill_between(
                    curve["hidden"], curve["low"], curve["high"],
                    color=style["color"], alpha=0.15, linewidth=0,
                )  # fmt: skip
        most = max(curve["mae"].max() for curve in curves.values())
        axes.set_ylim(0.9 * least, min(1.03 * most, FAR * calm))
        _mark(axes, seen, theme)
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    return draw


def similarity(
    curves: Mapping[str, DataFrame], variants: Sequence[str], seen: Sequence[float]
) -> Draw:
    """Likeness of representations over missing rate, a line an arm; dotted to other windows."""

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.8, 4.2, xlabel="% of the points hidden", ylabel="cosine")
        for variant, curve in curves.items():
            style = theme.style(variants.index(variant))
            axes.plot(curve["hidden"], curve["similarity"], label=label(variant), **style)
            plain = {"color": style["color"], "linestyle": ":", "linewidth": 1.2}
            axes.plot(curve["hidden"], curve["similarity_other"], **plain)
        _mark(axes, seen, theme)
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    return draw


def _mark(axes, seen: Sequence[float], theme: Theme) -> None:  # type: ignore[no-untyped-def]
    for percent in seen:
        axes.plot(
            [percent, percent], [0, 0.025], transform=axes.get_xaxis_transform(),
            color=theme.text, linewidth=2.0, clip_on=False,
        )  # fmt: skip


def _versus(
    out: Path,
    name: str,
    head: str,
    own: Mapping[tuple[str, str], NDArray[np.float64]],
    arms: Sequence[str],
    variants: Sequence[str],
    views: Sequence[str],
) -> None:
    # Other rates of the same kind lie between those of training; the curves show them.
    masks = sorted((m for v, m in own if v == METHOD), key=lambda m: rank(m, views))
    masks = [mask for mask in masks if rank(mask, views)[0] != 2]
    excess = {v: {m: against(own[v, m], own[CONTROL, m]) for m in masks} for v in arms}
    said = {
        v: ", ".join(f"{m} {x.value:+.1f} % ({x.low:+.1f} to {x.high:+.1f})" for m, x in e.items())
        for v, e in excess.items()
    }
    save(
        out,
        f"versus-{name}",
        versus(excess, variants, views),
        title=f"{head}: error beside the same training without a teacher",
        caption=f"MAE of each arm over that of '{label(CONTROL)}', as a difference in percent with "
        "95 % intervals; left of the line is better. The scale is linear up to 5 % and logarithmic "
        "beyond. Bold masks were seen in training.",
        alt=" ".join(f"{label(v)}: {text}." for v, text in said.items()),
        group=head,
    )


def rank(mask: str, views: Sequence[str]) -> tuple[int, float, str]:
    """Order of masks: complete, those of training, other rates, other kinds."""
    kind = 0 if mask == COMPLETE else 1 if mask in views else 2 if mask.startswith("mcar-") else 3
    return kind, rate_of(mask) or 0.0, mask


def versus(
    excess: Mapping[str, Mapping[str, Interval]], variants: Sequence[str], seen: Sequence[str]
) -> Draw:
    """Differences in percent: a row a mask, in it a dot an arm, one below the other."""
    masks = list(next(iter(excess.values())))
    ticks = [-80, -40, -20, -10, -5, 0, 5, 10, 20, 40, 80]

    def draw(theme: Theme) -> Figure:
        height = (0.09 * len(excess) + 0.12) * len(masks)
        figure, axes = theme.axes(6.8, 1.4 + height, xlabel="MAE, difference in %")
        axes.axvline(0, color=theme.text, linewidth=1.0)
        for i, (variant, found) in enumerate(excess.items()):
            style = theme.style(variants.index(variant))
            offset = 0.8 * ((i + 0.5) / len(excess) - 0.5)
            for row, mask in enumerate(masks):
                x, y = found[mask], row + offset
                axes.plot([x.low, x.high], [y, y], color=style["color"], linewidth=1.2)
                axes.plot(
                    x.value, y, style["marker"], color=style["color"], markersize=4,
                    label=label(variant) if row == 0 else None,
                )  # fmt: skip
        axes.set_xscale("symlog", linthresh=5, linscale=1.5)
        left, right = axes.get_xlim()
        shown = [tick for tick in ticks if left <= tick <= right]
        axes.set_xticks(shown, [f"{tick:+d}" if tick else "0" for tick in shown])
        axes.set_xticks([], minor=True)
        axes.set_yticks(range(len(masks)), masks)
        for tick, mask in zip(axes.get_yticklabels(), masks, strict=True):
            tick.set_fontweight("bold" if mask in seen else "normal")
        axes.set_ylim(len(masks) - 0.5, -0.5)
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    return draw
