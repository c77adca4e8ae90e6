"""What both papers' bench does: deploy, time, count and calibrate, each with its own method."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.foundations.video import bench_models
from pipelines.foundations.video.bench_params import Params
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.teacher import Teacher
from stages.bench.integer import blocks, once, stored
from stages.bench.integer.cases import BY_NAME, cases
from stages.bench.integer.graphs import Timed
from stages.bench.integer.tables import Bits, Results, write
from stages.bench.kernels import check, roofline
from stages.bench.machine import device, warn_if_busy
from stages.core import params as core
from stages.core.dag import Node
from stages.core.job import Inputs, Job


@dataclass(frozen=True)
class Method:
    """What a paper brings.

    Attributes:
        load: folder of a quantized network -> the network.
        dress: (arm, bits) -> what makes a block the arm's.
        make: (arm, bits) -> what makes one layer the arm's.
        owners: see `stages.bench.integer.stored`.
        nets: published networks that the paper quantizes.
        entry: "module:function" that loads what calibrating needs and returns the work.
        task: (arm, bits, seed) -> the function's arguments.
    """

    load: Callable[[Path], Denoiser]
    dress: Callable[[str, str], blocks.Dress]
    make: Callable[[str, str], stored.Make]
    owners: stored.Owners
    nets: tuple[str, ...]
    entry: str
    task: Callable[[str, str, int], Mapping[str, Any]]


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
    total = 3 + len(fit) * rounds + len(params.calibration.arms) * params.calibration.repeats
    with job.progress(total, "bench") as bar, tempfile.TemporaryDirectory(dir=out) as folder:
        scratch = Path(folder)
        limits = _limits(params, scratch)
        bar.advance(note="the machine's limits")
        own = bench_models.measure(
            params.models, method.load, taught, sampling, inputs, out / "models",
            threads=params.threads, saturating=saturating,
        )  # fmt: skip
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
                case, arms, limits, scratch, params.blocks.often.plan,
                saturating=saturating, after_round=bar.advance,
            )  # fmt: skip
        wanted = params.calibration
        tasks = {arm: method.task(arm, wanted.bits, wanted.seed) for arm in wanted.arms}
        costs = once.measure(method.entry, tasks, params.threads, wanted.repeats, bar.advance)
    warn_if_busy([t for each in (*own.timed, *timed) for t in each.timings], job.log)
    sums = "in pairs of 16 bits, which saturate" if saturating else "in 32 bits (VNNI or its like)"
    write(
        Results(
            paper=job.paper,
            machine=f"{device(job.root)}; 8-bit products are summed {sums}",
            steps=sampling[0],
            limits=limits,
            models=own.timed,
            quality=own.quality,
            blocks=timed,
            beyond=beyond,
            attention_gb=params.blocks.attention_gb,
            bits=counted,
            costs=costs,
            calibrated=wanted.bits,
        ),
        out,
    )


def _limits(params: Params, scratch: Path) -> roofline.Limits:
    own = params.limits
    sizes = [(own.tokens, own.width)]
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
