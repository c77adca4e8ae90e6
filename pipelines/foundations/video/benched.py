"""What both papers' bench does: deploy, time, count and calibrate, each with its own method."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.foundations.video import bench_models
from pipelines.foundations.video.bench_models import Deployment
from pipelines.foundations.video.bench_params import Params
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.deployed import Asked
from pipelines.foundations.video.teacher import Teacher
from stages.bench.integer import blocks, once, stored
from stages.bench.integer.cases import BY_NAME, cases
from stages.bench.integer.graphs import Timed
from stages.bench.integer.once import Task
from stages.bench.integer.results import Bits, Results, Update
from stages.bench.integer.tables import write
from stages.bench.kernels import check, roofline
from stages.bench.machine import device, warn_if_busy
from stages.core import params as core
from stages.core.dag import Node
from stages.core.job import Inputs, Job

SAMPLES = "calibrate"
"""What making an arm's samples is called among the costs of arms: the stage that does it."""


@dataclass(frozen=True)
class Method:
    """What a paper brings.

    Attributes:
        load: folder of a quantized network -> the network.
        dress: (arm, bits) -> what makes a block the arm's.
        make: (arm, bits) -> what makes one layer the arm's.
        owners: see `stages.bench.integer.stored`.
        nets: published networks that the paper quantizes.
        labels: what the arms are called.
        task: (arm, bits, seed) -> the work of calibrating an arm.
        gathered: seed -> the work of making the samples that all arms share.
        updates: what updates of block reconstruction cost, measured when called; None where a
            whole network learns at once.
    """

    load: Callable[[Path], Denoiser]
    dress: Callable[[str, str], blocks.Dress]
    make: Callable[[str, str], stored.Make]
    owners: stored.Owners
    nets: tuple[str, ...]
    labels: Mapping[str, str]
    task: Callable[[str, str, int], Task]
    gathered: Callable[[int], Task]
    updates: Callable[[], Sequence[Update]] | None = None


def run(
    params: Params,
    method: Method,
    taught: Teacher,
    sampling: tuple[int, float],
    inputs: Inputs,
    out: Path,
    job: Job,
) -> None:
    """Measure everything, alone on the machine, and write it down.

    Args:
        taught: the teacher, on the CPU.
        sampling: steps and guidance.
        inputs: prepare of the foundation, quantize of the paper.
    """
    saturating = check.saturating()
    fit, beyond = cases(params.blocks.nets, params.blocks.part, params.blocks.attention_gb)
    rounds = params.blocks.often.rounds
    tasks = _tasks(params, method)
    total = 4 + len(fit) * rounds + len(tasks) * params.calibration.repeats
    with job.progress(total, "bench") as bar, tempfile.TemporaryDirectory(dir=out) as folder:
        scratch = Path(folder)
        limits = _limits(params, scratch)
        bar.advance(note="the machine's limits")
        asked = Asked(params.held, params.noise, params.models.clips, params.steps)
        how = Deployment(method.load, sampling, asked, out / "models", limits, saturating)
        own = bench_models.measure(params.models, how, taught, inputs)
        for file in sorted((out / "models").glob("*.onnx")):
            job.track.model(file.stem, file)
        bar.advance(note="whole networks")
        counted = own.bits + _counted(params, method)
        bar.advance(note="true bits")
        arms = {
            arm: (method.dress(arm, params.blocks.bits), kernels)
            for arm, kernels in params.blocks.arms.items()
        }
        timed: list[Timed] = []
        for case in fit:
            timed += blocks.measure(
                case, arms, limits, scratch, params.blocks.plan(case.macs),
                bits=params.blocks.bits, saturating=saturating, after_round=bar.advance,
            )  # fmt: skip
        updates = method.updates() if method.updates else ()
        bar.advance(note="updates")
        costs = once.measure(tasks, params.threads, params.calibration.repeats, bar.advance)
    warn_if_busy([t for each in (*own.timed, *timed) for t in each.timings], job.log)
    sums = "in pairs of 16 bits, which saturate" if saturating else "in 32 bits (VNNI or its like)"
    write(
        Results(
            paper=job.paper,
            machine=f"{device(job.root)}; 8-bit products are summed {sums}",
            labels=method.labels,
            steps=sampling[0],
            judged=_judged(asked),
            limits=limits,
            models=own.timed,
            quality=own.quality,
            blocks=timed,
            beyond=beyond,
            attention_gb=params.blocks.attention_gb,
            bits=counted,
            plain=own.plain,
            costs=costs,
            calibrated=params.calibration.bits,
            updates=updates,
        ),
        out,
    )


def _judged(asked: Asked) -> str:
    first = f"the first {asked.clips}" if asked.clips > 1 else "the first"
    return (
        f"{first} of the clips on which evaluate compares predictions, at {asked.steps} steps of "
        "the walk as there, for one calibration seed"
    )


def _tasks(params: Params, method: Method) -> dict[str, Task]:
    """What is calibrated once more, and the samples for it; none where nothing is."""
    wanted = params.calibration
    tasks = {arm: method.task(arm, wanted.bits, wanted.seed) for arm in wanted.arms}
    return {SAMPLES: method.gathered(wanted.seed), **tasks} if tasks else {}


def _limits(params: Params, scratch: Path) -> roofline.Limits:
    own = params.limits
    sizes = [(each.tokens, each.width) for each in own.arithmetic]
    return roofline.measure(
        scratch, params.threads, own.often.plan, arithmetic=sizes, reading=own.reading
    )


def _counted(params: Params, method: Method) -> list[Bits]:
    """The published networks' true bits."""
    found = []
    for name in method.nets:
        for arm in params.stored.arms:
            for each in params.stored.bits:
                taken = stored.stored(BY_NAME[name], method.make(arm, each), method.owners)
                found.append(Bits(name, arm, each, 0, taken, None))
    return found


def again(
    quantize: Callable[[Any, Inputs, Path, Job], None],
    params: core.Params,
    node: Node,
    root: Path,
    seed: int,
) -> Callable[[], None]:
    """A run of the stage quantize that leaves nothing: the work of calibrating an arm."""
    from stages.core.tracking.spool import NullTracker

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            resume, out = Path(folder) / "resume", Path(folder) / "out"
            out.mkdir()
            log = logging.getLogger("retort")
            job = Job(root, node, (seed,), "cpu", resume, log, NullTracker())
            quantize(params, Inputs(root, node), out, job)

    return work
