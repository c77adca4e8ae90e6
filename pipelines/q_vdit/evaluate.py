"""Scores of full precision and of every quantized model, on prompts and noise held out from all.

What is measured, and how, both papers on video share: `measure_rows` of the foundation says it.
Here `condition` is a cell such as W3A6-mix and the seed that of the calibration set. `trainable`
and `updates` tell what each arm was given to learn with, `output_error` and `temporal_term` what is
left on the calibration set: the error of equation 10, and the term without γ, as a mean over frames
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pipelines.foundations.video import measure_study as study
from pipelines.foundations.video.measure_plan import Settings
from pipelines.foundations.video.measure_rows import Told
from pipelines.q_vdit import plan
from pipelines.q_vdit.names import LABELS
from pipelines.q_vdit.source import NAME, open_teacher, sampling_of
from pipelines.q_vdit.student import TRAINING, load
from stages.core import params as core
from stages.core.files import read_json
from stages.core.pictures import add_exhibit
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job


class Params(Settings):
    conditions: Annotated[list[str], core.Borrowed("quantize.cells")]


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Judge all models, write the scores, draw them; tell how large the outliers are."""
    taught = open_teacher(inputs, job)
    subject = study.Subject(
        backbone=NAME,
        taught=taught,
        sampling=sampling_of(inputs),
        file=TRAINING,
        load=lambda folder: load(folder, taught),
        layers=plan.layers,
        told=learned,
        names=LABELS,
    )
    study.run(params, subject, inputs, out, job)
    write_outliers(out, inputs["calibrate"] / "calibration.json")


def learned(folder: Path) -> Sequence[Told]:
    """How many numbers a model learned, in how many updates of each, and what loss is left."""
    told = read_json(folder / TRAINING)
    return [
        Told("trainable", "numbers", "none", [""], [told["trainable"]["all"]]),
        Told("updates", "updates", "none", [""], [told["updates"]]),
        Told("output_error", "1", "lower", [""], [told["after"]["error"]]),
        Told("temporal_term", "1", "lower", [""], [told["after"]["temporal"]]),
    ]


def write_outliers(out: Path, calibration: Path) -> None:
    """A table of how far the largest channel of each layer's inputs stands out."""
    seeds = [told["outliers"] for told in read_json(calibration)["seeds"].values()]
    rows = [
        {
            "layer": name.removeprefix("net."),
            "largest channel over median": f"{sum(s[name] for s in seeds) / len(seeds):.2f}",
        }
        for name in seeds[0]
    ]
    write_csv(out / "outliers.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="outliers",
        file="outliers.csv",
        title="How far channels stand out",
        caption="Largest magnitude of the largest input channel of each layer over the median "
        "channel's, on the calibration sets, mean over seeds. Networks of billions of weights have "
        "channels hundreds of times the median, which is what scaling and rotation are for.",
    )
