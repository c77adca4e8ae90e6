"""The gate before any distillation: is there anything that the students could learn?

Holds the teacher's validation error against the best that each undistilled student reached while
tune tried its learning rates. A teacher that is not clearly better has nothing to teach, and every
later number would speak of noise. No test data is seen. (The check `teacher-is-better` among the
claims asks the same of the finished students, on test data.)
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.params import Borrowed

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """
    Attributes:
        less: percent by which the teacher's mean squared error must be below each student's; null
            lets any teacher pass.
    """

    less: Annotated[float, Field(gt=0, lt=100)] | None
    teacher: Annotated[str, Borrowed("calibrate.teacher")]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Compare, write `gate.json`, stop where the teacher is not clearly better.

    Raises:
        UserError: it is not.
    """
    own = float(read_json(inputs["teach"] / params.teacher / "training.json")["valid_mse"])
    with (inputs[f"{job.paper}/tune/none"] / "search.csv").open(newline="") as file:
        tries = [(row["student"], float(row["valid_mse"])) for row in csv.DictReader(file)]
    best = {name: min(mse for other, mse in tries if other == name) for name, _ in tries}
    less = {name: 100 * (1 - own / mse) for name, mse in best.items()}
    for name, percent in less.items():
        job.log.info("teacher %.4g, %s %.4g: %.1f %% less", own, name, best[name], percent)
        if params.less is not None and percent < params.less:
            raise UserError(
                f"the teacher's validation error, {own:.4g}, is {percent:.0f} % below the "
                f"{best[name]:.4g} of the undistilled student '{name}', and {params.less:g} % are "
                "asked (params.yaml: sdkd.gate.less): it has too little to teach. Make it larger "
                "or train it longer (sdkd.teach), give both fewer trajectories (sdkd.prepare), or "
                "null to go on all the same"
            )
    write_json(out / "gate.json", {"teacher": own, "students": best, "percent_less": less})
