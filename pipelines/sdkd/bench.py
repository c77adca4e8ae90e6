"""Measure teacher and students where they would run, and what a step of each training takes.

SDKD (arXiv 2507.02939) reports a distilled U-Net 2.28 times as fast as its teacher on a GPU. Here
both are exported and timed on ONNX Runtime. The student's architecture does not depend on the arm,
so one arm stands for all; what the arms differ in is their training step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pipelines.sdkd import steps
from pipelines.sdkd.names import label, net
from stages.bench import latency, record, training
from stages.bench.exhibits import Names, show
from stages.bench.machine import device, warn_if_busy
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.params import Borrowed
from stages.core.results import write_metrics, write_scores

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

Count = Annotated[int, Field(ge=1)]


class TrainStep(core.Params):
    """How a training step is measured: arms beside the plain one, windows in a batch, untimed
    steps first, timed steps."""

    arms: list[str]
    batch: Count
    warmup: Count
    repeats: Count


class Params(core.Params):
    """
    Attributes:
        variants: arms of distill to export; the teacher is always measured.
        seeds: their seeds.
        threads: numbers of threads of the runtime.
        rounds, repeats, warmup: see `stages.bench.latency.Plan`.
        tolerance: largest difference of the exported network's output from torch's, relative.
        teacher: the one that students are held against.
        cores: threads of torch in the training step.
    """

    variants: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    threads: Annotated[list[Count], Field(min_length=1)]
    rounds: Count
    repeats: Count
    warmup: int = Field(ge=0)
    tolerance: float = Field(gt=0, lt=1)
    train_step: TrainStep
    teacher: Annotated[str, Borrowed("calibrate.teacher")]
    cores: Annotated[int, Borrowed("common.threads")]


@dataclass(frozen=True)
class Source:
    """A trained network in a stage's folder; the teacher stands under each student's name."""

    backbone: str
    variant: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        end = "" if self.variant == record.DENSE else f"-seed{self.seed}"
        return f"{self.backbone}-{self.variant}{end}"


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Export, measure, write."""
    known(params.train_step.arms, inputs["tune"])
    sources = find(params, inputs["teach"], inputs["distill"])
    with job.progress(len(sources), "export") as bar:
        networks: dict[str, record.Network] = {}
        for source in sources:
            networks[source.name] = export(source, params, out / "models")
            job.track.model(source.name, networks[source.name].file)
            bar.advance(note=source.name)
    measured, costs = measure(params, inputs, sources, networks, job)
    warn_if_busy([timing for own in measured for timing in own.timings], job.log)
    write_results(params, measured, costs, read_json(sources[0].folder / "config.json"), out, job)


def known(arms: list[str], tune: Path) -> None:
    """Check that tune has searched for the arms whose training step is asked for.

    Raises:
        UserError: it has not for one.
    """
    there = sorted({steps.NONE, *(path.parent.name for path in tune.glob("*/chosen.json"))})
    unknown = [arm for arm in arms if arm not in there]
    if unknown:
        raise UserError(
            f"params.yaml: sdkd.bench.train_step.arms names {', '.join(unknown)}; allowed: "
            f"{', '.join(there)}"
        )


def find(params: Params, teach: Path, distill: Path) -> list[Source]:
    """The networks to measure: per student the teacher, then each arm and seed.

    Raises:
        UserError: an arm lacks a student or a seed.
    """
    sources: list[Source] = []
    for student in sorted({path.parts[-2] for path in distill.glob("*/*/*/seed*")}):
        sources.append(Source(student, record.DENSE, params.seeds[0], teach / params.teacher))
        for variant in params.variants:
            for seed in params.seeds:
                found = sorted(distill.glob(f"{variant}/*/{student}/seed{seed}"))
                if not found:
                    made = ", ".join(sorted({p.parts[-4] for p in distill.glob("*/*/*/seed*")}))
                    raise UserError(
                        f"params.yaml, sdkd.bench: no {student} of {variant} with seed {seed}; "
                        f"distill made: {made or 'nothing'}. Change `variants` or `seeds` there, "
                        "or add them to distill's."
                    )
                sources.append(Source(student, variant, seed, found[0]))
    return sources


