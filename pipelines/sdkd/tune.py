"""Choose how strongly an arm distils: the same number of tries in each arm, on validation data.

Published: "manually tuned", without values. Here each student is trained for a part of the full
length at every point of a list that is the same for all arms, from a seed that the study does not
use, and the point with the lowest validation error against the truth wins; no distillation loss is
ever looked at. Arms with one weight get as many values of lambda as the others get pairs of lambda
and alpha. The undistilled arm is trained once, for comparison: it has nothing to choose.

Leaves `search.csv` and `chosen.json` (the arm, and per student lambda and alpha).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from pipelines.sdkd.arms import Arm, Bound, Fade, Students, Weights
from pipelines.sdkd.course import Course, train
from stages.core import params as core
from stages.core.files import read_json, write_json
from stages.core.params import Borrowed
from stages.core.seeding import seed_of
from stages.prepare.tables import write_csv
from stages.teach.loop import TrainSpec

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Grid(core.Params):
    """`one`: lambdas of arms without alpha; `two`: pairs (lambda, alpha) of arms with both."""

    one: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    two: Annotated[list[Annotated[list[float], Field(min_length=2, max_length=2)]], Field()]

    @model_validator(mode="after")
    def _alike(self) -> Grid:
        if len(self.one) != len(self.two):
            raise ValueError(
                f"{len(self.one)} tries without alpha, but {len(self.two)} with it: every arm "
                "gets the same number"
            )
        return self


class Params(core.Params):
    """
    Attributes:
        seed: of the search; the study's students have others.
        steps: updates of one try.
        students: the numbers of each student, by name; all are tuned.
    """

    seed: int = Field(ge=0)
    steps: int = Field(ge=1)
    grid: Grid
    students: Students
    train: Annotated[dict[str, TrainSpec], Borrowed("distill.train")]
    fade: Annotated[Fade, Borrowed("distill.fade")]
    bound: Annotated[Bound, Borrowed("distill.bound")]
    variant: Arm


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Search for each student, and keep the best point."""
    arm = params.variant
    course = Course.open(
        inputs["prepare"], inputs["calibrate"], arm, params.fade, params.bound, job
    )
    rows: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, float]] = {}
    for student in params.students:
        tries = [
            _try(params, course, student, number, weights)
            for number, weights in enumerate(points(arm, params.grid))
        ]
        best = min(tries, key=lambda row: row["valid_mse"])
        chosen[student] = {key: best[key] for key in ("lambda", "alpha")}
        rows += [{"student": student, **_shown(row)} for row in tries]
        job.log.info("%s: %s", student, chosen[student])
    write_csv(out / "search.csv", rows)
    write_json(out / "chosen.json", {"arm": arm.model_dump(), "students": chosen})


def points(arm: Arm, grid: Grid) -> list[Weights]:
    """The points that an arm tries."""
    if arm.loss == "none":
        pairs = [(0.0, 0.0)]
    elif arm.two_weights:
        pairs = [(strength, alpha) for strength, alpha in grid.two]
    else:
        pairs = [(strength, 1.0) for strength in grid.one]
    return [Weights.model_validate({"lambda": a, "alpha": b}) for a, b in pairs]


def _try(
    params: Params, course: Course, student: str, number: int, weights: Weights
) -> dict[str, Any]:
    """Train at one point, or read what was found there before a kill."""
    name = f"{student}-try{number}"
    record = course.job.unit(name) / "found.json"
    if not record.is_file():
        spec = params.train[student].model_copy(update={"steps": params.steps, "epochs": None})
        seed = seed_of("tune", params.seed)
        done = train(course, params.students[student], weights, spec, name=name, seed=seed)
        found = {"valid_mse": done.valid_mse, "best_step": done.best_step, "steps": done.steps}
        write_json(record, weights.model_dump(by_alias=True) | found)
    row: dict[str, Any] = read_json(record)
    return row


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    order = ("lambda", "alpha", "valid_mse", "best_step", "steps")
    return {k: f"{row[k]:.8g}" if isinstance(row[k], float) else row[k] for k in order}
