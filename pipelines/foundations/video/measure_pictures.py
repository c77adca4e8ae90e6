"""How measures of quantized teachers are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.foundations.video.measure_rows import HEADLINE
from pipelines.foundations.video.measure_summary import Label
from pipelines.foundations.video.strips import strips
from stages.core.pictures import save
from stages.core.stats import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from stages.core.themes import Theme

Draw = Callable[["Theme"], "Figure"]
Quality = Mapping[tuple[str, str], tuple[float, float, Interval]]


def save_strips(
    out: Path,
    condition: str,
    full: Tensor,
    clips: Mapping[str, Tensor],
    captions: Sequence[str],
    label: Label,
) -> None:
    """Frames of full precision's clips and, below, of every variant's from the same noise.

    Args:
        full: (n, T, H, W, C) uint8.
        clips: variant -> like `full`.
        captions: n of them, side by side.
    """
    rows = {"full precision": full, **{label(name): made for name, made in clips.items()}}
    drawn = torch.cat(list(rows.values()))
    titles = [f"full precision: {text}" for text in captions]
    titles += [label(name) for name in clips for _ in captions]
    change = {
        name: float((made.float() - full.float()).abs().mean()) / 255
        for name, made in list(rows.items())[1:]
    }
    near, far = min(change, key=lambda k: change[k]), max(change, key=lambda k: change[k])
    save(
        out,
        f"strips-{_file(condition)}",
        strips(drawn.numpy(), titles, columns=len(captions), width=3.4 * len(captions)),
        title=f"{condition}: clips from the same noise",
        caption="Frames of a clip from left to right; above full precision's, below it what each "
        "arm makes of the same prompt and the same noise (first seed).",
        alt=f"Nearest to full precision in pixels is {near}, {100 * change[near]:.1f} % of the "
        f"range away on average; farthest is {far}, {100 * change[far]:.1f} %.",
        group="Clips",
    )


def save_sqnr(
    out: Path, condition: str, curve: DataFrame, variants: Sequence[str], label: Label
) -> None:
    """Signal to quantization noise over the denoising steps, a line an arm."""
    own = [name for name in variants if name in curve]
    first, last = curve.iloc[0], curve.iloc[-1]
    said = [f"{label(v)}: {first[v]:.1f} dB at first, {last[v]:.1f} dB at last" for v in own]
    save(
        out,
        f"sqnr-{_file(condition)}",
        lines(curve, own, variants, label, "SQNR of the prediction in dB", log=False),
        title=f"{condition}: signal to quantization noise over the steps",
        caption="Of the guided prediction on held-out walks of full precision, so that each step "
        "is judged by itself; mean over clips and seeds. Step 1 starts from pure noise.",
        alt=". ".join(said) + ".",
        group="Step by step",
    )


def save_drift(
    out: Path, condition: str, curve: DataFrame, variants: Sequence[str], label: Label
) -> None:
    """How far free walks get from full precision's, a line an arm."""
    own = [name for name in variants if name in curve]
    end = curve.iloc[-1]
    save(
        out,
        f"drift-{_file(condition)}",
        # All start from the same noise, where the distance is nothing.
        lines(curve.iloc[1:], own, variants, label, "squared distance, share", log=True),
        title=f"{condition}: how far walks stray from full precision's",
        caption="Squared distance of the states from full precision's as a share of their power, "
        "from the same noise; mean over clips and seeds. The last point is the clip.",
        alt=". ".join(f"{label(v)} ends {end[v]:.2g} away" for v in own) + ".",
        group="Step by step",
    )


def lines(
    curve: DataFrame,
    own: Sequence[str],
    variants: Sequence[str],
    label: Label,
    ylabel: str,
    *,
    log: bool,
) -> Draw:
    """Columns `own` of a curve over its column `step`."""

    def draw(theme: Theme) -> Figure:
        height = 3.4 + 0.2 * -(-len(own) // 2)
        figure, axes = theme.axes(6.8, height, xlabel="denoising step", ylabel=ylabel)
        for variant in own:
            style = theme.style(variants.index(variant))
            axes.plot(curve["step"], curve[variant], label=label(variant), **style)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axes.set_yscale("log", nonpositive="mask")
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    return draw


def save_bits(out: Path, found: Quality, variants: Sequence[str], label: Label) -> None:
    """Quality against stored bits, a panel for each mean width of the inputs."""
    best = {
        condition: max(
            (v for c, v in found if c == condition), key=lambda v: found[condition, v][2].value
        )
        for condition in dict.fromkeys(c for c, _ in found)
    }
    said = [
        f"{c}: best is {label(v)} with {found[c, v][2].value:.1f} dB at {found[c, v][1]:.2f} bits"
        for c, v in best.items()
    ]
    save(
        out,
        "quality-bits",
        against_bits(found, variants, label),
        title="Quality against true bits",
        caption="Signal to quantization noise of the prediction, mean with 95 % interval, over the "
        "bits that a quantized weight takes with its share of steps, zero points, transforms and "
        "branches, 32 bits a floating-point number. Points of one arm are joined; arms of one size "
        "stand side by side.",
        alt=". ".join(said) + ".",
        group="Bits",
    )


def against_bits(found: Quality, variants: Sequence[str], label: Label) -> Draw:
    """A point a cell, in the panel of its inputs' width; cells of one arm there are joined."""
    widths = sorted({round(width, 2) for width, _, _ in found.values()}, reverse=True)
    own = [v for v in variants if any(v == variant for _, variant in found)]
    places = beside(found)

    def draw(theme: Theme) -> Figure:
        figure = theme.figure(6.8, 3.6 + 0.2 * -(-len(own) // 2))
        panels = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
        for axes, width in zip(panels, widths, strict=True):
            for variant in own:
                cells = sorted(
                    (places[cell], got.value, got.low, got.high)
                    for cell, (mean, _, got) in found.items()
                    if cell[1] == variant and round(mean, 2) == width
                )
                x, y, low, high = zip(*cells, strict=True) if cells else ((), (), (), ())
                style = theme.style(variants.index(variant))
                axes.plot(x, y, label=label(variant), **style)
                axes.vlines(x, low, high, color=style["color"], linewidth=1.0)
            axes.set_title(f"inputs of {width:g} bits")
            axes.set_xlabel("stored bits a weight")
        panels[0].set_ylabel(f"{HEADLINE.upper()} in dB")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)
        return figure

    return draw


def beside(found: Quality) -> dict[tuple[str, str], float]:
    """Where on the axis of bits each cell is drawn: those of one size side by side."""
    sizes = [stored for _, stored, _ in found.values()]
    step = 0.02 * (max(sizes) - min(sizes) or 1.0)
    alike: dict[tuple[str, float], list[tuple[str, str]]] = {}
    for (condition, variant), (_, stored, _) in found.items():
        alike.setdefault((condition, round(stored, 2)), []).append((condition, variant))
    return {
        cell: found[cell][1] + step * (place - (len(cells) - 1) / 2)
        for cells in alike.values()
        for place, cell in enumerate(cells)
    }


def _file(condition: str) -> str:
    return condition.lower()
