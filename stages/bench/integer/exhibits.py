"""Tables that the page shows of a bench of quantized networks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.bench.integer.cases import BY_NAME, Case, most
from stages.bench.integer.graphs import RUNS, Timed, speedup
from stages.bench.integer.once import Cost
from stages.core.files import write_json
from stages.core.pictures import EXHIBITS, add_exhibit, read_exhibits
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from stages.bench.integer.results import Bits, Plain, Quality, Update


def block_rows(
    timed: Sequence[Timed], beyond: Sequence[Case], attention_gb: float
) -> list[dict[str, Any]]:
    """A row a graph; blocks that were left out stand with what their scores would take."""
    rows = []
    for own in timed:
        graph = own.graph
        frames, tokens, _ = graph.shape
        rows.append(
            {
                "net": BY_NAME[graph.backbone].name,
                "tokens": graph.condition.partition("=")[2],
                "of them run": frames * tokens,
                "arm": graph.variant,
                "bits": graph.bits,
                "runs as": graph.runs_as,
                "kernel": RUNS[graph.kernel],
                "ms": _short(own.latency.median),
                "quartiles": f"{own.latency.low:.4g} to {own.latency.high:.4g}",
                "speed-up": _short(speedup(own, timed)),
                "of limit, %": _percent(own.of_limit),
                "peak memory, MB": f"{own.peak_mb:.0f}",
                "file, MB": _short(graph.size_mb),
            }
        )
    for case in beyond:
        fits = f"at most {most(case.net, attention_gb)} tokens fit"
        told = f"not measured: attention takes {case.attention_gb:.3g} GB; {fits}"
        empty = dict.fromkeys(list(rows[0])[4:], "") if rows else {}
        rows.append({"net": case.net.name, "tokens": case.count, "of them run": "", "arm": told}
                    | empty)  # fmt: skip
    return rows


def model_rows(timed: Sequence[Timed], steps: int) -> list[dict[str, Any]]:
    return [
        {
            "net": own.graph.backbone,
            "arm": own.graph.variant,
            "bits": own.graph.bits,
            "runs as": own.graph.runs_as,
            "kernel": RUNS[own.graph.kernel],
            "ms a step": _short(own.latency.median),
            "s a clip": _short(steps * own.latency.median / 1000),
            "speed-up": _short(speedup(own, timed)),
            "of limit, %": _percent(own.of_limit),
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


def size_rows(found: Sequence[Bits], plain: Sequence[Plain]) -> list[dict[str, Any]]:
    """A row a network and bits; then those of ours as they were taught, whose files alone count."""
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
                "in 16 bits": size(2 * stored.values),
                "so stored": size(stored.ledger.total / 8),
                "codes, %": _share(parts.codes, parts.total),
                "steps, %": _share(steps, parts.total),
                "transforms, %": _share(parts.transforms, parts.total),
                "branches, %": _share(parts.beside, parts.total),
                "full precision, %": _share(parts.full + parts.biases, parts.total),
                "file": "" if own.file_mb is None else size(1e6 * own.file_mb),
            }
        )
    for whole in plain:
        for variant, file_mb in whole.files_mb.items():
            own_file = {"net": whole.backbone, "arm": variant, "file": size(1e6 * file_mb)}
            rows.append(dict.fromkeys(rows[0], "") | own_file)
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


def update_rows(updates: Sequence[Update]) -> list[dict[str, Any]]:
    return [
        {
            "block": own.backbone,
            "arm": own.arm,
            "bits": own.bits,
            "pass, ms": _short(own.ratio.plain),
            "update, ms": _short(own.ratio.work),
            "ratio": f"{own.ratio.value:.3f}",
        }
        for own in updates
    ]


def table(
    out: Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str,
    caption: str,
    timing: bool = True,
    shown: bool = False,
) -> None:
    """Write a table and list it among the stage's exhibits.

    Args:
        timing: whether it rests on one, as a page says of all that bench makes.
        shown: whether it stands open beside the stage's scores and not among further tables.
    """
    write_csv(out / f"{name}.csv", rows)
    add_exhibit(out, kind="table", name=name, file=f"{name}.csv", title=title, caption=caption)
    *others, own = read_exhibits(out)
    marks = {"timing": "" if timing else "no", "shown": "yes" if shown else ""}
    write_json(out / EXHIBITS, [*others, own | {k: v for k, v in marks.items() if v}])


def size(count: float) -> str:
    """Bytes with their unit: networks of one table are of kilobytes and of gigabytes."""
    power = 2 if count >= 1e9 else 1 if count >= 1e6 else 0
    number = count / 1000 ** (power + 1)
    places = max(2 - math.floor(math.log10(number)), 0) if number else 0
    return f"{number:.{places}f} {('kB', 'MB', 'GB')[power]}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _short(value: float) -> str:
    return f"{value:.4g}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}"
