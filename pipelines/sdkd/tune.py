"""Choose how strongly an arm distils: the same number of tries in each arm, on validation data.

Published: "manually tuned", without values. Here each student is trained for a part of the full
length at every point of a list, from seeds that the study does not use, and the point with the
lowest validation error against the truth wins, as the mean over these seeds; no distillation loss
is ever looked at. Arms with one weight get as many values of lambda as the others get pairs of
lambda and alpha. The undistilled arm has neither, and tries as many learning rates: the record
shows whether the one that all arms share is its best.

Leaves `search.csv` (a line per point: the mean, and what each seed gave) and `chosen.json` (the
arm, and per student lambda and alpha).
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from pipelines.sdkd.arms import Arm, Bound, Fade, Students, Weights, infeasible, untrained
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
        two: pairs (lambda, alpha) of arms with both; lambda no further than without alpha.
    """

    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    one: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    two: list[Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]]

    @model_validator(mode="after")
    def _alike(self) -> Grid:
        if len({len(self.rates), len(self.one), len(self.two)}) > 1:
            raise ValueError(
                f"{len(self.one)} tries without alpha, {len(self.two)} with it, {len(self.rates)} "
                "learning rates: every arm gets the same number"
            )
        out = [pair[0] for pair in self.two if not min(self.one) <= pair[0] <= max(self.one)]
        if out:
            raise ValueError(
                f"lambda is {out[0]:g} in a pair, beyond the range without alpha, "
                f"{min(self.one):g} to {max(self.one):g}"
            )
        return self


class Params(core.Params):
    """
    Attributes:
        seeds: of the search; the study's students have others.
        steps: updates of one try.
        students: the numbers of each student, by name; all are tuned.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    steps: int = Field(ge=1)
    grid: Grid
    students: Students
    train: Annotated[dict[str, TrainSpec], Borrowed("distill.train")]
    fade: Annotated[Fade, Borrowed("distill.fade")]
    bound: Annotated[Bound, Borrowed("distill.bound")]
    variant: Arm

    @model_validator(mode="after")
    def _fits(self) -> Params:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds names one twice: {self.seeds}")
        for reason in (untrained(self.students, self.train), infeasible(self.variant, self.bound)):
            if reason:
                raise ValueError(reason)
        return self


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
    """Train at one point from every seed, or read what was found there before a kill."""
    rate, weights = point
    found = []
    for seed in params.seeds:
        name = f"{student}-try{number}-seed{seed}"
        record = course.job.unit(name) / "found.json"
        if not record.is_file():
            full = params.train[student]
            change = {"steps": params.steps, "epochs": None, "lr": rate * full.lr}
            numbers, spec = params.students[student], full.model_copy(update=change)
            start = seed_of("tune", seed)
            done = train(course, numbers, weights, spec, name=name, seed=start)
            write_json(record, {"valid_mse": done.valid_mse, "best_step": done.best_step})
        found.append(read_json(record))
    row: dict[str, Any] = {"rate": rate, **weights.model_dump(by_alias=True)}
    row |= {"valid_mse": fmean(own["valid_mse"] for own in found), "steps": params.steps}
    for seed, own in zip(params.seeds, found, strict=True):
        row |= {f"{key}_seed{seed}": own[key] for key in ("valid_mse", "best_step")}
    return row


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {k: f"{v:.8g}" if isinstance(v, float) else v for k, v in row.items()}
