"""What a bench of quantized networks writes down: bench.json, scores, summary, tables, picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.bench.integer import exhibits
from stages.bench.integer.cases import Case
from stages.bench.integer.graphs import FULL, Timed, baseline, bench_rows, row, score_rows
from stages.bench.integer.once import Cost
from stages.bench.kernels.roofline import Limits
from stages.core.files import write_json
from stages.core.results import write_metrics, write_scores
from stages.quantize.bits import Stored

HALF = "bf16"
"""The variant of 16 bits a number, for sizes: ordinary processors have no kernels for it."""


@dataclass(frozen=True)
class Quality:
    """What a deployed graph computes, in dB of signal over error, a value a clip.

    Attributes:
        bits: of quantize.
        evaluated: of the fake-quantized network against full precision: what `evaluate` judges.
        deployed: of the graph against full precision.
        apart: of the graph against the fake-quantized network.
        kernel: of the graph against the same network with the kernel's own rounding.
    """

    backbone: str
    variant: str
    bits: str
    seed: int
    clips: list[str]
    evaluated: list[float]
    deployed: list[float]
    apart: list[float]
    kernel: list[float]


@dataclass(frozen=True)
class Bits:
    """What a network takes, with numbers of 16 bits where it has any.

    Attributes:
        file_mb: of its file of packed integers, as it was saved; None where there is none.
    """

    backbone: str
    variant: str
    bits: str
    seed: int
    stored: Stored
    file_mb: float | None


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        machine: in words.
        steps: of sampling a clip.
        models, blocks: graphs of whole networks, and of blocks of published ones.
        beyond: blocks whose attention would take more than `attention_gb`.
        costs: of calibrating arms, at bits `calibrated`.
    """

    paper: str
    machine: str
    steps: int
    limits: Limits
    models: Sequence[Timed]
    quality: Sequence[Quality]
    blocks: Sequence[Timed]
    beyond: Sequence[Case]
    attention_gb: float
    bits: Sequence[Bits]
    costs: Sequence[Cost]
    calibrated: str


def write(found: Results, out: Path) -> None:
    """Write a stage's results into `out`."""
    write_json(
        out / "bench.json", bench_rows(found.paper, [*found.models, *found.blocks], found.machine)
    )
    write_scores(out / "scores.parquet", list(_scores(found)))
    write_metrics(out / "metrics.json", _summary(found))
    exhibits.latency(out, found.blocks, found.machine)
    exhibits.table(
        out, "blocks", exhibits.block_rows(found.blocks, found.beyond),
        title="Blocks of the published networks",
        caption=f"One block with random weights on {found.machine}. tokens=clip is a slice of the "
        "published clip: so many tokens, attending to all of it; its share of the clip's time is "
        "that of its tokens. Blocks whose attention would hold more than "
        f"{found.attention_gb:g} GB are not measured. Inputs of fewer bits run as codes in 8, "
        "no faster. Limit: share of the best rates of this machine, "
        f"{found.limits.float_gops:.0f} float32 and {found.limits.integer_gops:.0f} int8 GOP/s and "
        f"{found.limits.gigabytes:.1f} GB/s on {found.limits.threads} thread"
        f"{'' if found.limits.threads == 1 else 's'}.",
    )  # fmt: skip
    if found.models:
        exhibits.table(
            out, "models", exhibits.model_rows(found.models, found.steps),
            title="Our network, deployed",
            caption="One evaluation for one clip, with and without its prompt, is a step; a clip "
            f"takes {found.steps} of them. Peak memory is the process's, runtime included. "
            "Inputs of fewer bits run as codes in 8, no faster.",
        )  # fmt: skip
    if found.quality:
        exhibits.table(
            out, "quality", exhibits.quality_rows(found.quality),
            title="What the deployed network computes",
            caption="Signal over error of its predictions on full precision's walk for held-out "
            "prompts, in dB, means over clips. Where the last two columns are high, what was "
            "evaluated is what runs; a kernel that rounds inputs in its own way has a quality of "
            "its own.",
        )  # fmt: skip
    exhibits.table(
        out, "sizes", exhibits.size_rows(found.bits),
        title="True size",
        caption="Bits a number of the unquantized network, everything counted: codes, scales, zero "
        "points, clips, transforms, branches, biases, and all layers in full precision, with "
        "16 bits a floating-point number as published sizes count. Published networks from the "
        "shapes of their layers. File: packed integers and float32 numbers.",
    )  # fmt: skip
    if found.costs:
        exhibits.table(
            out, "calibration", exhibits.cost_rows(found.costs),
            title="Calibrating an arm",
            caption=f"Once, at {found.calibrated}, in a fresh process: processor time, and by how "
            "much it raised the process's memory.",
        )  # fmt: skip


