"""The learning curves of a stage that trains, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.pictures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.core.themes import Theme

Curve = Sequence[Mapping[str, float]]


def show(out: Path, curves: Mapping[str, Curve], *, ylabel: str, title: str, caption: str) -> None:
    """Draw validation (line) and training loss (dashed) of each network into `out`.

    Args:
        curves: network -> rows as `loop.Fit.curve` has them.
        ylabel: what the losses are, with their unit.
    """

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.4, 3.6, xlabel="updates", ylabel=ylabel)
        for place, (name, curve) in enumerate(curves.items()):
            steps, color = [row["step"] for row in curve], theme.style(place)["color"]
            for key, line, what in (
                ("valid_loss", "-", "validation"),
                ("train_loss", "--", "training"),
            ):
                values = [row[key] for row in curve]
                axes.plot(steps, values, line, color=color, label=f"{name}, {what}")
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    ends = "; ".join(
        f"{name}: validation loss from {curve[0]['valid_loss']:.2f} to "
        f"{min(row['valid_loss'] for row in curve):.2f}"
        for name, curve in curves.items()
    )
    save(out, "learning", draw, title=title, caption=caption, alt=f"{ends}.")
