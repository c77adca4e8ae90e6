"""Diffusion: the noise schedule, the training loss in v, deterministic sampling with guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipelines.foundations.video.text import Text
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.seeding import seed_of

Observer = Callable[[int, Tensor, Tensor, Tensor], None]
"""Called in each step of sampling with its number, the time step, x before it, and what the
denoiser gave: (B, …), or (2B, …), without and with prompts, where there is guidance."""


class Schedule(core.Params):
    """
    Attributes:
        steps: of the forward process.
        betas: how noise grows: cosine [Nichol & Dhariwal 2021, equation 17] or, as in latent
            diffusion, linear in the square root of beta; `low` and `high` count for the latter.
        zero_terminal: rescale so that the last step is noise alone [Lin et al. 2023, algorithm 1].
        clip: keep the clean estimate in [-1, 1] while sampling, for networks on pixels.
    """

    steps: int = Field(ge=2)
    betas: Literal["squaredcos_cap_v2", "scaled_linear"]
    low: float = Field(gt=0, lt=1)
    high: float = Field(gt=0, lt=1)
    zero_terminal: bool
    clip: bool


def scheduler(schedule: Schedule) -> Any:
    """Diffusers' DDIM scheduler for a network that predicts v."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=schedule.steps,
        beta_schedule=schedule.betas,
        beta_start=schedule.low,
        beta_end=schedule.high,
        rescale_betas_zero_snr=schedule.zero_terminal,
        clip_sample=schedule.clip,
        prediction_type="v_prediction",
        # Sampling starts where the forward process ends [Lin et al. 2023, section 3.3].
        timestep_spacing="trailing",
    )


def velocity_loss(
    model: nn.Module, noising: Any, x: Tensor, text: Text, t: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error of v = √ᾱ·ε − √(1 − ᾱ)·x [Salimans & Ho 2022, appendix D].

    Args:
        model: a `Denoiser`.
        noising: diffusers' scheduler, which knows ᾱ.
        x: clean clips, (B, T, C, H, W).
        t: (B,) int64.
        noise: like x.
    """
    noisy = noising.add_noise(x, noise, t)
    return functional.mse_loss(model(noisy, t, text), noising.get_velocity(x, noise, t))


def spread(count: int, steps: int) -> Tensor:
    """Time steps for a batch, one in each of `count` equal parts of [0, steps): (count,) int64.

    Each is uniform by itself, and the batch's mean loss varies less than with independent ones
    [Kingma et al. 2021, appendix I.1]. Drawn from torch's global generator.
    """
    places = (torch.rand(()) + torch.arange(count) / count) % 1
    return (places * steps).long().clamp(max=steps - 1)


def noise_for(names: list[str], shape: tuple[int, ...], seed: int) -> Tensor:
    """Starting noise (N, *shape) of named clips; each has its own, whatever stands beside it."""
    drawn = [
        torch.randn(shape, generator=torch.Generator().manual_seed(seed_of("noise", seed, name)))
        for name in names
    ]
    return torch.stack(drawn)


def guided(
    denoiser: nn.Module, x: Tensor, t: Tensor, text: Text, empty: Text, guidance: float
) -> tuple[Tensor, Tensor]:
    """Classifier-free guidance, u + g·(c − u), both branches in one batch [Ho & Salimans 2022].

    Args:
        guidance: g; at 1 the branch without prompts is not computed.

    Returns:
        The combined prediction (B, …), and what the denoiser gave.
    """
    if guidance == 1:
        out = denoiser(x, t.expand(len(x)), text)
        return out, out
    both = denoiser(torch.cat([x, x]), t.expand(2 * len(x)), Text.cat([empty, text]))
    without, given = both.chunk(2)
    return without + guidance * (given - without), both


@torch.no_grad()
def sample(
    denoiser: nn.Module,
    noising: Any,
    text: Text,
    empty: Text,
    noise: Tensor,
    steps: int,
    guidance: float,
    observe: Observer | None = None,
) -> Tensor:
    """Walk from noise to clips; the same noise gives the same clips.

    Args:
        denoiser: of the teacher, or a compressed one.
        noising: a deterministic scheduler of diffusers that does not scale the network's input
            (DDIM, CogVideoX's, UniPC, flow matching); it is copied, not changed.
        text, empty: of B prompts, and of as many empty ones.
        noise: standard normal, (B, T, C, H, W).
        steps: network evaluations.

    Returns:
        Like noise: clips, or latents that a teacher decodes.
    """
    walk = type(noising).from_config(noising.config)
    set_steps(walk, steps, noise.device)
    x = noise * getattr(walk, "init_noise_sigma", 1.0)
    for number, t in enumerate(walk.timesteps):
        out, both = guided(denoiser, x, t, text, empty, guidance)
        if observe is not None:
            observe(number, t, x, both)
        x = walk.step(out, t, x, return_dict=False)[0]
    return x


def set_steps(walk: Any, steps: int, device: torch.device) -> None:
    """Set a scheduler's time steps.

    Raises:
        UserError: DDIM's steps would not be evenly spaced, and would not end at clean clips.
    """
    total = walk.config.num_train_timesteps
    if "DDIM" in type(walk).__name__ and total % steps:
        raise UserError(f"{steps} sampling steps do not divide the {total} of the schedule evenly")
    if type(walk).__name__ == "FlowMatchEulerDiscreteScheduler":
        # As HunyuanVideo's pipeline does: noise levels evenly from 1, the last one above 0.
        walk.set_timesteps(sigmas=[1 - k / steps for k in range(steps)], device=device)
    else:
        walk.set_timesteps(steps, device=device)
