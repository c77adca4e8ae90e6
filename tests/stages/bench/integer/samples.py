"""Timed graphs made up by hand."""

from __future__ import annotations

from typing import Any

from stages.bench.integer.graphs import Graph, Timed
from stages.bench.latency import Timing

GRAPH: dict[str, Any] = {
    "backbone": "cogvideox-2b", "variant": "full", "condition": "tokens=64", "seed": 0,
    "kernel": "full", "shape": (1, 64, 1920), "macs": 1000, "parameters": 100,
    "weight_bits": 32, "activation_bits": 32, "size_mb": 8.0, "least_ms": 2.0,
}  # fmt: skip
INTEGERS: dict[str, Any] = {
    "variant": "arm", "kernel": "exact", "weight_bits": 4, "activation_bits": 6, "size_mb": 1.0,
    "bits": "W4A6",
}  # fmt: skip


def timed(*milliseconds: float, **changes: Any) -> Timed:
    """A graph with one run in each round."""
    made = tuple(
        Timing(
            name="", threads=1, round=number, milliseconds=(value,), disturbed=0,
            peak_mb=100.0 + number, model_mb=30.0, runtime="onnxruntime 0",
        )
        for number, value in enumerate(milliseconds)
    )  # fmt: skip
    return Timed(Graph(**{**GRAPH, **changes}), made)
