"""Train the students of one arm, with the strength that tune chose for it.

SDKD (arXiv 2507.02939), equations 7 and 8: the mean squared error against the truth plus lambda
times a distance to what frozen teachers gave. For the same seed all arms share first weights,
batches and number of steps; the checkpoint is the one best on validation data, against the truth.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import model_validator
from safetensors.torch import save

from pipelines.sdkd.arms import Arm, Bound, Class, Fade, Students, Weights, untrained
from pipelines.sdkd.course import Course, Result, train
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json, write_bytes, write_json, write_text
from stages.core.params import Borrowed
from stages.teach.loop import TrainSpec, curve_csv

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """
    Attributes:
        train: of each student.
        fade: whether lambda stays or falls to zero over the training.
        bound: largest weight of one of several teachers where AE-KD sets them.
    """

    train: dict[str, TrainSpec]
    fade: Fade
    bound: Bound
    students: Annotated[Students, Borrowed("tune.students")]
    variant: Class

    @model_validator(mode="after")
    def _trained(self) -> Params:
        if reason := untrained(self.students, self.train):
            raise ValueError(reason)
        return self


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Train each student of the variant once per seed."""
    chosen = read_json(inputs[f"{job.paper}/tune/{job.variant}"] / "chosen.json")
    arm = Arm.model_validate(chosen["arm"])
    course = Course.open(
        inputs["prepare"], inputs["calibrate"], arm, params.fade, params.bound, job
    )
    for student in params.variant.students:
        if student not in params.students or student not in chosen["students"]:
            raise UserError(
                f"params.yaml: sdkd.distill.variants.{job.variant} names the student '{student}'; "
                f"allowed: {', '.join(params.students)}"
            )
        weights = Weights.model_validate(chosen["students"][student])
        for seed in job.seeds:
            name = f"{student}-seed{seed}"
            # Written last, training.json also says that this unit is done.
            unit = job.unit(name) / "result"
            if not (unit / "training.json").is_file():
                numbers, spec = params.students[student], params.train[student]
                _keep(unit, train(course, numbers, weights, spec, name=name, seed=seed), weights)
            # A kill can leave a half-written hidden file behind.
            halves = shutil.ignore_patterns(".*")
            shutil.copytree(unit, out / student / f"seed{seed}", ignore=halves)


def _keep(unit: Path, done: Result, weights: Weights) -> None:
    write_bytes(unit / "model.safetensors", save(done.student))
    write_json(unit / "config.json", done.config)
    write_text(unit / "curve.csv", curve_csv(done.curve))
    write_json(
        unit / "training.json",
        {
            "steps": done.steps,
            "best_step": done.best_step,
            "valid_mse": done.valid_mse,
            **weights.model_dump(by_alias=True),
        },
    )
