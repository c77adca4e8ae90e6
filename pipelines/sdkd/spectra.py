"""How calibrate's bands are shown: the spectra of latent maps and targets, and where they part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.sdkd.cache import RANDOM
from pipelines.sdkd.names import net
from stages.core.pictures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from stages.core.pictures import Theme

TARGETS = "targets"


def show(out: Path, spectra: Mapping[str, Tensor], bands: Mapping[str, Any]) -> None:
    """Draw the spectra into a stage's folder.

    Args:
        spectra: the targets' and each teacher's latent maps' energy by whole wavenumber.
        bands: what bands.json holds.
    """
    cutoff = bands["cutoff"]

    def draw(theme: Theme) -> Figure:
        figure, axes = theme.axes(6.4, 3.6, xlabel="wavenumber, waves per width", ylabel="share")
        for place, (name, values) in enumerate(spectra.items()):
            shares = (values / values.sum()).tolist()
            points = [(k, share) for k, share in enumerate(shares) if share > 1e-12]
            axes.plot(*zip(*points, strict=True), **theme.style(place), label=_label(name))
        axes.axvline(cutoff, color=theme.muted, linestyle=":", label="end of the low band")
        axes.set_yscale("log")
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    save(
        out,
        "spectra",
        draw,
        title="Spectra of the latent maps and of the targets",
        caption="Share of the energy at each whole wavenumber, over the training windows; latent "
        "maps without each channel's mean. The low "
        f"band ends at {cutoff:g} waves per width.",
        alt="Share of energy above the cutoff: "
        + "; ".join(f"{_label(name)} {share:.1%}" for name, share in _high(bands).items())
        + ".",
    )


def _high(bands: Mapping[str, Any]) -> dict[str, float]:
    """The high band's share of the targets and of each teacher's latent maps."""
    pairs = {TARGETS: (bands["targets"]["high"], bands["targets"]["low"])}
    for name, energy in bands["energy"].items():
        pairs[name] = (energy["latent_high"], energy["latent_low"])
    return {name: high / (high + low) for name, (high, low) in pairs.items()}


def _label(name: str) -> str:
    if name == TARGETS:
        return "targets"
    if name.endswith(RANDOM):
        return f"latent maps, {net(name.removesuffix(RANDOM))} untrained"
    return f"latent maps, {net(name)}"
