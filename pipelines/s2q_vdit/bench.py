"""Run a quantized teacher for real, and blocks of the published sizes: bits, time, memory.

S²Q-VDiT (arXiv 2508.04016) reports 3.9 times less storage and 1.3 times the speed of 16 bits on a
GPU. Here weights of 4 bits lie packed in a file and run on the integer kernels of a CPU against
float32. The learned rotation and scale are applied to inputs at run time, and are counted as they
are, in bits and in time; an arm without them shows what they cost.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from torch import nn

from pipelines.foundations.video import bench_params, benched
from pipelines.foundations.video import teacher as foundation
from pipelines.foundations.video.data import Clips
from pipelines.s2q_vdit import calibrate, cost, kept, pool, quantize
from pipelines.s2q_vdit.base import Base, empty
from pipelines.s2q_vdit.cost import Size
from pipelines.s2q_vdit.names import LABELS
from pipelines.s2q_vdit.source import NAME, open_teacher, sampling_of
from stages.bench.integer.blocks import Dress
from stages.bench.integer.cases import Case
from stages.bench.integer.once import Task
from stages.bench.integer.results import Update
from stages.bench.integer.stored import Make
from stages.bench.kernels.shapes import Shape
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.job import Inputs
from stages.core.params import Borrowed
from stages.quantize import mixed
from stages.quantize.layers import QuantLinear
from stages.quantize.mixed import Width
from stages.quantize.shared import share
from stages.quantize.swap import Rule, swap

if TYPE_CHECKING:
    from collections.abc import Callable

    from stages.core.job import Job

PAPER = "s2q_vdit"
NETS = ("cogvideox-2b", "cogvideox-5b", "hunyuanvideo")
"""That the paper quantizes."""
SHARED = ("to_q", "to_k", "to_v")
"""Layers of a block that are given the same tensor, so that they share what is done to it."""


class Updates(core.Params):
    """Updates of block reconstruction, timed against passes of the same block.

    Attributes:
        arms: of quantize, such as learn.
        bits: any that quantize could be given.
        turns: that count.
        blocks: their sizes, with random weights.
    """

    arms: Annotated[list[str], Field(min_length=1)]
    bits: str
    turns: Annotated[int, Field(ge=1)]
    blocks: Annotated[list[Size], Field(min_length=1)]


class Params(bench_params.Params):
    """
    Attributes:
        quantize: whose arms are measured; some of them are calibrated once more.
        calibrate: whose pool is made once more.
    """

    updates: Updates
    quantize: Annotated[dict[str, Any], Borrowed("quantize")]
    calibrate: Annotated[dict[str, Any], Borrowed("calibrate")]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Deploy, time, count, calibrate.

    Raises:
        UserError: quantize made no such arm, a kernel cannot do its grids, or an arm whose
            updates are wanted learns nothing.
    """
    taught = open_teacher(inputs, job)
    taught.denoiser.cpu()

    def values(bits: str) -> dict[str, Any]:
        own = {**params.quantize, "bits": [bits]}
        return {PAPER: {"quantize": own, "calibrate": params.calibrate}}

    def base(arm: str, bits: str) -> Base:
        return core.build(quantize.Params, values(bits), PAPER, "quantize", arm).variant.base

    where = {"root": str(job.root.resolve()), "deps": list(job.node.deps)}

    def task(arm: str, bits: str, seed: int) -> Task:
        asked = {"values": values(bits), "arm": arm, "seed": seed}
        return Task(f"{__name__}:{calibration.__name__}", {**where, **asked})

    def gathered(seed: int) -> Task:
        asked = {"values": params.calibrate, "seed": seed}
        return Task(f"{__name__}:{gathering.__name__}", {**where, **asked})

    method = benched.Method(
        load=lambda folder: kept.load(folder, taught.denoiser),
        dress=lambda arm, bits: dress(base(arm, bits), bits),
        make=lambda arm, bits: make(base(arm, bits), bits),
        owners=owners,
        nets=NETS,
        labels=LABELS,
        task=task,
        gathered=gathered,
        updates=lambda: updates(params, values),
    )
    benched.run(params, method, taught, sampling_of(inputs), inputs, out, job)


def updates(params: Params, values: Callable[[str], dict[str, Any]]) -> list[Update]:
    """Updates of every arm at every size.

    Args:
        values: bits -> what quantize reads of params.yaml.
    """
    wanted, found = params.updates, []
    for size in wanted.blocks:
        for arm in wanted.arms:
            own = core.build(quantize.Params, values(wanted.bits), PAPER, "quantize", arm)
            if not own.variant.base.learns:
                raise UserError(f"params.yaml: {PAPER}.bench.updates.arms: '{arm}' learns nothing")
            spent = cost.measure(size, own, wanted.bits, turns=wanted.turns)
            found.append(Update(size.name, arm, wanted.bits, spent))
    return found


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


def gathering(root: str, deps: list[str], values: dict[str, Any], seed: int) -> Callable[[], None]:
    """The work of making one pool of candidates and measuring their salience, which a random choice
    would not need.

    Called by name like `calibration`.

    Args:
        values: of params.yaml, calibrate.
    """
    node = Node(PAPER, "calibrate", None, None, tuple(deps), (), ())
    inputs = Inputs(Path(root), node)
    taught = foundation.load(inputs[f"foundations/video/teach/{NAME}"], root=Path(root))
    clips = Clips.load(inputs["foundations/video/prepare"])
    own = calibrate.Params.model_validate({**values, "seeds": [str(seed)]})
    sampling = sampling_of(inputs)

    def work() -> None:
        prompts = pool.draw(clips, own.prompts, seed)
        pool.sample(taught, prompts, sampling, own.norm, seed=seed, batch=own.batch)

    return work
