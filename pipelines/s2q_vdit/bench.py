"""Run a quantized teacher for real, and blocks of the published sizes: bits, time, memory.

S²Q-VDiT (arXiv 2508.04016) reports 3.9 times less storage and 1.3 times the speed of 16 bits on a
GPU. Here weights of 4 bits lie packed in a file and run on the integer kernels of a CPU against
float32. The learned rotation and scale are applied to inputs at run time, and are counted as they
are, in bits and in time; an arm without them shows what they cost.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from torch import nn

from pipelines.foundations.video import bench_params, benched
from pipelines.foundations.video import teacher as foundation
from pipelines.s2q_vdit import kept, quantize
from pipelines.s2q_vdit.base import Base, empty
from pipelines.s2q_vdit.source import NAME, open_teacher, sampling_of
from stages.bench.integer.blocks import Dress
from stages.bench.integer.cases import Case
from stages.bench.integer.stored import Make
from stages.bench.kernels.shapes import Shape
from stages.core import params as core
from stages.core.dag import Node
from stages.core.job import Inputs
from stages.core.params import Borrowed
from stages.quantize import mixed
from stages.quantize.layers import QuantLinear
from stages.quantize.mixed import Width
from stages.quantize.shared import share
from stages.quantize.swap import Rule, swap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stages.core.job import Job

PAPER = "s2q_vdit"
NETS = ("cogvideox-2b", "cogvideox-5b", "hunyuanvideo")
"""That the paper quantizes."""
SHARED = ("to_q", "to_k", "to_v")
"""Layers of a block that are given the same tensor, so that they share what is done to it."""


class Params(bench_params.Params):
    """
    Attributes:
        quantize: whose arms are measured; one of them is calibrated once more.
        count: members of a calibration set.
    """

    quantize: Annotated[dict[str, Any], Borrowed("quantize")]
    count: Annotated[int, Borrowed("calibrate.count")]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Deploy, time, count, calibrate.

    Raises:
        UserError: quantize made no such arm, or a kernel cannot do its grids.
    """
    taught = open_teacher(inputs, job)
    taught.denoiser.cpu()

    def values(bits: str) -> dict[str, Any]:
        own = {**params.quantize, "bits": [bits]}
        return {PAPER: {"quantize": own, "calibrate": {"count": params.count}}}

    def base(arm: str, bits: str) -> Base:
        return core.build(quantize.Params, values(bits), PAPER, "quantize", arm).variant.base

    def task(arm: str, bits: str, seed: int) -> Mapping[str, Any]:
        where = {"root": str(job.root.resolve()), "deps": list(job.node.deps)}
        return {**where, "values": values(bits), "arm": arm, "seed": seed}

    method = benched.Method(
        load=lambda folder: kept.load(folder, taught.denoiser),
        dress=lambda arm, bits: dress(base(arm, bits), bits),
        make=lambda arm, bits: make(base(arm, bits), bits),
        owners=owners,
        nets=NETS,
        entry=f"{__name__}:{calibration.__name__}",
        task=task,
    )
    benched.run(params, method, taught, sampling_of(inputs), inputs, out, job)


def dress(base: Base, bits: str) -> Dress:
    """All layers of a block at these bits, with the transform of `base`."""

    def put(block: nn.Module, case: Case) -> None:
        layers = swap(block, [_rule(base, bits)])
        for layer in layers.values():
            _transform(layer, base)
        share([layer for name, layer in layers.items() if name.endswith(SHARED)])

    return put


def make(base: Base, bits: str) -> Make:
    """One layer at these bits, with the transform of `base`."""
    rule = _rule(base, bits)

    def layer(linear: nn.Linear, shape: Shape) -> QuantLinear:
        assert rule.weights is not None
        made = QuantLinear(linear, rule.weights, rule.inputs)
        _transform(made, base)
        return made

    return layer


def owners(shape: Shape) -> int:
    """Queries, keys and values share transform and clips; `shape` may hold the outputs' layers."""
    if "to_q" not in shape.name and "add_" not in shape.name:
        return shape.count
    return shape.count // 2 if "out" in shape.name else shape.count // 3


def _rule(base: Base, bits: str) -> Rule:
    weights, inputs = mixed.parse(bits)
    width = Width(pattern="*", weights=weights, inputs=inputs)
    return mixed.plan([width], base.weights(), base.inputs())[0]


def _transform(layer: QuantLinear, base: Base) -> None:
    if (base.rotation, base.scale) != ("none", "none"):
        layer.transform = empty(base, layer.in_features)


def calibration(
    root: str, deps: list[str], values: dict[str, Any], arm: str, seed: int
) -> Callable[[], None]:
    """The work of quantizing by one arm once.

    Called by name in a process of its own; see `stages.bench.integer.once`.

    Args:
        root: of the project.
        deps: of bench, among which are those of quantize.
        values: what quantize reads of params.yaml, with the bits that are wanted.
    """
    own = core.build(quantize.Params, values, PAPER, "quantize", arm)
    node = Node(PAPER, "quantize", arm, None, tuple(deps), (), ())
    # Loads diffusers, which is no part of the work.
    foundation.load(Inputs(Path(root), node)[f"foundations/video/teach/{NAME}"], root=Path(root))
    return benched.again(quantize.run, own, node, Path(root), seed)
