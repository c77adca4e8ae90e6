"""Run a quantized teacher for real, and blocks of the published sizes: bits, time, memory.

Q-VDiT (arXiv 2505.22167) reports 2.4 times less memory and 1.35 times the speed of 16 bits at W4A8
on a GPU. Here packed weights run on the integer kernels of a CPU against float32. The token
estimator's branch stays in full precision beside every layer; what it costs in bits and in time is
the difference from an arm without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import nn

from pipelines.foundations.video import bench_params, benched
from pipelines.foundations.video import teacher as foundation
from pipelines.foundations.video.data import Clips
from pipelines.q_vdit import calibrate, parts, quantize, student
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.names import LABELS
from pipelines.q_vdit.places import SPATIAL
from pipelines.q_vdit.plan import INPUTS, KEPT, WEIGHTS, Cell
from pipelines.q_vdit.source import NAME, open_teacher, sampling_of
from stages.bench.integer.blocks import Dress
from stages.bench.integer.cases import Case
from stages.bench.integer.once import Task
from stages.bench.integer.stored import Make, alone
from stages.bench.kernels.shapes import Shape
from stages.core import params as core
from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.job import Inputs
from stages.core.params import Borrowed
from stages.quantize import mixed
from stages.quantize.layers import QuantLinear
from stages.quantize.mixed import Width
from stages.quantize.swap import Rule, swap

if TYPE_CHECKING:
    from collections.abc import Callable

    from stages.core.job import Job

PAPER = "q_vdit"
NETS = ("open-sora-stdit-xl-2", "latte-xl-2")
"""That the paper quantizes."""
FRAMES = 16
"""Of their clips."""
# A branch needs to know where a layer stands; these names are of the networks trained here.
VIDEO, WORDS = f"{SPATIAL}0.attn1.to_q", f"{SPATIAL}0.attn2.to_k"
CLOSEST = WEIGHTS.model_copy(update={"clip": "max", "norm": None})
"""As `WEIGHTS` where codes do not matter: its clips take long to find."""


class Params(bench_params.Params):
    """
    Attributes:
        quantize: whose arms are measured; some of them are calibrated once more.
        calibrate: whose samples are made once more.
    """

    quantize: Annotated[dict[str, Any], Borrowed("quantize")]
    calibrate: Annotated[dict[str, Any], Borrowed("calibrate")]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Deploy, time, count, calibrate.

    Raises:
        UserError: quantize made no such arm, or a kernel cannot do its grids.
    """
    taught, sampling = open_teacher(inputs, job), sampling_of(inputs)
    taught.denoiser.cpu()

    def values(bits: str) -> dict[str, Any]:
        return {PAPER: {"quantize": {**params.quantize, "cells": [bits]}}}

    def arm_of(name: str, bits: str) -> Arm:
        return core.build(quantize.Params, values(bits), PAPER, "quantize", name).variant

    where = {"root": str(job.root.resolve()), "deps": list(job.node.deps)}

    def task(arm: str, bits: str, seed: int) -> Task:
        asked = {"values": values(bits), "arm": arm, "seed": seed}
        return Task(f"{__name__}:{calibration.__name__}", {**where, **asked})

    def gathered(seed: int) -> Task:
        asked = {"values": params.calibrate, "seed": seed}
        return Task(f"{__name__}:{gathering.__name__}", {**where, **asked})

    method = benched.Method(
        load=lambda folder: student.load(folder, taught),
        dress=lambda arm, bits: dress(arm_of(arm, bits), bits),
        make=lambda arm, bits: make(arm_of(arm, bits), bits),
        owners=alone,
        nets=NETS,
        labels=LABELS,
        task=task,
        gathered=gathered,
    )
    steps = (sampling.steps, sampling.guidance)
    benched.run(params, method, taught, steps, inputs, out, job)


def dress(arm: Arm, bits: str) -> Dress:
    """All layers of a block at these bits, with the transform and the branch of the arm."""

    def put(block: nn.Module, case: Case) -> None:
        for layer in swap(block, _rules(bits, feed_forward="*ff.*")).values():
            _attach(layer, arm, VIDEO, case.frames)

    return put


def make(arm: Arm, bits: str) -> Make:
    """One layer at these bits, with the transform and the branch of the arm."""
    *mixed_in, low = _rules(bits, feed_forward="mlp.*")

    def layer(linear: nn.Linear, shape: Shape) -> QuantLinear:
        rule = mixed_in[0] if mixed_in and shape.name.startswith("mlp.") else low
        assert rule.weights is not None
        made = QuantLinear(linear, rule.weights, rule.inputs)
        _attach(made, arm, WORDS if shape.sees == "text" else VIDEO, FRAMES)
        return made

    return layer


def _rules(bits: str, feed_forward: str) -> list[Rule]:
    """The paper's mix, or all layers alike; feed-forward layers are those with such names."""
    cell = Cell.parse(bits)
    widths = [Width(pattern="*", weights=cell.weights, inputs=cell.inputs)]
    if cell.mix:
        inputs = None if cell.inputs is None else KEPT
        widths.insert(0, Width(pattern=feed_forward, weights=KEPT, inputs=inputs))
    return list(mixed.plan(widths, CLOSEST, INPUTS))


def _attach(layer: QuantLinear, arm: Arm, name: str, frames: int) -> None:
    if arm.search is not None:
        raise UserError("q_vdit.bench: groups by search differ from layer to layer; take it out")
    build = parts.make(arm, frames)
    rows, columns = layer.out_features, layer.in_features
    if arm.scale != "none" or arm.rotated:
        layer.transform = build(name, "transform", columns, rows)
    if arm.beside != "none":
        layer.beside = build(name, "beside", columns, rows)


def calibration(
    root: str, deps: list[str], values: dict[str, Any], arm: str, seed: int
) -> Callable[[], None]:
    """The work of quantizing by one arm once.

    Called by name in a process of its own; see `stages.bench.integer.once`.

    Args:
        root: of the project.
        deps: of bench, among which are those of quantize.
        values: what quantize reads of params.yaml, with the cell that is wanted.
    """
    own = core.build(quantize.Params, values, PAPER, "quantize", arm)
    node = Node(PAPER, "quantize", arm, None, tuple(deps), (), ())
    # Loads diffusers, which is no part of the work.
    foundation.load(Inputs(Path(root), node)[f"foundations/video/teach/{NAME}"], root=Path(root))
    return benched.again(quantize.run, own, node, Path(root), seed)


def gathering(root: str, deps: list[str], values: dict[str, Any], seed: int) -> Callable[[], None]:
    """The work of making one calibration set.

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
        prompts = calibrate.asked(clips, own.prompts, seed)
        samples = calibrate.gather(taught, prompts, sampling, own.steps, seed)
        text = samples.text(taught.read, torch.device("cpu"))
        records = samples.records(text, masked=True)
        calibrate.salience(taught.denoiser, records, samples.step, own.batch)

    return work
