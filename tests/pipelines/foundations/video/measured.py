"""A small evaluation: a teacher whose blocks do something, bars, and judges that see them."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipelines.foundations.video import judges
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.denoiser import Denoiser
from pipelines.foundations.video.measure_held import Held, Sampling, hold
from pipelines.foundations.video.measure_plan import Settings
from stages.core.files import write_bytes, write_json
from stages.quantize import mixed
from stages.quantize.grids import Grid
from stages.quantize.layers import InputSpec, WeightSpec, quantized, set_state
from stages.quantize.mixed import Width
from stages.quantize.swap import swap
from tests.pipelines.foundations.video import small
from tests.pipelines.foundations.video.test_judges import ABOUT
from tests.pipelines.foundations.video.test_teacher import kept

SAMPLING: Sampling = SimpleNamespace(steps=5, guidance=2.0)
COUNT, FORCED = 6, 4
WEIGHTS = WeightSpec(
    grid=Grid(bits=8, symmetric=False, granularity="channel", group=None, dynamic=False),
    clip="max", norm=None, rounding="nearest",
)  # fmt: skip
INPUTS = InputSpec(
    grid=Grid(bits=8, symmetric=False, granularity="token", group=None, dynamic=True), clip="max"
)
SETTINGS: dict[str, Any] = {
    "seed": 0, "batch": 4, "forced": {"clips": FORCED, "steps": 3},
    "free": {"clips": COUNT, "cells": {"W4A6": {"a": 2}}},
    "shown": {"conditions": ["W8A8"], "clips": 2},
    "conditions": ["W4A6", "W8A8"], "variants": {"a": {}, "b": {}}, "seeds": ["0-1"],
}  # fmt: skip


def settings(**changes: Any) -> Settings:
    return Settings.model_validate(SETTINGS | changes)


class Jury:
    """Judges that know bars: where one is, and how bright; and the mean of each half as vector."""

    classes = ("place", "shade")
    shape = (small.FRAMES, 1, small.SIDE, small.SIDE)

    def vectors(self, x: Tensor) -> Tensor:
        half = small.SIDE // 2
        return torch.stack([x[..., :half].mean((1, 2, 3, 4)), x[..., half:].mean((1, 2, 3, 4))], 1)

    def named(self, x: Tensor) -> Tensor:
        left, right = self.vectors(x).T
        return torch.stack([(right > left).long(), (torch.maximum(left, right) > 0.5).long()], 1)


def held(root: Path, count: int = COUNT, predicted: int = FORCED, batch: int = 4) -> Held:
    clips = Clips.load(small.prepared(root / "clips"))
    taught = kept(root / "teach", "cogvideox")
    folder = root / f"held-{count}-{predicted}-{batch}"
    return hold(
        clips, taught, SAMPLING, Jury(), folder, seed=0, count=count, predicted=predicted,  # type: ignore[arg-type]
        batch=batch,
    )  # fmt: skip


def student(taught: Denoiser, bits: str) -> Denoiser:
    """The teacher with all layers of its blocks quantized to the nearest; "off": switched off."""
    made = copy.deepcopy(taught)
    weights, inputs = mixed.parse("W8A8" if bits == "off" else bits)
    width = Width(pattern="net.transformer_blocks.*", weights=weights, inputs=inputs)
    swap(made, mixed.plan([width], WEIGHTS, INPUTS))
    if bits == "off":
        set_state(made, weights=False, inputs=False)
    return made.eval().requires_grad_(False)


def layers(model: nn.Module) -> list[str]:
    return list(quantized(model))


class Louder(nn.Module):
    """A denoiser whose every output is too large by a share."""

    def __init__(self, inner: nn.Module, share: float) -> None:
        super().__init__()
        self.inner, self.share = inner, share

    def forward(self, *given: Any) -> Tensor:
        out: Tensor = self.inner(*given)
        return out * (1 + self.share)


def foundation(root: Path, name: str) -> None:
    """What the foundation leaves for a paper, but for the teacher: clips, judges, sampling."""
    home = root / "work/foundations/video"
    small.prepared(home / "prepare", (16, 12, 12))
    torch.manual_seed(0)
    for part, net in zip(("classifier", "features"), judges.build(ABOUT), strict=True):
        write_bytes(home / f"judge/{part}/model.safetensors", save(net.state_dict()))
    write_json(home / "judge/judges.json", ABOUT)
    sampling = {"steps": SAMPLING.steps, "guidance": SAMPLING.guidance}
    write_json(home / f"gate/{name}/gate.json", {"sampling": sampling})
