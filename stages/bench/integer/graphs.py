"""Graphs that were exported and timed, and the rows that a bench writes of them.

A graph is known by its net, by its variant (the arm, and the kernel where it is not the arm's own
arithmetic), and by its condition: `tokens=…` of a block, or bits as they run. Beside every
condition stands the full-precision graph, with which all others took turns.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.bench.kernels.kinds import Kernel
from stages.bench.latency import Spread, Timing

FULL = "full"
"""The variant in float32 that others are compared with."""
RUNS: dict[Kernel, str] = {
    "full": "float32",
    "exact": "int8",
    "tensor": "int8, one step a tensor",
    "blocks": "MatMulNBits",
}
"""What computes, in the tables."""


def named(arm: str, kernel: Kernel) -> str:
    """The variant of an arm on a kernel: the arm's own name where it computes what was evaluated.

    Codes of 4 bits lie packed on disk with every kernel; `exact` and `tensor` unpack them once.
    """
    return arm if kernel == "exact" else f"{arm}_{kernel}"


def as_run(bits: str) -> str:
    """Bits as kernels run them: inputs of up to 8 bits are codes in 8. W3A6-mix -> W3A8-mix."""
    return re.sub(r"A[2-8](?=-|$)", "A8", bits)


@dataclass(frozen=True)
class Graph:
    """One exported graph.

    Attributes:
        shape: of its first input.
        macs: of one run.
        parameters: of what it stands for, before quantization.
        weight_bits: of the codes, the mean over quantized weights; 32 where there are none.
        activation_bits: of the inputs' codes as they were rounded, the mean over the products that
            they enter; 32 likewise. All run in 8.
        size_mb: of its file, 10^6 bytes.
        least_ms: what its arithmetic, or reading its weights, takes at the machine's best rates;
            None where that was not counted.
        bits: as they are called, such as W4A8-mix; "" of full precision.
    """

    backbone: str
    variant: str
    condition: str
    seed: int
    kernel: Kernel
    shape: tuple[int, ...]
    macs: int
    parameters: int
    weight_bits: float
    activation_bits: float
    size_mb: float
    least_ms: float | None = None
    bits: str = ""

    @property
    def arm(self) -> str:
        """What was quantized, whichever kernel runs it."""
        return self.variant.removesuffix(f"_{self.kernel}")

    @property
    def runs_as(self) -> str:
        return as_run(self.bits)


@dataclass(frozen=True)
class Timed:
    """A graph with its timings, one a round."""

    graph: Graph
    timings: tuple[Timing, ...]

    @property
    def latency(self) -> Spread:
        """Quartiles, over rounds, of the rounds' median latencies in ms."""
        return Spread.of([t.median for t in self.timings])

    @property
    def peak_mb(self) -> float:
        return statistics.median(t.peak_mb for t in self.timings)

    @property
    def model_mb(self) -> float:
        return statistics.median(t.model_mb for t in self.timings)

    @property
    def of_limit(self) -> float | None:
        """Percent of the machine's best rates that the graph reaches."""
        least = self.graph.least_ms
        return None if least is None else 100 * least / self.latency.median


def baseline(own: Timed, among: Iterable[Timed]) -> Timed:
    """The full-precision graph of the same net and condition."""
    place = (own.graph.backbone, FULL, own.graph.condition)
    return next(t for t in among if (t.graph.backbone, t.graph.variant, t.graph.condition) == place)


def speedup(own: Timed, among: Iterable[Timed]) -> float:
    """How many times as fast as float32."""
    return baseline(own, among).latency.median / own.latency.median


def called(graph: Graph, labels: Mapping[str, str]) -> str:
    """A graph's name for people: its arm's, and what runs it where that is not `exact`."""
    if graph.kernel == "full":
        return RUNS["full"]
    name = labels.get(graph.arm, graph.arm)
    return name if graph.kernel == "exact" else f"{name}, {RUNS[graph.kernel]}"


def tidy(bits: float) -> float:
    """A mean width for people: whole where it is, four decimals where it is not."""
    return int(bits) if bits == int(bits) else round(bits, 4)


def bench_rows(paper: str, timed: Sequence[Timed], machine: str) -> list[dict[str, Any]]:
    """Objects of bench.json, one a graph.

    `activation_bits` are those that run, `activation_codes` those that inputs were rounded to; of a
    mix of widths all are means, and `bits` its name.

    Args:
        machine: the device in words.
    """
    rows = []
    for own in timed:
        graph, base, latency = own.graph, baseline(own, timed), own.latency
        integers = graph.kernel != "full"
        rows.append(
            {
                "paper": paper,
                "backbone": graph.backbone,
                "variant": graph.variant,
                "condition": graph.condition,
                "seed": graph.seed,
                "runtime": f"{own.timings[0].runtime}, {RUNS[graph.kernel]}",
                "bits": graph.bits,
                "weight_bits": tidy(graph.weight_bits),
                "activation_bits": 8 if integers else 32,
                "activation_codes": tidy(graph.activation_bits),
                "threads": own.timings[0].threads,
                "shape": list(graph.shape),
                "latency_ms": latency.median,
                "latency_low_ms": latency.low,
                "latency_high_ms": latency.high,
                "baseline_latency_ms": base.latency.median,
                "least_ms": graph.least_ms,
                "disturbed_runs": sum(t.disturbed for t in own.timings),
                "size_mb": graph.size_mb,
                "baseline_size_mb": base.graph.size_mb,
                "peak_memory_mb": own.peak_mb,
                "baseline_peak_memory_mb": base.peak_mb,
                "model_memory_mb": own.model_mb,
                "baseline_model_memory_mb": base.model_mb,
                "macs": graph.macs,
                "baseline_macs": base.graph.macs,
                "parameters": graph.parameters,
                "device": machine,
            }
        )
    return rows


def score_rows(paper: str, timed: Sequence[Timed]) -> list[dict[str, Any]]:
    """Rows of the long table of scores: latency and memory by round, the file's size once.

    Rounds of one net and condition with the same number were measured side by side.
    """
    rows = []
    for own in timed:
        graph = own.graph
        head = {"paper": paper, "backbone": graph.backbone, "variant": graph.variant}
        head |= {"condition": graph.condition}
        for t in own.timings:
            item = f"{t.round:03d}"
            rows.append(row(head, graph.seed, "latency_ms", t.median, "ms", item))
            rows.append(row(head, graph.seed, "peak_memory_mb", t.peak_mb, "MB", item))
            rows.append(row(head, graph.seed, "model_memory_mb", t.model_mb, "MB", item))
        rows.append(row(head, graph.seed, "size_mb", graph.size_mb, "MB"))
    return rows


def row(
    head: Mapping[str, str],
    seed: int,
    metric: str,
    value: float,
    unit: str,
    item: str = "",
    direction: str = "lower",
) -> dict[str, Any]:
    """A row of the long table of scores.

    Args:
        head: paper, backbone, variant, condition.
    """
    return {
        **head, "dataset": "", "seed": seed, "item": item, "metric": metric,
        "value": float(value), "unit": unit, "direction": direction, "censored": False,
    }  # fmt: skip
