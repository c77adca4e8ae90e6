"""Scores of full precision and of every quantized model, on prompts and noise held out from all.

What is measured, and how, both papers on video share: `measure_rows` of the foundation says it.
Here `condition` is the bits, such as W4A6, and the seed that of the calibration set. `block_error`
is the mean squared error of each block on the arm's own calibration set, `block_error_received` the
same with tokens weighted by the attention they receive: arms of one selection can be compared, and
weighting tokens trades the one for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import model_validator

from pipelines.foundations.video import measure_study as study
from pipelines.foundations.video.measure_plan import Settings, Unit
from pipelines.foundations.video.measure_rows import Told
from pipelines.s2q_vdit import kept
from pipelines.s2q_vdit.names import LABELS, METHOD
from pipelines.s2q_vdit.plan import linears
from pipelines.s2q_vdit.source import NAME, open_teacher, sampling_of
from stages.core import params as core
from stages.core.files import read_json
from stages.core.pictures import add_exhibit
from stages.prepare.tables import write_csv

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

FILE = "quantized.json"


class Params(Settings):
    conditions: Annotated[list[str], core.Borrowed("quantize.bits")]

    @model_validator(mode="after")
    def _method(self) -> Params:
        if METHOD not in self.variants:
            raise ValueError(
                f"quantize.variants lacks {METHOD}, whose calibration sets are told of"
            )
        return self


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Judge all models, write the scores, draw them; tell how attention is spread."""
    taught = open_teacher(inputs, job)
    subject = study.Subject(
        backbone=NAME,
        taught=taught,
        sampling=sampling_of(inputs),
        file=FILE,
        load=lambda folder: kept.load(folder, taught.denoiser),
        layers=linears,
        told=fitted,
        names=LABELS,
    )
    units, _ = study.run(params, subject, inputs, out, job)
    write_attention(out, units)


def fitted(folder: Path) -> Sequence[Told]:
    """How many numbers a model learned, and the errors of its blocks."""
    told = read_json(folder / FILE)
    names = list(told["blocks"])
    found = [Told("trainable", "numbers", "none", [""], [told["learned"]])]
    for metric, weighing in (("block_error", "plain"), ("block_error_received", "received")):
        values = [told["blocks"][name]["after"][weighing] for name in names]
        found.append(Told(metric, "1", "lower", names, values))
    return found


def write_attention(out: Path, units: Sequence[Unit]) -> None:
    """A table of how unevenly attention is spread in full precision, by block."""
    # It is the teacher's, on the method's calibration sets: bits and learning do not enter.
    first = next(unit.condition for unit in units if unit.variant == METHOD)
    own = [u for u in units if u.variant == METHOD and u.condition == first]
    told = [read_json(unit.folder / FILE)["attention"] for unit in own]
    rows = [
        {
            "block": name.removeprefix("net."),
            **{
                title: f"{sum(seed[name][key] for seed in told) / len(told):.3f}"
                for key, title in (("gini", "Gini"), ("top_tenth", "share of the top tenth"))
            },
        }
        for name in told[0]
    ]
    write_csv(out / "attention.csv", rows)
    add_exhibit(
        out,
        kind="table",
        name="attention",
        file="attention.csv",
        title="How attention is spread over tokens",
        caption="Of the attention that each token of the video receives in full precision, on the "
        "method's calibration sets: its Gini coefficient, 0 where all tokens receive the same, and "
        "the share that the tenth of the tokens with the most gets. Of the published networks the "
        "paper says that this tenth gets most of it.",
    )
