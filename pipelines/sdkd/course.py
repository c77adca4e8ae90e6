"""One student's training under one arm; the stages tune and distill both hold it.

For the same seed every arm starts from the same student and sees the same batches for the same
number of steps. So no arm is warm-started, and none gets more training than the undistilled one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from pipelines.sdkd import cache
from pipelines.sdkd.arms import Arm, Bound, Fade, Weights, infeasible
from pipelines.sdkd.data import Fields
from pipelines.sdkd.model import StudentNet, build, config
from pipelines.sdkd.nets.frame import Forecaster
from pipelines.sdkd.pupil import Pupil
from pipelines.sdkd.training import shape_of, step_loss, valid_loss
from stages.core.errors import UserError
from stages.core.seeding import seed_all, seed_of
from stages.teach.loop import TrainSpec, fit

if TYPE_CHECKING:
    from stages.core.job import Job


@dataclass(frozen=True)
class Course:
    """What all students of an arm share."""

    fields: Fields
    arm: Arm
    cache: cache.Cache | None
    fade: Fade
    bound: Bound
    job: Job

    @classmethod
    def open(
        cls, prepare: Path, calibrate: Path, arm: Arm, fade: Fade, bound: Bound, job: Job
    ) -> Course:
        """Read the data, and of the teachers' answers those that the arm needs.

        Raises:
            UserError: several teachers' weights cannot keep below `bound`.
        """
        if reason := infeasible(arm, bound):
            raise UserError(f"params.yaml: sdkd.{reason}")
        answers = None
        if arm.loss != "none":
            answers = cache.read(calibrate, arm.teachers, arm.keys, job.device)
        return cls(Fields.load(prepare), arm, answers, fade, bound, job)


@dataclass(frozen=True)
class Result:
    """A trained student.

    Attributes:
        student: as it was best on validation data, without adapters.
        valid_mse: its error there, in training variances.
        curve: see `stages.teach.loop.Fit`.
    """

    student: dict[str, Tensor]
    config: dict[str, object]
    valid_mse: float
    best_step: int
    steps: int
    curve: list[dict[str, float]]


def train(
    course: Course,
    numbers: StudentNet,
    weights: Weights,
    spec: TrainSpec,
    *,
    name: str,
    seed: int,
) -> Result:
    """Train one student.

    Args:
        name: of the unit of work, for its checkpoint.
        seed: of the student's first weights and of the order of batches, in every arm alike.
    """
    student = fresh(course.fields, numbers, seed)
    device, batches = course.job.device, seed_of("distill", seed)
    epoch_steps = max(1, course.fields.count("train") // spec.batch)
    pupil = Pupil(
        student,
        course.arm,
        weights,
        course.cache,
        seed=seed,
        steps=spec.length(epoch_steps),
        fade=course.fade,
        bound=course.bound,
    )
    done = fit(
        pupil.to(device),
        step_loss(course.fields, batches, spec.batch, device),
        spec,
        job=course.job,
        name=name,
        seed=seed,
        validate=valid_loss(course.fields, device),
        epoch_steps=epoch_steps,
    )
    own = "student."
    kept = {k.removeprefix(own): v.cpu() for k, v in done.best.items() if k.startswith(own)}
    best = min(row["valid_loss"] for row in done.curve)
    return Result(kept, student.config, best, done.best_step, done.steps, done.curve)


def fresh(fields: Fields, numbers: StudentNet, seed: int) -> Forecaster:
    """A student with its first weights, which do not depend on the arm."""
    seed_all("student", numbers.net, seed)
    return build(config(numbers, shape_of(fields)))