def _scores(found: Results) -> Iterator[dict[str, Any]]:
    yield from score_rows(found.paper, [*found.models, *found.blocks])

    def head(backbone: str, variant: str, condition: str) -> dict[str, str]:
        names = {"paper": found.paper, "backbone": backbone, "variant": variant}
        return {**names, "condition": condition}

    for timed in found.models:
        graph = timed.graph
        for t in timed.timings:
            where = head(graph.backbone, graph.variant, graph.condition)
            value = found.steps * t.median
            yield row(where, graph.seed, "clip_ms", value, "ms", f"{t.round:03d}")
    for quality in found.quality:
        where = head(quality.backbone, quality.variant, quality.bits)
        values = {
            "deployed_sqnr": quality.deployed,
            "evaluated_sqnr": quality.evaluated,
            "deployed_agreement": quality.apart,
            "kernel_agreement": quality.kernel,
        }
        for metric, clips in values.items():
            for name, value in zip(quality.clips, clips, strict=True):
                yield row(where, quality.seed, metric, value, "dB", name, "higher")
    for own in found.bits:
        where = head(own.backbone, own.variant, own.bits)
        yield row(where, own.seed, "stored_bits", own.stored.per_value, "bits")
        yield row(where, own.seed, "stored_weight_bits", own.stored.per_weight, "bits")
        if own.file_mb is not None:
            yield row(where, own.seed, "file_mb", own.file_mb, "MB")
    for backbone in dict.fromkeys(own.backbone for own in found.bits):
        seed = next(own.seed for own in found.bits if own.backbone == backbone)
        for variant, width in ((HALF, 16.0), (FULL, 32.0)):
            yield row(head(backbone, variant, ""), seed, "stored_bits", width, "bits")
    backbone = found.models[0].graph.backbone if found.models else "teacher"
    for cost in found.costs:
        where = head(backbone, cost.name, found.calibrated)
        for number, seconds in enumerate(cost.seconds):
            yield row(where, 0, "calibration_ms", 1000 * seconds, "ms", f"{number:03d}")
        for number, rise in enumerate(cost.rises_mb):
            yield row(where, 0, "calibration_memory_mb", rise, "MB", f"{number:03d}")


def _summary(found: Results) -> dict[str, Any]:
    """backbone -> variant -> condition -> numbers."""
    summary: dict[str, Any] = {
        "limits": {
            "float_gops": round(found.limits.float_gops, 1),
            "integer_gops": round(found.limits.integer_gops, 1),
            "gigabytes": round(found.limits.gigabytes, 2),
        }
    }

    def at(*place: str) -> dict[str, Any]:
        node = summary
        for name in place:
            node = node.setdefault(name, {})
        return node

    timed = [*found.models, *found.blocks]
    for each in timed:
        graph, base = each.graph, baseline(each, timed)
        at(graph.backbone, graph.variant, graph.condition).update(
            latency_ms=round(each.latency.median, 4),
            speedup=round(base.latency.median / each.latency.median, 4),
            peak_memory_mb=round(each.peak_mb, 2),
            size_mb=round(graph.size_mb, 4),
        )
    for quality in found.quality:
        at(quality.backbone, quality.variant, quality.bits).update(
            deployed_sqnr=round(statistics.fmean(quality.deployed), 4),
            deployed_agreement=round(statistics.fmean(quality.apart), 4),
        )
    for own in found.bits:
        at(own.backbone, own.variant, own.bits).update(
            stored_bits=round(own.stored.per_value, 6),
            compression=round(own.stored.compression(16), 4),
        )
    for cost in found.costs:
        at("calibration", cost.name, found.calibrated).update(seconds=round(cost.median, 3))
    return summary
