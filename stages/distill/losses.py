"""What a small network is asked to share with a large one: outputs, features, frequency bands.

Every loss is a mean over all entries and over the batch, so that its size depends neither on the
grid nor on the batch. None sends a gradient to the teacher's side: a teacher's values are data.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stages.distill.bands import low_basis

MARGIN = 1.0
"""Of the activation boundary (Heo et al., arXiv 1811.03233, section 3)."""


@dataclass(frozen=True)
class BandWeights:
    """Weights of the two bands; zero leaves a band out."""

    high: float
    low: float

    @classmethod
    def equal(cls, alpha: float) -> BandWeights:
        """As published: high band plus `alpha` times low band. `alpha` 1 is the plain error."""
        return cls(1.0, alpha)

    @classmethod
    def by_energy(cls, alpha: float, high: float, low: float) -> BandWeights:
        """Each band as a share of its mean energy, so that a silent student loses 1 + `alpha`.

        The low band holds nearly all energy of smooth fields: without this the high band counts
        for nothing.

        Raises:
            ValueError: an energy is not above zero.
        """
        if not (high > 0 and low > 0):
            raise ValueError(f"a band without energy cannot be a unit: high {high}, low {low}")
        return cls(1.0 / high, alpha / low)

    def only(self, bands: tuple[str, ...]) -> BandWeights:
        """The same with the bands that are not named left out."""
        return BandWeights(
            self.high if "high" in bands else 0.0, self.low if "low" in bands else 0.0
        )


def feature(student: Tensor, teacher: Tensor, energy: float = 1.0) -> Tensor:
    """Mean squared error in units of `energy` (FitNets, arXiv 1412.6550; also output distillation).

    Args:
        student, teacher: tensors of one shape.
        energy: mean square of what the teacher gives, over the training data.
    """
    return (student - teacher.detach()).square().mean() / energy


def spectral(student: Tensor, teacher: Tensor, cutoff: float, weights: BandWeights) -> Tensor:
    """Weighted squared errors of the high and the low band (SDKD, arXiv 2507.02939, equation 7).

    mean over entries of  w_high |high band of d|² + w_low |low band of d|²,  d = student - teacher.

    Args:
        student, teacher: (..., H, W).
        cutoff: largest wavenumber of the low band, in waves per width of the map.
    """
    difference = student - teacher.detach()
    flat = difference.flatten(-2).flatten(0, -2)
    height, width = difference.shape[-2:]
    basis = low_basis(height, width, cutoff, difference.device)
    low = (flat @ basis).square().sum()
    # |high|² = |d|² - |low|²: one small product in place of transforms there and back.
    total = weights.high * flat.square().sum() + (weights.low - weights.high) * low
    return total / difference.numel()


def activation_boundary(student: Tensor, teacher: Tensor, margin: float = MARGIN) -> Tensor:
    """Which side of zero each unit is on, with a margin (Heo et al., arXiv 1811.03233, equation 5).

    (s + m)² where the teacher is off and s > -m; (s - m)² where it is on and s <= m. The released
    codes sum over units and scale by 0.003 per sample; here it is a mean, free of the grid's size.

    Args:
        student, teacher: values of one shape, before any activation.
    """
    teacher = teacher.detach()
    off = (student + margin).square() * ((student > -margin) & (teacher <= 0))
    on = (student - margin).square() * ((student <= margin) & (teacher > 0))
    return (off + on).mean()
