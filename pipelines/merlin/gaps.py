"""What `prepare` shows of the series: where nothing was recorded, and what masks hide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.merlin.data import DAY
from pipelines.merlin.masks import Mask, rate_of
from stages.core.pictures import add_exhibit, save
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.core.themes import Theme

BINS = 180  # columns of a picture of a whole series
MOST = 40  # rows: sensors beyond these are not drawn
Made = tuple[Mapping[str, Any], NDArray[np.bool_], Mapping[str, Mask]]


def show(out: Path, made: Sequence[Made], history: int) -> None:
    """List the series in a table, and draw their gaps and the masks of the first.

    Args:
        made: manifest, which values were recorded (L, N), and masks of each series.
    """
    write_csv(out / "sets.csv", [_row(manifest) for manifest, _, _ in made])
    add_exhibit(
        out,
        kind="table",
        name="sets",
        file="sets.csv",
        title="The series",
        caption="Missing: share of all values that the record itself lacks. No mask is counted.",
    )
    holed = [(manifest, there) for manifest, there, _ in made if not there.all()]
    more = f" Of more sensors than {MOST} the first are drawn."
    if holed:
        save(
            out,
            "gaps",
            _gaps(holed),
            title="What the records lack",
            caption="Each row a sensor, time from left to right; the brighter, the more of that "
            "stretch was recorded. Lines: where validation and test begin."
            + more
            * any(there.shape[1] > MOST for _, there in holed),
            alt=" ".join(
                f"{m['title']}: {1 - t.mean():.1%} of the values are missing, most of "
                f"{m['sensors'][int(t.mean(0).argmin())]['name']} ({1 - t.mean(0).min():.0%})."
                for m, t in holed
            ),
        )
    manifest, _, masks = made[0]
    start = int(manifest["bounds"]["test"][0])
    cut = slice(start, start + 8 * history)
    chosen = {name: masks[name][cut, :MOST] for name in sorted(masks, key=_order)}
    save(
        out,
        "masks",
        _masks(chosen, history),
        title="What the masks hide",
        caption=f"The same {8 * history} steps of {manifest['title']} under each mask; dark is "
        f"hidden, each row a sensor. The ticks are a window's history of {history} steps apart."
        + more
        * (manifest["counts"]["sensors"] > MOST),
        alt="; ".join(f"{name} hides {1 - masks[name].mean():.1%} of all values" for name in chosen)
        + ".",
    )


def _order(name: str) -> tuple[bool, float, str]:
    return not name.startswith("mcar-"), rate_of(name) or 0.0, name


def _row(manifest: Mapping[str, Any]) -> dict[str, Any]:
    counts, days = manifest["counts"], manifest["counts"]["steps"] * manifest["step_minutes"] / DAY
    units = sorted({sensor["unit"] for sensor in manifest["sensors"]})
    return {
        "data set": manifest["title"],
        "steps": counts["steps"],
        "sensors": counts["sensors"],
        "step": f"{manifest['step_minutes']} min",
        "days": f"{days:.0f}",
        "units": ", ".join(units),
        "missing": f"{counts['missing'] / (counts['steps'] * counts['sensors']):.2%}",
        **{f"{part} (steps)": high - low for part, (low, high) in manifest["bounds"].items()},
        "author": manifest["author"],
        "licence": manifest["licence"],
    }


def binned(there: NDArray[np.bool_], bins: int = BINS) -> NDArray[np.float64]:
    """Share recorded, (sensors, bins), of (L, N)."""
    edges = np.linspace(0, len(there), min(bins, len(there)) + 1).astype(np.int64)
    total = np.add.reduceat(there.astype(np.int64), edges[:-1], axis=0)
    return (total / np.diff(edges)[:, None]).T


def _gaps(holed: Sequence[tuple[Mapping[str, Any], NDArray[np.bool_]]]) -> Callable[..., Figure]:
    shares = [np.round(binned(there[:, :MOST]), 2) for _, there in holed]

    def draw(theme: Theme) -> Figure:
        heights = [0.5 + 0.09 * len(share) for share in shares]
        figure = theme.figure(6.8, sum(heights) + 0.5)
        panels = figure.subplots(len(holed), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, share, (manifest, there) in zip(panels, shares, holed, strict=True):
            axes.imshow(
                share, cmap=theme.sequential, vmin=0, vmax=1, aspect="auto",
                extent=(0, len(there), len(share), 0),
            )  # fmt: skip
            for part in ("valid", "test"):
                axes.axvline(manifest["bounds"][part][0], color=theme.cycle[5], linewidth=1.2)
            axes.set_title(manifest["title"])
            axes.set_ylabel("sensors")
            axes.set_yticks([])
            axes.grid(False)
        panels[-1].set_xlabel("steps")
        return figure

    return draw


def _masks(chosen: Mapping[str, Mask], history: int) -> Callable[..., Figure]:
    rows = (len(chosen) + 2) // 3

    def draw(theme: Theme) -> Figure:
        figure = theme.figure(6.8, 0.3 + 1.05 * rows)
        panels = list(figure.subplots(rows, 3, squeeze=False).flat)
        for axes, (name, mask) in zip(panels, chosen.items(), strict=False):
            axes.imshow(mask.T, cmap=theme.sequential, vmin=0, vmax=1.4, aspect="auto")
            axes.set_title(name)
            axes.set_xticks(range(0, len(mask) + 1, history), [])
            axes.set_yticks([])
            axes.grid(False)
        for axes in panels[len(chosen) :]:
            axes.set_axis_off()
        return figure

    return draw
