"""The evaluation that papers which quantize a video teacher share: scores, curves, pictures.

A paper says how its models are opened and what they are called; all else is the same, so that both
papers' numbers mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.foundations.video import measure_pictures as pictures
from pipelines.foundations.video import measure_summary as summary
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.judges import Judges
from pipelines.foundations.video.measure_arms import Answers, ask
from pipelines.foundations.video.measure_held import Held, Sampling, hold
from pipelines.foundations.video.measure_plan import Settings, Unit, units
from pipelines.foundations.video.measure_rows import FULL, Table, Told, gaps
from pipelines.foundations.video.teacher import Teacher
from stages.core.results import write_curve, write_metrics, write_scores

if TYPE_CHECKING:
    from pandas import DataFrame

    from stages.core.job import Inputs, Job


@dataclass(frozen=True)
class Subject:
    """What a paper brings.

    Attributes:
        backbone: name of the teacher.
        file: what every model's folder must hold.
        load: a model's folder -> the quantized denoiser.
        layers: names of the linear layers of a denoiser's blocks.
        told: what a model's folder tells beside its answers.
        names: variant -> what it is called; others are called what params.yaml calls them.
    """

    backbone: str
    taught: Teacher
    sampling: Sampling
    file: str
    load: Callable[[Path], Denoiser]
    layers: Callable[[Denoiser], Sequence[str]]
    told: Callable[[Path], Sequence[Told]]
    names: dict[str, str]

    def label(self, variant: str) -> str:
        known = self.names | summary.REFERENCES
        return known.get(variant, variant.replace("_", " "))


def run(
    settings: Settings, subject: Subject, inputs: Inputs, out: Path, job: Job
) -> tuple[list[Unit], DataFrame]:
    """Judge full precision and all models, write the scores, draw them.

    Returns:
        All models, and the table of scores.

    Raises:
        UserError: a model is missing or one too many is there, or a split has too few clips.
    """
    import pandas

    found = units(inputs["quantize"], settings, subject.file)
    clips = Clips.load(inputs["foundations/video/prepare"])
    jury = Judges.load(inputs["foundations/video/judge"], job.device)
    held = hold(
        clips, subject.taught, subject.sampling, jury, job.unit(FULL), seed=settings.seed,
        count=settings.free.clips, predicted=settings.forced.clips, batch=settings.batch,
    )  # fmt: skip
    answers = {}
    with job.progress(len(found), "models") as bar:
        for unit in found:
            answers[unit] = _answers(unit, settings, subject, held, job)
            bar.advance(1, unit.name)
    rows = Table(held, jury, job.paper, subject.backbone, clips.dataset)
    parts = [rows.of(unit, given, subject.told(unit.folder)) for unit, given in answers.items()]
    table = pandas.concat([rows.references(), *parts])
    table = pandas.concat([table, gaps(table)])
    write_scores(out / "scores.parquet", table)
    write_metrics(out / "metrics.json", summary.metrics(table))
    summary.write_tables(out, table, subject.label)
    _draw(settings, subject, held, answers, out)
    pictures.save_bits(out, summary.quality(table), list(settings.variants), subject.label)
    return found, table


def _answers(unit: Unit, settings: Settings, subject: Subject, held: Held, job: Job) -> Answers:
    """A model's answers, or what it answered before a kill."""
    folder = job.unit(unit.name)
    known = Answers.load(folder)
    if known is None:
        model = subject.load(unit.folder)
        steps, clips = settings.forced.steps, settings.clips_of(unit)
        known = ask(model, held, steps, clips, subject.layers(model))
        known.keep(folder)
    return known


def _draw(
    settings: Settings,
    subject: Subject,
    held: Held,
    answers: dict[Unit, Answers],
    out: Path,
) -> None:
    variants, label = list(settings.variants), subject.label
    captions = held.captions[: settings.shown.clips]
    for condition in settings.shown.conditions:
        made = {
            unit.variant: given.clips[: len(captions)]
            for unit, given in answers.items()
            if unit.condition == condition and unit.seed == settings.numbers[0]
        }
        full = held.clips[: len(captions)]
        pictures.save_strips(out, condition, full, made, captions, label)
    for condition in settings.conditions:
        curves = summary.curves(answers, condition, held.walk.times, settings.free.clips)
        for name, curve in curves.items():
            write_curve(out / f"curves/{name}/{condition}.csv", curve)
        pictures.save_sqnr(out, condition, curves["sqnr"], variants, label)
        if "drift" in curves:
            pictures.save_drift(out, condition, curves["drift"], variants, label)
