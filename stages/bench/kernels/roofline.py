"""What the machine could do at best, measured on the runtime that the networks are measured on.

A product of M tokens with a weight takes at least as long as its arithmetic at the highest rate
seen, and as long as reading its weight at the highest bandwidth seen (the roofline of Williams et
al. 2009). How near a layer comes says whether a better kernel could still help.

The rates come from products far larger than any cache, or than any overhead, and are the best of
several sizes and of all runs: a limit that is undercut is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stages.bench import latency
from stages.bench.kernels.deploy import export_layer
from stages.bench.kernels.kinds import Kernel, width
from stages.quantize.grids import Grid
from stages.quantize.layers import QuantLinear
from stages.quantize.quantizers import InputSpec, WeightSpec

ARITHMETIC: tuple[tuple[int, int], ...] = ((512, 2048), (1024, 3072))
"""Tokens, and the width of a square weight: of the products for the rate of arithmetic."""
READING = 8192
"""Width of the square float32 weight that one token reads: 268 MB."""


@dataclass(frozen=True)
class Limits:
    """Highest rates on a number of threads.

    Attributes:
        float_gops: 10^9 float32 operations a second; a multiplication and an addition are two.
        integer_gops: the same of 8-bit operations, with 32-bit sums.
        gigabytes: 10^9 bytes read from memory a second.
    """

    threads: int
    float_gops: float
    integer_gops: float
    gigabytes: float

    def least_ms(self, layer: QuantLinear, tokens: int, kernel: Kernel) -> float:
        """The shortest time in which `kernel` could do a layer: arithmetic or reading.

        What is read: the weight as it lies in memory, the inputs once, and the outputs written.
        """
        rows, columns = layer.out_features, layer.in_features
        operations = 2 * tokens * rows * columns
        rate = self.float_gops if kernel == "full" else self.integer_gops
        weight = rows * columns * held_bits(layer, kernel) / 8
        moved = weight + 4 * tokens * (rows + columns)
        return 1e-6 * max(operations / rate, moved / self.gigabytes)

    def by_reading(self, layer: QuantLinear, tokens: int, kernel: Kernel) -> bool:
        """Whether reading and not arithmetic limits a layer."""
        free = Limits(self.threads, float("inf"), float("inf"), self.gigabytes)
        return free.least_ms(layer, tokens, kernel) >= self.least_ms(layer, tokens, kernel)


def held_bits(layer: QuantLinear, kernel: Kernel) -> int:
    """Bits of a weight in memory while a kernel runs."""
    if kernel == "full":
        return 32
    return width(layer.weights.grid) if kernel == "blocks" else 8


def random_layer(rows: int, columns: int, weights: WeightSpec, inputs: InputSpec) -> QuantLinear:
    """A layer of this shape with random weights, which times do not depend on.

    Drawn from torch's global generator.
    """
    linear = nn.Linear(columns, rows, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        linear.weight.normal_(std=columns**-0.5)
        assert linear.bias is not None
        linear.bias.zero_()
    return QuantLinear(linear, weights, inputs)


def measure(
    folder: Path,
    threads: int,
    plan: latency.Plan,
    after_round: Callable[[], object] = lambda: None,
    *,
    arithmetic: Sequence[tuple[int, int]] = ARITHMETIC,
    reading: int = READING,
) -> Limits:
    """Measure the limits of this machine.

    Args:
        folder: for the files of the products.
        threads: of the runtime.
        plan: how often.
        after_round: called when a round of a product is done.
        arithmetic: (tokens, width) of the products for the rates of arithmetic.
        reading: width of the weight that is read; well beyond the last cache.
    """
    sizes = [*arithmetic, (1, reading)]
    rates: dict[Kernel, list[float]] = {"full": [], "tensor": []}
    bandwidth = 0.0
    for tokens, size in sizes:
        grid = Grid(bits=8, symmetric=True, granularity="tensor", group=None, dynamic=False)
        token = Grid(bits=8, symmetric=True, granularity="token", group=None, dynamic=True)
        layer = random_layer(
            size, size,
            WeightSpec(grid=grid, clip="max", norm=None, rounding="nearest"),
            InputSpec(grid=token, clip="max"),
        )  # fmt: skip
        kernels: list[Kernel] = ["full"] if tokens == 1 else ["full", "tensor"]
        files = {kernel: folder / f"limit-{kernel}-{tokens}-{size}.onnx" for kernel in kernels}
        for kernel in kernels:
            # Only the rate counts here: signed weights, which are quickest everywhere.
            export_layer(layer, tokens, files[kernel], kernel, saturating=False)
        del layer
        shapes = {"x": (tokens, size)}
        named = {str(kernel): file for kernel, file in files.items()}
        timings = latency.measure(named, shapes, threads, plan, after_round)
        for kernel in kernels:
            least = min(min(t.milliseconds) for t in timings if t.name == kernel)
            if tokens == 1:
                bandwidth = 4 * size * size / least / 1e6
            else:
                rates[kernel].append(2 * tokens * size * size / least / 1e6)
            files[kernel].unlink()
    return Limits(threads, max(rates["full"]), max(rates["tensor"]), bandwidth)
