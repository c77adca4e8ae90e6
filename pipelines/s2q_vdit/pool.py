"""The pool of candidates: every step of some prompts' full-precision trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipelines.foundations.video import diffusion
from pipelines.foundations.video.data import Clips
from pipelines.foundations.video.teacher import Teacher
from pipelines.foundations.video.text import Text
from pipelines.s2q_vdit.nets import patches
from pipelines.s2q_vdit.selection import Member, Norm, movement, sensitivity
from pipelines.s2q_vdit.source import Sampling
from stages.core.errors import UserError
from stages.core.files import write_bytes
from stages.core.seeding import seed_of

Branches = Literal["both", "prompted"]
"""Of classifier-free guidance: a member is calibrated on without and with its prompt, as the
sampler runs it, or with it alone. The paper does not say; both is our reading."""


@dataclass(frozen=True)
class Pool:
    """
    Attributes:
        states: x_t of each member, (P, S, T, C, H, W).
        times: t of each step, (S,).
        prompts: (P, L) int64.
        diff, quant: C_diff and C_quant of each member, (P, S) in double precision.
    """

    states: Tensor
    times: Tensor
    prompts: Tensor
    diff: Tensor
    quant: Tensor

    def keep(self, path: Path) -> None:
        write_bytes(path, save({k: t.contiguous() for k, t in vars(self).items()}))

    @staticmethod
    def load(path: Path) -> Pool:
        """
        Raises:
            UserError: `calibrate` did not make this pool.
        """
        if not path.is_file():
            raise UserError(f"{path.name} is missing: calibrate made no pool of this seed")
        return Pool(**load_file(path))


@dataclass(frozen=True)
class Rows:
    """A calibration set: what the denoiser is called with, a row a sample.

    Attributes:
        x: (R, T, C, H, W); t: (R,); text: of R prompts, some of them empty.
        steps: number of the denoising step of each row.
    """

    x: Tensor
    t: Tensor
    text: Text
    steps: list[int]

    @torch.no_grad()
    def through(self, denoiser: nn.Module, batch: int, device: torch.device) -> None:
        """Run the denoiser over all rows."""
        for start in range(0, len(self.x), batch):
            part = slice(start, start + batch)
            denoiser(self.x[part].to(device), self.t[part].to(device), self.text[part].to(device))


def draw(clips: Clips, count: int, seed: int) -> Tensor:
    """Prompts of candidates, (count, L): kinds of training clips at random, each once at first."""
    _, prompts, _ = clips.kinds()
    generator = torch.Generator().manual_seed(seed_of("candidates", seed))
    order = torch.randperm(len(prompts), generator=generator)
    return prompts[order[torch.arange(count) % len(order)]]


def sample(
    teacher: Teacher, prompts: Tensor, sampling: Sampling, norm: Norm, *, seed: int, batch: int
) -> Pool:
    """Walk the full-precision sampler for every prompt and measure every step.

    Raises:
        UserError: the sampler makes fewer than two steps.
    """
    if sampling.steps < 2:
        raise UserError("a step is measured by the next one: the gate's sampling needs two or more")
    states, times = _walks(teacher, prompts, sampling, seed, batch)
    members = states[:, :-1].contiguous()
    tokens = patches(teacher.denoiser, members)
    quant = torch.stack([sensitivity(walk, norm) for walk in tokens])
    return Pool(members, times[:-1], prompts, movement(states), quant)


def variation(pool: Pool, teacher: Teacher) -> Tensor:
    """C_quant of each member without the tokens' mean, (P, S): told beside it, and not used."""
    walks = (patches(teacher.denoiser, walk) for walk in pool.states)
    return torch.stack([sensitivity(walk, "centred") for walk in walks])


def _walks(
    teacher: Teacher, prompts: Tensor, sampling: Sampling, seed: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Inputs of all steps (P, steps, T, C, H, W) and their times (steps,), on the CPU."""
    place = next(teacher.denoiser.parameters())
    walks: list[Tensor] = []
    times: list[Tensor] = []
    for start in range(0, len(prompts), batch):
        numbers = range(start, min(start + batch, len(prompts)))
        noise = diffusion.noise_for([f"candidate-{k}" for k in numbers], teacher.shape, seed)
        text, empty = teacher.read(prompts[start : start + batch].to(place.device))
        seen: list[Tensor] = []
        times = []

        def observe(number: int, t: Tensor, x: Tensor, both: Tensor) -> None:
            seen.append(x.cpu())  # noqa: B023 (called within this turn of the loop)
            times.append(t.cpu())  # noqa: B023

        diffusion.sample(
            teacher.denoiser, teacher.noising, text, empty, noise.to(place),
            sampling.steps, sampling.guidance, observe,
        )  # fmt: skip
        walks.append(torch.stack(seen, 1))
    return torch.cat(walks), torch.stack(times)


def rows(
    pool: Pool, members: Sequence[Member], teacher: Teacher, guidance: float, branches: Branches
) -> Rows:
    """The rows of chosen members; without guidance there is no empty branch to calibrate on."""
    prompt, step = (torch.tensor(numbers) for numbers in zip(*members, strict=True))
    x, t = pool.states[prompt, step], pool.times[step]
    place = next(teacher.denoiser.parameters()).device
    text, empty = teacher.read(pool.prompts[prompt].to(place))
    if branches == "prompted" or guidance == 1:
        return Rows(x, t, text, step.tolist())
    return Rows(torch.cat([x, x]), torch.cat([t, t]), Text.cat([empty, text]), 2 * step.tolist())
