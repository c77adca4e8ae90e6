"""Blocks of published networks with random weights, each arm on its kernels, against float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from stages.bench import latency
from stages.bench.export import export_onnx
from stages.bench.integer.cases import Case
from stages.bench.integer.graphs import FULL, Graph, Timed, named
from stages.bench.integer.slices import Slice
from stages.bench.kernels.block import Block
from stages.bench.kernels.deploy import export
from stages.bench.kernels.kinds import Kernel
from stages.bench.kernels.roofline import Limits
from stages.core.seeding import seed_all
from stages.quantize import mixed
from stages.quantize.layers import Codes, QuantLinear, quantized

Dress = Callable[[nn.Module, Case], None]
"""Puts an arm's quantized layers, transforms and branches into a block."""


def measure(
    case: Case,
    arms: Mapping[str, tuple[Dress, Sequence[Kernel]]],
    limits: Limits,
    folder: Path,
    plan: latency.Plan,
    *,
    bits: str,
    saturating: bool,
    after_round: Callable[[], object] = lambda: None,
) -> list[Timed]:
    """Time one block in float32 and as every arm, side by side.

    Args:
        arms: name -> what makes a block the arm's, and its kernels.
        limits: of the machine, whose number of threads is used.
        folder: for the graphs, which are removed: they take up to 0.5 GB each.
        bits: what the arms' bits are called.
        saturating: see `stages.bench.kernels.check.saturating`.

    Raises:
        UserError: a kernel cannot do an arm's grids.
    """
    files: dict[str, Path] = {}
    graphs: dict[str, Graph] = {}

    def keep(
        arm: str, kernel: Kernel, layers: Mapping[str, QuantLinear], mean: mixed.Average
    ) -> None:
        plain = kernel == "full"
        name = FULL if plain else named(arm, kernel)
        graphs[name] = Graph(
            backbone=case.backbone,
            variant=name,
            condition=case.condition,
            seed=0,
            kernel=kernel,
            shape=case.shapes["x"],
            macs=case.macs,
            parameters=12 * case.net.width**2,
            weight_bits=32 if plain else mean.weights,
            activation_bits=32 if plain else mean.inputs,
            size_mb=files[name].stat().st_size / 1e6,
            least_ms=case.least_ms(limits, layers.values(), kernel),
            bits="" if plain else bits,
        )

    inputs, outputs = list(case.shapes), ["y", "key", "value"] if case.clip else ["y"]
    example = tuple(torch.zeros(shape) for shape in case.shapes.values())
    try:
        for number, (arm, (dress, kernels)) in enumerate(arms.items()):
            block, model = _block(case)
            if number == 0:
                files[FULL] = folder / f"{FULL}.onnx"
                export_onnx(model, example, files[FULL], inputs, outputs)
            dress(block, case)
            layers = quantized(model)
            mean = mixed.average(model, among=list(layers))
            if number == 0:
                keep(arm, "full", layers, mean)
            fill(layers)
            for kernel in kernels:
                files[named(arm, kernel)] = folder / f"{named(arm, kernel)}.onnx"
                export(
                    model, example, files[named(arm, kernel)], inputs, outputs, kernel,
                    saturating=saturating,
                )  # fmt: skip
                keep(arm, kernel, layers, mean)
            del block, model, layers
        timings = latency.measure(files, case.shapes, limits.threads, plan, after_round)
    finally:
        for file in files.values():
            file.unlink(missing_ok=True)
    return [Timed(graphs[n], tuple(t for t in timings if t.name == n)) for n in files]


def _block(case: Case) -> tuple[Block, nn.Module]:
    """A block with its own random weights, and what is exported of it."""
    seed_all("bench", case.backbone)
    block = Block(case.net.width, case.net.heads, case.seen).eval()
    return block, Slice(block).eval() if case.clip else block


@torch.no_grad()
def fill(layers: Mapping[str, QuantLinear]) -> None:
    """Give layers random codes, which times do not depend on: rounding millions of weights would
    take longer than all runs. Zero points of asymmetric grids differ by row, as real ones do.

    Drawn from torch's global generator.
    """
    for layer in layers.values():
        grid, rows = layer.weights.grid, layer.out_features
        steps = (rows, grid.groups(layer.in_features))
        kind = torch.int8 if grid.symmetric else torch.uint8
        size = (rows, layer.in_features)
        values = torch.randint(grid.lowest, grid.highest + 1, size, dtype=kind)
        scale = torch.full(steps, 4 / 2**grid.bits * layer.in_features**-0.5)
        zero = torch.zeros(steps)
        if not grid.symmetric:
            middle = 2 ** (grid.bits - 1)
            zero += torch.randint(middle - 1, middle + 2, steps)
        layer.adopt(Codes(values, scale, zero))
