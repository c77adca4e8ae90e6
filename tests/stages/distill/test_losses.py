"""The distillation losses: Plancherel's identity, units, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.distill.bands import split
from stages.distill.losses import BandWeights, activation_boundary, feature, spectral

CUTOFF = 2.5


def pair(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return a, b


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at)[0]


def test_trap_1_with_alpha_one_the_bands_are_the_plain_error() -> None:
    student, teacher = pair(3, 4, 2, 12, 12)
    student.requires_grad_()
    bands = spectral(student, teacher, CUTOFF, BandWeights.equal(1.0))
    plain = feature(student, teacher)
    torch.testing.assert_close(bands, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradient(bands, student), gradient(plain, student), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("weights", [BandWeights(1, 0), BandWeights(0, 1), BandWeights(3, 0.2)])
def test_the_loss_is_that_of_the_bands(weights: BandWeights) -> None:
    student, teacher = pair(3, 5, 10, 8)
    low, high = split(student - teacher, CUTOFF)
    expected = weights.high * high.square().mean() + weights.low * low.square().mean()
    torch.testing.assert_close(spectral(student, teacher, CUTOFF, weights), expected)


def test_the_gradient_of_a_band_lies_in_that_band() -> None:
    student, teacher = pair(2, 3, 8, 8)
    student.requires_grad_()
    for weights, other in ((BandWeights(1, 0), 0), (BandWeights(0, 1), 1)):
        slope = gradient(spectral(student, teacher, CUTOFF, weights), student)
        outside = split(slope, CUTOFF)[other]
        assert float(outside.abs().max()) < 1e-6 * float(slope.abs().max())


def test_trap_2_by_energy_a_silent_student_loses_the_same_in_each_band() -> None:
    _, teacher = pair(64, 4, 12, 12)
    low, high = split(teacher, CUTOFF)
    teacher = 30 * low + high  # as in flows: nearly all energy is low
    energy = {"low": float((30 * low).square().mean()), "high": float(high.square().mean())}
    silent, weights = torch.zeros_like(teacher), BandWeights.by_energy(1.0, **energy)
    for band in ("high", "low"):
        alone = spectral(silent, teacher, CUTOFF, weights.only((band,)))
        assert float(alone) == pytest.approx(1.0, rel=1e-3)
    plain = BandWeights.equal(1.0)
    share = spectral(silent, teacher, CUTOFF, plain.only(("high",)))
    assert float(share) < 0.02 * float(spectral(silent, teacher, CUTOFF, plain))


def test_a_band_without_energy_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"high 0\.0"):
        BandWeights.by_energy(1.0, high=0.0, low=1.0)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = (t.requires_grad_() for t in pair(2, 3, 8, 8))
    losses = (
        feature(student, teacher),
        spectral(student, teacher, CUTOFF, BandWeights.equal(0.5)),
        activation_boundary(student, teacher),
    )
    for loss in losses:
        slopes = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
        assert slopes[0] is not None and slopes[1] is None


def test_gradients_are_the_numerical_ones() -> None:
    student, teacher = pair(2, 2, 4, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: feature(s, teacher, 0.7), (student,))
    assert torch.autograd.gradcheck(lambda s: activation_boundary(s, teacher), (student,))


def test_feature_is_the_error_in_units_of_energy() -> None:
    student, teacher = pair(2, 3, 4, 4)
    assert float(feature(student, student)) == 0
    energy = float(teacher.square().mean())
    assert float(feature(torch.zeros_like(teacher), teacher, energy)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("student", "teacher", "loss"),
    [
        (2.0, 0.5, 0.0), (1.0, 0.5, 0.0), (0.0, 0.5, 1.0), (-1.0, 0.5, 4.0),
        (-2.0, -0.5, 0.0), (-1.0, -0.5, 0.0), (0.0, -0.5, 1.0), (1.0, 0.0, 4.0),
    ],
)  # fmt: skip
def test_trap_6_the_activation_boundary_at_its_corners(
    student: float, teacher: float, loss: float
) -> None:
    s, t = torch.tensor([student]), torch.tensor([teacher])
    assert float(activation_boundary(s, t)) == pytest.approx(loss)
    # A mean: four times as many equal units give the same loss.
    assert float(activation_boundary(s.repeat(4), t.repeat(4))) == pytest.approx(loss)
