"""Choose how strongly an arm distils: the same number of tries in each arm, on validation data.

Published: "manually tuned", without values. Here each student is trained for a part of the full
length at every point of a list that is the same for all arms, from a seed that the study does not
use, and the point with the lowest validation error against the truth wins; no distillation loss is
ever looked at. Arms with one weight get as many values of lambda as the others get pairs of lambda
and alpha. The undistilled arm has neither, and tries as many learning rates: the record shows
whether the one that all arms share is its best.

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
    """
    Attributes:
        rates: of the undistilled student, in units of the learning rate that all arms share.
        one: lambdas of arms without alpha.
        two: pairs (lambda, alpha) of arms with both.
    """

    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    one: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    two: Annotated[list[Annotated[list[float], Field(min_length=2, max_length=2)]], Field()]

    @model_validator(mode="after")
    def _alike(self) -> Grid:
        if len({len(self.rates), len(self.one), len(self.two)}) > 1:
            raise ValueError(
                f"{len(self.one)} tries without alpha, {len(self.two)} with it, {len(self.rates)} "
                "learning rates: every arm gets the same number"
            )
        if any(end(self.one) != end(pair[0] for pair in self.two) for end in (min, max)):
            raise ValueError("lambda must range as far with alpha as without it")
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
            _try(params, course, student, number, point)
            for number, point in enumerate(points(arm, params.grid))
        ]
        best = min(tries, key=lambda row: row["valid_mse"])
        chosen[student] = {key: best[key] for key in ("lambda", "alpha")}
        rows += [{"student": student, **_shown(row)} for row in tries]
        job.log.info("%s: %s at the rate %g", student, chosen[student], best["rate"])
    write_csv(out / "search.csv", rows)
    write_json(out / "chosen.json", {"arm": arm.model_dump(), "students": chosen})


def points(arm: Arm, grid: Grid) -> list[tuple[float, Weights]]:
    """The points that an arm tries: factor of the learning rate, lambda and alpha."""
    if arm.loss == "none":
        found = [(rate, 0.0, 0.0) for rate in grid.rates]
    elif arm.two_weights:
        found = [(1.0, strength, alpha) for strength, alpha in grid.two]
    else:
        found = [(1.0, strength, 1.0) for strength in grid.one]
    return [(r, Weights.model_validate({"lambda": a, "alpha": b})) for r, a, b in found]


def _try(
    params: Params, course: Course, student: str, number: int, point: tuple[float, Weights]
) -> dict[str, Any]:
    """Train at one point, or read what was found there before a kill."""
    name = f"{student}-try{number}"
    record = course.job.unit(name) / "found.json"
    if not record.is_file():
        rate, weights = point
        full = params.train[student]
        change = {"steps": params.steps, "epochs": None, "lr": rate * full.lr}
        spec = full.model_copy(update=change)
        seed = seed_of("tune", params.seed)
        done = train(course, params.students[student], weights, spec, name=name, seed=seed)
        found = {"valid_mse": done.valid_mse, "best_step": done.best_step, "steps": done.steps}
        write_json(record, {"rate": rate} | weights.model_dump(by_alias=True) | found)
    row: dict[str, Any] = read_json(record)
    return row


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    order = ("rate", "lambda", "alpha", "valid_mse", "best_step", "steps")
    return {k: f"{row[k]:.8g}" if isinstance(row[k], float) else row[k] for k in order}
