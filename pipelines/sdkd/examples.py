"""One test window to look at: the truth, and what some forecasters make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.sdkd.data import Fields
from pipelines.sdkd.names import net
from pipelines.sdkd.summary import METHOD, NONE, TEACHER, title_of
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.pictures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from stages.core.themes import Theme

Draw = Callable[["Theme"], "Figure"]
Image = NDArray[np.floating]


class Examples(core.Params):
    """The forecast that is drawn: by whose students, at which leads, of which test window."""

    student: str
    item: int = Field(ge=0)
    leads: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=6)]


@dataclass(frozen=True)
class Arm:
    """One forecaster.

    Attributes:
        students: under whose names its scores stand.
        forecast: from normalised histories (N, T, C, H, W) to normalised forecasts.
    """

    variant: str
    students: tuple[str, ...]
    seed: int
    forecast: Callable[[Tensor], Tensor]

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.students[0]}-seed{self.seed}"


@dataclass(frozen=True)
class Strips:
    """One test window at some leads: truth and forecasts (leads, H, W), first channel."""

    student: str
    leads: tuple[int, ...]
    truth: Image
    forecasts: list[tuple[str, Image]]


def check(params: Examples, fields: Fields) -> None:
    """Check that the chosen window and leads exist.

    Raises:
        UserError: one does not.
    """
    late = [lead for lead in params.leads if lead > fields.horizon]
    if late:
        raise UserError(
            f"params.yaml: sdkd.evaluate.examples.leads names {late}; the horizon is "
            f"{fields.horizon}"
        )
    if params.item >= fields.count("test"):
        raise UserError(
            f"params.yaml: sdkd.evaluate.examples.item is {params.item}; the test set has the "
            f"windows 0 to {fields.count('test') - 1}"
        )


def write(params: Examples, arms: Sequence[Arm], fields: Fields, out: Path) -> None:
    """Draw the window's forecasts beside the truth, with their errors.

    By the teacher, the undistilled student and the paper's method, as far as they are there; of
    several seeds the first.
    """
    _, x, y = fields.fixed("test")
    places = [lead - 1 for lead in params.leads]
    one = slice(params.item, params.item + 1)
    truth = fields.raw(y[one])[0, places, 0].numpy()
    rows = []
    for variant in (TEACHER, NONE, METHOD):
        own = (a for a in arms if a.variant == variant and params.student in a.students)
        arm = next(own, None)
        if arm is not None:
            made = fields.raw(arm.forecast(x[one]))[0, places, 0]
            rows.append((variant, made.numpy()))
    save_strips(out, Strips(params.student, tuple(params.leads), truth, rows), fields)


def save_strips(out: Path, strips: Strips, fields: Fields) -> None:
    """Draw them into a stage's folder."""
    low, high = fields.low, fields.high
    errors = [
        f"{title_of(v)} {np.sqrt(((made - strips.truth) ** 2).mean()):.2f}"
        for v, made in strips.forecasts
    ]
    save(
        out,
        "forecasts",
        forecast_strips(strips, low, high),
        title=f"{net(strips.student)}: one test window",
        caption="A column per lead. Above the truth, then each forecast with its error (forecast "
        f"minus truth) below it. Fields from {low:.2f} (dark) to {high:.2f} (bright); errors on "
        "the same scale around 0.",
        alt=f"Root mean square errors over the frames shown: {', '.join(errors)}; the truth's "
        f"standard deviation is {strips.truth.std():.2f}.",
    )


def forecast_strips(strips: Strips, low: float, high: float) -> Draw:
    """Truth, forecasts and errors of one window; rows by forecaster, columns by lead."""
    rows: list[tuple[str, Image, tuple[float, float]]] = [("truth", strips.truth, (low, high))]
    half = (high - low) / 2
    for variant, made in strips.forecasts:
        rows.append((title_of(variant), made, (low, high)))
        rows.append(("its error", made - strips.truth, (-half, half)))

    def draw(theme: Theme) -> Figure:
        columns = len(strips.leads)
        figure = theme.figure(1.15 * columns + 1.2, 1.05 * len(rows) + 0.3)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for row, (name, images, (least, most)) in enumerate(rows):
            for column, axes in enumerate(grid[row]):
                axes.imshow(
                    images[column], cmap=theme.sequential, vmin=least, vmax=most, origin="lower"
                )
                axes.grid(False)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
                if row == 0:
                    axes.set_title(f"lead {strips.leads[column]}")
                if column == 0:
                    axes.set_ylabel(
                        name, rotation=0, horizontalalignment="right", verticalalignment="center",
                        fontsize=8.5,
                    )  # fmt: skip
        return figure

    return draw
