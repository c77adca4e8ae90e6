"""Quantized networks of ours as they are deployed: their time, their outputs, their size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipelines.foundations.video import deployed
from pipelines.foundations.video.bench_params import Models
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.teacher import Teacher
from stages.bench import latency
from stages.bench.integer.graphs import FULL, Graph, Timed, as_run, named
from stages.bench.integer.results import HALF, Bits, Plain, Quality
from stages.bench.kernels.deploy import export
from stages.bench.kernels.kinds import Kernel, computing
from stages.bench.kernels.roofline import Limits
from stages.core.errors import UserError
from stages.core.job import Inputs
from stages.quantize import bits, mixed
from stages.quantize.layers import QuantLinear, quantized

MODEL = "model.safetensors"
"""What both papers call a network's packed integers."""


@dataclass
class Whole:
    """What was found of whole networks; empty where none is deployed."""

    timed: list[Timed] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)
    bits: list[Bits] = field(default_factory=list)
    plain: list[Plain] = field(default_factory=list)


@dataclass(frozen=True)
class Deployment:
    """How networks are deployed and timed.

    Attributes:
        load: a folder of quantize -> the network.
        sampling: steps and guidance.
        asked: what quality is judged on.
        folder: for the graphs, which stay.
        limits: of the machine, whose number of threads is used.
        saturating: see `stages.bench.kernels.check.saturating`.
    """

    load: Callable[[Path], Denoiser]
    sampling: tuple[int, float]
    asked: deployed.Asked
    folder: Path
    limits: Limits
    saturating: bool


def measure(wanted: Models, how: Deployment, taught: Teacher, inputs: Inputs) -> Whole:
    """Deploy the teacher and every arm on its kernels, and look at what they compute.

    Args:
        inputs: prepare of the foundation, quantize of the paper.

    Raises:
        UserError: quantize made no such arm, a kernel cannot do its grids, or networks of the
            teacher's family are not deployed whole.
    """
    found = Whole()
    if not wanted.arms:
        return found
    clips = Clips.load(inputs["foundations/video/prepare"])
    ground = deployed.walked(taught, clips, *how.sampling, how.asked)
    how.folder.mkdir(parents=True)
    full = how.folder / f"{taught.denoiser.family}-{FULL}.onnx"
    teacher = deployed.Step(taught.denoiser).eval()
    _put(teacher, ground, full, "full", how.saturating)
    found.plain.append(Plain(taught.denoiser.family, wanted.seed, _files(taught.denoiser)))
    for name in wanted.bits:
        _deploy(name, wanted, how, teacher, full, ground, inputs["quantize"], found)
    return found


