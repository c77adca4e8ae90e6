"""Measure teachers and students where they would run, and what a step of each training takes.

Merlin (arXiv 2506.12459) changes no network: teacher and student are one architecture, so their
latencies must agree, and no speed-up is looked for. What the method costs is training: a step with
four views, a teacher and a contrastive head against the same step without the last two.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pipelines.merlin.names import NETS, label
from pipelines.merlin.steps import FORWARD, show_steps, step_rows, summary, training_step
from stages.bench import latency, record, training
from stages.bench.exhibits import Names, finding, latency_against_macs
from stages.bench.machine import device, warn_if_busy
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.files import read_json, write_json
from stages.core.params import Borrowed
from stages.core.pictures import save
from stages.core.results import write_metrics, write_scores

if TYPE_CHECKING:
    from stages.core.job import Inputs, Job

Count = Annotated[int, Field(ge=1)]
DAY = 86_400


class TrainStep(core.Params):
    """How a training step is measured: windows in a batch, untimed steps first, timed steps.

    `plain`: the arm without a teacher that the others' steps are held against.
    """

    batch: Count
    warmup: Count
    repeats: Count
    plain: str


class Params(core.Params):
    """
    Attributes:
        dataset: whose networks are measured.
        variants: arms of distill to measure; the teacher is always measured.
        seeds: their seeds.
        threads: numbers of threads of the runtime.
        rounds, repeats, warmup: see `stages.bench.latency.Plan`.
        tolerance: largest difference of the exported network's output from torch's, relative.
        cores: threads of torch in the training step.
    """

    dataset: str
    variants: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    threads: Annotated[list[Count], Field(min_length=1)]
    rounds: Count
    repeats: Count
    warmup: int = Field(ge=0)
    tolerance: float = Field(gt=0, lt=1)
    train_step: TrainStep
    cores: Annotated[int, Borrowed("common.threads")]


@dataclass(frozen=True)
class Source:
    """A trained network in a stage's folder; `teacher` is its teacher's."""

    backbone: str
    variant: str
    seed: int
    folder: Path
    teacher: Path

    @property
    def name(self) -> str:
        end = "" if self.variant == record.DENSE else f"-seed{self.seed}"
        return f"{self.backbone}-{self.variant}{end}"


def run(params: Params, inputs: Inputs, out: Path, job: Job) -> None:
    """Export, measure, write."""
    sources = find(params, inputs["teach"], inputs["distill"], job.log)
    with job.progress(len(sources), "export") as bar:
        networks = []
        for source in sources:
            networks.append(export(source, params, out / "models"))
            job.track.model(source.name, networks[-1].file)
            bar.advance(note=source.name)
    measured, forwards = measure(params, sources, networks, job)
    warn_if_busy([timing for own in measured for timing in own.timings], job.log)
    write_results(params, measured, forwards, sources, out, job)


def find(params: Params, teach: Path, distill: Path, log: logging.Logger) -> list[Source]:
    """The networks to measure: per backbone with such an arm the teacher, then each arm.

    Raises:
        UserError: no backbone has a network of some variant and seed, or an arm cannot be
            measured beside the others.
    """
    sources, missing = [], {(v, s) for v in params.variants for s in params.seeds}
    for config in sorted((teach / params.dataset).glob("*/config.json")):
        backbone, teacher = config.parent.name, config.parent
        students: list[Source] = []
        for variant in params.variants:
            for seed in params.seeds:
                found = sorted(distill.glob(f"{variant}/*/{params.dataset}/{backbone}/seed{seed}"))
                if not found:
                    log.info("%s has no %s with seed %d", backbone, variant, seed)
                    continue
                arm = read_json(found[0] / "training.json")["arm"]
                if arm["per_rate"] or arm["input"] != "zeros" or arm["init"] == "frozen":
                    raise UserError(
                        f"params.yaml, merlin.bench.variants: {variant} is not one network with "
                        "the teacher's input and a training of its own; take it out"
                    )
                students.append(Source(backbone, variant, seed, found[0], teacher))
                missing.discard((variant, seed))
        if students:
            sources += [Source(backbone, record.DENSE, 0, teacher, teacher), *students]
    if missing:
        wanted = ", ".join(f"{v} with seed {s}" for v, s in sorted(missing))
        there = ", ".join(sorted(p.name for p in distill.glob("*") if p.is_dir())) or "nothing"
        raise UserError(
            f"params.yaml, merlin.bench: no network of {wanted} for {params.dataset}; distill "
            f"made: {there}. Change `dataset`, `variants` or `seeds` there, or add them to "
            "distill's."
        )
    return sources


def export(source: Source, params: Params, folder: Path) -> record.Network:
    """Write a network as ONNX file, check its output, count its arithmetic.

    Its input is the published one, (1, P, N, 3): value, time of day and day of the week.

    Raises:
        UserError: its output differs from torch's by more than `params.tolerance`.
    """
    import torch

    from pipelines.merlin.model import Published, load
    from stages.bench.export import agreement, export_onnx
    from stages.calibrate.structure import count
    from stages.core.seeding import seed_all

    model = Published(load(source.folder))
    config = model.model.config
    generator = seed_all("bench", source.name)
    shape = (1, config["history"], config["sensors"], model.channels)
    histories = [torch.rand(shape, generator=generator) for _ in range(2)]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{source.name}.onnx"
    export_onnx(model.eval(), (histories[0],), file, ["history"], ["forecast"])
    error = agreement(model, file, [(history,) for history in histories], params.tolerance)
    macs, _ = count(model, histories[0])
    return record.Network(
        backbone=source.backbone,
        variant=source.variant,
        seed=source.seed,
        file=file,
        shape=shape,
        macs=macs,
        parameters=sum(p.numel() for p in model.parameters()),
        weight_bits=32,
        activation_bits=32,
        error=error,
    )


def measure(
    params: Params, sources: list[Source], networks: list[record.Network], job: Job
) -> tuple[list[record.Measured], dict[str, training.StepCost]]:
    """Time each backbone's networks against each other, then their training steps.

    Returns:
        The networks, and by backbone one forward pass of the teacher without gradients.
    """
    plan = latency.Plan(params.rounds, params.repeats, params.warmup)
    backbones = list(dict.fromkeys(source.backbone for source in sources))
    measured, forwards = [], {}
    with job.progress(len(backbones) * (len(params.threads) * plan.rounds + 1), "measure") as bar:
        for backbone in backbones:
            own = [n for n in networks if n.backbone == backbone]
            files, shapes = {n.name: n.file for n in own}, {"history": own[0].shape}
            timings: list[latency.Timing] = []
            for threads in params.threads:
                timings += latency.measure(files, shapes, threads, plan, bar.advance)
            tasks = {s.name: _task(s, params) for s in sources if s.backbone == backbone}
            tasks[FORWARD] = {**tasks[f"{backbone}-{record.DENSE}"], "forward": True}
            step = params.train_step
            entry = f"{training_step.__module__}:{training_step.__name__}"
            costs = {
                cost.name: cost
                for cost in training.measure(entry, tasks, params.cores, step.warmup, step.repeats)
            }
            forwards[backbone] = costs.pop(FORWARD)
            bar.advance(note=backbone)
            measured += [
                record.Measured(n, tuple(t for t in timings if t.name == n.name), costs[n.name])
                for n in own
            ]
    return measured, forwards


def write_results(
    params: Params,
    measured: list[record.Measured],
    forwards: dict[str, training.StepCost],
    sources: list[Source],
    out: Path,
    job: Job,
) -> None:
    """Write bench.json, the scores, the summary and what the page shows."""
    config = read_json(sources[0].folder / "config.json")
    history, sensors = config["history"], config["sensors"]
    seconds = history * DAY / config["steps_per_day"]
    write_json(
        out / "bench.json", record.bench_rows(job.paper, measured, seconds, device(job.root))
    )
    rows = record.score_rows(job.paper, measured, seconds)
    write_scores(
        out / "scores.parquet",
        [*rows, *step_rows(job.paper, params.train_step.plain, measured, forwards)],
    )
    write_metrics(out / "metrics.json", summary(params.train_step.plain, measured, forwards))
    names = Names(lambda name: NETS.get(name, name), label)
    runtime, rounds = measured[0].timings[0].runtime, params.rounds
    save(
        out,
        "latency",
        latency_against_macs(measured, names),
        title="Latency against arithmetic",
        caption=f"A window of {history} steps of {sensors} sensors ({params.dataset}) on "
        f"{runtime}. Bars: quartiles over {rounds} rounds with fresh processes. Teacher and "
        "students are one architecture, so all are to lie together.",
        alt=finding(measured, names),
    )
    show_steps(out, params.train_step.plain, measured, forwards, params.train_step.batch)


def _task(source: Source, params: Params) -> dict[str, Any]:
    return {
        "folder": str(source.folder.resolve()),
        "teacher": str(source.teacher.resolve()),
        "batch": params.train_step.batch,
    }
