"""What the page shows of a bench of quantized networks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.bench.integer.cases import BY_NAME, CLIP, Case
from stages.bench.integer.graphs import FULL, RUNS, Timed, baseline
from stages.bench.integer.once import Cost
from stages.core.pictures import add_exhibit, save
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.bench.integer.tables import Bits, Quality
    from stages.core.themes import Theme


def latency(out: Path, timed: Sequence[Timed], machine: str) -> None:
    """The picture of a block's time against tokens."""
    save(
        out,
        "latency",
        against_tokens(timed),
        title="A block's time against tokens",
        caption=f"Time of one block, by token, on {machine}. Filled: whole blocks. Hollow, at the "
        "far right: a slice of the published clip, whose attention does not fit into memory "
        "whole. Dashes, dotted together: the least that the machine's best rates allow.",
        alt=finding(timed),
    )


def against_tokens(timed: Sequence[Timed]) -> Callable[[Theme], Figure]:
    """A panel a network, a line a variant."""
    backbones = list(dict.fromkeys(own.graph.backbone for own in timed))
    variants = list(dict.fromkeys(own.graph.variant for own in timed))

    def draw(theme: Theme) -> Figure:
        from matplotlib.ticker import LogLocator

        figure = theme.figure(6.4, 3.8)
        panels = figure.subplots(1, len(backbones), sharex=True, sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for axes, backbone in zip(panels, backbones, strict=True):
            for number, variant in enumerate(variants):
                own = [
                    t for t in timed if (t.graph.backbone, t.graph.variant) == (backbone, variant)
                ]
                style = theme.style(number)
                for clip in (False, True):
                    chosen = [t for t in own if (t.graph.condition == CLIP) == clip]
                    chosen.sort(key=_tokens)
                    x = [_tokens(t) for t in chosen]
                    y = [t.latency.median / _run(t) for t in chosen]
                    shown = {**style, "linestyle": "none" if clip else style["linestyle"]}
                    face = {"markerfacecolor": "none"} if clip else {}
                    (line,) = axes.plot(x, y, markersize=5, **shown, **face)
                    handles.setdefault(variant, line)
                    least = [(t.graph.least_ms or 0) / _run(t) for t in chosen]
                    axes.plot(
                        x, least, color=style["color"], linestyle=":", linewidth=1, marker="_"
                    )
            axes.set_title(BY_NAME[backbone].name)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("tokens")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        panels[0].set_ylabel("ms by token")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        return figure

    return draw


def _run(own: Timed) -> int:
    """Tokens that go through the layers in a run."""
    frames, tokens, _ = own.graph.shape
    return frames * tokens


def _tokens(own: Timed) -> int:
    """Tokens of the whole input, which a slice is a part of."""
    net = BY_NAME[own.graph.backbone]
    return net.video + net.text if own.graph.condition == CLIP else _run(own)


def finding(timed: Sequence[Timed]) -> str:
    """The picture in words: speed against float32 at the least and the most tokens."""
    parts = []
    for backbone in dict.fromkeys(own.graph.backbone for own in timed):
        own = sorted((t for t in timed if t.graph.backbone == backbone), key=_tokens)
        for place in dict.fromkeys((own[0].graph.condition, own[-1].graph.condition)):
            speeds = ", ".join(
                f"{t.graph.variant} {speedup(t, timed):.2f}"
                for t in own
                if t.graph.condition == place and t.graph.variant != FULL
            )
            count = next(_tokens(t) for t in own if t.graph.condition == place)
            parts.append(f"{BY_NAME[backbone].name} at {count} tokens: {speeds}")
    return "Times as fast as float32. " + "; ".join(parts) + "."


def speedup(own: Timed, among: Sequence[Timed]) -> float:
    return baseline(own, among).latency.median / own.latency.median


def block_rows(timed: Sequence[Timed], beyond: Sequence[Case]) -> list[dict[str, Any]]:
    """A row a graph; blocks that were left out stand with what their scores would take."""
    rows = []
    for own in timed:
        graph, limit = own.graph, own.of_limit
        rows.append(
            {
                "net": BY_NAME[graph.backbone].name,
                "tokens": graph.condition.partition("=")[2],
                "of them run": _run(own),
                "arm": graph.variant,
                "kernel": RUNS[graph.kernel],
                "ms": _short(own.latency.median),
                "quartiles": f"{own.latency.low:.4g} to {own.latency.high:.4g}",
                "speed-up": _short(speedup(own, timed)),
                "of limit, %": "" if limit is None else f"{limit:.0f}",
                "peak memory, MB": f"{own.peak_mb:.0f}",
                "file, MB": _short(graph.size_mb),
            }
        )
    for case in beyond:
        row = dict.fromkeys(rows[0] if rows else ("net", "tokens", "arm"), "")
        told = f"not measured: attention takes {case.attention_gb:.3g} GB"
        rows.append({**row, "net": case.net.name, "tokens": str(case.count), "arm": told})
    return rows


def model_rows(timed: Sequence[Timed], steps: int) -> list[dict[str, Any]]:
    return [
        {
            "net": own.graph.backbone,
            "arm": own.graph.variant,
            "runs as": "" if own.graph.variant == FULL else own.graph.condition,
            "kernel": RUNS[own.graph.kernel],
            "ms a step": _short(own.latency.median),
            "s a clip": _short(steps * own.latency.median / 1000),
            "speed-up": _short(speedup(own, timed)),
            "peak memory, MB": f"{own.peak_mb:.1f}",
            "of it the network's, MB": f"{own.model_mb:.1f}",
            "graph's file, MB": _short(own.graph.size_mb),
        }
        for own in timed
    ]


def quality_rows(quality: Sequence[Quality]) -> list[dict[str, Any]]:
    mean = statistics.fmean
    return [
        {
            "net": own.backbone,
            "arm": own.variant,
            "bits": own.bits,
            "evaluated, dB": f"{mean(own.evaluated):.2f}",
            "deployed, dB": f"{mean(own.deployed):.2f}",
            "deployed against evaluated, dB": f"{mean(own.apart):.1f}",
            "deployed against its kernel's arithmetic, dB": f"{mean(own.kernel):.1f}",
        }
        for own in quality
    ]


def size_rows(found: Sequence[Bits]) -> list[dict[str, Any]]:
    rows = []
    for own in found:
        stored = own.stored
        net = BY_NAME.get(own.backbone)
        parts = stored.ledger
        steps = parts.scales + parts.zeros + parts.inputs
        rows.append(
            {
                "net": net.name if net else own.backbone,
                "arm": own.variant,
                "bits": own.bits,
                "bits a weight": f"{stored.per_weight:.4f}",
                "bits a number": f"{stored.per_value:.4f}",
                "times smaller than 16 bits": f"{stored.compression(16):.3f}",
                "times smaller than 32 bits": f"{stored.compression(32):.3f}",
                "in 16 bits, MB": f"{stored.values * 2 / 1e6:.4g}",
                "so stored, MB": f"{stored.ledger.total / 8e6:.4g}",
                "codes, %": _share(parts.codes, parts.total),
                "steps, %": _share(steps, parts.total),
                "transforms, %": _share(parts.transforms, parts.total),
                "branches, %": _share(parts.beside, parts.total),
                "full precision, %": _share(parts.full + parts.biases, parts.total),
                "file, MB": "" if own.file_mb is None else f"{own.file_mb:.4g}",
            }
        )
    return rows


def cost_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    return [
        {
            "arm": cost.name,
            "seconds": _short(cost.median),
            "memory, MB": f"{statistics.median(cost.rises_mb):.1f}" if cost.rises_mb else "",
        }
        for cost in costs
    ]


def table(
    out: Path, name: str, rows: Sequence[Mapping[str, Any]], *, title: str, caption: str
) -> None:
    """Write a table and list it among the stage's exhibits."""
    write_csv(out / f"{name}.csv", rows)
    add_exhibit(out, kind="table", name=name, file=f"{name}.csv", title=title, caption=caption)


def _short(value: float) -> str:
    return f"{value:.4g}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}"
