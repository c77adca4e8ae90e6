"""Scores of the teachers, the students of every arm, and persistence, on the test windows.

All scores are in raw units and computed on all test windows. Backbones are students: the teachers
and persistence stand beside each of them under its name, as the variants `teacher` (the one of
`calibrate.teacher`), `teacher_<name>` (any other) and `persistence`. Conditions: "" is over all
leads, `lead=<n>` the n-th forecast frame. Bands of the error: `mse_low` and `mse_high` part at
calibrate's cutoff, `mse_band_<lo>_<hi>` at the edges of `bands`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.sdkd import examples, pictures, searches, summary
from pipelines.sdkd.arms import Class
from pipelines.sdkd.data import Fields
from pipelines.sdkd.examples import Arm, Examples
from pipelines.sdkd.model import load
from pipelines.sdkd.pictures import Spectra
from pipelines.sdkd.summary import PERSISTENCE, TEACHER
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.results import read_scores, write_curve, write_metrics, write_scores
from stages.distill.bands import radius, spectrum
from stages.evaluate import fields as measures
from stages.evaluate import folders

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(core.Params):
    """
    Attributes:
        batch_size: windows forecast at once; decides the speed alone.
        bands: wavenumbers between the bands of the error, in waves per width: rising, from 0 to
            beyond the grid's largest, which is in its corners (0.71 times its width).
        teacher: the one that stands as `teacher`.
    """

    batch_size: int = Field(ge=1)
    bands: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2)]
    examples: Examples
    variants: Annotated[dict[str, Class], core.Borrowed("distill.variants")]
    seeds: Annotated[list[str], core.Borrowed("distill.seeds")]
    teacher: Annotated[str, core.Borrowed("calibrate.teacher")]

    @model_validator(mode="after")
    def _sensible(self) -> Params:
        if self.bands != sorted(set(self.bands)) or self.bands[0] != 0:
            raise ValueError(f"bands must rise from 0: {self.bands}")
        students = sorted({s for arm in self.variants.values() for s in arm.students})
        if self.examples.student not in students:
            raise ValueError(
                f"examples.student is '{self.examples.student}', but distill.variants has the "
                f"students {', '.join(students)}"
            )
        taken = [v for v in self.variants if v.startswith((TEACHER, PERSISTENCE))]
        if taken:
            raise ValueError(f"no arm may be called {', '.join(taken)}: the name means another")
        return self


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Score all forecasters, sum the scores up, and draw them."""
    import pandas

    fields = Fields.load(inputs["prepare"])
    cutoff = float(read_json(inputs["calibrate"] / "bands.json")["cutoff"])
    _check(params, fields)
    scale = measures.Scale(fields.low, fields.high, cutoff, tuple(params.bands))
    items, x, y = fields.fixed("test")
    truth = fields.raw(y)
    arms = forecasters(params, inputs, fields, job)
    parts, spectra = [], Spectra(spectrum(truth[:, -1]).tolist())
    with job.progress(len(arms), "scoring") as bar:
        for arm in arms:
            unit = job.unit(arm.name)
            # Written last, the scores also say that this unit is done.
            if not (unit / "scores.parquet").is_file():
                made = fields.raw(arm.forecast(x))
                found = measures.scores(made, truth, scale)
                last = {"forecast": made[:, -1], "error": made[:, -1] - truth[:, -1]}
                write_json(
                    unit / "spectra.json", {k: spectrum(v).tolist() for k, v in last.items()}
                )
                table = summary.table_of(
                    found, items, fields.unit, paper=job.paper, dataset=fields.dataset,
                    variant=arm.variant, seed=arm.seed, backbone=arm.students[0],
                )  # fmt: skip
                write_scores(unit / "scores.parquet", table)
            table = read_scores(unit / "scores.parquet")
            parts += [table.assign(backbone=student) for student in arm.students]
            for student in arm.students:
                spectra.add(student, arm.variant, read_json(unit / "spectra.json"))
            bar.advance(1, arm.name)
    table = pandas.concat(parts)
    write_scores(out / "scores.parquet", table)
    write_metrics(out / "metrics.json", summary.metrics(table))
    curves = summary.curves(table)
    for (student, variant), curve in curves.items():
        write_curve(out / f"curves/lead-{student}-{variant}.csv", curve)
    for (student, variant), curve in spectra.tables().items():
        write_curve(out / f"curves/spectrum-{student}-{variant}.csv", curve)
    order = list(dict.fromkeys([*params.variants, *(arm.variant for arm in arms)]))
    pictures.save_all(out, table, curves, spectra, order, params.bands, cutoff)
    examples.write(params.examples, arms, fields, out)
    searches.show(out, inputs["tune"])


def _check(params: Params, fields: Fields) -> None:
    """Raise where parameters do not fit the data."""
    largest = float(radius(*fields.size).max())
    if params.bands[-1] <= largest:
        raise UserError(
            f"params.yaml: sdkd.evaluate.bands ends at {params.bands[-1]:g}, but the grid's "
            f"wavenumbers go up to {largest:.2f}; put a last edge beyond that"
        )
    examples.check(params.examples, fields)


def forecasters(params: Params, inputs: Inputs, fields: Fields, job: Job) -> list[Arm]:
    """Persistence, every teacher, and every student that params.yaml names.

    Raises:
        UserError: one is missing, or one is there that params.yaml does not name.
    """
    students = tuple(sorted({s for arm in params.variants.values() for s in arm.students}))
    arms = [
        Arm(PERSISTENCE, students, 0, lambda x: measures.persistence(x, fields.horizon)),
    ]
    names = sorted(path.parent.name for path in inputs["teach"].glob("*/config.json"))
    if params.teacher not in names:
        raise UserError(
            f"params.yaml: sdkd.calibrate.teacher is '{params.teacher}', but teach trained: "
            f"{', '.join(names)}"
        )
    for name in names:
        variant = TEACHER if name == params.teacher else f"{TEACHER}_{name}"
        arms.append(Arm(variant, students, 0, _net(inputs["teach"] / name, params, job)))
    for variant, seeds in folders.runs(inputs["distill"], params.variants, params.seeds).items():
        wanted = params.variants[variant].students
        for seed, place in seeds:
            folders.same_folders(place, wanted)
            for student in wanted:
                unit = place / student / f"seed{seed}"
                if not (unit / "model.safetensors").is_file():
                    shown = "/".join(unit.parts[-4:])
                    raise UserError(f"{shown} has no model.safetensors; `dvc repro` makes it")
                arms.append(Arm(variant, (student,), seed, _net(unit, params, job)))
    return arms


def _net(folder: Path, params: Params, job: Job) -> Callable[[Tensor], Tensor]:
    """A network's forecasts; it is loaded when it is first asked."""

    def forecast(x: Tensor) -> Tensor:
        net = load(folder).to(job.device)
        with torch.inference_mode():
            parts = [net(part.to(job.device))[0].cpu() for part in x.split(params.batch_size)]
        return torch.cat(parts)

    return forecast
