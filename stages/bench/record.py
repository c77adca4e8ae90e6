"""What a bench writes down: rows of bench.json, rows of the long table of scores, the summary.

Every ratio is one of the two medians that stand beside it, and the scores hold the same medians
round by round, so that table, picture and claims give one number.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.bench.latency import Spread, Timing
from stages.bench.training import StepCost

DENSE = "dense"
"""The variant that others are compared with."""


@dataclass(frozen=True)
class Network:
    """One exported network.

    Attributes:
        file: its ONNX file.
        shape: of its input.
        macs: multiply-accumulates for one input of that shape.
        error: largest relative difference of its output from torch's.
    """

    backbone: str
    variant: str
    seed: int
    file: Path
    shape: tuple[int, ...]
    macs: int
    parameters: int
    weight_bits: int
    activation_bits: int
    error: float

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def size_mb(self) -> float:
        return self.file.stat().st_size / 1e6


@dataclass(frozen=True)
class Measured:
    """A network with all that was measured of it; `timings` holds every thread count."""

    network: Network
    timings: tuple[Timing, ...]
    step: StepCost

    def on(self, threads: int) -> list[Timing]:
        """Its timings on that many threads, one a round."""
        return [t for t in self.timings if t.threads == threads]

    def latency(self, threads: int) -> Spread:
        """Quartiles, over rounds, of the rounds' median latencies in ms."""
        return Spread.of([t.median for t in self.on(threads)])


def dense_of(measured: Iterable[Measured], backbone: str) -> Measured:
    """The full-size network of a backbone."""
    return next(
        m for m in measured if m.network.backbone == backbone and m.network.variant == DENSE
    )


def bench_rows(
    paper: str, measured: Sequence[Measured], seconds: float, machine: str
) -> list[dict[str, Any]]:
    """Objects of bench.json: one per network and number of threads.

    Args:
        paper: name of the paper.
        measured: the networks, each backbone's full-size one among them.
        seconds: of signal in one input, for the real-time factor.
        machine: see `stages.bench.machine.device`.
    """
    rows = []
    for own in measured:
        net, base = own.network, dense_of(measured, own.network.backbone)
        for threads in sorted({t.threads for t in own.timings}):
            timings, latency = own.on(threads), own.latency(threads)
            rows.append(
                {
                    "paper": paper,
                    "backbone": net.backbone,
                    "variant": net.variant,
                    "seed": net.seed,
                    "runtime": timings[0].runtime,
                    "weight_bits": net.weight_bits,
                    "activation_bits": net.activation_bits,
                    "threads": threads,
                    "shape": list(net.shape),
                    "latency_ms": latency.median,
                    "latency_low_ms": latency.low,
                    "latency_high_ms": latency.high,
                    "baseline_latency_ms": base.latency(threads).median,
                    "disturbed_runs": sum(t.disturbed for t in timings),
                    "rtf": latency.median / (1000 * seconds),
                    "size_mb": net.size_mb,
                    "baseline_size_mb": base.network.size_mb,
                    "peak_memory_mb": _middle(t.peak_mb for t in timings),
                    "baseline_peak_memory_mb": _middle(t.peak_mb for t in base.on(threads)),
                    "model_memory_mb": _middle(t.model_mb for t in timings),
                    "baseline_model_memory_mb": _middle(t.model_mb for t in base.on(threads)),
                    "train_memory_mb": own.step.allocated_mb,
                    "baseline_train_memory_mb": base.step.allocated_mb,
                    "train_step_ms": own.step.median,
                    "baseline_train_step_ms": base.step.median,
                    "macs": net.macs,
                    "baseline_macs": base.network.macs,
                    "parameters": net.parameters,
                    "baseline_parameters": base.network.parameters,
                    "output_error": net.error,
                    "device": machine,
                }
            )
    return rows


def score_rows(paper: str, measured: Sequence[Measured], seconds: float) -> list[dict[str, Any]]:
    """Rows of the long table of scores.

    Latency, real-time factor and memory of the runtime have an item per round and a condition
    "threads=<n>"; rounds with the same number were measured side by side, so that they may be
    paired across arms. The training step has an item per turn, likewise. Counts have no item.
    """
    rows = []
    for own in measured:
        net = own.network
        head: dict[str, Any] = {"paper": paper, "backbone": net.backbone, "dataset": ""}
        head |= {"variant": net.variant, "seed": net.seed, "direction": "lower", "censored": False}

        def add(
            metric: str, value: float, unit: str, condition: str = "", item: str = "",
            head: Mapping[str, Any] = head,
        ) -> None:  # fmt: skip
            rows.append(
                {**head, "metric": metric, "value": float(value), "unit": unit}
                | {"condition": condition, "item": item}
            )

        for t in own.timings:
            where = (f"threads={t.threads}", f"{t.round:03d}")
            add("latency_ms", t.median, "ms", *where)
            add("rtf", t.median / (1000 * seconds), "", *where)
            add("peak_memory_mb", t.peak_mb, "MB", *where)
            add("model_memory_mb", t.model_mb, "MB", *where)
        for turn, value in enumerate(own.step.milliseconds):
            add("train_step_ms", value, "ms", item=f"{turn:03d}")
        add("train_memory_mb", own.step.allocated_mb, "MB")
        add("size_mb", net.size_mb, "MB")
        add("macs", net.macs, "")
        add("parameters", net.parameters, "")
    return rows


def counted_row(
    paper: str,
    backbone: str,
    variant: str,
    seed: int,
    metric: str,
    value: float,
    unit: str = "",
    direction: str = "lower",
) -> dict[str, Any]:
    """A row of the scores for something that is counted and not measured: it has no item."""
    return {
        "paper": paper, "backbone": backbone, "dataset": "", "variant": variant, "condition": "",
        "seed": seed, "item": "", "metric": metric, "value": float(value), "unit": unit,
        "direction": direction, "censored": False,
    }  # fmt: skip


def metrics(measured: Sequence[Measured]) -> dict[str, Any]:
    """The summary: backbone -> network -> counts, memory, and latency by threads."""
    found: dict[str, Any] = {}
    for own in measured:
        net, base = own.network, dense_of(measured, own.network.backbone)
        summary: dict[str, Any] = {
            "macs": net.macs,
            "parameters": net.parameters,
            "size_mb": round(net.size_mb, 4),
            "train_memory_mb": round(own.step.allocated_mb, 3),
        }
        for threads in sorted({t.threads for t in own.timings}):
            latency = own.latency(threads).median
            summary[f"threads_{threads}"] = {
                "latency_ms": round(latency, 4),
                "speedup": round(base.latency(threads).median / latency, 4),
                "peak_memory_mb": round(_middle(t.peak_mb for t in own.on(threads)), 2),
            }
        found.setdefault(net.backbone, {})[net.name.removeprefix(f"{net.backbone}-")] = summary
    return found


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)
