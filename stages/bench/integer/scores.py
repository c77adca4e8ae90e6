"""The long table of scores of a bench of quantized networks, and its summary."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from stages.bench.integer.graphs import FULL, baseline, row, score_rows
from stages.bench.integer.results import HALF, Results


def rows(found: Results) -> Iterator[dict[str, Any]]:
    """Of the long table of scores."""
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
    for plain in found.plain:
        for variant, size in plain.files_mb.items():
            where = head(plain.backbone, variant, "")
            yield row(where, plain.seed, "file_mb", size, "MB")
    backbone = found.models[0].graph.backbone if found.models else "teacher"
    for cost in found.costs:
        where = head(backbone, cost.name, found.calibrated)
        for number, seconds in enumerate(cost.seconds):
            yield row(where, 0, "calibration_ms", 1000 * seconds, "ms", f"{number:03d}")
        for number, rise in enumerate(cost.rises_mb):
            yield row(where, 0, "calibration_memory_mb", rise, "MB", f"{number:03d}")
    for update in found.updates:
        where = head(update.backbone, update.arm, update.bits)
        for number, value in enumerate(update.ratio.values):
            yield row(where, 0, "update_over_pass", value, "×", f"{number:03d}")


def summary(found: Results) -> dict[str, Any]:
    """backbone -> variant -> condition -> numbers."""
    told: dict[str, Any] = {
        "limits": {
            "float_gops": round(found.limits.float_gops, 1),
            "integer_gops": round(found.limits.integer_gops, 1),
            "gigabytes": round(found.limits.gigabytes, 2),
        }
    }

    def at(*place: str) -> dict[str, Any]:
        node = told
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
    for update in found.updates:
        at("updates", update.backbone, update.arm).update(ratio=round(update.ratio.value, 3))
    return told