def export(source: Source, params: Params, folder: Path) -> record.Network:
    """Write a network as ONNX file, check its output, count its arithmetic.

    The forecast alone is exported: nobody reads a deployed network's latent maps.

    Raises:
        UserError: its output differs from torch's by more than `params.tolerance`.
    """
    import torch

    from pipelines.sdkd.model import Deployed, load
    from stages.bench.export import agreement, export_onnx
    from stages.calibrate.structure import count
    from stages.core.seeding import seed_all

    model = Deployed(load(source.folder))
    data = model.net.shape
    shape = (1, data.history, data.channels, data.height, data.width)
    generator = seed_all("bench", source.name)
    clips = [torch.randn(shape, generator=generator) for _ in range(2)]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{source.name}.onnx"
    export_onnx(model.eval(), (clips[0],), file, ["frames"], ["forecast"])
    error = agreement(model, file, [(clip,) for clip in clips], params.tolerance)
    macs, parameters = count(model, clips[0])
    return record.Network(
        backbone=source.backbone,
        variant=source.variant,
        seed=source.seed,
        file=file,
        shape=shape,
        macs=macs,
        parameters=parameters,
        weight_bits=32,
        activation_bits=32,
        error=error,
    )


def measure(
    params: Params,
    inputs: Inputs,
    sources: list[Source],
    networks: dict[str, record.Network],
    job: Job,
) -> tuple[list[record.Measured], dict[str, dict[str, training.StepCost]]]:
    """Time each student against the teacher, then the training steps of its arms.

    Returns:
        The networks, and by student what the steps take; see `steps.rows`.
    """
    plan, step = latency.Plan(params.rounds, params.repeats, params.warmup), params.train_step
    students = list(dict.fromkeys(source.backbone for source in sources))
    measured, costs = [], {}
    with job.progress(len(students) * (len(params.threads) * plan.rounds + 1), "measure") as bar:
        for student in students:
            own = [source for source in sources if source.backbone == student]
            files = {source.name: networks[source.name].file for source in own}
            shapes = {"frames": networks[own[0].name].shape}
            timings: list[latency.Timing] = []
            for threads in params.threads:
                timings += latency.measure(files, shapes, threads, plan, bar.advance)
            entry = f"{steps.__name__}:{steps.training_step.__name__}"
            tasks = _tasks(params, inputs, own, job.paper)
            found = training.measure(entry, tasks, params.cores, step.warmup, step.repeats)
            costs[student] = {cost.name: cost for cost in found}
            bar.advance(note=student)
            measured += [
                record.Measured(
                    networks[source.name],
                    tuple(t for t in timings if t.name == source.name),
                    costs[student][source.variant],
                )
                for source in own
            ]
    return measured, costs


def _tasks(
    params: Params, inputs: Inputs, own: list[Source], paper: str
) -> dict[str, dict[str, Any]]:
    """The steps of one student: its teacher's, the plain one, and those of the arms."""
    batch = params.train_step.batch
    teacher, student = str(own[0].folder.resolve()), str(own[1].folder.resolve())
    tasks: dict[str, dict[str, Any]] = {
        record.DENSE: {"folder": teacher, "batch": batch},
        steps.FORWARD: {"folder": teacher, "batch": batch, "forward": True},
        steps.NONE: {"folder": student, "batch": batch},
    }
    calibrate = str(inputs["calibrate"].resolve())
    for arm in dict.fromkeys([*params.variants, *params.train_step.arms]):
        if arm != steps.NONE:
            tune = str((inputs["tune"] / arm).resolve())
            more = {"tune": tune, "calibrate": calibrate}
            tasks[arm] = {"folder": student, "batch": batch, **more}
    return tasks


def write_results(
    params: Params,
    measured: list[record.Measured],
    costs: dict[str, dict[str, training.StepCost]],
    config: dict[str, Any],
    out: Path,
    job: Job,
) -> None:
    """Write bench.json, the scores, the summary and what the page shows."""
    shape = config["shape"]
    # A time unit of the flow lies between two frames; the real-time factor counts it as a second.
    length = float(shape["horizon"])
    rows = record.bench_rows(job.paper, measured, length, device(job.root))
    write_json(out / "bench.json", rows)
    scores = record.score_rows(job.paper, measured, length)
    done = {m.network.variant for m in measured}
    for student, own in costs.items():
        scores += steps.rows(job.paper, student, params.seeds[0], own, done)
    write_scores(out / "scores.parquet", scores)
    found = record.metrics(measured)
    for student, own in costs.items():
        found[student]["steps"] = steps.summary(own)
    write_metrics(out / "metrics.json", found)
    grid = f"{shape['height']}x{shape['width']}"
    clip = f"{shape['history']} frames of {grid} in, {shape['horizon']} forecast"
    batch = f"Batch of {params.train_step.batch}"
    show(out, measured, Names(net, label), clip, batch)
    steps.show(out, costs, params.train_step.batch)
