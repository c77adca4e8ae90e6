"""How far a compressed denoiser lies from the full-precision one: at each step, and in the end.

Teacher-forced, both see the states of the full-precision walk from noise to clip, so that each step
is judged by itself. Running freely, the compressed one walks on from its own states, and errors
gather. Sums run in double precision, over all of a clip; a value per clip, never per batch.

A compressed denoiser whose outputs are not finite gets the worst value, not an error: that it fell
apart is a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.evaluate.fields import Score, psnr, ssim

LIMIT_DB = 100.0
"""Ratios are held within ± this: equal outputs would otherwise score infinity."""
LEAST, MOST = 10 ** (-LIMIT_DB / 10), 10 ** (LIMIT_DB / 10)

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x (B, …), its time ()) -> what the sampler uses: the prediction after guidance, (B, …)."""


@dataclass(frozen=True)
class Walk:
    """Full precision's walk from noise, for B clips.

    Attributes:
        times: (S,), falling.
        levels: (S,) float64, ᾱ of each: the share of a state's variance that is signal.
        states: (S, B, …), before each step.
        predictions: (S, B, …), v after guidance.
        end: (B, …), after the last step.
    """

    times: Tensor
    levels: Tensor
    states: Tensor
    predictions: Tensor
    end: Tensor


class Recorder:
    """Keeps a walk while it is sampled: to be called in each step, as samplers call observers."""

    def __init__(self, alphas: Tensor, guidance: float) -> None:
        """
        Args:
            alphas: ᾱ of every time, as diffusers' schedulers have in `alphas_cumprod`.
            guidance: g of u + g·(c - u), for denoisers that give both branches.
        """
        self._alphas, self._guidance = alphas.double().cpu(), guidance
        self._times: list[Tensor] = []
        self._states: list[Tensor] = []
        self._predictions: list[Tensor] = []

    def __call__(self, number: int, t: Tensor, x: Tensor, out: Tensor) -> None:
        """
        Args:
            number: of the step, from 0.
            t: its time, ().
            x: the state before it, (B, …).
            out: what the denoiser gave, (B, …), or (2B, …) without and with prompts.
        """
        if number != len(self._times):
            raise ValueError(f"step {number} follows step {len(self._times) - 1}")
        self._times.append(t.detach().cpu())
        self._states.append(x.detach())
        self._predictions.append(_guided(out.detach(), len(x), self._guidance))

    def walk(self, end: Tensor) -> Walk:
        """What was kept, with where it ended, (B, …)."""
        times = torch.stack(self._times)
        levels = self._alphas[times.long()]
        return Walk(
            times, levels, torch.stack(self._states), torch.stack(self._predictions), end.detach()
        )


def _guided(out: Tensor, count: int, guidance: float) -> Tensor:
    if len(out) == count:
        return out
    without, given = out.chunk(2)
    return without + guidance * (given - without)


@dataclass(frozen=True)
class Forced:
    """SQNR in dB on the states of full precision, (S, B) float64.

    Attributes:
        prediction: of v, what the network predicts.
        noise: of the noise that follows from it; NaN where ᾱ is 0, as there the state is the noise
            whatever is predicted.
    """

    prediction: Tensor
    noise: Tensor

    def means(self) -> dict[str, Tensor]:
        """Means over the steps, (B,)."""
        return {
            "prediction": self.prediction.mean(0),
            "noise": self.noise[~self.noise.isnan().any(1)].mean(0),
        }


@torch.no_grad()
def forced(walk: Walk, predict: Predict) -> Forced:
    """Signal to quantization noise of predictions, step by step.

    10·log₁₀(|y|² / |y - ŷ|²) with y full precision's. The noise is ε = √ᾱ·v + √(1 - ᾱ)·x [Salimans
    & Ho 2022, appendix D]; x being the same, its error is √ᾱ times that of v.
    """
    found = []
    for t, level, x, v in zip(
        walk.times, walk.levels.tolist(), walk.states, walk.predictions, strict=True
    ):
        estimate = predict(x, t.to(x.device))
        ratio = [share(v, estimate)]
        if level > 0:
            signal, rest = math.sqrt(level), math.sqrt(1 - level)
            noise, guess = (signal * y.double() + rest * x.double() for y in (v, estimate))
            ratio.append(share(noise, guess))
        else:
            ratio.append(torch.full_like(ratio[0], torch.nan))
        found.append(torch.stack(ratio))
    prediction, noise = decibels(torch.stack(found, 1))
    return Forced(prediction, noise)


class Divergence:
    """|x̂ - x|² / |x|² of a compressed denoiser's free walk, beside full precision's.

    To be called in each step, as `Recorder` is, from the same noise.
    """

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._found: list[Tensor] = []

    def __call__(self, number: int, t: Tensor, x: Tensor, out: Tensor) -> None:
        """As of `Recorder`.

        Raises:
            ValueError: the walk has other steps, or starts from other noise.
        """
        if number >= len(self._walk.times) or t.cpu() != self._walk.times[number]:
            raise ValueError(f"step {number} at time {t.item()} is no step of the recorded walk")
        if number == 0 and not torch.equal(x, self._walk.states[0]):
            raise ValueError("the walks start from different noise")
        self._found.append(share(self._walk.states[number], x))

    def steps(self, end: Tensor) -> Tensor:
        """(S + 1, B) float64: before each step, 0 at first, and after the last one.

        Raises:
            ValueError: steps are missing.
        """
        if len(self._found) != len(self._walk.times):
            raise ValueError(f"{len(self._found)} of {len(self._walk.times)} steps were taken")
        return torch.stack([*self._found, share(self._walk.end, end)])


def share(reference: Tensor, estimate: Tensor) -> Tensor:
    """|estimate - reference|² / |reference|² of each of (B, …): (B,) float64, at most `MOST`.

    Raises:
        ValueError: shapes differ, or a reference is zero or not finite.
    """
    if reference.shape != estimate.shape:
        raise ValueError(f"shapes {tuple(reference.shape)} and {tuple(estimate.shape)} differ")
    truth, guess = (x.detach().flatten(1).cpu().double() for x in (reference, estimate))
    power = truth.square().sum(1)
    if not bool((power.isfinite() & (power > 0)).all()):
        raise ValueError("a reference is zero or not finite")
    found = (guess - truth).square().sum(1) / power
    return found.nan_to_num(nan=MOST).clamp(max=MOST)


def decibels(shares: Tensor) -> Tensor:
    """-10·log₁₀ of error shares, within ± `LIMIT_DB`; NaN stays NaN."""
    return -10 * shares.clamp(LEAST, MOST).log10()


def fidelity(clips: Tensor, reference: Tensor, span: float) -> dict[str, Score]:
    """PSNR in dB and SSIM of clips against full precision's from the same noise, by frame.

    Args:
        clips, reference: (N, T, C, H, W), H and W above 5.
        span: of the pixels' range, 2 for [-1, 1].

    Raises:
        ValueError: shapes differ, or a pixel is not finite.
    """
    if clips.shape != reference.shape or clips.ndim != 5:
        raise ValueError(f"{tuple(clips.shape)} and {tuple(reference.shape)} are no pair of clips")
    if not bool(clips.isfinite().all() and reference.isfinite().all()):
        raise ValueError("a pixel is not finite")
    square = (clips.double() - reference.double()).square().mean((2, 3, 4))
    found = {"psnr": psnr(square, span), "ssim": ssim(clips, reference, span)}
    return {name: Score(frames, frames.mean(1)) for name, frames in found.items()}
