"""Quantize the teacher by one arm, at all bits and for all seeds.

Of each cell and seed it leaves `<cell>/seed<k>/`: `model.safetensors` (packed codes, see
`stages.quantize.store`), `training.json` (the arm, what learned and how far, true bits), and, where
something learned, `curve.csv`.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipelines.foundations.video.denoiser import Denoiser
from pipelines.q_vdit import plan
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.groups import Evolution
from pipelines.q_vdit.plan import Cell
from pipelines.q_vdit.source import open_teacher
from pipelines.q_vdit.student import MODEL, TRAINING, Ground, build
from pipelines.q_vdit.training import Rates, learn, measures, trainable
from stages.core import params as core
from stages.core.files import write_json, write_text
from stages.quantize import bits, mixed, store
from stages.quantize.layers import fix_all
from stages.quantize.reconstruct import ReconstructSpec
from stages.teach.loop import curve_csv

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """
    Attributes:
        cells: bits, such as W3A6-mix.
        momentum: of SmoothQuant's running maximum.
        train: updates of each parameter, in every arm that learns.
        rates: the same in every arm.
        batch: samples at once where nothing learns; decides the speed alone.
        held: blocks whose activations are held at a time, where blocks learn by themselves; the
            teacher is run once for each such group. Decides memory and time alone.
    """

    cells: list[str] = Field(min_length=1)
    momentum: float = Field(ge=0, lt=1)
    train: ReconstructSpec
    rates: Rates
    batch: int = Field(ge=1)
    held: int = Field(ge=1)
    variant: Arm


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Quantize once per cell and seed.

    Raises:
        UserError: a name is no cell, or the arm does not suit the teacher.
    """
    cells = [Cell.parse(name) for name in params.cells]
    taught = open_teacher(inputs, job)
    for seed in job.seeds:
        ground = Ground.load(inputs["calibrate"], taught, seed)
        for cell in cells:
            # Written last, training.json also says that this unit is done.
            unit = job.unit(f"{cell.name}-seed{seed}") / "result"
            if not (unit / TRAINING).is_file():
                made(unit, params, ground, cell, job)
            # A kill can leave a half-written hidden file behind.
            halves = shutil.ignore_patterns(".*")
            shutil.copytree(unit, out / cell.name / f"seed{seed}", ignore=halves)


def made(folder: Path, params: Params, ground: Ground, cell: Cell, job: Job) -> None:
    """Quantize for one cell and seed, and write what there is to say."""
    arm = params.variant
    student = build(ground, arm, cell, momentum=params.momentum, batch=params.batch)
    before = measures(student, ground, params.batch)
    tried = 0
    if arm.search is not None:
        records = ground.records()
        evolution = Evolution(student, arm.search, records, params.batch, ground.seed)
        evolution.run()
        tried = len(evolution.tried)
    learning = trainable(student, arm)
    curve = learn(
        student, arm, ground, params.train, params.rates, params.held, job=job, name=cell.name
    )
    fix_all(student)
    after = measures(student, ground, params.batch)
    size = store.save(student, folder / MODEL, dense=True)
    if curve:
        write_text(folder / "curve.csv", curve_csv(curve))
    write_json(
        folder / TRAINING,
        {
            "arm": arm.model_dump(),
            "cell": cell.name,
            "updates": params.train.steps if arm.scope != "none" else 0,
            "tried": tried,
            "trainable": learning,
            "before": before,
            "after": after,
            "bits": true_bits(student),
            "file_bytes": size,
        },
    )


def true_bits(student: Denoiser) -> dict[str, Any]:
    """Averages over the blocks' weights and inputs, codes alone; and all that is stored.

    `per_weight` counts codes, steps, zero points, transforms and branches; `per_value` the whole
    model, full-precision layers and biases included. `published` counts every floating-point number
    as 16 bits, as published sizes do.
    """
    average = mixed.average(student, among=plan.layers(student))
    told: dict[str, Any] = {"weights": average.weights, "inputs": average.inputs}
    for name, floats in (("stored", None), ("published", 16)):
        found = bits.stored(student, floats=floats, dense=True)
        told[name] = {
            "per_weight": found.per_weight,
            "per_value": found.per_value,
            "compression": found.compression(floats or 32),
            "ledger": asdict(found.ledger),
        }
    return told
