"""Quantize the teacher by one arm: once per calibration seed and bits.

The teacher is run once over a calibration set; its activations serve all bits. Every linear layer
that `layers` names is quantized, block by block; embedders, norms and the output layer are not, and
the products of queries, keys and values are not (the paper speaks of neither; its file size leaves
room for little else than 4-bit layers in the blocks, modulation included [inferred]).

Leaves `<bits>/seed<n>/`: the model in packed integers, `quantized.json` (what was chosen, errors of
each block, how attention is spread, numbers learned, bits) and `curve.csv`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, field_validator

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.teacher import Teacher
from pipelines.s2q_vdit import attention, blocks, kept, nets, tokens
from pipelines.s2q_vdit.arms import Arm
from pipelines.s2q_vdit.blocks import Course, Given
from pipelines.s2q_vdit.plan import Layers, linears, prepare
from pipelines.s2q_vdit.pool import Branches, Pool, Rows, rows
from pipelines.s2q_vdit.selection import Member, Selection, choose
from pipelines.s2q_vdit.source import open_teacher, sampling_of
from stages.core import params as core
from stages.core.files import write_json, write_text
from stages.core.params import Borrowed
from stages.quantize import bits, mixed
from stages.quantize.capture import capture

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

UNSEEN: Selection = "random"
"""The selection on whose samples the errors are told of an arm that sees none."""


class Params(core.Params):
    """
    Attributes:
        bits: such as W4A6; each gives a model.
        layers: what is quantized of each block, by pattern; the first that matches counts.
        branches: of guidance, on which is calibrated.
        text: what becomes of the text's tokens in the loss.
        held: blocks whose activations are held at a time; the teacher is run once for each such
            group. Decides memory and time alone.
        count: N, members of a calibration set.
    """

    bits: list[str] = Field(min_length=1)
    layers: list[Layers] = Field(min_length=1)
    branches: Branches
    text: tokens.Text
    held: int = Field(ge=1)
    course: Course
    count: Annotated[int, Borrowed("calibrate.count")]
    variant: Arm

    @field_validator("bits")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            mixed.parse(name)
        return names


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Make one model per seed and bits.

    Raises:
        UserError: attention of the teacher is not joint, the pool is too small, a pattern matches
            no layer, or a block's loss is not finite.
    """
    teacher = open_teacher(inputs, job)
    guidance = sampling_of(inputs).guidance
    for seed in job.seeds:
        # Written last, quantized.json also says that this unit is done.
        units = {name: job.unit(f"seed{seed}-{name}") / "result" for name in params.bits}
        missing = [name for name, unit in units.items() if not (unit / "quantized.json").is_file()]
        if missing:
            pool = Pool.load(inputs["calibrate"] / f"seed{seed}.safetensors")
            how = params.variant.selection or UNSEEN
            members = choose(how, pool.diff, pool.quant, params.count, seed)
            chosen = rows(pool, members, teacher, guidance, params.branches)
            models = {name: _swapped(teacher.denoiser, params, name) for name in missing}
            done = _quantized(models, teacher, chosen, params, job, seed)
            for name, (told, curves) in done.items():
                told |= _described(models[name], params, members, chosen)
                _keep(units[name], models[name], params.variant, told, curves)
        for name, unit in units.items():
            # A kill can leave a half-written hidden file behind.
            halves = shutil.ignore_patterns(".*")
            shutil.copytree(unit, out / name / f"seed{seed}", ignore=halves)


def _swapped(teacher: Denoiser, params: Params, name: str) -> Denoiser:
    """A copy of the teacher with quantized layers that have no transform yet."""
    made = deepcopy(teacher)
    prepare(made, params.layers, params.variant.base, name)
    return made


Told = dict[str, Any]
Curves = dict[str, list[float]]


def _quantized(
    models: dict[str, Denoiser],
    teacher: Teacher,
    chosen: Rows,
    params: Params,
    job: Job,
    seed: int,
) -> dict[str, tuple[Told, Curves]]:
    """Quantize every block of every model: by bits, what is told of the blocks, and the curves."""
    found: dict[str, tuple[Told, Curves]] = {
        name: ({"blocks": {}, "attention": {}, "learned": 0}, {}) for name in models
    }
    arm = params.variant
    for block, given in _observed(teacher, chosen, params, job):
        weighing = None
        if arm.least is not None:
            weighing = tokens.with_text(given.received, given.video, arm.least, params.text)
        for name, (told, curves) in found.items():
            outcome = blocks.quantize(
                models[name].get_submodule(block), block, given, arm.base, weighing, params.text,
                params.course, job=job, seed=seed,
            )  # fmt: skip
            told["blocks"][block] = {"before": outcome.before, "after": outcome.after}
            told["attention"][block] = tokens.concentration(given.received[:, : given.video])
            told["learned"] += outcome.learned
            curves[block] = outcome.curve
    return found


def _observed(
    teacher: Teacher, chosen: Rows, params: Params, job: Job
) -> Iterator[tuple[str, Given]]:
    """Every block with what the teacher's is given, gives and attends to, in order."""
    denoiser = teacher.denoiser
    layout, names = nets.layout(denoiser), nets.block_names(denoiser)
    for start in range(0, len(names), params.held):
        group = names[start : start + params.held]
        attentions = {name: denoiser.get_submodule(f"{name}.{layout.attention}") for name in group}
        store = torch.device("cpu")
        with (
            capture(denoiser, group, shared=layout.shared, store=store) as records,
            attention.watching(attentions) as sums,
        ):
            chosen.through(denoiser, params.course.look, job.device)
        for name in group:
            words = nets.of_text(records[name].outputs[0])
            text = 0 if words is None else words.shape[1]
            received = nets.video_first(torch.cat(sums[name]), text, layout.text_first)
            yield name, Given(records.pop(name), received, chosen.steps)


def _described(model: Denoiser, params: Params, members: Sequence[Member], chosen: Rows) -> Told:
    """What was calibrated on, and the bits of what came out."""
    mean, size = mixed.average(model, among=linears(model)), bits.stored(model, dense=True)
    half = bits.stored(model, floats=16, dense=True)
    seen = params.variant.selection is not None
    return {
        "members": [list(member) for member in members] if seen else [],
        "rows": len(chosen.steps) if seen else 0,
        "bits": {
            "weights": mean.weights,
            "inputs": mean.inputs,
            "stored_per_weight": size.per_weight,
            "stored_per_value": size.per_value,
            "compression_of_32": size.compression(32),
            "compression_of_16": half.compression(16),
            "ledger": asdict(size.ledger),
        },
    }


def _keep(unit: Path, model: Denoiser, arm: Arm, told: Told, curves: Curves) -> None:
    told["bytes"] = kept.keep(unit, model, arm.base)
    lines = ["block,epoch,loss"]
    for block, losses in curves.items():
        lines += [f"{block},{epoch},{loss:.8g}" for epoch, loss in enumerate(losses, 1)]
    write_text(unit / "curve.csv", "\n".join(lines) + "\n")
    write_json(unit / "quantized.json", told)
