"""A small teacher with random weights, and a calibration set of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pipelines.foundations.video import diffusion
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.gate import Sampling
from pipelines.foundations.video.model import Factorised, Shape, build
from pipelines.foundations.video.teacher import Teacher
from pipelines.foundations.video.text import Words
from pipelines.q_vdit import calibrate
from pipelines.q_vdit.arms import Arm
from pipelines.q_vdit.plan import Cell
from pipelines.q_vdit.samples import SALIENCE, Whole
from pipelines.q_vdit.student import Ground
from pipelines.q_vdit.student import build as build_student
from stages.core.files import write_bytes, write_json
from stages.core.seeding import seed_all

FRAMES, SIDE, WIDTH, TEXT = 4, 8, 16, 8
PROMPTS = torch.tensor([[2, 3], [4, 0], [3, 2]])
SCHEDULE: dict[str, Any] = {
    "steps": 100, "betas": "squaredcos_cap_v2", "low": 0.001, "high": 0.2,
    "zero_terminal": False, "clip": False,
}  # fmt: skip
SAMPLING = Sampling(steps=5, guidance=2.0)
KEPT = 2
TRAIN: dict[str, Any] = {"steps": 6, "batch": 4, "weight_decay": 0.0, "final": 0.0, "clip": None}
RATES: dict[str, Any] = {"scale": 1e-4, "branch": 1e-2, "divisor": 1.0}
SMOOTH: dict[str, Any] = {"scale": "smooth", "alpha": 0.11}
TERM: dict[str, Any] = {"weight": 100.0, "reduction": "mean", "frames": "axis"}
TOKEN: dict[str, Any] = {"beside": "token", "gain": "measured", "scope": "model"}


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def denoiser(channels: int = 1, layers: int = 1) -> Denoiser:
    """Weights are random everywhere: the trained ones' start would give zero."""
    seed_all("small teacher")
    numbers = Factorised(net="latte", width=WIDTH, heads=2, layers=layers, patch=4)
    shape = Shape(frames=FRAMES, channels=channels, size=SIDE, words=3, text=TEXT)
    made = build(numbers, shape)
    for name, parameter in sorted(made.named_parameters()):
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 if "scale_shift" in name else 0.25)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


def taught(channels: int = 1, layers: int = 1) -> Teacher:
    words = Words.fresh(6, TEXT, 0)
    return Teacher(
        denoiser=denoiser(channels, layers),
        noising=diffusion.scheduler(diffusion.Schedule.model_validate(SCHEDULE)),
        read=lambda prompts: (words.encode(prompts), words.encode(torch.zeros_like(prompts))),
        shape=(FRAMES, channels, SIDE, SIDE),
        decode=lambda x: x,
        about={},
    )


def ground(channels: int = 1, layers: int = 1, seed: int = 0) -> Ground:
    """A calibration set of twelve samples: three prompts, two steps, both branches."""
    teacher = taught(channels, layers)
    samples = calibrate.gather(teacher, PROMPTS, SAMPLING, KEPT, seed)
    text = samples.text(teacher.read, torch.device("cpu"))
    records = samples.records(text, masked=True)
    salience = calibrate.salience(teacher.denoiser, records, samples.step, 4)
    return Ground(teacher, samples, text, salience, seed)


def student(start: Ground, cell: str = "W3A6-mix", **arm: Any) -> Denoiser:
    made = Arm.model_validate(arm)
    return build_student(start, made, Cell.parse(cell), momentum=0.95, batch=4)


def output(model: Denoiser, start: Ground, samples: list[int] | None = None) -> Tensor:
    """What a model gives for some samples, in one batch."""
    chosen = list(range(len(start.samples))) if samples is None else samples
    given, _ = start.records().batch(chosen, torch.device("cpu"))
    with torch.no_grad():
        return given.call(Whole(model))


def calibrated(root: Path, seeds: tuple[int, ...] = (0,), channels: int = 1) -> Path:
    """A project at `root` with the teacher and calibration sets of some seeds."""
    foundation(root, channels)
    for seed in seeds:
        start, folder = ground(channels, seed=seed), root / "work/q_vdit/calibrate" / f"seed{seed}"
        start.samples.save(folder)
        tables = {name: table.contiguous() for name, table in start.salience.items()}
        write_bytes(folder / SALIENCE, save(tables))
    return root


def foundation(root: Path, channels: int = 1) -> None:
    """The same teacher as the foundation leaves it in a project at `root`."""
    from pipelines.foundations.video import teacher

    made, home = taught(channels), root / "work/foundations/video"
    about = {"shape": list(made.shape)}
    words = Words.fresh(6, TEXT, 0)
    teacher.keep(home / "teach/latte", made.denoiser, made.noising, words, about)
    write_json(home / "gate/latte/gate.json", {"sampling": SAMPLING.model_dump()})
