"""The two looks of a picture, one for a light page and one for a dark page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib costs half a second, which a stage without pictures need not pay
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True)
class Theme:
    """The colours of one look.

    Attributes:
        name: "light" or "dark".
        text: colour of titles, labels and ticks.
        muted: colour of what stands back (reference lines, notes).
        grid: colour of grid lines.
        panel: the page's ground, for gaps and for boxes under text.
        cycle: eight line colours, told apart under any kind of colour blindness; `style` adds
            markers and dashes, so that no reader depends on them.
        sequential: name of the colour map for rasters.
    """

    name: str
    text: str
    muted: str
    grid: str
    panel: str
    cycle: tuple[str, ...]
    sequential: str = "magma"

    def style(self, index: int) -> dict[str, Any]:
        """Style of the index-th series: `axes.plot(x, y, **theme.style(index))`; 32 differ."""
        return {
            "color": self.cycle[index % len(self.cycle)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": _DASHES[(index // 2 + index // 8) % len(_DASHES)],
        }

    def figure(self, width: float = 6.4, height: float = 3.6) -> Figure:
        """Make an empty figure, size in inches, whose parts arrange themselves."""
        from matplotlib.figure import Figure

        return Figure(figsize=(width, height), layout="constrained")

    def axes(
        self, width: float = 6.4, height: float = 3.6, *, xlabel: str = "", ylabel: str = ""
    ) -> tuple[Figure, Axes]:
        """Make a figure with one pair of labelled axes; size in inches."""
        figure = self.figure(width, height)
        axes = figure.add_subplot()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        return figure, axes


# The hues are near those of Okabe and Ito, 2008 ("Color Universal Design"), shifted until each has
# a contrast of 3:1 with its ground and any two differ by 16 in CIELAB, also as seen with the three
# kinds of dichromacy (Machado et al. 2009); a test holds them to it.
_ON_LIGHT = "#005193 #d65c10 #0b855d #b2548d #6b4a00 #2d99d5 #7d212e #4c545d"
_ON_DARK = "#389ad0 #ec8549 #47d3a4 #b56d95 #f1cb4c #b0ddf8 #ed5e71 #adb4c1"
LIGHT = Theme("light", "#1c2127", "#6a737d", "#dde1e6", "#ffffff", tuple(_ON_LIGHT.split()))
DARK = Theme("dark", "#e4e7eb", "#98a2ad", "#343b44", "#14181d", tuple(_ON_DARK.split()))


def settings(theme: Theme) -> Any:
    """Give matplotlib's settings for a theme: a mapping for `rcParams.update`."""
    from cycler import cycler

    return {
        # Outlines rather than names of fonts: a viewer's fonts cannot shift a label.
        "svg.fonttype": "path",
        "svg.hashsalt": "retort",
        "font.family": ["DejaVu Sans"],
        "font.size": 9.5,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.muted,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.facecolor": "none",
        "axes.prop_cycle": cycler(color=list(theme.cycle)),
        "figure.facecolor": "none",
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "text.color": theme.text,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "errorbar.capsize": 2.5,
        "image.cmap": theme.sequential,
        "image.interpolation": "none",  # a raster goes in pixel by pixel, so it stays small
    }
