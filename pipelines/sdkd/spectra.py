"""How calibrate's bands are shown: the spectra of latent maps and targets, where they part, and
how much of each of a teacher's maps lies in the high band."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.sdkd.cache import RANDOM
from pipelines.sdkd.names import net
from stages.core.pictures import add_exhibit, save
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from stages.core.pictures import Theme

TARGETS = "targets"
MAPS = {
    "output": "forecast",
    "latent": "latent map",
    "high": "convolution branch",
    "low": "attention branch",
}
"""What a teacher's maps are called; the branches by what they are, not by what they are for."""


def show(out: Path, spectra: Mapping[str, Tensor], bands: Mapping[str, Any]) -> None:
    """Draw the spectra into a stage's folder, and add the table of shares.

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
    _tabulate(out, bands)


def _tabulate(out: Path, bands: Mapping[str, Any]) -> None:
    """The high band's share of each teacher's maps."""
    rows = []
    for name, own in bands["high_share"].items():
        known = net(name.removesuffix(RANDOM)) + (" untrained" if name.endswith(RANDOM) else "")
        shown = {title: f"{own[key]:.3f}" if key in own else "" for key, title in MAPS.items()}
        rows.append({"teacher": known, **shown})
    write_csv(out / "bands.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="bands",
        file="bands.csv",
        title="How much of each map lies in the high band",
        caption=f"Share of the energy above {bands['cutoff']:g} waves per width, over the training "
        "windows, without each channel's mean; the branches are those of the last block. The paper "
        "takes attention for the branch of low frequencies and convolution for that of high ones: "
        "then the last number of a line would be the smaller of the last two.",
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
