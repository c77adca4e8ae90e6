"""A student with what only its training needs: adapters to the teachers' widths, and their losses.

SDKD (arXiv 2507.02939), equations 7 to 9. What its Psi is could not be found; the three readings
are `latent_bands` (the default: the abstract speaks of the latent space), `output_bands` (equation
7 to the letter) and `branches` [inferred].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipelines.sdkd.arms import OF_OUTPUT, Arm, Bound, Fade, Weights, faded
from pipelines.sdkd.cache import Cache, Memory
from pipelines.sdkd.nets.frame import Forecaster
from stages.core.seeding import seed_all
from stages.distill import agree
from stages.distill.bands import resize
from stages.distill.losses import BandWeights, activation_boundary, feature, spectral


class Pupil(nn.Module):
    """A student in training.

    Adapters are convolutions 1x1 from the student's latent width to a teacher's; they learn with
    the student and are no part of it: `student` alone is kept.

    Args:
        seed: of the adapters' first weights; the student's own do not depend on the arm.
        steps: of the whole training, for `fade`.
        bound: largest weight of a teacher where AE-KD sets them.
    """

    def __init__(
        self,
        student: Forecaster,
        arm: Arm,
        weights: Weights,
        cache: Cache | None,
        *,
        seed: int,
        steps: int,
        fade: Fade,
        bound: Bound,
    ) -> None:
        super().__init__()
        self.student, self.arm, self.weights = student, arm, weights
        self.steps, self.fade, self.bound = steps, fade, bound
        self.cache = cache
        self.adapters = nn.ModuleDict()
        if cache is None or arm.loss in OF_OUTPUT:
            return
        for name, memory in cache.teachers.items():
            for key in arm.keys:
                seed_all("adapter", name, key, seed)
                width = memory.maps[key].shape[1]
                self.adapters[f"{name} {key}"] = nn.Conv2d(student.latent[0], width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        forecast, latent = self.student(x)
        return forecast, latent

    def lesson(self, forecast: Tensor, latent: Tensor, index: Tensor, step: int) -> Tensor:
        """Lambda, faded, times the distillation loss of a batch.

        Args:
            forecast, latent: the student's.
            index: of the batch's windows among the training windows.
        """
        strength = self.weights.lambda_ * faded(self.fade, step, self.steps)
        if self.cache is None or strength == 0:
            return forecast.new_zeros(())
        parts = [
            self._of(name, memory, forecast, latent, index)
            for name, memory in self.cache.teachers.items()
        ]
        if len(parts) == 1:
            return strength * parts[0]
        if self.arm.combine == "average":
            return strength * torch.stack(parts).mean()
        shared = forecast if self.arm.loss in OF_OUTPUT else latent
        slopes = [torch.autograd.grad(part, shared, retain_graph=True)[0] for part in parts]
        return strength * (agree.weights(slopes, self.bound) * torch.stack(parts)).sum()

    def _of(
        self, name: str, memory: Memory, forecast: Tensor, latent: Tensor, index: Tensor
    ) -> Tensor:
        """One teacher's loss."""
        arm, there = self.arm, {key: memory.maps[key][index] for key in self.arm.keys}
        if arm.loss == "output":
            return feature(forecast, there["output"])
        if arm.loss == "output_bands":
            weights = self._bands(memory, "output_low", "output_high")
            return spectral(forecast, there["output"], self._cutoff, weights)
        sized = resize(latent, tuple(next(iter(there.values())).shape[-2:]))
        ours = {key: self.adapters[f"{name} {key}"](sized) for key in there}
        if arm.loss == "branches":
            unit = memory.energy if arm.by_energy else dict.fromkeys(memory.energy, 1.0)
            scale = {"high": 1.0, "low": self.weights.alpha if arm.two_weights else 1.0}
            losses = [scale[key] * feature(ours[key], there[key], unit[key]) for key in there]
            return torch.stack(losses).sum()
        if arm.loss == "feature":
            return feature(ours["latent"], there["latent"], memory.energy["latent"])
        if arm.loss == "boundary":
            return activation_boundary(ours["latent"], there["latent"])
        weights = self._bands(memory, "latent_low", "latent_high")
        return spectral(ours["latent"], there["latent"], self._cutoff, weights)

    @property
    def _cutoff(self) -> float:
        assert self.cache is not None
        return self.cache.cutoff

    def _bands(self, memory: Memory, low: str, high: str) -> BandWeights:
        alpha = self.weights.alpha if self.arm.two_weights else 1.0
        found = BandWeights.equal(alpha)
        if self.arm.by_energy:
            found = BandWeights.by_energy(alpha, memory.energy[high], memory.energy[low])
        return found.only(tuple(name for name in ("high", "low") if getattr(self.arm, name)))
