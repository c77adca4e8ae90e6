"""Quantized networks of ours as they are deployed: their time, their outputs, their size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from pipelines.foundations.video import deployed
from pipelines.foundations.video.bench_params import Models
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.teacher import Teacher
from stages.bench import latency
from stages.bench.integer.graphs import FULL, Graph, Timed, as_run, named
from stages.bench.integer.tables import Bits, Quality
from stages.bench.kernels.deploy import export
from stages.bench.kernels.kinds import Kernel, computing
from stages.core.errors import UserError
from stages.core.job import Inputs
from stages.quantize import bits
from stages.quantize.mixed import parse

MODEL = "model.safetensors"
"""What both papers call a network's packed integers."""


@dataclass
class Whole:
    """What was found of whole networks; empty where none is deployed."""

    timed: list[Timed] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)
    bits: list[Bits] = field(default_factory=list)


def measure(
    wanted: Models,
    load: Callable[[Path], Denoiser],
    taught: Teacher,
    sampling: tuple[int, float],
    inputs: Inputs,
    folder: Path,
    *,
    threads: int,
    saturating: bool,
) -> Whole:
    """Deploy the teacher and every arm on its kernels, and look at what they compute.

    Args:
        load: a folder of quantize -> the network.
        sampling: steps and guidance.
        inputs: prepare of the foundation, quantize of the paper.
        folder: for the graphs, which stay.

    Raises:
        UserError: quantize made no such arm, a kernel cannot do its grids, or networks of the
            teacher's family are not deployed whole.
    """
    whole = Whole()
    if not wanted.arms:
        return whole
    clips = Clips.load(inputs["foundations/video/prepare"])
    ground = deployed.walked(taught, clips, *sampling, wanted.clips)
    folder.mkdir(parents=True)
    net, full = taught.denoiser.family, ground.walk.predictions
    teacher = deployed.Step(taught.denoiser).eval()
    macs, parameters = _macs(teacher, ground), sum(p.numel() for p in teacher.parameters())
    low, codes = parse(wanted.bits.partition("-")[0])
    files: dict[str, Path] = {}
    graphs: dict[str, Graph] = {}

    def put(step: nn.Module, variant: str, kernel: Kernel) -> None:
        files[variant] = folder / f"{net}-{variant}.onnx"
        export(
            step, ground.example, files[variant], ground.inputs, ["prediction"], kernel,
            saturating=saturating,
        )  # fmt: skip
        plain = kernel == "full"
        graphs[variant] = Graph(
            backbone=net,
            variant=variant,
            condition=as_run(wanted.bits),
            seed=wanted.seed,
            kernel=kernel,
            shape=tuple(ground.example[0].shape),
            macs=macs,
            parameters=parameters,
            weight_bits=32 if plain else low,
            activation_bits=32 if plain else codes or 32,
            size_mb=files[variant].stat().st_size / 1e6,
        )

    put(teacher, FULL, "full")
    for arm, kernels in wanted.arms.items():
        place = _found(inputs["quantize"], arm, wanted.bits, wanted.seed)
        denoiser = load(place)
        taken = bits.stored(denoiser, floats=16, dense=True)
        size = (place / MODEL).stat().st_size / 1e6
        whole.bits.append(Bits(net, arm, wanted.bits, wanted.seed, taken, size))
        step = deployed.Step(denoiser).eval()
        fake = deployed.predictions(ground, step)
        for kernel in kernels:
            variant = named(arm, kernel)
            put(step, variant, kernel)
            ran = deployed.predictions(ground, deployed.opened(files[variant]))
            with computing(step, kernel):
                promised = deployed.predictions(ground, step)
            whole.quality.append(
                Quality(
                    backbone=net,
                    variant=variant,
                    bits=wanted.bits,
                    seed=wanted.seed,
                    clips=ground.names,
                    evaluated=deployed.sqnr(ground, fake, full),
                    deployed=deployed.sqnr(ground, ran, full),
                    apart=deployed.sqnr(ground, ran, fake),
                    kernel=deployed.sqnr(ground, ran, promised),
                )
            )
    shapes = {n: tuple(x.shape) for n, x in zip(ground.inputs, ground.example, strict=True)}
    timings = latency.measure(files, shapes, threads, wanted.often.plan)
    whole.timed += [Timed(graphs[n], tuple(t for t in timings if t.name == n)) for n in files]
    return whole


def _found(quantize: Path, arm: str, name: str, seed: int) -> Path:
    """The folder in which quantize left an arm at bits `name`.

    Raises:
        UserError: there is none.
    """
    places = sorted(quantize.glob(f"{arm}/*/{name}/seed{seed}"))
    if not places:
        made = sorted({"/".join(p.parts[-4:]) for p in quantize.glob("*/*/*/seed*")})
        raise UserError(
            f"params.yaml, bench.models: quantize made no {arm} at {name} with seed {seed}, but "
            f"{', '.join(made) or 'nothing'}"
        )
    return places[0]


def _macs(step: nn.Module, ground: deployed.Ground) -> int:
    """Multiply-accumulates of a step, attention included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step(*ground.example)
    return int(counter.get_total_flops() // 2)
