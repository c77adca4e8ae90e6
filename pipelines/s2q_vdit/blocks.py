"""Quantize one transformer block so that it gives, on calibration data, what the teacher's gives.

Blocks are independent of each other: each is fitted to the teacher's outputs on the teacher's
inputs (the release that the authors share their quantizer with does so; the paper is silent).
First scale, rotation and clips learn together, then the transformed weight is rounded by GPTQ on
the inputs that it will meet: transformed, clipped and quantized.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.s2q_vdit import tokens
from pipelines.s2q_vdit.base import Base, attach
from pipelines.s2q_vdit.nets import of_video
from stages.core.params import Params
from stages.quantize.capture import Records
from stages.quantize.gptq import fix_by_gptq, hessians
from stages.quantize.layers import QuantLinear, fix_all, knobs, plain, quantized
from stages.quantize.reconstruct import Group, Loss, ReconstructSpec, reconstruct
from stages.quantize.shared import siblings
from stages.quantize.smooth import maxima

if TYPE_CHECKING:
    from stages.core.job import Job


class Course(Params):
    """How a block learns, and how its weights are rounded.

    Attributes:
        epochs: passes over the calibration rows.
        batch: rows of a step.
        look: rows at once where nothing is learned; decides the speed alone, but for last digits.
        transform, clip: learning rates of rotation and scale, and of the clips.
        weight_decay: of AdamW.
        final: share of its learning rate that each group has left at the end of the cosine.
        norm: largest norm of a step's gradient; null for no limit.
        damping: of GPTQ's Hessian, as a share of its mean diagonal.
        act_order: whether GPTQ rounds the columns with the largest inputs first.
    """

    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    look: int = Field(ge=1)
    transform: float = Field(gt=0)
    clip: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    final: float = Field(ge=0, le=1)
    norm: float | None = Field(gt=0)
    damping: float = Field(gt=0)
    act_order: bool


@dataclass(frozen=True)
class Given:
    """What is known of a block.

    Attributes:
        records: the teacher's inputs and outputs.
        received: S of its tokens by row, the video's n first, (R, n + L).
        steps: number of the denoising step of each row.
    """

    records: Records
    received: Tensor
    steps: Sequence[int]

    @property
    def video(self) -> int:
        return of_video(self.records.outputs[0]).shape[1]


@dataclass(frozen=True)
class Outcome:
    """What was done to a block.

    Attributes:
        before, after: errors of its video tokens against the teacher's, as it started and as it
            is kept: `plain`, the mean square, and `received`, each token weighted by S_j / mean S.
        learned: how many numbers were learned.
        curve: mean loss of each epoch; empty where nothing is learned.
    """

    before: dict[str, float]
    after: dict[str, float]
    learned: int
    curve: list[float]


def quantize(
    block: nn.Module,
    name: str,
    given: Given,
    base: Base,
    weighing: Tensor | None,
    text: tokens.Text,
    course: Course,
    *,
    job: Job,
    seed: int,
) -> Outcome:
    """Quantize a block in place; its layers are fixed at their codes afterwards.

    Args:
        block: whose linear layers are quantized ones, at their bits.
        name: of the block; signs and the order of the rows depend on it.
        weighing: λ, (R, tokens), or None.
    """
    layers = start(block, name, given, base, course.look, seed)
    before = errors(block, given, course.look)
    curve: list[float] = []
    learned = 0
    if base.learns:
        rates = groups(block, course)
        learned = sum(p.numel() for group in rates for p in group.parameters)
        goal = tokens.loss(weighing, text)
        curve = _learn(block, name, given, rates, goal, course, job, seed)
    if base.rounding == "gptq":
        found = hessians(layers, lambda: _run(block, given.records, course.look))
        for key, layer in layers.items():
            fix_by_gptq(layer, found[key], damping=course.damping, act_order=course.act_order)
    else:
        fix_all(block)
    return Outcome(before, errors(block, given, course.look), learned, curve)


def start(
    block: nn.Module, name: str, given: Given, base: Base, look: int, seed: int
) -> dict[str, QuantLinear]:
    """Attach what `base` has to a block's layers; gives them by their names in the network."""
    layers = {f"{name}.{key}": layer for key, layer in quantized(block).items()}
    with plain(block):
        alike = siblings(layers, lambda: _run(block, given.records, 1, [0]))
    attach(layers, alike, base, lambda: _salience(block, layers, given, look), seed)
    return layers


def errors(block: nn.Module, given: Given, batch: int) -> dict[str, float]:
    """`plain` and `received` of a block as it is now; see `Outcome`."""
    received = given.received[:, : given.video]
    share = received / received.mean(1, keepdim=True)
    total = {"plain": 0.0, "received": 0.0}
    for rows, output, target in _calls(block, given.records, range(len(given.records)), batch):
        gaps = (of_video(output).float() - of_video(target).float()).square().mean(2)
        total["plain"] += float(gaps.mean(1).sum())
        total["received"] += float((gaps * share[rows].to(gaps)).mean(1).sum())
    return {name: value / len(given.records) for name, value in total.items()}


def groups(block: nn.Module, course: Course) -> list[Group]:
    """What learns of a block, at the rates of `course`."""
    rates = {
        "transform": course.transform,
        "clip": course.clip,
        "input_clip": course.clip,
    }
    return [Group(parameters, rates[kind]) for kind, parameters in knobs(block).items()]


def _learn(
    block: nn.Module,
    name: str,
    given: Given,
    groups: Sequence[Group],
    goal: Loss,
    course: Course,
    job: Job,
    seed: int,
) -> list[float]:
    """Reconstruct, and give the mean loss of each epoch."""
    a_pass = max(1, len(given.records) // course.batch)
    spec = ReconstructSpec(
        steps=course.epochs * a_pass,
        batch=course.batch,
        weight_decay=course.weight_decay,
        final=course.final,
        clip=course.norm,
    )
    losses = reconstruct(block, given.records, groups, goal, spec, job=job, name=name, seed=seed)
    return [sum(losses[k : k + a_pass]) / a_pass for k in range(0, spec.steps, a_pass)]


def _salience(
    block: nn.Module, layers: Mapping[str, QuantLinear], given: Given, batch: int
) -> dict[str, Tensor]:
    """Largest magnitudes of what the teacher's layers are given: (steps, in), a row a step."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    for step in sorted(set(given.steps)):
        some = [row for row, own in enumerate(given.steps) if own == step]
        with plain(block):
            top = maxima(layers, lambda: _run(block, given.records, batch, some))  # noqa: B023
        for name, values in top.items():
            found[name].append(values)
    return {name: torch.stack(values) for name, values in found.items()}


def _run(block: nn.Module, records: Records, batch: int, rows: Sequence[int] | None = None) -> None:
    """Call a block with recorded inputs."""
    for _ in _calls(block, records, range(len(records)) if rows is None else rows, batch):
        pass


@torch.no_grad()
def _calls(
    block: nn.Module, records: Records, rows: Sequence[int], batch: int
) -> Iterator[tuple[list[int], Any, Any]]:
    """Some rows at a time, with what the block gives for them and what the teacher's gave."""
    device = next(block.parameters()).device
    for start in range(0, len(rows), batch):
        some = list(rows[start : start + batch])
        arguments, target = records.batch(some, device)
        yield some, arguments.call(block), target