def _deploy(
    name: str,
    wanted: Models,
    how: Deployment,
    teacher: deployed.Step,
    full: Path,
    ground: deployed.Ground,
    quantize: Path,
    found: Whole,
) -> None:
    """All arms at bits `name`, which take turns with the teacher's graph `full`."""
    net = teacher.denoiser.family
    assert isinstance(net, str)
    parameters, reference = sum(p.numel() for p in teacher.parameters()), ground.walk.predictions
    seen, macs = _work(teacher, ground)
    files, graphs = {FULL: full}, dict[str, Graph]()

    def keep(variant: str, kernel: Kernel, step: nn.Module) -> None:
        layers, plain = quantized(step), kernel == "full"
        mean = mixed.average(step, among=list(layers))
        graphs[variant] = Graph(
            backbone=net,
            variant=variant,
            condition=as_run(name),
            seed=wanted.seed,
            kernel=kernel,
            shape=tuple(ground.example[0].shape),
            macs=macs,
            parameters=parameters,
            weight_bits=32 if plain else mean.weights,
            activation_bits=32 if plain else mean.inputs,
            size_mb=files[variant].stat().st_size / 1e6,
            least_ms=least_ms(how.limits, layers, seen, macs, kernel),
            bits="" if plain else name,
        )

    for arm, kernels in wanted.arms.items():
        place = _found(quantize, arm, name, wanted.seed)
        denoiser = how.load(place)
        taken = bits.stored(denoiser, floats=16, dense=True)
        size = (place / MODEL).stat().st_size / 1e6
        found.bits.append(Bits(net, arm, name, wanted.seed, taken, size))
        step = deployed.Step(denoiser).eval()
        if FULL not in graphs:
            keep(FULL, "full", step)
        fake = deployed.predictions(ground, step)
        for kernel in kernels:
            variant = named(arm, kernel)
            files[variant] = how.folder / f"{net}-{name}-{variant}.onnx"
            _put(step, ground, files[variant], kernel, how.saturating)
            keep(variant, kernel, step)
            ran = deployed.predictions(ground, deployed.opened(files[variant]))
            with computing(step, kernel):
                promised = deployed.predictions(ground, step)
            found.quality.append(
                Quality(
                    backbone=net,
                    variant=variant,
                    bits=name,
                    seed=wanted.seed,
                    clips=ground.names,
                    evaluated=deployed.sqnr(ground, fake, reference),
                    deployed=deployed.sqnr(ground, ran, reference),
                    apart=deployed.sqnr(ground, ran, fake),
                    kernel=deployed.sqnr(ground, ran, promised),
                )
            )
    shapes = {n: tuple(x.shape) for n, x in zip(ground.inputs, ground.example, strict=True)}
    timings = latency.measure(files, shapes, how.limits.threads, wanted.often.plan)
    found.timed += [Timed(graphs[n], tuple(t for t in timings if t.name == n)) for n in files]


def _put(
    step: nn.Module, ground: deployed.Ground, file: Path, kernel: Kernel, saturating: bool
) -> None:
    names = ["prediction"]
    export(step, ground.example, file, ground.inputs, names, kernel, saturating=saturating)


def _files(denoiser: nn.Module) -> dict[str, float]:
    """10^6 bytes of all tensors as a file of 16 and of 32 bits a number, its header included."""
    found = {}
    for variant, kind in ((HALF, torch.bfloat16), (FULL, torch.float32)):
        tensors = {
            name: (x.to(kind) if x.is_floating_point() else x).contiguous()
            for name, x in denoiser.state_dict().items()
        }
        found[variant] = len(save(tensors)) / 1e6
    return found


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


def _work(step: nn.Module, ground: deployed.Ground) -> tuple[dict[str, int], int]:
    """Tokens that enter each linear layer in a run, and all multiply-accumulates, attention
    included."""
    from torch.utils.flop_counter import FlopCounterMode

    seen: dict[str, int] = {}
    with ExitStack() as hooks, FlopCounterMode(display=False) as counter, torch.no_grad():
        for name, module in step.named_modules():
            if isinstance(module, nn.Linear):

                def count(layer: nn.Linear, given: tuple[Tensor, ...], name: str = name) -> None:
                    seen[name] = seen.get(name, 0) + given[0].numel() // layer.in_features

                hooks.callback(module.register_forward_pre_hook(count).remove)
        step(*ground.example)
    return seen, int(counter.get_total_flops() // 2)


def least_ms(
    limits: Limits,
    layers: Mapping[str, QuantLinear],
    seen: Mapping[str, int],
    macs: int,
    kernel: Kernel,
) -> float:
    """What a run takes at the machine's limits: quantized layers on the kernel, every other product
    in float32. Norms, softmax, transforms and branches cost nothing here.

    Args:
        layers: by name; where the kernel is `full`, those that an arm quantizes.
        seen: tokens that enter each.
        macs: of a whole run.
    """
    least, rest = 0.0, macs
    for name, layer in layers.items():
        least += limits.least_ms(layer, seen[name], kernel)
        rest -= seen[name] * layer.in_features * layer.out_features
    return least + 2e-6 * rest / limits.float_gops
