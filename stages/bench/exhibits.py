"""What the page shows of a bench: latency against arithmetic, and the training step."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.bench.record import DENSE, Measured, dense_of
from stages.core.files import write_text
from stages.core.pictures import add_exhibit, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.core.themes import Theme


@dataclass(frozen=True)
class Names:
    """Reading names of backbones and variants."""

    net: Callable[[str], str]
    arm: Callable[[str], str]

    def of(self, measured: Measured) -> str:
        return f"{self.net(measured.network.backbone)}, {self.arm(measured.network.variant)}"


def show(out: Path, measured: Sequence[Measured], names: Names, input_: str, batch: str) -> None:
    """Add the picture and the table to a stage's exhibits.

    Args:
        out: the stage's output folder.
        measured: the networks, each backbone's full-size one among them.
        names: how backbones and variants are called.
        input_: one input of the exported network, in words.
        batch: the batch of the training step, in words.
    """
    rounds = len({t.round for t in measured[0].timings})
    save(
        out,
        "latency",
        latency_against_macs(measured, names),
        title="Latency against arithmetic",
        caption=f"{input_} on {measured[0].timings[0].runtime}. Bars: quartiles over {rounds} "
        "rounds with fresh processes. On the dotted line, time would follow arithmetic.",
        alt=finding(measured, names),
    )
    rows = list(training_rows(measured, names))
    write_text(out / "training.csv", _csv(rows))
    add_exhibit(
        out,
        kind="table",
        name="training",
        file="training.csv",
        title="Training step",
        caption=f"{batch}. Memory: peak of torch's allocator, with weights, gradients, optimiser "
        "state and activations. Resident: rise of the process's memory within one warm step, "
        "as a check. Step: processor time.",
    )


def latency_against_macs(measured: Sequence[Measured], names: Names) -> Callable[[Theme], Figure]:
    """A panel per number of threads; a dotted line joins each full-size network with the origin."""
    backbones = list(dict.fromkeys(m.network.backbone for m in measured))
    variants = list(dict.fromkeys(m.network.variant for m in measured))
    counts = _threads(measured)

    def draw(theme: Theme) -> Figure:
        figure = theme.figure(6.4, 3.6)
        panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
        for axes, threads in zip(panels, counts, strict=True):
            for own in measured:
                net, latency = own.network, own.latency(threads)
                if net.variant == DENSE:
                    end = ([0, net.macs / 1e6], [0, latency.median])
                    axes.plot(*end, linestyle=":", linewidth=1, color=theme.muted)
                axes.errorbar(
                    [net.macs / 1e6],
                    [latency.median],
                    yerr=[[latency.median - latency.low], [latency.high - latency.median]],
                    fmt=theme.style(variants.index(net.variant))["marker"],
                    color=theme.cycle[backbones.index(net.backbone) % len(theme.cycle)],
                    linewidth=1.2,
                    label=names.of(own),
                )
            axes.set_title(_on(threads))
            axes.set_xlabel("MACs, millions")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("latency, ms")
        handles, labels = panels[0].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))  # several seeds, one entry
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=2)
        return figure

    return draw


def finding(measured: Sequence[Measured], names: Names) -> str:
    """The picture in words: arithmetic and speed of each smaller network against full size."""
    parts = []
    for own in (m for m in measured if m.network.variant != DENSE):
        base = dense_of(measured, own.network.backbone)
        share = 100 * own.network.macs / base.network.macs
        speeds = " and ".join(
            f"{base.latency(n).median / own.latency(n).median:.2f} times as fast on {_on(n)}"
            for n in _threads([own])
        )
        parts.append(f"{names.of(own)}: {share:.0f} % of the MACs, {speeds}")
    return "; ".join(parts) + "."


def training_rows(measured: Sequence[Measured], names: Names) -> Iterator[dict[str, Any]]:
    """What a training step takes, a row per network."""
    for own in measured:
        base = dense_of(measured, own.network.backbone).step
        yield {
            "net": names.net(own.network.backbone),
            "arm": names.arm(own.network.variant),
            "seed": own.network.seed,
            "memory, MB": own.step.allocated_mb,
            "saved, %": 100 * (1 - own.step.allocated_mb / base.allocated_mb),
            "resident, MB": own.step.resident_rise_mb,
            "step, ms": own.step.median,
            "speed-up": base.median / own.step.median,
        }


def _threads(measured: Sequence[Measured]) -> list[int]:
    return sorted({t.threads for m in measured for t in m.timings})


def _on(threads: int) -> str:
    return f"{threads} thread" + ("" if threads == 1 else "s")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        cells = (f"{v:.4g}" if isinstance(v, float) else v for v in row.values())
        writer.writerow("" if cell is None else cell for cell in cells)
    return text.getvalue()
