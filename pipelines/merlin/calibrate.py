"""The views: which masks distillation sees, and what they leave of a window.

A mask is drawn over a whole series, so a window's own missing rate only scatters about the mask's.
With a history of 12 steps and nine in ten points hidden, a good quarter of all sensors' histories
have nothing left in them at all: what a view asks of a network shows in such counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from safetensors.numpy import save as serialise

from pipelines.merlin.data import VIEW_MASKS, VIEWS, Series, datasets
from stages.core import params as core
from stages.core.files import write_bytes, write_json
from stages.core.pictures import add_exhibit, save
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.core.job import Inputs, Job
    from stages.core.themes import Theme


def _different(views: list[str]) -> list[str]:
    if len(set(views)) < len(views):
        raise ValueError(f"a view is named twice: {', '.join(views)}")
    return views


class Params(core.Params):
    """`views`: the masks that distillation sees, as `prepare` names them."""

    views: Annotated[list[str], Field(min_length=1), AfterValidator(_different)]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Store the views of every data set, over the spans of training and validation, and count
    what they leave of its training windows.

    Raises:
        UserError: prepare drew no such mask.
    """
    rows, left = [], {}
    for name in datasets(inputs["prepare"]):
        series = Series.load(inputs["prepare"], name)
        folder = out / name
        write_json(folder / VIEWS, params.views)
        seen = {key: series.mask(key)[slice(*series.taught)].numpy() for key in params.views}
        stored = {key: mask.astype(np.uint8, order="C") for key, mask in seen.items()}
        write_bytes(folder / VIEW_MASKS, serialise(stored))
        first, last = series.bounds["train"]
        masks = {key: mask[: last - first] for key, mask in seen.items()}
        recorded = series.observed[first:last].numpy()
        counts = {key: windows(mask & recorded, series.history) for key, mask in masks.items()}
        rows += [
            {"data set": series.manifest["title"], "view": key, **numbers(masks[key], count)}
            for key, count in counts.items()
        ]
        left[series.manifest["title"]] = counts
        job.log.info("%s: %d views", name, len(masks))
    write_csv(out / "views.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="views",
        file="views.csv",
        title="The views",
        caption="Hidden: share of the training span that the mask hides. The rest counts what is "
        "left of a sensor's history, gaps of the record included.",
    )
    _show(out, left)


def windows(there: NDArray[np.bool_], history: int) -> NDArray[np.int64]:
    """How many of its `history` values each sensor has left in each window.

    Args:
        there: (T, N) what is neither hidden nor missing.

    Returns:
        (history + 1,): number of histories with 0, 1, …, `history` values.
    """
    total = np.concatenate([np.zeros((1, there.shape[1]), np.int64), there.cumsum(0)])
    return np.bincount((total[history:] - total[:-history]).ravel(), minlength=history + 1)


def numbers(mask: NDArray[np.bool_], counts: NDArray[np.int64]) -> dict[str, str]:
    """What a table says of a view."""
    history, share = len(counts) - 1, counts / counts.sum()
    mean = float(share @ np.arange(history + 1))
    spread = float(share @ (np.arange(history + 1) - mean) ** 2) ** 0.5
    return {
        "hidden": f"{1 - mask.mean():.4%}",
        f"values left of {history}": f"{mean:.2f}",
        "standard deviation": f"{spread:.2f}",
        "histories with none": f"{share[0]:.2%}",
        "histories with all": f"{share[-1]:.2%}",
    }


def _show(out: Path, left: Mapping[str, Mapping[str, NDArray[np.int64]]]) -> None:
    def draw(theme: Theme) -> Figure:
        figure = theme.figure(6.8, 3.2)
        panels = figure.subplots(1, len(left), sharey=True, squeeze=False)[0]
        for axes, (title, views) in zip(panels, left.items(), strict=True):
            for place, (view, counts) in enumerate(views.items()):
                share = 100 * counts / counts.sum()
                axes.plot(range(len(share)), share, label=view, **theme.style(place))
            axes.set_title(title)
            axes.set_xlabel("values left")
        panels[0].set_ylabel("% of the histories")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        return figure

    empty = "; ".join(
        f"{title}: " + ", ".join(f"{v} {c[0] / c.sum():.0%}" for v, c in views.items())
        for title, views in left.items()
    )
    save(
        out,
        "left",
        draw,
        title="What a view leaves of a history",
        caption="In how many of the training windows' histories, sensor by sensor, so many values "
        "are neither hidden nor missing.",
        alt=f"Histories of which nothing is left: {empty}.",
    )
